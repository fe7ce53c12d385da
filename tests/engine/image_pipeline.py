"""Requests with images, and transformers' own way to answer them, for tests of engines."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import torch
import transformers

from chatlm.engines.devices import Placement
from chatlm.engines.image_processor import load_processor
from chatlm.engines.local_engine import LocalEngine
from chatlm.types.events import Delta, EngineEvent, PromptReady
from chatlm.types.messages import Message
from chatlm.types.parts import Image, Text
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling

CPU = Placement({"": "cpu"}, torch.float32)
GREEDY = Sampling(temperature=0.0, max_tokens=6)


def picture(color: str, size: tuple[int, int] = (64, 40)) -> tuple[Image, bytes]:
    """An image with a gradient, as a PNG file, and its part."""
    made = PIL.Image.new("RGB", size, color)
    made.paste(PIL.Image.linear_gradient("L").resize((size[0] // 2, size[1] // 2)), (3, 5))
    file = io.BytesIO()
    made.save(file, "PNG")
    content = file.getvalue()
    return Image("image/png", *size, hashlib.sha256(content).hexdigest(), "p.png"), content


RED, RED_BYTES = picture("red")
BLUE, BLUE_BYTES = picture("blue", (30, 90))
BYTES = {RED.sha256: RED_BYTES, BLUE.sha256: BLUE_BYTES}


def request(*messages: Message, **values: Any) -> Request:
    return Request(messages, **{"sampling": GREEDY, "images": BYTES, **values})


def user(*parts: Image | str) -> Message:
    return Message("user", [Text(part) if isinstance(part, str) else part for part in parts])


FIRST = user(RED, "What is in the picture?")
SECOND = (FIRST, Message("assistant", "Something red."), user("And this?", BLUE, "Tell me."))


def events_of(engine: LocalEngine, request: Request) -> list[EngineEvent]:
    return list(engine.stream(request))


def text_of(events: list[EngineEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def ready(events: list[EngineEvent]) -> PromptReady:
    return next(event for event in events if isinstance(event, PromptReady))


class Pipeline:
    """transformers' own way from a chat to logits.

    Args:
        folder: of the model.
        images: bytes by hash.
    """

    def __init__(self, folder: Path, images: Mapping[str, bytes] = BYTES) -> None:
        self.images = images
        self.processor = load_processor(folder)
        self.model = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32
        ).eval()

    def inputs(self, messages: tuple[Message, ...]) -> Any:
        chat = [
            {
                "role": message.role,
                "content": [
                    {"type": "image", "image": PIL.Image.open(io.BytesIO(self.images[part.sha256]))}
                    if isinstance(part, Image)
                    else {"type": "text", "text": part.text}
                    for part in message.parts
                    if isinstance(part, Image | Text)
                ],
            }
            for message in messages
        ]
        return self.processor.apply_chat_template(
            chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )

    def generate(self, messages: tuple[Message, ...], count: int) -> tuple[list[int], torch.Tensor]:
        """The ids of the prompt, and the logits before each new token, chosen greedily."""
        inputs = self.inputs(messages)
        out = self.model.generate(
            **inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        return inputs["input_ids"][0].tolist(), torch.cat(out.logits)


class Recorder:
    """A logits processor that keeps the logits."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.rows.append(scores[0].clone())
        return scores
