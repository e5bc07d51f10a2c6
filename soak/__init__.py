"""What production does to the product, done on purpose: servers killed, cut off, slow and rolled back, clocks apart.

``python -m soak [PART ...]`` (or ``make soak``) runs it. `result` says what a part has to give back, `history` what it
records, `checker` what a history is judged by. The short form of each part is among the tests.
"""
