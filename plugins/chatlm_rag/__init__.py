"""A chatlm plugin that answers from the user's documents: search indices and grounded prompts."""

PLUGIN = "rag"
"""Name of the plugin in the config and in the plugin data of chats."""
