"""A family that the C kernel does not run is decoded by torch, as transformers computes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch

from chatlm.engines.devices import Placement
from chatlm.engines.load import load
from chatlm.engines.model import Unsupported
from chatlm.engines.native.architectures.registry import FAMILIES, read_config
from chatlm.engines.native.c_decoder import CDecoder
from chatlm.engines.native.model import NativeModel
from chatlm.engines.native.torch_decoder import TorchDecoder
from chatlm.engines.native.weights import read_weights
from tests.engine import adapter_files, tiny
from tests.engine.test_native import decoded_logits, native_model, random_ids, reference_logits

EXACT = Placement({"": "cpu"}, torch.float32)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def transformers_logits(folder: Path, ids: list[int]) -> torch.Tensor:
    """Logits after each token: (tokens, vocabulary)."""
    logits: torch.Tensor = tiny.reference(folder, torch.float32)(torch.tensor([ids])).logits[0]
    return logits


def assert_equal(logits: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("variant", tiny.TORCH_CONFIGS)
def test_torch_decodes_a_family_that_the_c_kernel_lacks(tmp_path: Path, variant: str) -> None:
    folder = tiny.save(tmp_path, variant)
    model = load("tiny", folder, EXACT, weights="bf16")
    assert isinstance(model, NativeModel)
    assert isinstance(model.decoder, TorchDecoder)
    assert (model.info.weights, model.info.notes) == ("16-bit, torch", ())
    with pytest.raises(Unsupported, match="C kernel"):
        CDecoder.check_supported(model.config)


@pytest.mark.parametrize("variant", tiny.TORCH_CONFIGS)
def test_a_short_prompt_and_its_reply_give_the_logits_of_transformers(
    tmp_path: Path, variant: str
) -> None:
    folder = tiny.save(tmp_path, variant)
    ids = random_ids(folder)[:12]
    cache = load("tiny", folder, EXACT, weights="bf16").new_cache()
    made = torch.cat([cache.prefill(ids[:7])[None], cache.decode(ids[7:])])
    assert_equal(made, transformers_logits(folder, ids)[6:])


@pytest.mark.parametrize("variant", tiny.TORCH_CONFIGS)
@pytest.mark.parametrize("form", [None, "steps"], ids=["torch", "steps"])
def test_a_prompt_across_blocks_gives_the_logits_of_transformers(
    tmp_path: Path, variant: str, form: Literal["steps"] | None
) -> None:
    folder = tiny.save(tmp_path, variant)
    ids = random_ids(folder)
    assert_equal(
        decoded_logits(native_model(folder, torch.float32, form), ids),
        reference_logits(folder, ids, torch.float32),
    )


@pytest.mark.parametrize("variant", tiny.TORCH_CONFIGS)
def test_a_warm_second_turn_gives_the_logits_of_transformers(tmp_path: Path, variant: str) -> None:
    folder = tiny.save(tmp_path, variant)
    ids = random_ids(folder)
    cache = load("tiny", folder, EXACT, weights="bf16").new_cache()
    cache.prefill(ids[:64])
    cache.decode([3, 5, 7])  # a reply that the second turn writes differently
    assert cache.truncate(64) == 64
    cache.prefill(ids[64:128])
    made = torch.cat([cache.prefill(ids[128:150])[None], cache.decode(ids[150:])])
    assert_equal(made, transformers_logits(folder, ids)[149:])


@pytest.mark.parametrize("variant", tiny.TORCH_CONFIGS)
def test_an_adapter_acts_on_a_family_that_torch_decodes(tmp_path: Path, variant: str) -> None:
    folder = tiny.save(tmp_path / "model", variant)
    saved = adapter_files.save(tmp_path / "adapter", folder, strength=0.5)
    ids = random_ids(folder)[:20]
    made = []
    for engine in ("torch", "transformers"):
        cache = (
            load("tiny", folder, EXACT, engine, "bf16" if engine == "torch" else "auto")
            .load_adapter(saved)
            .new_cache()
        )
        made.append(torch.cat([cache.prefill(ids[:7])[None], cache.decode(ids[7:])]))
    assert_equal(*made)
    assert not torch.allclose(made[1], transformers_logits(folder, ids)[6:])


def test_every_family_is_tested() -> None:
    variants = {**tiny.CONFIGS, **tiny.TORCH_CONFIGS}
    assert {kind.lower() for kind, _ in variants.values()} == set(FAMILIES)


@pytest.mark.parametrize("variant", tiny.TORCH_CONFIGS)
def test_the_c_kernel_refuses_a_block_it_does_not_have(tmp_path: Path, variant: str) -> None:
    folder = tiny.save(tmp_path, variant)
    config = read_config(folder)
    weights = read_weights(folder, config)
    with pytest.raises(Unsupported, match="C kernel"):
        CDecoder(None, config, weights, "bf16", 1)  # type: ignore[arg-type]
