"""Settings, places on disk and the log file."""
