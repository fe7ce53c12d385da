"""What the plugin shows in the terminal UI; the only modules that import Textual."""
