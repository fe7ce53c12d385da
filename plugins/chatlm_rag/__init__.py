"""Answers grounded in the person's own documents: search indices of them; a plugin of chatlm."""
