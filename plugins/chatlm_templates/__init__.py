"""Prompt templates: named prompts in YAML files, with variables; a plugin of chatlm."""

PLUGIN = "templates"
"""The name under which chatlm knows this plugin, and it keeps values with a chat."""
