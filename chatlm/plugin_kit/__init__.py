"""Building blocks that plugins share: command options, progress, chat state, artifacts, screens."""
