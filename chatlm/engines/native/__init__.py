"""Decoders of our own, without transformers."""
