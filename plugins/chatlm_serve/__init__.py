"""chatlm for other programs and for the browser: an OpenAI-compatible endpoint, and the screen."""

PLUGIN = "serve"
"""The plugin's name."""
