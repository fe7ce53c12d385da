"""Servers of the Model Context Protocol: their tools, resources and prompts; and chatlm as one."""

PLUGIN = "mcp"
"""The plugin's name."""
