"""Errors for the user: what was wrong, and what to do next."""

from __future__ import annotations

EXIT_INTERRUPTED = 130
"""Exit code where the user stopped it, as shells have it: 128 and the number of SIGINT."""


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
    """A value from the user is invalid."""

    exit_code = 2


class MessageRefused(UsageError):
    """A plugin refused this message; others may be accepted."""


class ConfigError(ChatlmError):
    """The config file cannot be read or contains an invalid value."""

    exit_code = 2


class StoreError(ChatlmError):
    """Saved chats cannot be read or written."""


class ModelError(ChatlmError):
    """A model cannot be found, downloaded, verified or loaded."""


class EngineError(ChatlmError):
    """A generation failed."""


class OutOfMemoryError(EngineError):
    """The model or the conversation did not fit into memory.

    Args:
        message: see `ChatlmError`.
        hint: see `ChatlmError`.
        missing: bytes that would have to be free as well; None where it is not known.
    """

    def __init__(self, message: str, hint: str = "", missing: int | None = None) -> None:
        super().__init__(message, hint)
        self.missing = missing


class ContextTooLong(EngineError):
    """What must stay in the prompt does not fit the context window."""


class ContinuationUnsupported(EngineError):
    """A reply cannot be continued: by the model's server, its chat template or a method."""


class ContentFiltered(EngineError):
    """A server's content filter refused the request, or stopped the reply."""

    exit_code = 4


class Cancelled(ChatlmError):
    """The user cancelled an operation before it started."""

    exit_code = EXIT_INTERRUPTED
