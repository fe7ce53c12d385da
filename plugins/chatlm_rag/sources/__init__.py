"""What is read from people's files: which files there are, and the text of each."""
