"""Engines: each loads one model and answers `chatlm.generation.Request`s with events."""
