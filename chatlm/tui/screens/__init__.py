"""Modal cards over the chat."""
