"""Answers grounded in the person's own documents: search indices of them; a plugin of chatlm."""

PLUGIN = "rag"
"""What the plugin is called: in the config, and for what it keeps with a chat."""
