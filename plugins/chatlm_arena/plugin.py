"""The hooks by which chatlm knows the arena."""
