"""Train the reader that chooses the statement of a passage that answers a question.

Run it with `python -m benchmarks.reader_training --data FOLDER --output FOLDER`. It trains LoRA
matrices of the default embedder and two linear heads. Nothing of the collections that
`benchmarks.grounding` reports on is read. `--start` continues from earlier weights.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertModel

from benchmarks.reader_examples import Example, training_examples
from chatlm import ensure_model
from chatlm_rag.index.bm25 import stems
from chatlm_rag.index.embedding import DEFAULT_EMBEDDER
from chatlm_rag.reading.network import Batch, ReaderNetwork
from chatlm_rag.reading.windows import Window, WindowLayout

RANK, ALPHA = 16, 32
FROZEN_LAYERS = 2
"""The lowest layers, which stay as they are; that makes a step a fifth faster."""
LEARNING_RATE, WARM_UP = 1.5e-3, 0.05
TITLE_RATE = 0.5
"""Share of the examples that keep their title."""
KEYWORDS_RATE = 0.1
"""Share of the examples whose question is reduced to keywords, as some people ask."""
POOL = 40
"""Batches whose windows are sorted by length together."""

Target = tuple[Window, frozenset[int]]
"""A window, and the positions in it of the statements that answer."""


def targets(examples: Sequence[Example], layout: WindowLayout, seed: int) -> list[Target]:
    """Return the windows of examples: of a passage that answers, one with the answer and, now and
    then, one without; of another, one at random."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    result: list[Target] = []
    for example in examples:
        title = example.title if draw.random() < TITLE_RATE else ""
        question = example.question
        if draw.random() < KEYWORDS_RATE:
            question = keywords(question) or question
        windows = layout.windows(question, title, example.statements)
        pairs = [(window, _positives(window, example)) for window in windows]
        right = [pair for pair in pairs if pair[1]]
        wrong = [pair for pair in pairs if not pair[1]]
        if right:
            result.append(draw.choice(right))
        if wrong and (not right or draw.random() < 0.25):
            result.append(draw.choice(wrong))
    draw.shuffle(result)
    return result


def keywords(question: str) -> str:
    """Return the words of a question without function and question words."""
    return " ".join(word for word in question.rstrip("?. ").split() if stems(word))


def _positives(window: Window, example: Example) -> frozenset[int]:
    return frozenset(
        at for at, (number, _, _) in enumerate(window.spans) if number in example.positives
    )


def batches(items: Sequence[Target], size: int, seed: int) -> Iterator[list[Target]]:
    """Yield batches of windows of similar length, for ever."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    while True:
        order = draw.sample(items, len(items))
        for start in range(0, len(order), size * POOL):
            pool = sorted(order[start : start + size * POOL], key=lambda item: len(item[0].ids))
            groups = [pool[at : at + size] for at in range(0, len(pool), size)]
            draw.shuffle(groups)
            yield from groups


def loss_of(scores: Tensor, batch: Sequence[Target]) -> Tensor:
    """Return the negative log-probability of the right statements, or of "none"."""
    right = torch.zeros_like(scores, dtype=torch.bool)
    for row, (_, positives) in enumerate(batch):
        right[row, [1 + at for at in positives] or [0]] = True
    return (scores.logsumexp(1) - scores.masked_fill(~right, -torch.inf).logsumexp(1)).mean()


def new_network(folder: Path) -> ReaderNetwork:
    """Return the reader before training: the encoder with LoRA matrices that change nothing."""
    encoder = BertModel.from_pretrained(folder, use_safetensors=True)
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=["query", "key", "value", "dense"],
        layers_to_transform=list(range(FROZEN_LAYERS, encoder.config.num_hidden_layers)),
        layers_pattern="layer",
    )
    return ReaderNetwork(get_peft_model(encoder, config), encoder.config.hidden_size)


def trained_tensors(network: ReaderNetwork) -> dict[str, Tensor]:
    """Return the trained tensors by the names under which they are stored."""
    return {
        name.removeprefix("encoder.base_model.model.").replace(".default.weight", ""): value
        for name, value in network.named_parameters()
        if value.requires_grad
    }


def load_tensors(network: ReaderNetwork, path: Path) -> None:
    """Load trained tensors into a network."""
    stored = load_file(path)
    with torch.no_grad():
        for name, value in trained_tensors(network).items():
            value.copy_(stored[name])


def save_tensors(network: ReaderNetwork, path: Path) -> None:
    """Save the trained tensors in float16."""
    save_file(
        {
            name: value.detach().half().contiguous()
            for name, value in trained_tensors(network).items()
        },
        path,
    )


def train(
    network: ReaderNetwork,
    items: Sequence[Target],
    count: int,
    size: int,
    rate: float,
    path: Path,
) -> int:
    """Train with a number of windows, while the learning rate falls to 0. Return their number."""
    parameters = [value for value in network.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    reported = time.monotonic()
    losses: list[float] = []
    seen = 0
    network.train()
    for batch in batches(items, size, seed=1):
        done = seen / count
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate * min(done / WARM_UP, (1 - done) / (1 - WARM_UP), 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = network(Batch([window for window, _ in batch]))
        loss = loss_of(scores, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seen += len(batch)
        if time.monotonic() - reported > 20:
            reported = time.monotonic()
            print(
                f"{done:.0%}  {seen:,} windows  loss {sum(losses) / len(losses):.3f}",
                file=sys.stderr,
            )
            losses.clear()
            save_tensors(network, path)
    save_tensors(network, path)
    return seen


def evaluate(
    network: ReaderNetwork, examples: Sequence[Example], layout: WindowLayout
) -> dict[str, float]:
    """Return how often the best statement of a passage answers, and the area under the ROC curve
    of its score for passages with and without an answer."""
    network.eval()
    hits = 0
    with_answer: list[float] = []
    without: list[float] = []
    for example in examples:
        windows = layout.windows(example.question, "", example.statements)
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            scores = network(Batch(windows))
        margins = (scores[:, 1:] - scores[:, :1]).float()
        best, number = max(
            (float(margins[row, at]), number)
            for row, window in enumerate(windows)
            for at, (number, _, _) in enumerate(window.spans)
        )
        (with_answer if example.positives else without).append(best)
        hits += number in example.positives
    pairs = [(a > b) + (a == b) / 2 for a in with_answer for b in without]
    return {
        "best statement answers": hits / max(len(with_answer), 1),
        "area": sum(pairs) / len(pairs) if pairs else math.nan,
        "passages with an answer": len(with_answer),
        "without": len(without),
    }


def main() -> None:
    """Train, evaluate on the development articles, and print the scores as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="file for the weights")
    parser.add_argument("--windows", type=int, default=32_000, help="windows to train with")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--start", type=Path, help="weights to continue from")
    parser.add_argument("--development", type=int, default=300, help="questions to evaluate on")
    options = parser.parse_args()
    torch.manual_seed(0)
    folder = ensure_model(DEFAULT_EMBEDDER).folder
    layout = WindowLayout(Tokenizer.from_file(str(folder / "tokenizer.json")))
    examples, development = training_examples(options.data)
    items = targets(examples, layout, seed=0)
    positive = sum(bool(positives) for _, positives in items)
    print(f"{len(items):,} windows, {positive:,} with an answer", file=sys.stderr)
    network = new_network(folder)
    if options.start:
        load_tensors(network, options.start)
    seen = train(network, items, options.windows, options.batch, options.rate, options.output)
    step = max(len(development) // options.development, 1)
    result = evaluate(network, development[::step], layout)
    print(json.dumps({"windows": seen, "development": result}, indent=2))


if __name__ == "__main__":
    main()
