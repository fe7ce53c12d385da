"""The tensors of a GGUF file for the native decoders: as they are stored, nothing copied."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, quants
from safetensors.torch import load_file

from chatlm.engines.devices import Placement
from chatlm.engines.load import load
from chatlm.engines.model import Unsupported
from chatlm.engines.native.dequantize import dequantize_matrix, dequantize_rows
from chatlm.engines.native.gguf_tensors import GgufTensors
from chatlm.engines.native.model import NativeModel
from chatlm.hub.gguf.architectures import read_config
from chatlm.hub.gguf.file import GgufFile
from tests.gguf_files import make_folder, save_gguf
from tests.models import load_plain

TYPES = [
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
    "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4",
]  # fmt: skip

LAYER = "model.layers.0"


def open_tensors(gguf: Path) -> GgufTensors:
    with GgufFile(gguf) as file:
        config = read_config(file)
    (gguf.parent / "config.json").write_text(json.dumps(config))
    return GgufTensors.open(gguf, gguf.parent)


@pytest.mark.parametrize("kind", TYPES)
def test_a_matrix_is_the_bytes_of_the_file_and_stands_for_their_numbers(
    kind: str, tmp_path: Path
) -> None:
    gguf = save_gguf(tmp_path / "tiny.gguf", "llama wide", types={r"attn_v\.weight": kind})
    matrix = open_tensors(gguf).matrix(f"{LAYER}.self_attn.v_proj.weight", 128, 256)
    stored = next(t for t in GGUFReader(gguf).tensors if t.name == "blk.0.attn_v.weight")
    assert (matrix.type, matrix.rows, matrix.columns) == (kind, 128, 256)
    assert (matrix.row_order, matrix.bias) == (None, None)
    assert matrix.data.numpy().tobytes() == stored.data.tobytes()
    expected = torch.tensor(quants.dequantize(stored.data, GGMLQuantizationType[kind]))
    assert expected.isfinite().all()
    assert expected.std() > 1e-3  # the numbers say something
    assert torch.equal(dequantize_rows(matrix), expected)
    assert torch.equal(dequantize_rows(matrix, 5, 7), expected[5:12])
    assert torch.equal(dequantize_matrix(matrix, torch.bfloat16), expected.bfloat16())


@pytest.mark.parametrize("variant", ["llama", "llama biases", "granite", "qwen2", "qwen3"])
def test_matrices_and_vectors_are_those_of_the_original(variant: str, tmp_path: Path) -> None:
    tensors = open_tensors(save_gguf(tmp_path / "tiny.gguf", variant))
    original = load_file(tmp_path / "original" / "model.safetensors")
    for name, expected in original.items():
        shape = tuple(expected.shape)
        found = (
            tensors.vector(name, *shape)
            if len(shape) == 1
            else dequantize_rows(tensors.matrix(name, *shape))
        )
        assert torch.equal(found, expected.float()), name
    tensors.check_all_used(())


def test_permuted_rows_are_found_by_their_order(tmp_path: Path) -> None:
    gguf = save_gguf(tmp_path / "tiny.gguf", "llama wide", types={"attn_q": "Q8_0"})
    matrix = open_tensors(gguf).matrix(f"{LAYER}.self_attn.q_proj.weight", 256, 256)
    original = load_file(tmp_path / "original" / "model.safetensors")
    expected = original[f"{LAYER}.self_attn.q_proj.weight"].float()
    assert matrix.row_order is not None
    whole = dequantize_rows(matrix)
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-2)
    assert torch.equal(dequantize_rows(matrix, 3, 2), whole[3:5])
    assert not torch.equal(whole, dequantize_rows(type(matrix)(matrix.data, "Q8_0", 256)))


def test_a_norm_that_is_stored_with_1_added_is_its_weight(tmp_path: Path) -> None:
    tensors = open_tensors(save_gguf(tmp_path / "tiny.gguf", "gemma3"))
    name = f"{LAYER}.input_layernorm.weight"
    expected = load_file(tmp_path / "original" / "model.safetensors")[name].float()
    torch.testing.assert_close(tensors.vector(name, 64), expected, rtol=0, atol=1e-6)


def test_an_expert_is_the_rows_of_its_own(tmp_path: Path) -> None:
    tensors = open_tensors(save_gguf(tmp_path / "tiny.gguf", "mixtral"))
    original = load_file(tmp_path / "original" / "model.safetensors")
    for name in [name for name in original if ".experts." in name]:
        expected = original[name].float()
        matrix = tensors.matrix(name, *expected.shape)
        assert torch.equal(dequantize_rows(matrix), expected), name


def test_the_heads_of_linear_attention_are_found_by_their_order(tmp_path: Path) -> None:
    tensors = open_tensors(save_gguf(tmp_path / "tiny.gguf", "qwen35"))
    original = load_file(tmp_path / "original" / "model.safetensors")
    name = f"{LAYER}.linear_attn.in_proj_qkv.weight"
    matrix = tensors.matrix(name, *original[name].shape)
    assert matrix.row_order is not None
    assert torch.equal(dequantize_rows(matrix), original[name].float())
    name = f"{LAYER}.linear_attn.out_proj.weight"
    matrix = tensors.matrix(name, *original[name].shape)
    assert matrix.column_order is not None
    assert torch.equal(dequantize_rows(matrix), original[name].float())
    name = f"{LAYER}.linear_attn.conv1d.weight"
    assert torch.equal(tensors.vector(name, original[name].numel()), original[name].float().ravel())


MIXED = {
    "attn_q": "Q4_K", "attn_k": "Q6_K", "attn_v": "Q5_0", "attn_output": "IQ4_XS",
    "ffn_gate": "Q8_0", "ffn_up": "Q3_K", "ffn_down": "MXFP4", "token_embd": "Q6_K",
    r"^output\.": "Q5_K",
}  # fmt: skip
"""Number formats by pattern of the names of tensors."""


def test_the_native_decoders_compute_what_transformers_does(tmp_path: Path) -> None:
    folder = make_folder(save_gguf(tmp_path / "tiny.gguf", "llama wide", types=MIXED))
    model = load("tiny", folder, Placement({"": "cpu"}, torch.float32), "native")
    assert type(model) is NativeModel
    ids = torch.randint(3, 259, (1, 40), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = load_plain(folder, torch.float32)(ids).logits[0]
    assert expected.isfinite().all()
    cache = model.new_cache()
    made = [cache.prefill(ids[0, :20].tolist())]
    made += [cache.decode([token]) for token in ids[0, 20:].tolist()]
    found = torch.cat([logits.reshape(-1, expected.shape[1])[-1:] for logits in made])
    assert torch.equal(found.argmax(-1), expected[19:].argmax(-1))
    torch.testing.assert_close(found, expected[19:], rtol=0, atol=0.05 * float(expected.std()))


def test_matrices_stay_valid_without_their_reader(tmp_path: Path) -> None:
    gguf = save_gguf(tmp_path / "tiny.gguf")
    matrix = open_tensors(gguf).matrix("model.embed_tokens.weight", 320, 64)
    original = load_file(tmp_path / "original" / "model.safetensors")
    matrix.release()
    assert torch.equal(dequantize_rows(matrix), original["model.embed_tokens.weight"].float())


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    tensors = open_tensors(save_gguf(tmp_path / "tiny.gguf"))
    with pytest.raises(Unsupported, match=r"it has no tensor model\.norm\.bias"):
        tensors.vector("model.norm.bias", 64)
    with pytest.raises(Unsupported, match=r"lm_head\.weight is \(320, 64\), not \(321, 64\)"):
        tensors.matrix("lm_head.weight", 321, 64)
    with pytest.raises(Unsupported, match=r"the unknown tensor lm_head\.weight"):
        tensors.check_all_used(())


def test_a_damaged_file_is_not_run_natively(tmp_path: Path) -> None:
    gguf = save_gguf(tmp_path / "tiny.gguf")
    open_tensors(gguf)
    gguf.write_bytes(gguf.read_bytes()[:-100])
    with pytest.raises(Unsupported, match=r"cannot be read: tiny\.gguf is truncated"):
        GgufTensors.open(gguf, tmp_path)
