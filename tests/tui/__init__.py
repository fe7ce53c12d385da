"""Tests of the terminal UI with scripted engines."""
