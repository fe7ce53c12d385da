"""Find, load, isolate and call plugins."""
