"""The arena's database."""
