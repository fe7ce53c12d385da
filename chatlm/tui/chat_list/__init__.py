"""The chat list beside the chat."""
