"""The rules of `layerpace.monitors.diagnose`, a file for each family."""
