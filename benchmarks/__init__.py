"""Step times of layerpace and of other libraries: `python -m benchmarks`, or `make bench`."""
