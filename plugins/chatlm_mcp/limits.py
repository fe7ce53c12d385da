"""Limits for what servers send."""

from __future__ import annotations

from chatlm import ChatlmError

MAX_MESSAGE_BYTES = 8_000_000
"""One message, or one HTTP response."""

MAX_PAGES = 20
"""Pages of one listing."""

MAX_LISTED = 500
"""Tools, resources or prompts of one server."""

MAX_SCHEMA_CHARACTERS = 50_000
"""Arguments' schema of one tool, as JSON; larger ones fill the context of a local model."""

MAX_DESCRIPTION = 2000
"""Characters of a description that a model reads."""

MAX_RESULT_CHARACTERS = 1_000_000
"""Text of one result or resource that is passed on; what the model reads is cut further."""

MAX_QUESTIONS = 10
"""Forms and pages that one call of a tool may ask the user about; more are declined."""

MAX_FIELDS = 12
"""Values that one form may ask for."""

MAX_QUESTION = 1000
"""Characters of a text or address that the user is shown."""


class McpServerError(ChatlmError):
    """A server failed, cannot be reached, or sent something that cannot be used."""
