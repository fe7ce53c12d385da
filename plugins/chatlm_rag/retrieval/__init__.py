"""From a question to passages and a grounded answer."""
