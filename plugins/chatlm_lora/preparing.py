"""What a training is made of: the order for it, and the data as the model reads it; no weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from chatlm import ChatEncoder, ModelLocation, UsageError
from chatlm_lora.batches import Chats
from chatlm_lora.examples import Data, Example
from chatlm_lora.recipe import Recipe

SHOWN = 4
"""Held-out prompts that are answered before and after."""


@dataclass(frozen=True)
class Order:
    """What is to be trained, on what, and how."""

    name: str
    base: ModelLocation
    data: Data
    recipe: Recipe
    prompt_format: str = "auto"
    description: str = ""
    licence: str = ""
    """Of the data."""
    command: str = ""
    """What the person typed, for the card."""
    on_cpu: bool = False
    """Whether the processor trains, else a GPU."""

    def plan(self) -> dict[str, Any]:
        """All that decides what the training does."""
        return {
            "base": self.base.name,
            "data": self.data.sha256,
            "recipe": self.recipe.to_dict(),
            "prompt_format": self.prompt_format,
            "examples": [len(self.data.train), len(self.data.held_out)],
            "first": [message.content for message in self.data.train[0]],  # shows --ask, --system
        }


@dataclass(frozen=True)
class Prepared:
    """The data as the model reads it."""

    encoder: ChatEncoder
    train: Chats
    held_out: Chats
    examples: tuple[Example, ...]
    """The held-out ones that are answered before and after."""
    steps: int
    """Of the whole training."""
    check_every: int
    """Steps between two checks."""


def prepare(order: Order, processes: int) -> Prepared:
    """Encode the examples and count the steps; loads the tokenizer only.

    Args:
        order: what to train.
        processes: that share each step.

    Raises:
        UsageError: no example is short enough.
        ModelError: the model has no tokenizer that can be used.
    """
    recipe, data = order.recipe, order.data
    encoder = ChatEncoder(order.base, order.prompt_format)
    train = Chats(data.train, encoder, recipe.longest)
    held_out = Chats(data.held_out, encoder, recipe.longest)
    held_out.sort()
    if not len(train) or not len(held_out):
        raise UsageError(
            f"No example has at most {recipe.longest} tokens, or all of them are held out.",
            hint="Raise --longest, or give more examples.",
        )
    rows = recipe.batch * recipe.accumulation * processes
    an_epoch = math.ceil(len(train) / rows)
    return Prepared(
        encoder=encoder,
        train=train,
        held_out=held_out,
        examples=data.held_out[:SHOWN],
        steps=math.ceil(an_epoch * recipe.epochs),
        check_every=max(an_epoch // recipe.checks, 1),
    )
