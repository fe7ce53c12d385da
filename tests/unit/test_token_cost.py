"""The expected speed of a model follows from memory and processor, whichever limits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from chatlm.engines.fit import FileFacts
from chatlm.engines.kv_layout import KVLayer, KVLayout
from chatlm.engines.machine_speed import MachineSpeed, TokenCost
from chatlm.engines.memory_plan import MemoryPlan
from chatlm.engines.native.kernel_speed import KernelSpeed
from chatlm.engines.token_cost import speed_of, token_cost

PLAN = MemoryPlan(1000, 0, KVLayout((KVLayer(1),)), 2.0, 2048, None, "cpu")
SMALL = TokenCost({"Q4_1": 70e6, "Q8_0": 30e6}, 30, 49_152, "native")
LARGE = TokenCost({"Q4_K": 4e9, "Q6_K": 1e9}, 36, 151_936, "native")


def machine(bandwidth: float, rate: float, layer_seconds: float) -> MachineSpeed:
    return MachineSpeed(bandwidth, KernelSpeed({"Q4_1": rate, "Q8_0": rate}, layer_seconds))


def test_memory_that_is_read_faster_than_the_kernel_multiplies_changes_nothing() -> None:
    usual, wide = machine(35e9, 40e9, 11e-6), machine(60e9, 40e9, 11e-6)
    assert speed_of(SMALL, "cpu", usual) == speed_of(SMALL, "cpu", wide)


def test_a_small_model_is_slower_where_threads_wait_longer_for_each_other() -> None:
    near, far = machine(35e9, 40e9, 11e-6), machine(60e9, 50e9, 19e-6)
    assert speed_of(SMALL, "cpu", far) < speed_of(SMALL, "cpu", near)
    assert speed_of(LARGE, "cpu", far) > speed_of(LARGE, "cpu", near)


def test_each_format_counts_at_its_own_rate() -> None:
    def seconds(rates: Mapping[str, float], weights: Mapping[str, float]) -> float:
        cost = TokenCost(weights, 0, 0, "native")
        return 1 / speed_of(cost, "cpu", MachineSpeed(1e9, KernelSpeed(rates, 0.0)))

    rates = {"Q4_1": 4e9, "Q6_K": 2e9}
    four, six = seconds(rates, {"Q4_1": 1e9}), seconds(rates, {"Q6_K": 1e9})
    assert six == pytest.approx(2 * four)
    assert seconds(rates, {"Q4_1": 1e9, "Q6_K": 1e9}) == pytest.approx(four + six)
    assert seconds(rates, {"Q4_0": 1e9}) == four, "takes as many instructions as Q4_1"
    assert seconds(rates, {"IQ1_S": 1e9}) == six, "not measured, so as slow as any"


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda:0"])
def test_without_a_kernel_the_bandwidth_counts(device: str) -> None:
    slow, fast = (speed_of(LARGE, device, MachineSpeed(each)) for each in (20e9, 40e9))
    assert 1.5 * slow < fast < 2 * slow


def test_transformers_and_other_devices_do_not_use_the_kernel() -> None:
    with_kernel, without = machine(40e9, 1e9, 1.0), MachineSpeed(40e9)
    slow = TokenCost({"BF16": 5e9}, 36, 151_936, "transformers")
    assert speed_of(slow, "cpu", with_kernel) == speed_of(slow, "cpu", without)
    assert speed_of(LARGE, "mps", with_kernel) == speed_of(LARGE, "mps", without)


@dataclass(frozen=True)
class Facts:
    """A model of these number formats."""

    types: Mapping[str, int]
    is_gguf: bool = True
    file_bytes: int = 1000
    parameters: int = 1000
    has_output_matrix: bool = False
    is_native: bool = True
    reads_images: bool = False

    @property
    def config(self) -> Mapping[str, Any]:
        return {"vocab_size": 10, "hidden_size": 4, "num_hidden_layers": 3}


def test_the_bytes_of_a_gguf_file_are_divided_by_its_formats() -> None:
    cost = token_cost(Facts({"Q4_1": 800, "Q8_0": 200}), PLAN, "native")
    assert cost.weights == pytest.approx({"Q4_1": 1000 * 4000 / 5700, "Q8_0": 1000 * 1700 / 5700})
    assert (cost.layers, cost.vocabulary, cost.engine) == (3, 10, "native")


@pytest.mark.parametrize(
    ("quantization", "name"),
    [("Q4_K_M", "Q4_K"), ("Q4_K", "Q4_K"), ("IQ4_XS", "IQ4_XS"), ("q8_0", "Q8_0"), ("TQ1", "TQ1")],
)
def test_a_quantization_has_the_format_of_most_of_its_weights(quantization: str, name: str) -> None:
    assert token_cost(Facts({quantization: 9}), PLAN, "native").weights == {name: 1000}


@pytest.mark.parametrize(
    ("weights", "name"),
    [("auto", "Q8_0"), ("int4", "Q4_1"), ("int8", "Q8_0"), ("bf16", "BF16"), ("stored", "BF16")],
)
def test_safetensors_are_packed_as_the_setting_says(weights: str, name: str) -> None:
    facts = Facts({"BF16": 1000}, is_gguf=False)
    assert token_cost(facts, PLAN, "native", weights=weights).weights == {name: 1000}


def test_files_of_which_nothing_is_known_but_their_size_have_a_usual_format() -> None:
    assert list(token_cost(FileFacts(1000), PLAN, "native").weights) == ["Q4_K"]
