"""What a plugin needs to train a model or look into it: its weights, and chats as its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chatlm.engines.devices import resolve_placement
from chatlm.engines.prompt_encoder import PromptEncoder, prompt_tokens
from chatlm.engines.transformers_model import load_model, load_tokenizer
from chatlm.hub.installed import ModelLocation
from chatlm.types.messages import Message


@dataclass(frozen=True)
class ChatTokens:
    """A chat as the model reads it."""

    ids: tuple[int, ...]
    assistant_mask: tuple[bool, ...]
    """For each id whether the assistant says it: its words, and the token that ends them."""


class ChatEncoder:
    """Writes chats in a model's prompt format as the engine does: control tokens by id only.

    Args:
        model: whose tokenizer it is.
        prompt_format: one of `chatlm.engines.tokens.FORMATS`.

    Raises:
        ModelError: the model has no tokenizer that can be used so.
    """

    def __init__(self, model: ModelLocation, prompt_format: str = "auto") -> None:
        self._prompt_encoder = PromptEncoder(
            load_tokenizer(model.name, model.folder), prompt_format, ()
        )

    @property
    def eos_token_id(self) -> int:
        """The tokenizer's own end-of-sequence token; 0 where it has none."""
        return self._prompt_encoder.eos_token_id or 0

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of what the model reads before it answers."""
        return self._prompt_encoder.encode(messages)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens included by their names."""
        return self._prompt_encoder.decode(ids)

    def encode_chat(self, messages: Sequence[Message]) -> ChatTokens:
        """A whole chat, with the end of its last reply.

        Args:
            messages: as those of a `Request`, the last one the assistant's and not empty.

        Raises:
            ModelError: the model's chat template refuses them.
        """
        last = len(messages) - 1
        # a next message makes the format write what ends the last one
        read = prompt_tokens(
            self._prompt_encoder, [*messages, Message("user", "")], range(last + 2)
        )
        ids: list[int] = []
        spoken: list[bool] = []
        speaker: int | None = None
        for token in read:
            now = token.message_index
            said = now is not None and messages[now].role == "assistant"
            ends = speaker is not None and now is None and token.control
            if speaker == last and not said and not ends:
                ids.append(self.eos_token_id)  # of a format that has no token of its own for it
                spoken.append(True)
                break
            ids.append(token.id)
            spoken.append(said or ends)
            if speaker == last and ends:
                break
            speaker = now if said else None
        return ChatTokens(tuple(ids), tuple(spoken))


def load_pretrained(model: ModelLocation, *, device: str = "auto", dtype: str = "auto") -> Any:
    """The model itself, a `PreTrainedModel` of transformers, ready for inference.

    Args:
        model: a chat model on this machine.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.

    Raises:
        OutOfMemoryError: the device's memory does not hold it.
        ModelError: it cannot be loaded, or there is no such device.
    """
    return load_model(model.name, model.folder, resolve_placement(device, dtype, "none"))


def fast_dtype(device: str = "auto") -> str:
    """The number format in which a device computes fastest: float32, bfloat16 or float16.

    Args:
        device: as for `load_weights`.

    Raises:
        ModelError: there is no such device.
    """
    return str(resolve_placement(device, "auto", "none").dtype).removeprefix("torch.")
