"""Replies with more computation: chain of thought, consensus, tree of thought."""

PLUGIN = "reasoning"
"""The plugin's name."""
