"""A GGUF file computes exactly what its original does, or is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter

from chatlm.hub.generation_config import read_generation_config, recommended_sampling
from chatlm.hub.gguf.architectures import ARCHITECTURES, read_config
from chatlm.hub.gguf.file import GgufError, GgufFile
from chatlm.types.sampling import Sampling
from tests.gguf_files import make_folder, save_gguf, write_vocabulary
from tests.gguf_originals import ORIGINALS, llama3_factors
from tests.models import load_plain

TOKENS = 300
"""More than the sliding windows and the original context of any variant."""


def logits(folder: Path) -> torch.Tensor:
    ids = torch.randint(3, 259, (1, TOKENS), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        result: torch.Tensor = load_plain(folder, torch.float32)(ids).logits
    return result


@pytest.mark.parametrize("variant", ORIGINALS)
def test_a_file_has_the_logits_of_the_original(tmp_path: Path, variant: str) -> None:
    made = make_folder(save_gguf(tmp_path / "tiny.gguf", variant))
    expected = logits(tmp_path / "original")
    assert expected.std() > 0.1  # the numbers say something
    torch.testing.assert_close(logits(made), expected, rtol=0, atol=1e-5)


def test_every_architecture_is_compared() -> None:
    assert {original.architecture for original in ORIGINALS.values()} == set(ARCHITECTURES)


def test_the_sampling_that_a_file_recommends_is_the_models(tmp_path: Path) -> None:
    def recommend(writer: GGUFWriter) -> None:
        write_vocabulary(writer)
        writer.add_float32("general.sampling.temp", 0.6)
        writer.add_uint32("general.sampling.top_k", 20)
        writer.add_float32("general.sampling.top_p", 0.95)
        writer.add_float32("general.sampling.penalty_repeat", 1.05)
        writer.add_float32("general.sampling.xtc_probability", 0.1)
        writer.add_string("general.sampling.sequence", "top_k;temperature")

    made = make_folder(save_gguf(tmp_path / "tiny.gguf", tokenizer=recommend))
    assert recommended_sampling("tiny", read_generation_config(made)) == Sampling(
        temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.05, xtc_probability=0.1
    )


@pytest.mark.parametrize(
    ("variant", "without"),
    [
        ("llama", r"blk\.1\.ffn_up"),
        ("llama", r"output_norm"),
        ("qwen3", r"blk\.0\.attn_q_norm"),
        ("llama biases", r"blk\.1\.attn_k\.bias"),
        ("mixtral", r"blk\.1\.ffn_up_exps"),
        ("qwen3moe", r"blk\.0\.ffn_gate_exps"),
    ],
)
def test_a_missing_tensor_is_named(tmp_path: Path, variant: str, without: str) -> None:
    gguf = save_gguf(tmp_path / "tiny.gguf", variant, without=without)
    with pytest.raises(GgufError, match=r"do not fit its architecture .*\(missing\)"):
        make_folder(gguf)
    assert not (tmp_path / "made").exists()


def test_a_mixtral_without_its_experts_is_refused(tmp_path: Path) -> None:
    gguf = save_gguf(tmp_path / "tiny.gguf", "mixtral", without="_exps")
    with pytest.raises(GgufError, match=r"experts\.\w+.* \(missing\)"):
        make_folder(gguf)


def test_experts_that_the_settings_do_not_mention_are_refused(tmp_path: Path) -> None:
    changes = {"expert_count": None, "expert_used_count": None}
    gguf = save_gguf(tmp_path / "tiny.gguf", "mixtral", changes=changes)
    with pytest.raises(GgufError, match="do not fit its architecture"):
        make_folder(gguf)


def test_a_tensor_that_nobody_knows_is_named(tmp_path: Path) -> None:
    gguf = save_gguf(tmp_path / "tiny.gguf", more={"blk.0.attn_sinks.weight": (4,)})
    with pytest.raises(GgufError, match=r"the tensor 'blk\.0\.attn_sinks\.weight'"):
        make_folder(gguf)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    gguf = save_gguf(
        tmp_path / "tiny.gguf", without="output_norm", more={"output_norm.weight": (63,)}
    )
    with pytest.raises(GgufError, match=r"model\.norm\.weight \(another shape\)"):
        make_folder(gguf)


@pytest.mark.parametrize(
    ("variant", "changes", "named"),
    [
        ("llama", {"attention.sliding_window": 4096}, "llama.attention.sliding_window = 4096"),
        ("llama", {"attention.value_length": 8}, "llama.attention.value_length = 8"),
        ("llama", {"attention.head_count_kv": [2, 1]}, "llama.attention.head_count_kv = "),
        ("llama", {"rope.dimension_count": 8}, "llama.rope.dimension_count = 8"),
        ("llama", {"rope.scaling.attn_factor": 2.0}, "llama.rope.scaling.attn_factor = 2"),
        ("llama", {"rope.scaling.type": "longrope"}, "llama.rope.scaling.type = 'longrope'"),
        ("llama", {"rope.scaling.alpha": 2.0}, "llama.rope.scaling.alpha = 2"),
        ("llama 3.1", {"rope.scaling.factor": 2.0}, "rope_freqs.weight"),
        ("llama yarn", {"rope.scaling.yarn_ext_factor": 0.5}, "yarn_ext_factor = 0.5"),
        ("llama yarn", {"rope.scaling.yarn_log_multiplier": 0.1}, "yarn_log_multiplier = 0.1"),
        ("olmo3", {"rope.freq_base_swa": 5.0}, "olmo2.rope.freq_base_swa = 5"),
        ("gemma4", {"expert_count": 8}, "gemma4.expert_count = 8"),
        ("gemma4", {"attention.shared_kv_layers": 5}, "gemma4.feed_forward_length = [96, "),
        ("gemma2", {"rope.freq_base_swa": 5.0}, "gemma2.rope.freq_base_swa = 5"),
        ("mixtral", {"expert_weights_norm": False}, "llama.expert_weights_norm = False"),
        ("qwen3moe", {"expert_feed_forward_length": 31}, "expert_feed_forward_length = 31"),
        ("qwen3moe", {"expert_gating_func": 2}, "qwen3moe.expert_gating_func = 2"),
        ("qwen3", {"expert_count": 4}, "qwen3.expert_count = 4"),
    ],
)
def test_a_setting_that_cannot_be_applied_is_named(
    tmp_path: Path, variant: str, changes: dict[str, Any], named: str
) -> None:
    gguf = save_gguf(tmp_path / "tiny.gguf", variant, changes=changes)
    with pytest.raises(GgufError, match="which chatlm cannot apply") as caught:
        make_folder(gguf)
    assert named in caught.value.message


def test_a_setting_that_is_missing_is_named(tmp_path: Path) -> None:
    gguf = save_gguf(tmp_path / "tiny.gguf", "phi3", changes={"attention.sliding_window": None})
    with pytest.raises(GgufError, match=r"does not say its phi3\.attention\.sliding_window"):
        make_folder(gguf)


def test_a_short_and_a_long_factor_are_needed(tmp_path: Path) -> None:
    gguf = save_gguf(tmp_path / "tiny.gguf", "phi3 longrope", without="rope_factors_long")
    with pytest.raises(GgufError, match=r"only rope_factors_short\.weight"):
        make_folder(gguf)


def test_llama_3_rotation_is_kept_by_name(tmp_path: Path) -> None:
    with GgufFile(save_gguf(tmp_path / "tiny.gguf", "llama 3.2")) as file:
        assert read_config(file)["rope_parameters"] == {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }


def test_other_divisors_of_frequencies_are_kept_one_by_one(tmp_path: Path) -> None:
    factors = [1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    gguf = save_gguf(tmp_path / "tiny.gguf", more={"rope_freqs.weight": (8,)})
    plain = logits(make_folder(gguf))
    data = gguf.read_bytes()
    ones = torch.ones(8).numpy().tobytes()
    gguf.write_bytes(data.replace(ones, torch.tensor(factors).numpy().tobytes()))
    with GgufFile(gguf) as file:
        rope = read_config(file)["rope_parameters"]
    assert (rope["short_factor"], rope["long_factor"]) == (factors, factors)
    again = make_folder(gguf, "again")
    model = load_plain(again, torch.float32)
    expected = 1.0 / (torch.tensor(factors) * 10000.0 ** (torch.arange(0, 16, 2) / 16))
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, expected)
    assert not torch.equal(logits(again), plain)


def test_the_factors_of_a_test_are_those_of_llama_3() -> None:
    factors = llama3_factors(5e5, 128, 8.0)
    assert factors[0] == 1.0
    assert factors[-1] == 8.0
    assert sorted(factors) == factors
    assert any(1.0 < factor < 8.0 for factor in factors)


def test_numbers_are_read_as_they_were_written(tmp_path: Path) -> None:
    with GgufFile(save_gguf(tmp_path / "tiny.gguf", "granite")) as file:
        config = read_config(file)
    assert (config["rms_norm_eps"], config["attention_multiplier"]) == (1e-6, 0.11)


def test_an_architecture_that_is_not_known_is_named(tmp_path: Path) -> None:
    gguf = save_gguf(tmp_path / "tiny.gguf")
    gguf.write_bytes(gguf.read_bytes().replace(b"llama", b"lhama"))
    with (
        GgufFile(gguf) as file,
        pytest.raises(GgufError, match=r"the architecture 'lhama' of tiny\.gguf"),
    ):
        read_config(file)
