"""Errors a person can act on: what was wrong, and what to do next."""

from __future__ import annotations


class ChatlmError(Exception):
    """Base of every error chatlm raises on purpose.

    Args:
        message: what was wrong, and where.
        hint: the next step, a sentence or a command.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(ChatlmError):
    """A value the person gave cannot be used."""

    exit_code = 2


class MessageRefused(UsageError):
    """A plugin has no answer to this message; to others there may be one."""


class ConfigError(ChatlmError):
    """The config file cannot be read or holds a wrong value."""

    exit_code = 2


class StoreError(ChatlmError):
    """Saved chats cannot be read or written."""


class ModelError(ChatlmError):
    """A model cannot be found, fetched, checked or loaded."""


class EngineError(ChatlmError):
    """A generation failed."""


class OutOfMemoryError(EngineError):
    """The device's memory did not hold the model or the conversation."""


class ContextTooLong(EngineError):
    """What must stay in the prompt does not fit the model's context."""


class ContinuationUnsupported(EngineError):
    """The model's server begins each reply anew; a reply's beginning cannot be given to it."""


class Cancelled(ChatlmError):
    """The person gave up on something before it could begin."""

    exit_code = 130
