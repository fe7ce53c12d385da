"""Arena plugin: blind matches between model set-ups, and ratings computed from the votes."""

PLUGIN = "arena"
"""The plugin's name, under which it also stores values with a chat."""
