"""The headless chat: what the UI, the CLI and plugins drive."""
