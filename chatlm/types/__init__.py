"""Values and protocols that all other packages share."""
