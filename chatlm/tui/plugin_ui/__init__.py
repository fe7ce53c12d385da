"""Plugins on the screen: commands, panels, screens and their isolation."""
