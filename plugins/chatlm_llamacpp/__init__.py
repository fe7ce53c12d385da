"""A chatlm plugin that runs GGUF files with llama.cpp."""

PLUGIN = "llamacpp"
"""Name of the plugin in the config, and value of the setting `engine` that chooses it."""
