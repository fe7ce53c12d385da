"""The commands `chatlm arena …`."""
