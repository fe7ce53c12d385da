"""Takes its time for each token."""

import dataclasses
import time
from typing import Any

from chatlm import Request, hookimpl


def dawdle(input_ids: Any, scores: Any) -> Any:
    time.sleep(0.1)
    return scores


@hookimpl
def adjust_request(request: Request) -> Request:
    return dataclasses.replace(request, logits_processors=(*request.logits_processors, dawdle))
