"""LoRA adapters: train, validate, merge and use them; a plugin for chatlm."""

PLUGIN = "lora"
"""Name of the plugin, and key of its data in a chat."""
