"""A GGUF model of llama.cpp reads images with its mmproj file as transformers' original does."""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
import transformers
from torch import Tensor

import chatlm
from chatlm import Image, LocalEngine, Message, Mmproj, Request, Sampling, Text, UsageError
from chatlm.chat.images import read_image
from chatlm.chat.replay import ReplayFinished, replay
from chatlm.chat.session import ChatSession
from chatlm.chat.vision import check_images
from chatlm.engines.devices import resolve_placement
from chatlm.engines.image_ids import find_images, plain_ids
from chatlm.engines.image_processor import load_processor
from chatlm.hub import installed, pull
from chatlm.hub.mmproj import place_mmproj
from chatlm.store.store import Store
from chatlm.types.events import Delta, PromptReady
from chatlm.types.parts import PreparedImage
from chatlm_llamacpp.model import open_model as open_gguf
from chatlm_llamacpp.settings import Settings
from tests import gguf_files, image_files, vision_gguf
from tests.plugins import llamacpp
from tests.plugins.llamacpp import EXACT, needs_llamacpp

pytestmark = needs_llamacpp

SIZE = vision_gguf.IMAGE_SIZE
CAT = read_image(image_files.png(SIZE, SIZE), "cat.png")
DOG = read_image(image_files.solid_png(image_files.BLUE, SIZE), "dog.png")
LARGE = read_image(image_files.png(120, 50), "large.png")
GREEDY = Sampling(temperature=0.0, max_tokens=6)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return vision_gguf.save(tmp_path_factory.mktemp("vision"))


def open_model(files: tuple[Path, Path], projector: str = "gemma3", **settings: Any) -> Any:
    described = dataclasses.replace(llamacpp.describe(files[0]), mmproj=Mmproj(files[1], projector))
    return open_gguf(described, Settings(**EXACT, **settings))


@pytest.fixture(scope="module")
def model(files: tuple[Path, Path]) -> Any:
    return open_model(files)


@pytest.fixture(scope="module")
def engine(files: tuple[Path, Path], model: Any) -> Iterator[LocalEngine]:
    tokenizer = chatlm.load_tokenizer("tiny", files[0].parent / "original")
    opened = LocalEngine("tiny", model, tokenizer)
    yield opened
    opened.close()


def request(*messages: Message, **values: Any) -> Request:
    images = {each.image.sha256: each.content for each in (CAT, DOG, LARGE)}
    return Request(messages, **{"sampling": GREEDY, "images": images, **values})


def user(*parts: PreparedImage | str) -> Message:
    return Message("user", [Text(part) if isinstance(part, str) else part.image for part in parts])


def answer(engine: LocalEngine, asked: Request) -> tuple[str, int]:
    """The reply, and how many tokens were known from an earlier prompt."""
    text, cached = "", 0
    for event in engine.stream(asked):
        if isinstance(event, Delta):
            text += event.text
        elif isinstance(event, PromptReady):
            cached = event.cached_tokens
    return text, cached


def original_logits(
    files: tuple[Path, Path], engine: LocalEngine, ids: list[int], images: list[PreparedImage]
) -> Tensor:
    """What transformers computes in one forward pass, in float32."""
    folder = files[0].parent / "original"
    model: Any = transformers.Gemma3ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32
    ).eval()
    pixels = load_processor(folder).image_processor(
        [PIL.Image.open(io.BytesIO(each.content)) for each in images], return_tensors="pt"
    )["pixel_values"]
    assert engine._images is not None
    plain = torch.tensor([plain_ids(ids, engine._images.feature_id)])
    types = (plain == engine._images.feature_id).long()
    with torch.inference_mode():
        logits: Tensor = model(plain, pixel_values=pixels, token_type_ids=types).logits[0, -1]
    return logits


TWO_TURNS = (user(CAT, "What is this?"), Message("assistant", "the cat"), user(DOG, "And this?"))


@pytest.mark.parametrize(
    ("messages", "images"),
    [((user(CAT, "What is this?"),), [CAT]), (TWO_TURNS, [CAT, DOG])],
    ids=["one image", "two images"],
)
def test_logits_are_those_of_transformers(
    files: tuple[Path, Path],
    model: Any,
    engine: LocalEngine,
    messages: tuple[Message, ...],
    images: list[PreparedImage],
) -> None:
    ids = engine._fit_prompt(request(*messages)).ids
    units = find_images(ids)
    assert len(units) == len(images)
    cache: Any = model.new_cache()
    hashes = [each.image.sha256 for each in images]
    start = 0
    assert engine._images is not None
    with engine._images.available(hashes, request().images):
        for stop in (*(unit.stop for unit in units), len(ids)):
            logits = cache.prefill(ids[start:stop])
            start = stop
    expected = original_logits(files, engine, ids, images)
    scale = float(expected.abs().max())
    assert float((logits - expected).abs().max()) < 2e-3 * scale
    swapped = original_logits(files, engine, ids, [DOG, CAT][: len(images)])
    assert float((logits - swapped).abs().max()) > 2e-2 * scale


def test_the_tokens_of_an_image_are_those_of_the_original(
    files: tuple[Path, Path], engine: LocalEngine
) -> None:
    processor = load_processor(files[0].parent / "original")
    picture = PIL.Image.open(io.BytesIO(LARGE.content))
    expected = processor(text=["<start_of_image>"], images=[picture])["input_ids"][0]
    assert engine._images is not None
    text = engine._images.expand(120, 50)
    assert processor.tokenizer(text, add_special_tokens=False)["input_ids"] == expected
    assert engine.image_tokens(120, 50) == len(expected)


def test_an_image_is_encoded_once_and_its_tokens_are_reused(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = answer(engine, request(user(LARGE, "What is this? " * 12)))
    encoded: list[int] = []
    images: Any = engine._images
    monkeypatch.setattr(images, "_encode", lambda content: encoded.append(len(content)))
    follow_up = request(
        user(LARGE, "What is this? " * 12), Message("assistant", first), user("Sure?")
    )
    _, cached = answer(engine, follow_up)
    assert cached > engine.image_tokens(120, 50)
    assert encoded == []


def test_another_image_gets_another_reply_and_the_same_one_the_same(engine: LocalEngine) -> None:
    asked = [request(user(each, "What is this?")) for each in (CAT, DOG, CAT)]
    hashes = [engine.preview(each).hash for each in asked]
    assert hashes[0] == hashes[2] != hashes[1]
    texts = [answer(engine, each)[0] for each in asked]
    assert texts[0] == texts[2]


def test_the_tokens_of_an_image_belong_to_its_message(engine: LocalEngine) -> None:
    tokens = engine.preview(request(user(CAT, "What is this?"))).tokens
    seen = [token for token in tokens if token.part == Image.type]
    assert {token.message_index for token in seen} == {0}
    assert sum(token.text == "<image_soft_token>" for token in seen) == 4


def test_an_image_that_is_none_is_refused(engine: LocalEngine) -> None:
    broken = request(user(CAT, "Hm?"), images={CAT.image.sha256: b"GIF89a"})
    assert engine._images is not None
    engine._images.clear()
    engine._prompt_cache.clear()
    with pytest.raises(UsageError, match="cannot be read"):
        answer(engine, broken)
    assert answer(engine, request(user(CAT, "Hm?")))[0] != ""


@pytest.mark.parametrize("kind", ["other", "not"])
def test_an_mmproj_that_does_not_fit_leaves_text(
    files: tuple[Path, Path], kind: str, tmp_path: Path
) -> None:
    mmproj = files[1]
    if kind == "not":
        mmproj = tmp_path / "mmproj.gguf"
        mmproj.write_bytes(files[0].read_bytes())
    model = open_model((files[0], mmproj), "ldp" if kind == "other" else "gemma3")
    assert model.images is None
    assert any("cannot read images here" in note for note in model.info.notes)


def test_an_mmproj_beside_a_file_comes_with_the_model(
    files: tuple[Path, Path], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(files[0], tmp_path / "tiny.gguf")
    shutil.copy(files[1], tmp_path / "mmproj-other.gguf")
    (tmp_path / "mmproj-F16.gguf").write_bytes(b"GGUF")  # damaged, so it is left alone
    location = pull.pull_model(str(tmp_path / "tiny.gguf"))
    assert (location.folder / "mmproj.gguf").read_bytes() == files[1].read_bytes()
    assert "images" not in installed.describe_model(location.name).abilities
    blind = LocalEngine.from_folder(
        "tiny", location.folder, resolve_placement("cpu"), engine="transformers"
    )
    with pytest.raises(UsageError) as refused:
        check_images([CAT.image], blind.info)
    assert "chatlm config set engine llamacpp" in (refused.value.hint or "")
    blind.close()
    monkeypatch.setenv("CHATLM_ENGINE", "llamacpp")
    assert "images" in installed.describe_model(location.name).abilities
    runtimes = {"llamacpp": lambda described: open_gguf(described, Settings(**EXACT))}
    seeing = LocalEngine.from_folder(
        "tiny", location.folder, resolve_placement("cpu"), engine="llamacpp", runtimes=runtimes
    )
    assert "image" in seeing.info.accepts
    assert answer(seeing, request(user(CAT, "What is this?")))[0]
    seeing.close()


def test_a_reply_about_an_image_is_the_same_when_it_is_replayed(engine: LocalEngine) -> None:
    with Store(None) as store:
        list(ChatSession(store, lambda: engine, sampling=GREEDY).send("What is this?", [CAT]))
        reply = store.conversation(1).turns[0].reply
        assert reply is not None
        assert reply.text
        *_, last = replay(store, engine, reply.id)
        assert isinstance(last, ReplayFinished)
        assert last.same_text
        assert last.same_prompt


def test_a_mmproj_of_another_width_is_left_alone(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    changes = {"embedding_length": 32}
    other = gguf_files.save_gguf(tmp_path / "other.gguf", "gemma3", changes=changes)
    shutil.copy(files[1], tmp_path / "mmproj.gguf")
    place_mmproj(other, [tmp_path], tmp_path / "made")
    assert not list((tmp_path / "made").iterdir())
