"""The plugin's screens; the only package of it that imports Textual."""
