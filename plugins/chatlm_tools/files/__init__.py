"""The tools that list, read, search and edit files in the folders that the user named."""
