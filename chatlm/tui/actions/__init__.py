"""Actions behind commands: the chat, a turn, inspection, settings."""
