"""Language models to build oneself, from counting upwards; a plugin for chatlm."""

PLUGIN = "lab"
"""Name of the plugin, and scheme of its models."""
