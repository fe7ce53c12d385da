"""A tiny vision model that really sees: it tells the colour of a circle beside a square.

It has SmolVLM's architecture, is trained here in a few minutes and the same way each time, and is
kept between test runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw
import torch

from tests import vision_models
from tests.models import shared_home

NAME = "shapes"

COLORS = {
    "red": (220, 30, 30), "green": (30, 170, 50), "blue": (40, 60, 220),
    "yellow": (235, 215, 40), "orange": (245, 140, 20), "purple": (130, 40, 160),
}  # fmt: skip

QUESTION = "What colour is the circle?"

SIZE = 64
"""Width and height of the images in pixels."""

EXAMPLES, BATCH, STEPS = 4096, 32, 700


@dataclass(frozen=True)
class Picture:
    """A circle beside a square of another colour."""

    content: bytes
    """A PNG file."""
    color: str
    """Of the circle."""


def picture(number: int) -> Picture:
    """Draw a picture, the same for the same number."""
    dice = random.Random(f"picture {number}")
    names = dice.sample(sorted(COLORS), 2)
    circle, square = (_shade(COLORS[name], dice) for name in names)
    ground = dice.randrange(200, 256)
    image = PIL.Image.new("RGB", (SIZE, SIZE), (ground, ground, ground))
    draw = PIL.ImageDraw.Draw(image)
    left, right = _box(dice, 0), _box(dice, SIZE // 2)
    boxes = [left, right] if dice.random() < 0.5 else [right, left]
    draw.ellipse(boxes[0], fill=circle)
    draw.rectangle(boxes[1], fill=square)
    file = io.BytesIO()
    image.save(file, "PNG")
    return Picture(file.getvalue(), names[0])


def _shade(color: tuple[int, ...], dice: random.Random) -> tuple[int, ...]:
    return tuple(min(255, max(0, value + dice.randrange(-12, 13))) for value in color)


def _box(dice: random.Random, start: int) -> tuple[int, int, int, int]:
    size = dice.randrange(18, 27)
    x = start + dice.randrange(2, SIZE // 2 - size - 1)
    y = dice.randrange(2, SIZE - size - 1)
    return x, y, x + size, y + size


def held_out(count: int) -> list[Picture]:
    """Pictures that the model has never seen."""
    return [picture(1_000_000 + number) for number in range(count)]


def folder() -> Path:
    """Return the folder of the model; trained when it is not there yet."""
    files = [Path(__file__), Path(vision_models.__file__)]
    recipe = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    place = shared_home() / "trained" / recipe / NAME
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other workers wait for it
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=place.parent) as staging:
                made = Path(staging) / NAME
                _train(made)
                made.rename(place)
    return place


def _make() -> tuple[Any, Any]:
    return vision_models.idefics3(
        {
            "hidden_size": 64, "intermediate_size": 128, "head_dim": 16,
            "tie_word_embeddings": True, "initializer_range": 0.05,
        },
        {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.05, "patch_size": 8},
        splits=False,
        image_size=SIZE // 2,
    )  # fmt: skip


def _prompt(processor: Any) -> str:
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    return text


def _train(place: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(1)
        model, processor = _make()
        _fit(model, processor)
    finally:
        torch.set_num_threads(threads)
    model.eval().save_pretrained(place)
    processor.save_pretrained(place)


def _fit(model: Any, processor: Any) -> None:
    """Train it to answer with the colour of the circle."""
    pictures = [picture(number) for number in range(EXAMPLES)]
    prompt = _prompt(processor)
    pixels = torch.cat(
        [_inputs(processor, prompt, each.content)["pixel_values"] for each in pictures]
    )
    mask = _inputs(processor, prompt, pictures[0].content)["pixel_attention_mask"]
    asked = _inputs(processor, prompt, pictures[0].content)["input_ids"][0].tolist()
    tokenizer = processor.tokenizer
    replies = {
        name: tokenizer.encode(f" {name.capitalize()}.<end_of_utterance>", add_special_tokens=False)
        for name in COLORS
    }
    longest = max(map(len, replies.values()))
    rows, labels = [], []
    for each in pictures:
        reply = replies[each.color]
        fill = longest - len(reply)
        rows.append([*asked, *reply, *[tokenizer.pad_token_id] * fill])
        labels.append([*[-100] * len(asked), *reply, *[-100] * fill])
    ids, wanted = torch.tensor(rows), torch.tensor(labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=STEPS, pct_start=0.1
    )
    generator = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(STEPS):
        chosen = torch.randint(EXAMPLES, (BATCH,), generator=generator)
        loss = model(
            input_ids=ids[chosen],
            pixel_values=pixels[chosen],
            pixel_attention_mask=mask.expand(BATCH, *mask.shape[1:]),
            labels=wanted[chosen],
        ).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _inputs(processor: Any, prompt: str, content: bytes) -> Any:
    with PIL.Image.open(io.BytesIO(content)) as image:
        return processor(text=[prompt], images=[[image]], return_tensors="pt")
