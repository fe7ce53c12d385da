"""Widgets and screens of the plugin; the only modules of it that import Textual."""

MUTED_STYLE = "$foreground 60%"
"""Style of secondary text."""
