"""LoRA adapters in the engine: what peft computes, switches within a chat, and clear refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from chatlm.engines import adapters as engine_adapters
from chatlm.engines.devices import Placement, resolve_placement
from chatlm.engines.load import load
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.model import LanguageModel, Unsupported
from chatlm.engines.native.model import NativeModel
from chatlm.errors import EngineError
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from tests.engine import adapter_files, tiny
from tests.engine.test_native import native_model, random_ids

EXACT = Placement({"": "cpu"}, torch.float32)
GREEDY = Sampling(temperature=0.0, max_tokens=4)
QUESTION = Message("user", "Name three animals that live in the sea.")

SETTINGS: dict[str, dict[str, Any]] = {
    "all matrices": {"r": 5},
    "some, of many ranks": {
        "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"],
        "r": 3,
        "rank_pattern": {"down_proj": 20, "layers.1.self_attn.q_proj": 1},
        "alpha_pattern": {r"layers.[01].mlp.up_proj": 40, "v_proj": 1},
    },
    "scaled by the root of the rank": {"target_modules": ["k_proj", "o_proj"], "use_rslora": True},
    "one layer": {"target_modules": ["gate_proj"], "layers_to_transform": [1], "r": 17},
}


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def folders(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters of the default model, by name."""
    root = tmp_path_factory.mktemp("adapters")
    some: dict[str, Any] = {
        "r": 16,
        "use_rslora": True,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
    }
    return {
        "poet": adapter_files.save(root / "poet", default_model),
        "pirate": adapter_files.save(root / "pirate", default_model, seed=2, **some),
    }


def finder(root: Path) -> Callable[[str], Path]:
    return lambda name: root / name


def open_engine(model: Path, engine: str, find: Callable[[str], Path]) -> LocalEngine:
    return LocalEngine.from_folder(
        "default",
        model,
        resolve_placement("cpu"),
        engine=engine,
        find_adapter=find,
    )


OpenEngine = Callable[[str], LocalEngine]


@pytest.fixture(scope="module")
def engines(default_model: Path, folders: dict[str, Path]) -> Iterator[OpenEngine]:
    """The default model by the setting `engine`, each loaded once; adapters are in `folders`."""
    loaded: dict[str, LocalEngine] = {}

    def get(engine: str) -> LocalEngine:
        if engine not in loaded:
            loaded[engine] = open_engine(default_model, engine, folders.__getitem__)
        return loaded[engine]

    yield get
    for engine in loaded.values():
        engine.close()


@pytest.fixture(scope="module", params=["auto", "transformers"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(way: str, engines: OpenEngine) -> LocalEngine:
    """The default model with its adapters, run natively and by transformers."""
    return engines(way)


def logits_of(engine: LocalEngine, adapter: str | None, *messages: Message) -> torch.Tensor:
    """Return the logits from which each token of a reply was sampled: (tokens, vocab_size)."""
    seen: list[torch.Tensor] = []

    def look(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.append(scores[0].clone())
        return scores

    for _ in engine.stream(Request(messages, GREEDY, adapter, logits_processors=(look,))):
        pass
    return torch.stack(seen)


def read_logits(reader: LanguageModel, ids: list[int], prompt: int) -> torch.Tensor:
    """Return the logits after each token after the prompt, which is prefilled in two blocks."""
    cache = reader.new_cache()
    cache.prefill(ids[: prompt // 2])
    cache.prefill(ids[prompt // 2 : prompt])
    return torch.cat([cache.decode([token]) for token in ids[prompt:]]).float()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize("variant", ["llama", "llama grouped", "llama biases", "qwen2", "qwen3"])
@pytest.mark.parametrize("form", ["bf16", None, "steps"], ids=["kernel", "torch", "steps"])
def test_an_adapter_adds_what_peft_adds(
    tmp_path: Path, variant: str, settings: dict[str, Any], form: Any
) -> None:
    folder = tiny.save(tmp_path / "model", variant, vocab_size=205, intermediate_size=81)
    if form is None and variant not in ("llama", "llama biases"):
        pytest.skip("torch's packed matrices are rounded; odd sizes stay as they are")
    saved = adapter_files.save(tmp_path / "adapter", folder, strength=0.5, **settings)
    ids = random_ids(folder)
    true = adapter_files.reference(folder, saved)(torch.tensor([ids])).logits[0, 100:]
    plain = adapter_files.reference(folder, None)(torch.tensor([ids])).logits[0, 100:]
    spread = float(true.std())
    assert float((true - plain).abs().max()) > 0.1 * spread
    model = native_model(folder, torch.float32, form)
    for reader, expected in ((model.load_adapter(saved), true), (model, plain)):
        torch.testing.assert_close(
            read_logits(reader, ids, 100), expected, rtol=0, atol=2e-3 * spread
        )


def test_on_the_real_model_every_decoder_computes_what_peft_computes(
    default_model: Path, folders: dict[str, Path]
) -> None:
    ids = torch.randint(1000, 40_000, (80,), generator=torch.Generator().manual_seed(0)).tolist()
    models = [
        load("default", default_model, EXACT, engine, "bf16" if engine == "native" else "auto")
        for engine in ("native", "transformers")
    ]
    assert isinstance(models[0], NativeModel)
    for folder in folders.values():
        true = adapter_files.reference(default_model, folder)(torch.tensor([ids])).logits[0, 64:]
        for model in models:
            made = read_logits(model.load_adapter(folder), ids, 64)
            assert float((made - true).abs().max()) < 5e-4  # the logits spread over 3


def divergence(true: torch.Tensor, other: torch.Tensor) -> float:
    """Return the mean KL divergence over the rows."""
    left, right = true.log_softmax(-1), other.log_softmax(-1)
    return float((left.exp() * (left - right)).sum(-1).mean())


def test_quantization_changes_less_than_the_adapter(
    default_model: Path, folders: dict[str, Path], way: str, engine: LocalEngine
) -> None:
    if way == "transformers":
        pytest.skip("it rounds no weights")
    text = "The keeper climbed the stairs every evening, lit the lamp and wrote down what he saw. "
    ids = engine.prompt_encoder.encode([Message("user", text * 6)])
    model = engine._adapters.model
    tokens = torch.tensor([ids])
    plain = adapter_files.reference(default_model, None)(tokens).logits[0, 64:]
    for folder in folders.values():
        true = adapter_files.reference(default_model, folder)(tokens).logits[0, 64:]
        made = read_logits(model.load_adapter(folder), ids, 64)
        assert divergence(true, made) < 0.02
        assert divergence(true, plain) > 10 * divergence(true, made)


def test_switching_adapters_in_a_chat_equals_a_fresh_engine(
    way: str, engine: LocalEngine, default_model: Path, folders: dict[str, Path]
) -> None:
    chat = [QUESTION]
    made = []
    bare = open_engine(default_model, way, folders.__getitem__)  # never has an adapter
    for adapter in (None, "poet", "pirate", None):
        logits = logits_of(engine, adapter, *chat)
        fresh = open_engine(default_model, way, folders.__getitem__) if adapter else bare
        fresh._prompt_cache.clear()
        assert torch.equal(logits, logits_of(fresh, adapter, *chat)), adapter
        if adapter:
            fresh.close()
        said = engine.prompt_encoder.decode(logits.argmax(-1).tolist())
        chat += [Message("assistant", said), QUESTION]
        made.append(logits_of(engine, adapter, QUESTION))
    assert torch.equal(made[0], made[3])
    assert torch.equal(made[3], logits_of(bare, None, QUESTION)), "it is itself without them"
    assert not torch.equal(made[0][0], made[1][0])
    assert not torch.equal(made[1][0], made[2][0])
    bare.close()


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_many_switches_are_quick_and_leak_no_memory(engine: LocalEngine) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is counted in /proc")
    sampling = dataclasses.replace(GREEDY, max_tokens=1)

    def switch(adapter: str | None) -> float:
        started = time.process_time()
        for _ in engine.stream(Request((QUESTION,), sampling, adapter)):
            pass
        return time.process_time() - started

    ring = (None, "poet", "pirate")
    for number in range(12):
        switch(ring[number % 3])
    before = resident()
    switching = statistics.median(switch(ring[number % 3]) for number in range(60))
    assert resident() - before < 20e6
    staying = statistics.median(switch("poet") for _ in range(12))
    assert switching < 4 * staying


def test_a_changed_adapter_is_reloaded(
    way: str, default_model: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["poet"], tmp_path / "mine")
    engine = open_engine(default_model, way, finder(tmp_path))
    first = logits_of(engine, "mine", QUESTION)
    assert torch.equal(logits_of(engine, "mine", QUESTION), first)
    for file in folders["pirate"].iterdir():
        shutil.copy(file, tmp_path / "new")
        (tmp_path / "new").replace(tmp_path / "mine" / file.name)
    changed = logits_of(engine, "mine", QUESTION)
    assert not torch.equal(changed, first)
    fresh = open_engine(default_model, way, finder(tmp_path))
    assert torch.equal(changed, logits_of(fresh, "mine", QUESTION))
    shutil.rmtree(tmp_path / "mine")
    with pytest.raises(EngineError, match="The adapter mine cannot be used"):
        logits_of(engine, "mine", QUESTION)
    assert torch.equal(logits_of(engine, None, QUESTION), logits_of(fresh, None, QUESTION))


def test_the_number_of_loaded_adapters_is_limited(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {name: logits_of(engine, name, QUESTION) for name in ("poet", "pirate")}
    monkeypatch.setattr(engine_adapters, "MAX_LOADED_ADAPTERS", 1)
    for name in ("poet", "pirate", "poet"):
        assert torch.equal(logits_of(engine, name, QUESTION), kept[name])
        assert list(engine._adapters._loaded) == [name]


def copy_with_changes(source: Path, folder: Path, **changes: Any) -> Path:
    """Copy an adapter with changes in its config."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    return folder


def refusal_of(engine: LocalEngine, folders: dict[str, Path], folder: Path) -> EngineError:
    """Return the error for an adapter `bad`; check that the engine stays usable."""
    before = logits_of(engine, None, QUESTION)
    folders["bad"] = folder
    try:
        with pytest.raises(EngineError) as refusal:
            logits_of(engine, "bad", QUESTION)
    finally:
        del folders["bad"]
    engine._prompt_cache.clear()
    assert torch.equal(logits_of(engine, None, QUESTION), before)
    return refusal.value


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "biases"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa"}, "pissa"),
    ],
)
def test_variants_of_lora_are_left_to_transformers(
    engines: OpenEngine, folders: dict[str, Path], tmp_path: Path, changes: Any, said: str
) -> None:
    folder = copy_with_changes(folders["poet"], tmp_path / "bad", **changes)
    error = refusal_of(engines("auto"), folders, folder)
    assert said in error.message
    assert "chatlm config set engine transformers" in error.hint


def test_targets_outside_the_layers_are_left_to_transformers(
    tmp_path: Path, default_model: Path
) -> None:
    folder = tiny.save(tmp_path / "model", "llama")
    for number, target in enumerate(("lm_head", "embed_tokens")):
        place = tmp_path / str(number)
        saved = adapter_files.save(place, folder, target_modules=[target], strength=0.5)
        with pytest.raises(Unsupported, match=f"it changes .*{target}"):
            native_model(folder, torch.float32, "bf16").load_adapter(saved)
        ids = random_ids(folder)
        true = adapter_files.reference(folder, saved)(torch.tensor([ids])).logits[0, 100:]
        made = read_logits(
            load("tiny", folder, EXACT, "transformers").load_adapter(saved), ids, 100
        )
        torch.testing.assert_close(made, true, rtol=0, atol=2e-3 * float(true.std()))


def test_transformers_runs_dora(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "model", "llama")
    saved = adapter_files.save(tmp_path / "dora", folder, use_dora=True, strength=0.5)
    ids = random_ids(folder)
    true = adapter_files.reference(folder, saved)(torch.tensor([ids])).logits[0, 100:]
    model = load("tiny", folder, EXACT, "transformers")
    plain = read_logits(model, ids, 100)
    made = read_logits(model.load_adapter(saved), ids, 100)
    torch.testing.assert_close(made, true, rtol=0, atol=2e-3 * float(true.std()))
    assert torch.equal(read_logits(model, ids, 100), plain)


def cut_short(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def of_another_rank(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = folder / "adapter_model.safetensors"
    tensors = {
        name: tensor[:, :1].contiguous() if "lora_B" in name else tensor
        for name, tensor in load_file(weights).items()
    }
    save_file(tensors, weights)


def without_a_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[]")


@pytest.mark.parametrize("spoil", [cut_short, pickled, of_another_rank, without_a_config])
def test_a_damaged_adapter_is_refused_and_the_model_stays_usable(
    engine: LocalEngine, folders: dict[str, Path], tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    shutil.copytree(folders["poet"], tmp_path / "bad")
    spoil(tmp_path / "bad")
    error = refusal_of(engine, folders, tmp_path / "bad")
    assert "The adapter bad cannot be used: " in error.message


def test_an_adapter_of_another_model_is_refused(
    engine: LocalEngine, folders: dict[str, Path], tmp_path: Path
) -> None:
    other = tiny.save(tmp_path / "model", "llama")
    adapter_files.save(tmp_path / "bad", other)
    error = refusal_of(engine, folders, tmp_path / "bad")
    assert "The adapter bad cannot be used: " in error.message
