"""Frozen values and protocols."""
