"""What the plugin draws; the only part of it that imports Textual."""
