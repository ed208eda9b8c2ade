"""The parts of `python -m benchmarks.gpu`: whether the step is right on a device, its times, and its goals."""
