"""Benchmarks of chatlm against other programs, side by side in one run."""
