"""Records of runs, and everything made from them alone. Nothing below this package imports torch."""
