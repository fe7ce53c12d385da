"""Models on servers that speak OpenAI's protocol; a plugin of chatlm."""

PLUGIN = "openai"
"""The name under which chatlm knows this plugin, and the scheme of its models."""
