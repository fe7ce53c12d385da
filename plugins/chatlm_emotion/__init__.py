"""Labels the mood of messages, or whatever else its classifier was trained on; a chatlm plugin."""

PLUGIN = "emotion"
"""The name under which chatlm knows this plugin, and it keeps values with a chat."""
