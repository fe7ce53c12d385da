"""Search indices on disk: build, update and read them."""
