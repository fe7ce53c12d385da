"""Tools plugin: what a model may call that comes with chatlm, and the sandbox that runs code."""

PLUGIN = "tools"
"""The plugin's name."""
