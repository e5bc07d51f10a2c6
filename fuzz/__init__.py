"""Coverage-guided fuzzing of everything that reads what strangers or operators write: ``make fuzz``.

`targets` says what has to hold for any bytes; ``python -m fuzz`` looks for bytes for which it does not. The tests try
what was found so far, and what it begins with.
"""
