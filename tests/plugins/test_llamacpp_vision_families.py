"""Mmproj files of the families that people run: prompts, positions and logits of transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from torch import Tensor

import chatlm
from chatlm import Image, LocalEngine, Message, Mmproj, Request
from chatlm.chat.images import read_image
from chatlm.engines.image_ids import find_images
from chatlm_llamacpp.images import PLACEMENTS
from chatlm_llamacpp.model import open_model
from chatlm_llamacpp.settings import Settings
from tests import image_files, vision_gguf
from tests.engine.image_pipeline import Pipeline, picture, request, user
from tests.plugins import llamacpp
from tests.plugins.llamacpp import EXACT, needs_llamacpp

pytestmark = needs_llamacpp

FAMILIES = {
    "gemma3": (28, 28),
    "gemma4_large": (128, 128),
    "idefics3": (56, 56),
    "lfm2_vl": (64, 64),
    "mistral3": (56, 42),
    "qwen2_5_vl": (56, 42),
    "qwen3_vl": (42, 56),
}
"""The size of an image that none of both sides scales, by the family."""


@dataclasses.dataclass
class Opened:
    """A model, its original, and two images."""

    engine: LocalEngine
    model: Any
    pipeline: Pipeline
    images: tuple[Image, Image]

    @property
    def bytes(self) -> Any:
        return self.pipeline.images

    def request(self, *messages: Message) -> Request:
        return request(*messages, images=self.bytes)

    def read(self, cache: Any, ids: list[int], start: int = 0) -> Tensor:
        """Read a prompt in blocks that end with its images; the logits after it."""
        assert self.engine._images is not None
        logits = torch.empty(0)
        with self.engine._images.available(self.bytes, self.bytes):
            for stop in (*(unit.stop for unit in find_images(ids)), len(ids)):
                if stop > start:
                    logits = cache.prefill(ids[start:stop])
                    start = stop
        return logits


def make_images(kind: str) -> tuple[tuple[Image, Image], dict[str, bytes]]:
    """Two images; of one colour where one is read whole beside its tiles, and so is scaled."""
    made = []
    for colour in ("red", "blue"):
        if kind == "idefics3":
            pixels = PIL.Image.new("RGB", FAMILIES[kind], colour)
            prepared = read_image(image_files.save(pixels), "p.png")
            made.append((prepared.image, prepared.content))
        else:
            made.append(picture(colour, FAMILIES[kind]))
    first, second = (image for image, _ in made)
    return (first, second), {image.sha256: content for image, content in made}


@pytest.fixture(scope="module", params=FAMILIES)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opened]:
    if request.param not in ("gemma3", "idefics3"):
        pytest.importorskip("torchvision", reason="the processors need torchvision")
    folder = tmp_path_factory.mktemp("files") / request.param
    folder.mkdir()
    model, mmproj = vision_gguf.save(folder, request.param)
    projector = vision_gguf.FAMILIES[request.param].projector
    described = dataclasses.replace(llamacpp.describe(model), mmproj=Mmproj(mmproj, projector))
    runtime = open_model(described, Settings(**EXACT))
    assert runtime.info.notes == ()
    original = folder / "original"
    images, contents = make_images(request.param)
    with closing(LocalEngine("tiny", runtime, chatlm.load_tokenizer("tiny", original))) as engine:
        yield Opened(engine, runtime, Pipeline(original, contents), images)


def conversation(opened: Opened) -> tuple[Message, ...]:
    first, second = opened.images
    return (
        user(first, "What is it?"),
        Message("assistant", "Red."),
        user("And", second, "this?"),
    )


def test_prompts_and_logits_are_those_of_transformers(opened: Opened) -> None:
    messages = conversation(opened)
    for chat in (messages[:1], messages):
        ids, expected = opened.pipeline.generate(chat, 1)
        seen = opened.engine.preview(opened.request(*chat)).tokens
        tokenizer = opened.pipeline.processor.tokenizer
        # llama.cpp reads the ends of Pixtral's rows as a part of the image
        ends = tokenizer.convert_tokens_to_ids(["[IMG_BREAK]", "[IMG]"])
        assert [token.id for token in seen] == [ends[1] if i == ends[0] else i for i in ids]
        prompt = opened.engine._fit_prompt(opened.request(*chat)).ids
        logits = opened.read(opened.model.new_cache(), prompt)
        scale = float(expected.abs().max())
        assert float((logits - expected[0]).abs().max()) < 1.2e-2 * scale


def test_each_image_is_read_in_its_place(opened: Opened) -> None:
    first, second = opened.images
    found = []
    for chat in (
        conversation(opened),
        conversation(dataclasses.replace(opened, images=(second, first))),
    ):
        prompt = opened.engine._fit_prompt(opened.request(*chat)).ids
        found.append(opened.read(opened.model.new_cache(), prompt))
    scale = float(found[0].abs().max())
    assert float((found[0] - found[1]).abs().max()) > 2e-2 * scale


def assert_same(found: Tensor, expected: Tensor) -> None:
    """As equal as blocks of other sizes are."""
    assert float((found - expected).abs().max()) < 2e-3 * float(expected.abs().max())


def test_after_a_cut_and_outside_the_context_positions_are_the_same(opened: Opened) -> None:
    prompt = opened.engine._fit_prompt(opened.request(*conversation(opened))).ids
    cache = opened.model.new_cache()
    expected = opened.read(cache, prompt)
    first, second = find_images(prompt)
    for length in (second.stop + 1, second.start + 2, first.stop):
        if cache.truncate(length) > second.start and length < second.stop:
            cache.truncate(second.start)  # only whole images are read
        kept = cache.length
        assert kept <= length
        others = [opened.model.new_cache() for _ in range(Settings().parallel)]
        for other in others:  # which take its place in the context
            opened.read(other, prompt[: first.start])
        assert cache.slot is None
        again = opened.read(cache, prompt, kept)
        assert_same(again, expected)
    with torch.inference_mode():
        (stepped,) = cache.decode([5])
    fresh = opened.model.new_cache()
    whole = opened.read(fresh, [*prompt, 5])
    assert_same(stepped, whole)


def test_a_small_gemma_4_leaves_images_out_and_says_why(tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="the processors need torchvision")
    model, mmproj = vision_gguf.save(tmp_path, "gemma4")
    described = dataclasses.replace(llamacpp.describe(model), mmproj=Mmproj(mmproj, "gemma4v"))
    runtime = open_model(described, Settings(**EXACT))
    assert runtime.images is None
    (note,) = runtime.info.notes
    assert "one direction" in note
    assert "safetensors" in note


def test_every_placement_is_proven() -> None:
    proven = {vision_gguf.FAMILIES[kind].projector for kind in FAMILIES}
    same_as_another = {"qwen2vl_merger"}  # positions and prompts of Qwen 2.5 VL
    assert set(PLACEMENTS) == proven | same_as_another
