"""Readers that extract the text of document files."""
