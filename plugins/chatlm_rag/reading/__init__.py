"""A small reader: which statement of the passages answers a question, and whether one does."""
