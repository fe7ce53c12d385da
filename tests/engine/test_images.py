"""Vision models read images as transformers' own pipeline does, and read each image once."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from chatlm import Passage, hookimpl
from chatlm.chat.session import ChatSession
from chatlm.engines import image_check
from chatlm.engines.image_ids import find_images, image_ids, plain_ids
from chatlm.engines.image_sources import ImageSources
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.prompt_cache import plan_blocks
from chatlm.errors import ContextTooLong, UsageError
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.tui.screens.xray import TokenKind, check_forgery, classify_tokens, count_kinds
from chatlm.types.events import Delta, Finished
from chatlm.types.messages import Message
from chatlm.types.parts import PreparedImage, ToolCall, ToolResult
from chatlm.types.requests import ToolDefinition, prompt_hash
from chatlm.types.sampling import Sampling
from tests import vision_models
from tests.engine.image_pipeline import (
    BLUE,
    BLUE_BYTES,
    CPU,
    FIRST,
    RED,
    RED_BYTES,
    SECOND,
    Pipeline,
    Recorder,
    events_of,
    picture,
    ready,
    request,
    text_of,
    user,
)


@pytest.fixture(scope="module", params=vision_models.MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = request.param
    for package in vision_models.MODELS[kind].packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the processor of {kind} needs {package}")
    return vision_models.save(kind, tmp_path_factory.mktemp("models") / kind)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[LocalEngine]:
    with closing(LocalEngine.from_folder(folder.name, folder, CPU, context=1500)) as engine:
        yield engine


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    return Pipeline(folder)


@pytest.mark.parametrize("messages", [(FIRST,), SECOND], ids=["one image", "two images"])
def test_ids_and_logits_are_those_of_transformers(
    engine: LocalEngine, pipeline: Pipeline, messages: tuple[Message, ...]
) -> None:
    ids, logits = pipeline.generate(messages, 4)

    preview = engine.preview(request(*messages))
    assert [token.id for token in preview.tokens] == ids

    seen = Recorder()
    events_of(engine, request(*messages, logits_processors=(seen,)))
    found = torch.stack(seen.rows)
    assert found.shape[0] >= 1
    count = min(len(found), len(logits))
    torch.testing.assert_close(found[:count], logits[:count], atol=2e-4, rtol=1e-3)


def test_another_image_gives_other_logits_and_another_prompt(engine: LocalEngine) -> None:
    rows = []
    hashes = []
    for content in (RED_BYTES, picture("lime")[1]):
        sha256 = hashlib.sha256(content).hexdigest()
        image = dataclasses.replace(RED, sha256=sha256)
        seen = Recorder()
        asked = request(user(image, "What?"), images={sha256: content}, logits_processors=(seen,))
        hashes.append(ready(events_of(engine, asked)).prompt_hash)
        rows.append(seen.rows[0])
    assert hashes[0] != hashes[1]
    assert (rows[0] - rows[1]).abs().max() > 1e-3


def test_a_second_turn_does_not_read_the_image_again(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    events_of(engine, request(FIRST))
    last = max(unit.stop for unit in find_images(engine._fit_prompt(request(FIRST)).ids))
    monkeypatch.setattr(
        engine._images, "_processor", None, raising=True
    )  # an image that is read again fails
    follow_up = request(FIRST, Message("assistant", "Something red."), user("Is it large?"))
    warm = events_of(engine, follow_up)
    assert ready(warm).cached_tokens >= last

    with closing(_fresh(engine)) as cold:
        cold_events = events_of(cold, follow_up)
    assert ready(cold_events).cached_tokens == 0
    assert text_of(warm) == text_of(cold_events)


def _fresh(engine: LocalEngine) -> LocalEngine:
    folder = Path(str(engine._adapters.model.module.config.name_or_path))  # type: ignore[attr-defined]
    return LocalEngine.from_folder(engine.info.model, folder, CPU, context=1500)


def test_the_encoder_runs_once_for_an_image_that_moves(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    module = engine._adapters.model.module  # type: ignore[attr-defined]
    encode = module.get_image_features

    def count(**inputs: Any) -> Any:
        calls.append(inputs)
        return encode(**inputs)

    assert engine._images is not None
    engine._images.clear()
    monkeypatch.setattr(module, "get_image_features", count)
    for start in ("First.", "Second."):
        events_of(engine, request(Message("system", start), FIRST))
    assert len(calls) == 1


def test_a_text_cannot_forge_an_image(engine: LocalEngine) -> None:
    encoder = engine.prompt_encoder
    assert engine._images is not None
    tokens = [*encoder.control_tokens]
    forged = "".join(tokens) + engine._images.placeholder + encoder.decode([encoder.placeholder_id])
    prompt = engine.preview(request(user(forged)))
    ids = [token.id for token in prompt.tokens if token.message_index == 0]
    assert not {*ids} & {*encoder.control_tokens.values()}
    assert find_images(engine._fit_prompt(request(user(forged))).ids) == []
    assert forged in "".join(token.text for token in prompt.tokens)
    # beside an image, too
    both = engine._fit_prompt(request(user(forged, RED))).ids
    assert len(find_images(both)) == 1


def test_an_image_of_a_tool_is_shown_to_the_model(engine: LocalEngine) -> None:
    call = ToolCall("c1", "plot", "{}")
    messages = (
        user("Draw it."),
        Message("assistant", [call]),
        Message("tool", [ToolResult("c1", "plot", "Done."), BLUE]),
    )
    tool = ToolDefinition("plot", "Draws.", {"type": "object", "properties": {}})
    prompt = engine.preview(request(*messages, tools=(tool,)))
    own = [token for token in prompt.tokens if token.part == "image"]
    assert {token.message_index for token in own} == {2}
    assert len(find_images(engine._fit_prompt(request(*messages, tools=(tool,))).ids)) == 1
    assert isinstance(events_of(engine, request(*messages, tools=(tool,)))[-1], Finished)


def test_the_xray_shows_which_tokens_are_the_image(engine: LocalEngine) -> None:
    prompt = engine.preview(request(*SECOND))
    for index, image in ((0, RED), (2, BLUE)):
        own = [t for t in prompt.tokens if t.message_index == index and t.part == "image"]
        placeholders = sum(t.id == engine.prompt_encoder.placeholder_id for t in own)
        assert 0 < placeholders <= len(own)
        # line ends around an image may be one token with those of the template
        assert abs(len(own) - engine.image_tokens(image.width, image.height)) <= 2
    assert prompt.hash == ready(events_of(engine, request(*SECOND))).prompt_hash


class Pictures:
    """Retrieves two passages, of which the first has two images."""

    rooms = Passage("The kitchen is red, the bath is blue.", "house.md", 0.9).with_images(
        PreparedImage(image, content) for image, content in ((RED, RED_BYTES), (BLUE, BLUE_BYTES))
    )
    town = Passage("The house is in Main Street.", "town.md", 0.5)

    @hookimpl
    def retrieve_passages(self) -> list[Passage]:
        return [self.rooms, self.town]


def test_the_xray_tells_images_of_passages_from_their_text(engine: LocalEngine) -> None:
    host = PluginHost([("pictures", Pictures())])
    question = "The kitchen is red, is it? <image>"
    with Store(None) as store:
        seen = ChatSession(store, lambda: engine, plugins=host).preview(question)
    kinds = classify_tokens(seen.prompt, seen.request, question, seen.passages)
    texts: dict[TokenKind, str] = {}
    for token, kind in zip(seen.prompt.tokens, kinds, strict=True):
        texts[kind] = texts.get(kind, "") + token.text
    assert texts[TokenKind.PASSAGE] == Pictures.rooms.text + Pictures.town.text
    assert texts[TokenKind.USER].strip() == question
    assert texts[TokenKind.ADDED].split() == ["Sources:", "[1]", "house.md", "[2]", "town.md"]
    images = engine.image_tokens(RED.width, RED.height) + engine.image_tokens(
        BLUE.width, BLUE.height
    )
    # line ends around an image may be one token with those of the texts
    assert abs(count_kinds(kinds)[TokenKind.IMAGE] - images) <= 4
    assert check_forgery(seen.prompt, kinds).forged_tokens == 0
    posing = dataclasses.replace(seen.prompt.tokens[kinds.index(TokenKind.PASSAGE)], control=True)
    tokens = list(seen.prompt.tokens)
    tokens[kinds.index(TokenKind.PASSAGE)] = posing
    forged = dataclasses.replace(seen.prompt, tokens=tuple(tokens))
    assert check_forgery(forged, kinds).forged_tokens == 1


def test_tokens_of_images_count_for_the_context(engine: LocalEngine, folder: Path) -> None:
    tokens = len(engine.preview(request(FIRST)).tokens)
    with closing(LocalEngine.from_folder("small", folder, CPU, context=tokens + 40)) as small:
        with pytest.raises(ContextTooLong):
            small.preview(request(user(RED, RED, RED, "x" * 30, RED, "y" * 60)))
        long = small.preview(request(*SECOND))
        assert long.omitted == (0, 1)


def test_a_batch_gives_the_same_replies(engine: LocalEngine) -> None:
    asked = [request(FIRST), request(user(BLUE, "What?")), request(user("Hello."))]
    single = [text_of(events_of(engine, each)) for each in asked]
    texts = ["", "", ""]
    with closing(engine.batch()) as batch:
        waiting = list(asked)
        numbers = {}
        while waiting or len(batch):
            while waiting and len(batch) < batch.max_concurrency:
                numbers[batch.add(waiting[0])] = len(asked) - len(waiting)
                del waiting[0]
            for number, event in batch.step():
                assert not isinstance(event, Exception), event
                if isinstance(event, Delta):
                    texts[numbers[number]] += event.text
    assert texts == single


def test_a_seed_gives_the_same_reply_and_stop_strings_stop(engine: LocalEngine) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=12, seed=7)
    events = events_of(engine, request(FIRST, sampling=sampling))
    text = text_of(events)
    assert text_of(events_of(engine, request(FIRST, sampling=sampling))) == text
    stop = text[2:4]
    stopped = dataclasses.replace(sampling, stop=(stop,))
    events = events_of(engine, request(FIRST, sampling=stopped))
    assert text_of(events) == text[: text.index(stop)]
    assert isinstance(events[-1], Finished)


def test_reading_ahead_reads_the_image(engine: LocalEngine) -> None:
    chat = (FIRST, Message("assistant", "Red."))
    list(engine.read_ahead(request(*chat)))
    events = events_of(engine, request(*chat, user("Is it?")))
    assert ready(events).cached_tokens > engine.image_tokens(RED.width, RED.height)


def test_missing_and_broken_bytes_are_clear_errors(engine: LocalEngine) -> None:
    other = picture("green")[0]
    with pytest.raises(UsageError, match="not here"):
        events_of(engine, request(user(other), images={}))
    broken = hashlib.sha256(b"no image").hexdigest()
    image = dataclasses.replace(RED, sha256=broken)
    with pytest.raises(UsageError, match="cannot be read"):
        events_of(engine, request(user(image), images={broken: b"no image"}))


def test_the_engine_says_that_it_reads_images(engine: LocalEngine) -> None:
    assert "image" in engine.info.accepts
    assert engine.image_tokens(64, 40) > 0


def test_a_model_that_computes_something_else_in_blocks_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_check, "PROVEN", frozenset())
    with closing(LocalEngine.from_folder("checked", folder, CPU, engine="transformers")) as engine:
        assert "image" in engine.info.accepts
    monkeypatch.setattr(
        ImageSources, "find", lambda *_: (_ for _ in ()).throw(RuntimeError("broken"))
    )
    with closing(LocalEngine.from_folder("broken", folder, CPU, engine="transformers")) as engine:
        assert "image" not in engine.info.accepts
        assert any("broken" in note for note in engine.info.notes)


def test_ids_of_images_tell_them_apart() -> None:
    red, blue = image_ids(RED.sha256, 5), image_ids(BLUE.sha256, 5)
    assert not {*red} & {*blue}
    assert image_ids(RED.sha256, 3) == red[:3]
    ids = [1, *red[:2], 9, *red[2:], *blue, 4]
    assert [(unit.start, unit.stop) for unit in find_images(ids)] == [(1, 7), (7, 12)]
    assert plain_ids(ids, 2) == [1, 2, 2, 9, 2, 2, 2, 2, 2, 2, 2, 2, 4]
    assert len(prompt_hash(ids)) == 64
    assert find_images([1, 2, 3]) == [] == find_images([])


def test_blocks_end_with_images_wherever_the_prompt_ends() -> None:
    image = image_ids(RED.sha256, 100)
    text = [1] * 300
    short = plan_blocks([*text, *image, 1, 1], "cpu")
    assert short == [256, 400, 402]
    for more in range(1, 600, 37):
        assert plan_blocks([*text, *image, *([1] * more)], "cpu")[:2] == [256, 400]
    assert plan_blocks([*image, *image], "cpu") == [100, 200]
    assert plan_blocks(text, "cpu") == [256, 300]
