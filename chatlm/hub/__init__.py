"""Model files: find, pull, convert, verify."""
