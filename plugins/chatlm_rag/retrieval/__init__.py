"""Retrieval-augmented answers: search an index, build the prompt, check the citations."""
