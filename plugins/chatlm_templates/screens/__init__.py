"""The plugin's screens; only they import textual."""
