"""What this plugin draws; the only part of it that knows Textual."""
