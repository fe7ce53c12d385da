"""Load weights and encode chats for plugins that train or inspect a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chatlm.engines.devices import resolve_placement
from chatlm.engines.prompt_encoder import PromptEncoder
from chatlm.engines.prompt_tokens import prompt_tokens
from chatlm.engines.transformers_model import load_model, load_tokenizer
from chatlm.hub.installed import ModelLocation
from chatlm.types.messages import Message


@dataclass(frozen=True)
class ChatTokens:
    """A chat as token ids."""

    ids: tuple[int, ...]
    assistant_mask: tuple[bool, ...]
    """True for the tokens of the assistant's replies, including the token that ends each."""


class ChatEncoder:
    """An encoder of chats that inserts control tokens by id, as the engine does.

    Args:
        model: whose tokenizer is used.
        prompt_format: one of `chatlm.engines.prompt_renderer.PROMPT_FORMATS`.

    Raises:
        ModelError: its tokenizer cannot be used.
    """

    def __init__(self, model: ModelLocation, prompt_format: str = "auto") -> None:
        self._prompt_encoder = PromptEncoder(
            load_tokenizer(model.name, model.folder), prompt_format, ()
        )

    @property
    def eos_token_id(self) -> int:
        """Id of the tokenizer's end-of-sequence token; 0 where it has none."""
        return self._prompt_encoder.eos_token_id or 0

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the prompt for the next reply."""
        return self._prompt_encoder.encode(messages)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, with control tokens by name."""
        return self._prompt_encoder.decode(ids)

    def encode_chat(self, messages: Sequence[Message]) -> ChatTokens:
        """Encode a whole chat, including the end of its last reply.

        Args:
            messages: as in a `Request`; the last is a reply that is not empty.

        Raises:
            ModelError: the model's chat template refuses them.
        """
        last = len(messages) - 1
        # a next message makes the format close the last one
        tokens = prompt_tokens(
            self._prompt_encoder, [*messages, Message("user", "")], range(last + 2)
        )
        ids: list[int] = []
        mask: list[bool] = []
        replying: int | None = None
        for token in tokens:
            index = token.message_index
            in_reply = index is not None and messages[index].role == "assistant"
            ends_reply = replying is not None and index is None and token.control
            if replying == last and not in_reply and not ends_reply:
                ids.append(self.eos_token_id)  # the format has no token that ends a reply
                mask.append(True)
                break
            ids.append(token.id)
            mask.append(in_reply or ends_reply)
            if replying == last and ends_reply:
                break
            replying = index if in_reply else None
        return ChatTokens(tuple(ids), tuple(mask))


def load_pretrained(model: ModelLocation, *, device: str = "auto", dtype: str = "auto") -> Any:
    """Load the model as a `PreTrainedModel` of transformers, ready for inference.

    Args:
        model: an installed chat model.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.

    Raises:
        OutOfMemoryError: the device has too little memory.
        ModelError: it cannot be loaded, or there is no such device.
    """
    return load_model(model.name, model.folder, resolve_placement(device, dtype))


def fast_dtype(device: str = "auto") -> str:
    """Return the dtype in which a device is fastest: float32, bfloat16 or float16.

    Args:
        device: see `load_pretrained`.

    Raises:
        ModelError: there is no such device.
    """
    return str(resolve_placement(device).dtype).removeprefix("torch.")
