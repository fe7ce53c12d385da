"""The arena's SQLite database."""
