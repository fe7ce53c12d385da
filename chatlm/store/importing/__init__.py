"""Chats from files."""
