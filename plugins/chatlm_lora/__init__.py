"""LoRA adapters: kept, checked, trained and merged; a plugin of chatlm."""

PLUGIN = "lora"
"""The name under which chatlm knows this plugin, and it keeps values with a chat."""
