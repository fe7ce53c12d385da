"""The arena's screens; only they import Textual."""
