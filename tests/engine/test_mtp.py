"""Drafts by a model's own layer: it computes what its definition says, and changes no reply."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.models.qwen3_5.modeling_qwen3_5 import (
    Qwen3_5DecoderLayer,
    Qwen3_5RMSNorm,
    Qwen3_5TextRotaryEmbedding,
)

from chatlm.engines.draft_loading import OWN_LAYER, draft_problem
from chatlm.engines.model import Unsupported
from chatlm.engines.mtp_drafts import MtpDrafter, load_mtp
from chatlm.engines.native.hidden_states import MAX_KEPT, HiddenStates
from chatlm.engines.native.model import NativeModel
from chatlm.engines.prompt_cache import CachedPrompt, decode_batch
from chatlm.engines.samplers import Sampler
from chatlm.engines.speculative import Speculator
from chatlm.types.sampling import DEFAULT_SAMPLING, Sampling
from tests.engine import tiny
from tests.engine.test_draft_model import (
    CPU,
    LAKES,
    REQUESTS,
    always,
    count_steps,
    events_of,
    open_engine,
)
from tests.engine.test_native import native_model
from tests.gguf_files import make_folder, save_gguf

__all__ = ["always"]

VOCABULARY = 203


class Reference(nn.Module):
    """The layer after its definition, of the parts of transformers."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        full = config.layer_types.index("full_attention")
        self.fc = nn.Linear(2 * size, size, bias=False)
        self.layers = nn.ModuleList([Qwen3_5DecoderLayer(config, full)])
        self.norm, self.pre_fc_norm_hidden, self.pre_fc_norm_embedding = (
            Qwen3_5RMSNorm(size, eps=eps) for _ in range(3)
        )
        self.rotary = Qwen3_5TextRotaryEmbedding(config)

    def forward(self, embeddings: Tensor, hidden: Tensor) -> Tensor:
        """Return the hidden states of tokens, of their embeddings and the states before them."""
        joined = [self.pre_fc_norm_embedding(embeddings), self.pre_fc_norm_hidden(hidden)]
        x = self.fc(torch.cat(joined, -1))[None]
        count = x.shape[1]
        mask = torch.full((1, 1, count, count), float("-inf")).triu(1)
        positions = self.rotary(x, torch.arange(count)[None])
        made = self.layers[0](x, position_embeddings=positions, attention_mask=mask)
        normed: Tensor = self.norm(made)[0]
        return normed


def save_with_mtp(folder: Path, **changes: Any) -> Path:
    """Write a tiny random Qwen 3.5 with such a layer."""
    tiny.save(folder, "qwen3.5", **changes)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mtp_num_hidden_layers": 1}))
    torch.manual_seed(3)
    layer = Reference(tiny.config_of("qwen3.5", **changes)).to(torch.bfloat16)
    for name, tensor in layer.named_parameters():
        tensor.data.uniform_(-0.3, 0.3) if name.endswith("norm.weight") else tensor.data.normal_(
            0, 0.15
        )
    (file,) = folder.glob("*.safetensors")
    own = {f"mtp.{name}": values.contiguous() for name, values in layer.state_dict().items()}
    save_file({**load_file(file), **own}, file, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_with_mtp(tmp_path_factory.mktemp("mtp"))


@pytest.fixture(scope="module")
def gguf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As llama.cpp converts it: the layer is one more block, and norms have 1 added."""
    more = {
        "nextn.eh_proj.weight": (64, 128),
        "nextn.enorm.weight": (64,),
        "nextn.hnorm.weight": (64,),
        "nextn.shared_head_norm.weight": (64,),
    }
    place = tmp_path_factory.mktemp("mtp-gguf")
    plain = save_gguf(place / "plain.gguf", "qwen35")
    from gguf import GGUFReader

    for tensor in GGUFReader(plain).tensors:
        if tensor.name.startswith("blk.3."):
            more[tensor.name.removeprefix("blk.3.")] = tuple(map(int, tensor.shape[::-1]))
    size = more["attn_norm.weight"][0]
    more |= {name: shape if len(shape) == 1 else (size, 2 * size) for name, shape in more.items()
             if name.startswith("nextn.")}  # fmt: skip
    more |= {name: (size,) for name in more if name.startswith("nextn.") and "norm" in name}
    return make_folder(
        save_gguf(
            place / "tiny.gguf",
            "qwen35",
            changes={"block_count": 5, "nextn_predict_layers": 1},
            more={f"blk.4.{name}": shape for name, shape in more.items()},
        )
    )


def greedy(ids: list[int]) -> Sampler:
    return Sampler(
        Sampling(temperature=0.0).with_fallback(DEFAULT_SAMPLING),
        torch.tensor(ids),
        VOCABULARY,
        torch.device("cpu"),
        lambda token: b"",
        lambda text: [],
    )


def test_the_layer_computes_what_it_is_defined_as(folder: Path, always: None) -> None:
    """From a prompt, read at once and token by token, and three tokens on from its own results."""
    model = native_model(folder, torch.float32, "bf16")
    drafter = load_mtp("mtp", folder, model)
    ids = [(37 * number) % VOCABULARY for number in range(40)]
    plain = tiny.reference(folder, torch.float32)
    own = Reference(plain.config)
    tensors = load_file(next(folder.glob("*.safetensors")))
    own.load_state_dict(
        {name[4:]: each for name, each in tensors.items() if name.startswith("mtp.")}, strict=True
    )
    own = own.float()
    hidden = plain.model(torch.tensor([ids])).last_hidden_state[0]
    for length in (40, 8):
        text = ids[:length]
        cache = model.new_cache()
        cache.prefill(text[:-1])
        drafter.forget()
        made = drafter.draft(text, cache, greedy(text), VOCABULARY, 3)
        states = hidden[: length - 1]
        expected: list[int] = []
        for _ in range(3):
            embeddings = plain.model.embed_tokens(torch.tensor([*text[1:], *expected]))
            results = own(embeddings, states)
            expected.append(int(plain.lm_head(results[-1]).argmax()))
            states = torch.cat([states, results[-1:]])
        assert made == expected
        read = drafter._cache.length
        assert read == length - 1 + 2


def test_the_layer_follows_a_text_that_grows_and_is_cut(folder: Path, always: None) -> None:
    """A draft is the same as when the layer reads the text anew."""
    model = native_model(folder, torch.float32, "bf16")
    drafter, fresh = load_mtp("mtp", folder, model), load_mtp("mtp", folder, model)
    ids = [(53 * number) % VOCABULARY for number in range(60)]
    cache = model.new_cache()
    cache.prefill(ids[:20])
    for start, end in [(20, 21), (21, 26), (26, 27)]:
        cache.decode([*ids[start:end], 5, 6])
        cache.truncate(end)
        made = drafter.draft(ids[: end + 1], cache, greedy(ids), VOCABULARY, 4)
        fresh.forget()
        assert made == fresh.draft(ids[: end + 1], cache, greedy(ids), VOCABULARY, 4)
        assert len(made) == 4
    other = model.new_cache()
    other.prefill(ids[30:50])
    made = drafter.draft(ids[30:51], other, greedy(ids), VOCABULARY, 4)
    fresh.forget()
    assert made == fresh.draft(ids[30:51], other, greedy(ids), VOCABULARY, 4)


@pytest.mark.parametrize("name", list(REQUESTS))
def test_replies_do_not_depend_on_it(
    gguf_folder: Path, name: str, always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        closing(open_engine(gguf_folder)) as plain,
        closing(
            type(plain).from_folder("tiny", gguf_folder, CPU, draft_model=(OWN_LAYER, gguf_folder))
        ) as drafting,
    ):
        assert drafting.info.draft_model == OWN_LAYER
        assert not drafting.info.notes
        steps = count_steps(drafting, monkeypatch)
        for messages in (REQUESTS[name].messages, LAKES):
            request = dataclasses.replace(REQUESTS[name], messages=messages)
            assert events_of(drafting, request) == events_of(plain, request)
        assert 6 in steps


def test_a_layer_that_agrees_saves_most_steps(tmp_path: Path, always: None) -> None:
    """Both choose the token that follows in a fixed order, and do nothing else."""
    folder = save_with_mtp(tmp_path / "model", tie_word_embeddings=False)
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    order = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(1))
    embedding = torch.nn.functional.normalize(tensors["model.embed_tokens.weight"].float(), dim=1)
    tensors["model.embed_tokens.weight"] = embedding.bfloat16()
    head = torch.empty_like(embedding)
    head[order] = embedding
    tensors["lm_head.weight"] = head.bfloat16()
    for name, values in tensors.items():
        if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")):
            values.zero_()
    size = embedding.shape[1]
    tensors["mtp.fc.weight"] = torch.cat([torch.eye(size), torch.zeros(size, size)], 1).bfloat16()
    for name, values in tensors.items():
        if name.startswith("mtp.") and name.endswith(("norm.weight", "embedding.weight")):
            values.zero_()  # norms multiply by 1 + their weights
    tensors["model.norm.weight"].zero_()
    save_file(tensors, file, {"format": "pt"})
    model = native_model(folder, torch.bfloat16, "bf16")
    drafter = load_mtp("mtp", folder, model)
    prompt = [3, 9, 27]
    expected = [27]
    for _ in range(40):
        expected.append(int(order[expected[-1]]))
    text, steps = generate(model, drafter, prompt, 40)
    assert text == expected[1:]
    assert steps <= 10


def generate(
    model: NativeModel, drafter: MtpDrafter, prompt: list[int], count: int
) -> tuple[list[int], int]:
    """Return generated tokens, and in how many steps they were made."""
    cached = CachedPrompt(model)
    list(cached.prefill(prompt))
    sampler = greedy(prompt)
    speculator = Speculator(cached, prompt, sampler, drafter)
    made: list[int] = []
    steps = 0
    while len(made) < count:
        made.append(sampler(speculator.logits))
        if inputs := speculator.next_input(made[-1], count - len(made) + 1):
            (logits,) = decode_batch(model, [cached], [inputs])
            speculator.set_logits(logits)
            steps += 1
    return made, steps


def test_a_model_without_the_layer_says_so(
    tmp_path: Path, folder: Path, gguf_folder: Path, make_plain: Callable[[], Path]
) -> None:
    plain = make_plain()
    assert "no layer of its own" in draft_problem(OWN_LAYER, plain, plain, CPU, "auto", "auto")
    assert "on the CPU" in draft_problem(OWN_LAYER, folder, folder, CPU, "transformers", "auto")
    assert draft_problem(OWN_LAYER, gguf_folder, gguf_folder, CPU, "auto", "auto") == ""
    with closing(
        type(open_engine(plain)).from_folder("tiny", plain, CPU, draft_model=(OWN_LAYER, plain))
    ) as engine:
        assert engine.info.draft_model == ""
        assert "no layer of its own" in " ".join(engine.info.notes)
    # a repository whose config.json promises a layer that its weights lack
    (file,) = folder.glob("*.safetensors")
    stripped = tmp_path / "stripped"
    stripped.mkdir()
    (stripped / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = {name: each for name, each in load_file(file).items() if "mtp." not in name}
    save_file(tensors, stripped / "model.safetensors", {"format": "pt"})
    problem = draft_problem(OWN_LAYER, stripped, stripped, CPU, "auto", "auto")
    assert "it has no tensor mtp" in problem
    model = native_model(stripped, torch.float32, "bf16")
    with pytest.raises(Unsupported, match="no tensor mtp"):
        load_mtp("mtp", stripped, model)
    assert not model.keeps_hidden_states


@pytest.fixture
def make_plain(tmp_path: Path) -> Callable[[], Path]:
    return lambda: make_folder(save_gguf(tmp_path / "plain.gguf", "qwen35"), "plain")


def test_only_the_newest_hidden_states_are_kept() -> None:
    states, rows = HiddenStates(), torch.arange(300.0)[:, None]
    states.add(0, rows[:100])
    assert (states.start, states.end) == (100 - MAX_KEPT, 100)
    states.add(100, rows[100:103])
    assert torch.equal(states.since(90), rows[90:103])
    states.truncate(101)
    states.add(101, rows[101:105])
    assert torch.equal(states.since(101), rows[101:105])
    states.add(200, rows[200:205])  # what lies between came from elsewhere
    assert (states.start, states.end) == (200, 205)
    states.truncate(10)
    assert states.start == states.end
