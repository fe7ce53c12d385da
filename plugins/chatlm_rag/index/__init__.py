"""An index on disk and how it is built."""
