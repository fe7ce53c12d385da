"""Every architecture gives the results of a plain forward pass, whatever it can do with a cache."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import architectures, tiny_architectures
from chatlm.engines import transformers_cache
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.model import BlockRules
from chatlm.engines.prompt_cache import block_ends
from chatlm.engines.transformers_cache import PREFILL_MODES, PrefillMode, choose_mode
from chatlm.engines.transformers_model import load_model
from chatlm.errors import ModelError
from chatlm.hub import architecture
from chatlm.types.messages import Message
from chatlm.types.requests import Request

BLOCKS = PrefillMode("blocks")
MODES: Mapping[str, PrefillMode] = {
    "llama": BLOCKS,
    "bamba": PrefillMode("blocks", positions=True),
    "jamba": PrefillMode("whole"),
    "openai-gpt": PrefillMode("uncached"),
}
"""What a check of two blocks finds."""


def open_tiny(folder: Path, name: str) -> LocalEngine:
    tiny_architectures.save(folder, name)
    return LocalEngine.from_folder(name, folder, architectures.FLOAT32, engine="transformers")


@pytest.fixture
def nothing_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_cache, "proven_modes", lambda: ("0", {}))


@pytest.mark.parametrize(
    "name",
    ["phi3 longrope", "bamba", "jamba", "openai-gpt", "minimax", "gemma3_text", "mistral3"],
)
def test_short_long_and_second_turns_equal_plain_forward_passes(name: str) -> None:
    result = architectures.compare(name, None)
    assert (result.outcome, result.detail) == ("equal", "")
    assert result.compared > 10


@pytest.mark.parametrize("name", ["bamba", "jamba", "openai-gpt"])
def test_the_comparison_notices_a_mode_that_is_wrong(name: str) -> None:
    try:
        outcome = architectures.compare(name, BLOCKS).outcome
    except (ValueError, TypeError, IndexError):
        outcome = "crashed"
    assert outcome in ("silently different", "crashed")


@pytest.mark.parametrize(("name", "mode"), MODES.items())
def test_a_check_finds_the_mode_of_an_architecture_that_is_not_proven(
    tmp_path: Path, nothing_proven: None, name: str, mode: PrefillMode
) -> None:
    tiny_architectures.save(tmp_path, name)
    assert choose_mode(load_model(name, tmp_path, architectures.FLOAT32)) == mode


def test_an_architecture_that_was_proven_with_another_version_is_checked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_architectures.save(tmp_path, "llama")
    module = load_model("llama", tmp_path, architectures.FLOAT32)
    monkeypatch.setattr(transformers_cache, "proven_modes", lambda: ("0", {"llama": "whole"}))
    assert choose_mode(module) == PrefillMode("whole")
    monkeypatch.setattr(
        transformers_cache, "reads_exactly", lambda module, mode: mode.kind == "uncached"
    )
    assert choose_mode(module) == PrefillMode("uncached")


def test_a_slower_mode_is_said_and_reads_nothing_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_tiny(tmp_path / "fast", "llama")) as fast:
        assert not any("architecture" in note for note in fast.info.notes)
        assert list(fast.read_ahead(Request((Message("user", "Hi " * 30),))))
    with closing(open_tiny(tmp_path / "slow", "jamba")) as slow:
        assert any("read at once" in note for note in slow.info.notes)
        assert not list(slow.read_ahead(Request((Message("user", "Hi " * 30),))))
    with closing(open_tiny(tmp_path / "slower", "openai-gpt")) as slower:
        assert any("which is slow" in note for note in slower.info.notes)


def test_a_mode_without_blocks_reads_a_prompt_at_once() -> None:
    assert block_ends(700, "cpu", BlockRules(several=False)) == [700]


def test_with_longrope_the_first_block_of_a_long_prompt_passes_the_switch() -> None:
    rules = BlockRules(first_past=300)
    assert block_ends(300, "cpu", rules) == block_ends(300, "cpu")
    assert block_ends(345, "cpu", rules) == [320, 345]
    assert block_ends(1024, "cpu", rules) == [512, 768, 1024]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("xlnet", "predicts masked words"),
        ("roberta", "encoder"),
        ("idefics", "needs an image"),
    ],
)
def test_an_architecture_that_is_no_decoder_of_text_is_refused(name: str, reason: str) -> None:
    result = architectures.compare(name, None)
    assert result.outcome == "refused"
    assert reason in result.detail


def test_a_model_that_needs_other_inputs_is_refused_for_that(
    tmp_path: Path, nothing_proven: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(architecture, "_OTHER_INPUTS", {})
    with pytest.raises(ModelError, match=r"idefics cannot read text alone: .*pixel_values"):
        open_tiny(tmp_path, "idefics")


def test_the_proven_modes_are_known_ones() -> None:
    names = {str(mode) for mode in PREFILL_MODES}
    version, modes = architecture.proven_modes()
    assert version
    assert set(modes.values()) <= names
    assert modes["llama"] == "blocks"


@pytest.mark.slow
def test_no_architecture_is_silently_different() -> None:
    architectures.preload()
    names = [*tiny_architectures.architectures(), *tiny_architectures.VARIANTS]
    results = list(architectures.walk(names, processes=2, limit=300, find=False))
    wrong = [each for each in results if each.outcome not in ("equal", "refused", "not tried")]
    assert not wrong
    assert sum(each.outcome == "not tried" for each in results) < 20
