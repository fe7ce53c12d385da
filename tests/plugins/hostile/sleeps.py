"""Comes back late."""

import time
from typing import Any

from chatlm import hookimpl


@hookimpl
def retrieve_passages(conversation: Any, message: Any) -> None:
    time.sleep(0.6)
