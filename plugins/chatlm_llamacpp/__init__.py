"""A chatlm plugin that runs GGUF files with llama.cpp."""

from importlib.util import find_spec

PLUGIN = "llamacpp"
"""Name of the plugin in the config, and value of the setting `engine` that chooses it."""


def is_installed() -> bool:
    """Whether llama-cpp-python is installed; it is not imported."""
    return find_spec("llama_cpp") is not None
