"""Benchmarks of chatlm against other programs, side by side in one run."""

import chatlm  # noqa: F401  # before torch, whose threads it sets up
