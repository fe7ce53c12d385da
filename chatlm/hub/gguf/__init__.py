"""GGUF files: read them safely, and turn them into what transformers loads."""
