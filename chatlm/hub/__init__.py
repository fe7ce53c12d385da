"""Find, download, convert and verify model files."""
