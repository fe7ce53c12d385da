"""Speed-up by a draft model over mixed prompts, and that no reply changes.

Run it with `python -m benchmarks.drafts --model NAME --draft NAME` for two models with the same
tokenizer, or `--draft mtp` for a model's own layer for drafts. Without them it makes pairs from the
default model: the same model with further layers, which only add some noise to what the layers
before computed, stands for a large model, and the default model drafts for it. Without noise it
always agrees, with much noise seldom. Both variants take turns in each round; times are those of
whole replies, the prompt included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import torch

from benchmarks.speed_sides import CPU
from benchmarks.speed_together import MODEL, tasks
from chatlm.engines.draft_loading import OWN_LAYER
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.transformers_model import load_model
from chatlm.hub import installed, pull
from chatlm.hub.installed import ModelLocation
from chatlm.types.events import Delta
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling

DEPTH = 6
"""How many times as many layers the model has that is drafted for."""

NOISES = (0.0, 0.003, 0.02)
"""Standard deviations of the output matrices of the further layers."""

TARGETS = (1.0, 0.9)
"""Median and least speed relative to no draft model."""

QUESTIONS = {
    "a list": "Count from one to thirty in words, one number a line.",
    "a fact": "What is the capital of France, and what is it known for?",
    "a poem": "Write a poem about the sea.",
    "advice": "How do I learn to play the piano?",
}


def requests(tokens: int) -> dict[str, Request]:
    """Return requests of many kinds, half of them sampled."""
    made = tasks(tokens)
    for number, (name, text) in enumerate(QUESTIONS.items()):
        sampling = Sampling(temperature=0.7 * (number % 2), seed=number, max_tokens=tokens)
        made[name] = Request((Message("user", text),), sampling)
    return made


def save_deeper(folder: Path, source: Path, noise: float) -> Path:
    """Write the default model with further layers after each of its own."""
    model = load_model(MODEL, source, CPU)
    config = model.config
    own = list(model.model.layers)
    config.num_hidden_layers = DEPTH * len(own)
    config.layer_types = None
    deeper = type(model)(config).to(torch.bfloat16)
    deeper.load_state_dict(
        {name: each for name, each in model.state_dict().items() if ".layers." not in name},
        strict=False,
    )
    generator = torch.Generator().manual_seed(1)
    for number, layer in enumerate(deeper.model.layers):
        layer.load_state_dict(own[number // DEPTH].state_dict())
        if number % DEPTH:
            for matrix in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
                values = noise * torch.randn(matrix.shape, generator=generator)
                matrix.data.copy_(values)
    deeper.save_pretrained(folder)
    for file in source.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    for file in source.glob("*.jinja"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def reply(engine: LocalEngine, request: Request) -> tuple[str, float]:
    """Return a text, and the seconds of the whole reply; nothing of it was read before."""
    engine._prompt_cache.clear()
    started = time.perf_counter()
    text = "".join(event.text for event in engine.stream(request) if isinstance(event, Delta))
    return text, time.perf_counter() - started


def measure(
    name: str, folder: Path, draft: tuple[str, Path], tokens: int, rounds: int
) -> dict[str, float]:
    """Return each request's speed with a draft model relative to the speed without.

    Raises:
        RuntimeError: a reply is another one, or the draft model cannot be used.
    """
    engine = LocalEngine.from_folder(name, folder, CPU, draft_model=draft)
    with closing(engine):
        if not engine.info.draft_model:
            raise RuntimeError(" ".join(engine.info.notes))
        ratios = {}
        for what, request in requests(tokens).items():
            texts: set[str] = set()
            seconds: dict[bool, list[float]] = {True: [], False: []}
            draft_model = engine._draft_model
            assert draft_model
            for round_ in range(rounds):
                for drafts in (True, False) if round_ % 2 else (False, True):
                    draft_model.forget()
                    engine._draft_model = draft_model if drafts else None
                    text, took = reply(engine, request)
                    texts.add(text)
                    seconds[drafts].append(took)
            engine._draft_model = draft_model
            if len(texts) > 1:
                raise RuntimeError(f"{what}: the draft model changed the reply")
            ratios[what] = statistics.median(seconds[False]) / statistics.median(seconds[True])
    return ratios


def main() -> None:
    """Measure, then print tables, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", help="large model")
    parser.add_argument("--draft", default=MODEL, help="draft model, or mtp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96, help="tokens of each reply")
    parser.add_argument("--noises", type=float, nargs="+", default=NOISES, metavar="NOISE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    by_itself = options.draft == OWN_LAYER
    if by_itself and not options.model:
        parser.error("--draft mtp needs --model, a model that has such a layer")
    pairs: dict[str, dict[str, float]] = {}
    if options.model:
        found = installed.find_model(options.model)
        draft = (
            ModelLocation(OWN_LAYER, found.folder, "chat")
            if by_itself
            else pull.ensure_model(options.draft)
        )
        pairs[f"{found.name} and {draft.name}"] = measure(
            found.name, found.folder, (draft.name, draft.folder), options.tokens, options.rounds
        )
    else:
        draft = pull.ensure_model(options.draft)
        for noise in options.noises:
            with tempfile.TemporaryDirectory() as place:
                folder = save_deeper(Path(place), draft.folder, noise)
                pairs[f"{DEPTH} times as deep, noise {noise}"] = measure(
                    "deeper", folder, (draft.name, draft.folder), options.tokens, options.rounds
                )
    if options.json:
        print(json.dumps(pairs, indent=2))
        return
    for pair, ratios in pairs.items():
        print(pair)
        for what, ratio in ratios.items():
            print(f"  {what:<28}{ratio:>6.2f}")
        median, least = statistics.median(ratios.values()), min(ratios.values())
        met = median >= TARGETS[0] and least >= TARGETS[1]
        print(f"  median {median:.2f}, least {least:.2f}: {'met' if met else 'missed'}")


if __name__ == "__main__":
    main()
