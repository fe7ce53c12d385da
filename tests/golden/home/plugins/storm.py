"""Ended the process while it was loaded: home/loading has its mark."""
