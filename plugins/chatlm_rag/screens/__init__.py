"""What the plugin draws; the only part of it that imports Textual."""

MUTED_STYLE = "$foreground 60%"
"""The colour of what is said beside the main thing."""
