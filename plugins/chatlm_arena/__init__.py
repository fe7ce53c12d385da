"""The arena: blind matches between set-ups, and ratings from their votes; a plugin of chatlm."""

PLUGIN = "arena"
"""The name under which chatlm knows this plugin, and it keeps values with a chat."""
