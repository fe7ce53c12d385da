"""Forbids every token, and answers neither yes nor no to whether the reply ends."""

import dataclasses
from typing import Any

from chatlm import Request, hookimpl


def forbid(input_ids: Any, scores: Any) -> Any:
    return scores - float("inf")


def ask_later(input_ids: Any, scores: Any) -> None:
    """Returns nothing."""


@hookimpl
def adjust_request(request: Request) -> Request:
    return dataclasses.replace(
        request,
        logits_processors=(*request.logits_processors, forbid),
        stopping_criteria=(*request.stopping_criteria, ask_later),
    )
