"""The CUDA graph decoder, whose steps also run on the CPU without a graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from chatlm.engines.devices import resolve_placement
from chatlm.engines.load import load
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.model import Unsupported
from chatlm.engines.native.cuda_graph import CudaGraphDecoder, check_against_prefill
from chatlm.engines.native.kv_cache import SequenceInput
from chatlm.engines.native.model import NativeModel
from chatlm.engines.native.rope import RopeTables
from chatlm.engines.transformers_model import TransformersModel
from chatlm.types.events import Delta
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from tests.engine import adapter_files, tiny
from tests.engine.test_native import decoded_logits, native_model, random_ids

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def graph_model(folder: Path, device: str) -> NativeModel:
    """Return a model in float32 with the CUDA graph decoder."""
    if device == "cpu":
        return native_model(folder, torch.float32, "steps")
    model = load("tiny", folder, resolve_placement(device, "float32"), "auto")
    assert isinstance(model, NativeModel)
    return model


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=on_cuda)])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_cache_that_grows_or_is_truncated_gives_the_same(tmp_path: Path, device: str) -> None:
    folder = tiny.save(tmp_path, "llama grouped")
    ids, model = random_ids(folder), graph_model(folder, device)
    once = decoded_logits(model, ids)
    cache = model.new_cache()
    cache.prefill(ids[:64])
    cache.prefill(ids[64:100])
    first = cache.decode(ids[100:140])
    cache._kv_cache.reserve(4 * cache._kv_cache.capacity)
    again = torch.cat([first, cache.decode(ids[140:])])
    torch.testing.assert_close(again, once, rtol=1e-4, atol=1e-4)
    assert cache.truncate(100) == 100
    torch.testing.assert_close(cache.decode(ids[100:]), once, rtol=1e-4, atol=1e-4)


def test_caches_and_adapters_alternate(tmp_path: Path, device: str) -> None:
    folder = tiny.save(tmp_path / "model", "qwen3")
    saved = adapter_files.save(tmp_path / "adapter", folder, strength=0.5)
    ids, model = random_ids(folder), graph_model(folder, device)
    readers = (model, model.load_adapter(saved))
    alone = [read_alone(reader, ids) for reader in readers]
    assert not torch.equal(*alone)
    caches = [reader.new_cache() for reader in readers]
    for cache in caches:
        cache.prefill(ids[:100])
    turns = [model.decode(caches, [[token], [token]]) for token in ids[100:]]
    for number, expected in enumerate(alone):
        made = torch.stack([both[number] for both in turns])
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


def read_alone(reader: object, ids: list[int]) -> torch.Tensor:
    cache = reader.new_cache()  # type: ignore[attr-defined]
    cache.prefill(ids[:100])
    return torch.cat([cache.decode([token]) for token in ids[100:]])


def test_a_dropped_model_leaves_no_decode_step(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "llama")
    model = graph_model(folder, "cpu")
    decoded_logits(model, random_ids(folder))
    assert isinstance(model.decoder, CudaGraphDecoder)
    assert len(model.decoder._steps) == 0


@pytest.mark.parametrize("broken", ["numbers", "failure"])
def test_a_decoder_that_computes_wrongly_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    model = graph_model(tiny.save(tmp_path, "llama"), "cpu")
    check_against_prefill(model)
    right = CudaGraphDecoder._decode_token

    def wrong(
        self: CudaGraphDecoder, sequence: SequenceInput, token: int, ropes: RopeTables
    ) -> torch.Tensor:
        if broken == "failure":
            raise RuntimeError("operation not permitted when stream is capturing")
        return right(self, sequence, 5, ropes)

    monkeypatch.setattr(CudaGraphDecoder, "_decode_token", wrong)
    with pytest.raises(Unsupported, match="capturing" if broken == "failure" else "wrong logits"):
        check_against_prefill(model)


@on_cuda
@pytest.mark.parametrize("variant", tiny.CONFIGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_on_cuda_it_computes_what_transformers_computes(
    tmp_path: Path, variant: str, dtype: str
) -> None:
    folder = tiny.save(tmp_path, variant)
    ids, placement = random_ids(folder), resolve_placement("cuda", dtype)
    fast, plain = (load("tiny", folder, placement, way) for way in ("native", "transformers"))
    assert isinstance(fast, NativeModel)
    assert isinstance(plain, TransformersModel)
    assert fast.info.weights == ("32-bit" if dtype == "float32" else "16-bit")
    made, true = read_alone(fast, ids), read_alone(plain, ids).float()
    near = 1e-3 if dtype == "float32" else 0.05
    assert float((made - true).norm()) < near * float(true.norm())


@on_cuda
def test_on_cuda_the_real_model_answers(default_model: Path) -> None:
    engine = LocalEngine.from_folder("default", default_model, resolve_placement("cuda"))
    assert engine.info.weights == "16-bit"
    greedy = Sampling(temperature=0.0, max_tokens=20)
    request = Request((Message("user", "What is the capital of France?"),), greedy)
    replies = {
        "".join(event.text for event in engine.stream(request) if isinstance(event, Delta))
        for _ in range(2)
    }
    assert len(replies) == 1
    assert "Paris" in replies.pop()
    engine.close()
