"""Serve plugin: an OpenAI-compatible endpoint, and the terminal UI in a browser."""

PLUGIN = "serve"
"""The plugin's name."""
