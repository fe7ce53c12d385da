"""What plugins share, for plugin authors."""
