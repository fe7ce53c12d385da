"""What the arena shows: the match, and the ratings."""
