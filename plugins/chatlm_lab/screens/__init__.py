"""The plugin's widgets; the only package of it that imports Textual."""
