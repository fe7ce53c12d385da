"""A chatlm plugin for models on OpenAI-compatible servers."""

PLUGIN = "openai"
"""Name of the plugin in the config, and scheme of its model names."""
