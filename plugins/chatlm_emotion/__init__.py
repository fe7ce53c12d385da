"""Text classifiers: label the mood of messages, train and evaluate; a plugin for chatlm."""

PLUGIN = "emotion"
"""Name of the plugin, and key of its data in a chat."""
