"""Settings and places on disk."""
