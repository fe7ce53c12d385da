"""What went wrong in a thread or a command, in words; a bug must not take the screen away."""

from __future__ import annotations

import logging

from chatlm.errors import Cancelled, ChatlmError, EngineError

log = logging.getLogger(__name__)


def told(problem: Exception, doing: str) -> ChatlmError | None:
    """What to tell the person, which goes to the log too; None for what was stopped on purpose.

    Args:
        problem: what was raised.
        doing: what failed, for the log.
    """
    if isinstance(problem, Cancelled):
        log.info("%s: stopped", doing)
        return None
    if isinstance(problem, ChatlmError):
        log.error("%s failed: %s", doing, problem)
        return problem
    log.error("%s failed", doing, exc_info=problem)
    return EngineError(
        f"Something went wrong: {type(problem).__name__}: {problem}",
        hint="What was said is kept. `chatlm logs` has the details.",
    )
