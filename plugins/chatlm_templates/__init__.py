"""Templates plugin: named prompts in YAML files, with variables."""

PLUGIN = "templates"
"""The plugin's name, under which it also stores values with a chat."""
