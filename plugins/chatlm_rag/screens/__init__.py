"""Widgets and screens of the plugin; the only modules of it that import Textual."""
