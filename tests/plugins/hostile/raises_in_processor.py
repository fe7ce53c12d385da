"""Adds a logits processor that raises in the middle of a reply."""

import dataclasses
from typing import Any

from chatlm import Request, hookimpl


class Late:
    """Breaks at the third token, with the scores half changed."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.calls += 1
        if self.calls > 2:
            scores[:, ::2] = float("nan")
            raise ArithmeticError("third token")
        return scores


@hookimpl
def adjust_request(request: Request) -> Request:
    return dataclasses.replace(request, logits_processors=(*request.logits_processors, Late()))
