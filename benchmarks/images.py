"""Measure how much sooner the reply to a second question about the same image begins.

The model has the shape of SmolVLM-256M and random weights: how long it takes does not depend on
what it knows.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import PIL.Image
import torch
import transformers

from chatlm.engines.devices import resolve_placement
from chatlm.engines.local_engine import LocalEngine
from chatlm.types.events import Delta, PromptReady
from chatlm.types.messages import Message
from chatlm.types.parts import Image, Text
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from tests.vision_models import IDEFICS_TEMPLATE, make_tokenizer

TILE, PATCH, SCALE = 512, 16, 4
"""Pixels of a tile and of a patch, and by how much rows and columns of patches are reduced."""

SAMPLING = Sampling(temperature=0.0, max_tokens=2)


@dataclass(frozen=True)
class Turn:
    """A question about an image, as it was measured."""

    prompt_tokens: int
    cached_tokens: int
    first_token_seconds: float


def save_model(folder: Path, edge: int) -> None:
    """Save a model of SmolVLM-256M's shape.

    Args:
        folder: where.
        edge: pixels of the longer side to which images are scaled before they are divided.
    """
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    torch.manual_seed(0)
    tokenizer = make_tokenizer(
        {
            "bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<pad>",
            "image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
        },
        [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)],
    )  # fmt: skip
    make: Any = transformers.Idefics3Config
    config = make(
        text_config={
            "model_type": "llama", "vocab_size": 49_280, "hidden_size": 576,
            "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
            "num_key_value_heads": 3, "max_position_embeddings": 8192,
        },
        vision_config={
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "image_size": TILE, "patch_size": PATCH,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=SCALE,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    processor = transformers.Idefics3Processor(
        Idefics3ImageProcessorPil(
            size={"longest_edge": edge}, max_image_size={"longest_edge": TILE}
        ),
        tokenizer,
        image_seq_len=(TILE // PATCH // SCALE) ** 2,
        chat_template=IDEFICS_TEMPLATE,
    )
    model: Any = transformers.Idefics3ForConditionalGeneration(config)
    model = model.to(torch.bfloat16)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def picture() -> tuple[Image, bytes]:
    """Return a picture of 1,024×768 pixels."""
    gradient = PIL.Image.linear_gradient("L").resize((1024, 768))
    made = PIL.Image.merge(
        "RGB", (gradient, gradient.transpose(PIL.Image.Transpose.ROTATE_180), gradient)
    )
    file = io.BytesIO()
    made.save(file, "PNG")
    content = file.getvalue()
    return Image("image/png", *made.size, hashlib.sha256(content).hexdigest()), content


def ask(engine: LocalEngine, messages: Sequence[Message], content: bytes, image: Image) -> Turn:
    """Ask, and measure until the first token."""
    request = Request(tuple(messages), SAMPLING, images={image.sha256: content})
    started = time.perf_counter()
    ready = PromptReady(0, 0)
    with closing(engine.stream(request)) as events:
        for event in events:
            if isinstance(event, PromptReady):
                ready = event
            if isinstance(event, Delta):
                break
    seconds = time.perf_counter() - started
    return Turn(ready.prompt_tokens, ready.cached_tokens, seconds)


def measure(edge: int) -> dict[str, Any]:
    """Measure the first and the second turn of a chat about an image."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "smolvlm-256m"
        save_model(folder, edge)
        engine = LocalEngine.from_folder(folder.name, folder, resolve_placement("cpu"))
        with closing(engine):
            image, content = picture()
            hello = [Message("user", "Hello.")]
            ask(engine, hello, content, image)  # the first forward pass allocates much
            first = [Message("user", [image, Text("What is in the picture?")])]
            cold = ask(engine, first, content, image)
            second = [
                *first,
                Message("assistant", "A gradient."),
                Message("user", "Which colours?"),
            ]
            warm = ask(engine, second, content, image)
            tokens = engine.image_tokens(image.width, image.height)
    return {
        "image_tokens": tokens,
        "first": asdict(cold),
        "second": asdict(warm),
        "times_sooner": cold.first_token_seconds / warm.first_token_seconds,
    }


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--edge",
    type=click.IntRange(TILE, 2048),
    default=1024,
    show_default=True,
    help="Pixels to which the longer side is scaled; SmolVLM itself takes 2048.",
)
def main(as_json: bool, edge: int) -> None:
    """Measure the first token of two turns about the same image."""
    result = measure(edge)
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"The image takes {result['image_tokens']:,} tokens.")
    for name in ("first", "second"):
        turn = result[name]
        click.echo(
            f"{name} turn: first token after {turn['first_token_seconds']:.2f} s "
            f"({turn['prompt_tokens']:,} tokens, {turn['cached_tokens']:,} of them cached)"
        )
    click.echo(f"The second comes {result['times_sooner']:.1f} times sooner.")


if __name__ == "__main__":
    main()
