"""Imports torch when it is loaded."""

from typing import Any

import torch

from chatlm import hookimpl


@hookimpl
def turn_finished(turn: Any) -> None:
    torch.zeros(1)
