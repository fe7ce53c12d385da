"""Merging follows the published methods; an exported model equals the base with the adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chatlm import ChatEncoder, Message, ModelLocation, UsageError, find_model, load_pretrained
from chatlm_lora import library
from chatlm_lora.library import ADAPTERS
from chatlm_lora.merging import MergeSettings, export_merged, merge_adapters
from chatlm_lora.validation import AdapterRefused
from tests.plugins.lora import HIDDEN, MODULES, adapter, config, matrices

Merge = Callable[[MergeSettings], dict[str, Tensor]]


@pytest.fixture
def two(home: Path, tmp_path: Path, base: ModelLocation) -> list[dict[str, Tensor]]:
    """Store two adapters, `a` and `b`; return their weight deltas."""
    for number, name in enumerate("ab"):
        folder = adapter(tmp_path / name, matrices(number + 1), config(lora_alpha=8 * (number + 1)))
        library.add_adapter(name, folder, base)
    return [added(name, base) for name in "ab"]


def added(name: str, base: ModelLocation) -> dict[str, Tensor]:
    """Return an adapter's weight delta for each module."""
    from peft import PeftModel

    plain = load_pretrained(base, device="cpu", dtype="float32")
    model: Any = PeftModel.from_pretrained(plain, str(ADAPTERS.get(name).path))
    return {
        module: model.get_submodule(f"base_model.model.{module}").get_delta_weight("default")
        for module in MODULES
    }


def merged(base: ModelLocation, mix: MergeSettings, *names: str) -> dict[str, Tensor]:
    sources = [ADAPTERS.get(name) for name in names or ("a", "b")]
    merge_adapters("both", sources, base, mix)
    return added("both", base)


def alike(found: Tensor, wanted: Tensor) -> bool:
    """The same but for the rounding of A and B to bfloat16."""
    return bool((found - wanted).norm() / wanted.norm() < 0.01)


def test_linear_is_the_weighted_sum(two: list[dict[str, Tensor]], base: ModelLocation) -> None:
    found = merged(base, MergeSettings("linear", (0.7, -0.2)))
    for module in MODULES:
        assert alike(found[module], 0.7 * two[0][module] - 0.2 * two[1][module])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_slerp_is_the_point_on_the_arc(
    share: float, two: list[dict[str, Tensor]], base: ModelLocation
) -> None:
    found = merged(base, MergeSettings("slerp", (1 - share, share)))
    for module in MODULES:
        one, other = two[0][module], two[1][module]
        cosine = (one * other).sum() / one.norm() / other.norm()
        angle = cosine.acos()
        wanted = (
            one * ((1 - share) * angle).sin() / angle.sin()
            + other * (share * angle).sin() / angle.sin()
        )
        assert alike(found[module], wanted)


def test_slerp_between_the_same_is_the_same(
    home: Path, tmp_path: Path, base: ModelLocation
) -> None:
    for name in "ab":
        library.add_adapter(name, adapter(tmp_path / name), base)
    found = merged(base, MergeSettings("slerp", (0.5, 0.5)))
    same = added("a", base)
    assert all(alike(found[module], same[module]) for module in MODULES)


def test_ties_keeps_what_agrees_in_sign(two: list[dict[str, Tensor]], base: ModelLocation) -> None:
    from peft.utils.merge_utils import ties

    found = merged(base, MergeSettings("ties", (0.5, 0.5), density=0.4, rank=HIDDEN))
    for module in MODULES:
        deltas = [each[module] for each in two]
        wanted = ties(deltas, torch.tensor([0.5, 0.5]), 0.4)
        assert alike(found[module], wanted)


def test_dare_drops_by_its_seed_and_with_all_kept_is_the_sum(
    two: list[dict[str, Tensor]], base: ModelLocation
) -> None:
    sources = [ADAPTERS.get(name) for name in "ab"]
    for name, density, seed in (("x", 0.5, 1), ("y", 0.5, 1), ("z", 0.5, 2), ("all", 1.0, 1)):
        mix = MergeSettings("dare", (0.5, 0.5), density=density, rank=HIDDEN, seed=seed)
        merge_adapters(name, sources, base, mix)
    x, y, z, whole = (added(name, base)[MODULES[0]] for name in ("x", "y", "z", "all"))
    assert torch.equal(x, y)
    assert not alike(x, z)
    assert alike(whole, 0.5 * two[0][MODULES[0]] + 0.5 * two[1][MODULES[0]])


def test_ties_has_the_rank_that_is_wanted(
    two: list[dict[str, Tensor]], base: ModelLocation
) -> None:
    merged(base, MergeSettings("ties", (0.5, 0.5), rank=3))
    values = json.loads((ADAPTERS.get("both").path / "adapter_config.json").read_text())
    assert values["r"] == 3
    assert values["base_model_name_or_path"] == base.name


def test_adapters_that_cannot_be_mixed(home: Path, tmp_path: Path, base: ModelLocation) -> None:
    kept = {
        "one": config(base_model_name_or_path="org/one"),
        "two": config(base_model_name_or_path="org/two"),
        "plain": config(),
    }
    for name, settings in kept.items():
        library.add_adapter(name, adapter(tmp_path / name, matrices(), settings), base)
    fewer = {key: value for key, value in matrices().items() if "q_proj" in key}
    settings = config(target_modules=["q_proj"])
    library.add_adapter("fewer", adapter(tmp_path / "fewer", fewer, settings), base)

    def refused(mix: MergeSettings, *names: str) -> str:
        with pytest.raises(UsageError) as error:
            merge_adapters("x", [ADAPTERS.get(name) for name in names], base, mix)
        assert not (home / "adapters" / "x").exists()
        return str(error.value)

    linear, slerp = MergeSettings("linear", (0.5, 0.5)), MergeSettings("slerp", (0.5, 0.5))
    assert "one was trained on org/one, the other on org/two" in refused(linear, "one", "two")
    assert "change different ones" in refused(slerp, "plain", "fewer")
    assert "at least two" in refused(linear, "plain", "plain")
    merge_adapters("sum", [ADAPTERS.get(n) for n in ("plain", "fewer")], base, linear)


def test_another_base_is_refused(two: list[dict[str, Tensor]], default_model: Path) -> None:
    other = ModelLocation("smollm2-135m-instruct", default_model, "chat")
    with pytest.raises(AdapterRefused, match="in smollm2-135m-instruct 576 and 576"):
        merge_adapters(
            "x", [ADAPTERS.get(n) for n in "ab"], other, MergeSettings("linear", (0.5, 0.5))
        )


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: MergeSettings("average", (1.0,)),
        lambda: MergeSettings("slerp", (0.3, 0.3, 0.4)),
        lambda: MergeSettings("slerp", (-1.0, 1.0)),
        lambda: MergeSettings("slerp", (0.0, 0.0)),
        lambda: MergeSettings("linear", (float("nan"), 1.0)),
        lambda: MergeSettings("ties", (0.5, 0.5), density=0.0),
        lambda: MergeSettings("ties", (0.5, 0.5), rank=0),
    ],
)
def test_impossible_mixes_are_refused(wrong: Callable[[], MergeSettings]) -> None:
    with pytest.raises(UsageError):
        wrong()


def test_an_exported_model_is_the_base_with_the_adapter(
    two: list[dict[str, Tensor]], base: ModelLocation, tmp_path: Path
) -> None:
    from peft import PeftModel

    folder = tmp_path / "whole"
    assert export_merged(ADAPTERS.get("a"), base, folder) == ()
    whole = find_model(str(folder))
    ids = torch.tensor([ChatEncoder(whole).encode_prompt([Message("user", "Who are you?")])])
    plain = load_pretrained(base, device="cpu", dtype="float32")
    adapted = PeftModel.from_pretrained(plain, str(ADAPTERS.get("a").path))
    with torch.no_grad():
        found = load_pretrained(whole, device="cpu", dtype="float32")(ids).logits
        wanted = adapted(ids).logits
        with adapted.disable_adapter():
            without = adapted(ids).logits
    assert (found - wanted).abs().max() < 1e-4
    assert (without - wanted).abs().max() > 0.01
    with pytest.raises(UsageError, match="already"):
        export_merged(ADAPTERS.get("a"), base, folder)


def test_an_export_that_fails_leaves_nothing(
    two: list[dict[str, Tensor]],
    base: ModelLocation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*given: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(UsageError, match="No space left"):
        export_merged(ADAPTERS.get("a"), base, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
