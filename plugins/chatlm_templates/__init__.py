"""Prompt templates: named prompts in YAML files, with variables; a plugin of chatlm."""
