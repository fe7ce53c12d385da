"""Find, download and verify model files."""
