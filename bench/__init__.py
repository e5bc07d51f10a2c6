"""The benchmark: ``make bench``. See docs/benchmarks.md."""
