"""The sandbox of the tools that run programs.

`Sandbox.best` chooses what contains them, `Sandbox.open` makes a temporary folder, and calling
that folder runs a command in it. A supervisor process measures the program and ends it.
"""
