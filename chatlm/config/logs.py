"""The log file: failures and where they happened, never the content of a chat."""

from __future__ import annotations

import logging
import os

from chatlm.config import paths

LOGGER_NAME = "chatlm"


MAX_BYTES = 1_000_000


BACKUP_COUNT = 2
"""Older files kept: `chatlm.log.1`, `chatlm.log.2`."""


def setup_logging() -> None:
    """Let the logger `chatlm` and its children write to the log file; idempotent.

    If the log cannot be written, nothing is raised or printed. With
    `CHATLM_DEBUG=1` debug messages are logged too.
    """
    from logging.handlers import RotatingFileHandler

    class Quiet(RotatingFileHandler):
        def handleError(self, record: logging.LogRecord) -> None:
            """A full disk must not disturb the chat or its screen."""

    logger = logging.getLogger(LOGGER_NAME)
    if logger.handlers:
        return
    logger.setLevel(logging.DEBUG if os.environ.get("CHATLM_DEBUG") else logging.INFO)
    logger.propagate = False
    handler: logging.Handler
    try:
        paths.log_file().parent.mkdir(parents=True, exist_ok=True)
        handler = Quiet(
            paths.log_file(), maxBytes=MAX_BYTES, backupCount=BACKUP_COUNT, encoding="utf-8"
        )
    except OSError:
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
