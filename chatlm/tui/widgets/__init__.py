"""The parts of the screen, one a file, each with its own look; none starts a thread."""
