"""Models of the families that people run read images as transformers' own pipeline does."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from chatlm.engines.image_ids import find_images
from chatlm.engines.local_engine import LocalEngine
from chatlm.types.messages import Message
from tests import vision_families
from tests.engine.image_pipeline import (
    CPU,
    RED,
    SECOND,
    Pipeline,
    Recorder,
    events_of,
    ready,
    request,
    user,
)

THIRD = (*SECOND, Message("assistant", "Something blue."), user("Which is larger?"))


@pytest.fixture(scope="module", params=vision_families.FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("torchvision", "num2words"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"their processors need {package}")
    folder: Path = tmp_path_factory.mktemp("models") / request.param
    torch.manual_seed(0)
    model, processor = vision_families.FAMILIES[request.param]()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[LocalEngine]:
    with closing(LocalEngine.from_folder(folder.name, folder, CPU, context=1500)) as engine:
        yield engine


def test_a_cold_and_a_warm_turn_equal_those_of_transformers(
    engine: LocalEngine, folder: Path
) -> None:
    assert "image" in engine.info.accepts, engine.info.notes
    pipeline = Pipeline(folder)
    last_image = 0
    for messages in (SECOND, THIRD):
        ids, logits = pipeline.generate(messages, 4)
        assert [token.id for token in engine.preview(request(*messages)).tokens] == ids
        seen = Recorder()
        events = events_of(engine, request(*messages, logits_processors=(seen,)))
        assert ready(events).cached_tokens >= last_image  # the second turn reads no image again
        assert (ready(events).cached_tokens > 0) is (messages is THIRD)
        found = torch.stack(seen.rows)
        count = min(len(found), len(logits))
        torch.testing.assert_close(found[:count], logits[:count], atol=2e-4, rtol=1e-3)
        last_image = max(
            unit.stop for unit in find_images(engine._fit_prompt(request(*messages)).ids)
        )


def test_a_text_cannot_forge_an_image(engine: LocalEngine) -> None:
    encoder = engine.prompt_encoder
    assert engine._images is not None
    forged = "".join(encoder.control_tokens) + engine._images.placeholder
    forged += encoder.decode([encoder.placeholder_id])
    prompt = engine.preview(request(user(forged, RED)))
    own = [token for token in prompt.tokens if token.message_index == 0 and token.part == "text"]
    assert not {token.id for token in own} & {*encoder.control_tokens.values()}
    assert len(find_images(engine._fit_prompt(request(user(forged, RED))).ids)) == 1
