"""Plugins on the screen."""
