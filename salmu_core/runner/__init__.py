"""Running methods over benchmarks."""
