"""The lab's networks on one text, with one split and one budget; part of `benchmarks.lab`."""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from benchmarks.lab_reference import Gpt, train_gpt
from chatlm import TrainingCheckpoint
from chatlm.plugin_kit.training import ProgressListener
from chatlm_lab.architectures import find_architecture
from chatlm_lab.evaluation import evaluate
from chatlm_lab.network_architecture import NetworkArchitecture
from chatlm_lab.network_model import NetworkPredictor
from chatlm_lab.network_recipe import NetworkRecipe
from chatlm_lab.network_training import EVAL_TOKENS, EVALUATIONS, fit_network
from chatlm_lab.tokenizer_kinds import Ids, encode_stream, train_tokenizer

WIDTH, LAYERS, HEADS, CONTEXT, BATCH = 128, 2, 8, 30, 128
"""Those of the book, sections 3.6 and 4.9."""

VOCABULARY = 4096

BOOK_RNN, BOOK_DECODER = 72.23, 55.19
"""Perplexities of the book, on its news and with the vocabulary of Phi 3.5."""

RATIO = 0.77
"""The decoder's perplexity over the Elman RNN's, at most."""

REFERENCE = "reference GPT"


@dataclass(frozen=True)
class NetworkRow:
    """A network after its training."""

    text: str
    model: str
    parameters: int
    steps: int
    tokens: int
    """That it was trained on, repetitions included."""
    seconds: float
    perplexity: float
    character_perplexity: float
    bits_per_byte: float
    curve: list[tuple[int, float]]
    """Steps with the loss on the first held-out tokens, in nats."""


def measure_networks(
    name: str, text: str, held_out_share: float, steps: int, architectures: Sequence[str]
) -> list[NetworkRow]:
    """Train networks on the beginning of a text and measure them on its end.

    Args:
        name: of the text.
        text: cut after a line.
        held_out_share: of the characters.
        steps: of each training, with `BATCH` sequences of `CONTEXT` tokens each.
        architectures: of the lab; the reference comes last.
    """
    cut = text.rfind("\n", 0, int(len(text) * (1 - held_out_share))) + 1
    tokenizer = train_tokenizer("bpe", [text[:cut]], VOCABULARY)
    ids = encode_stream(tokenizer, "bpe", [text[:cut]])
    held_out = encode_stream(tokenizer, "bpe", [text[cut:]])
    rows = []
    for architecture in architectures:
        rows.append(_train_own(name, architecture, ids, held_out, tokenizer, text[cut:], steps))
        print(_line(rows[-1]), file=sys.stderr, flush=True)
    rows.append(_train_reference(name, ids, held_out, tokenizer, text[cut:], steps))
    return rows


def _train_own(
    text: str,
    name: str,
    ids: Ids,
    held_out: Ids,
    tokenizer: Tokenizer,
    held_out_text: str,
    steps: int,
) -> NetworkRow:
    architecture = find_architecture(name)
    assert isinstance(architecture, NetworkArchitecture)
    options: dict[str, Any] = {
        "width": WIDTH,
        "layers": LAYERS,
        "context": CONTEXT,
        "batch_size": BATCH,
        "epochs": steps * BATCH / ((len(ids) - CONTEXT) // CONTEXT),
        "patience": EVALUATIONS,
    }
    if name == "decoder":
        options["heads"] = HEADS
    recipe = architecture.make_recipe(options)
    assert isinstance(recipe, NetworkRecipe)
    torch.manual_seed(recipe.seed)
    network = architecture.build(recipe, tokenizer.get_vocab_size())
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        progress = fit_network(
            network,
            ids,
            held_out,
            recipe,
            ProgressListener(),
            lambda: False,
            TrainingCheckpoint(Path(folder)),
        )
    return _row(
        text,
        name,
        network,
        progress.step,
        progress.eval_losses,
        time.monotonic() - started,
        tokenizer,
        held_out_text,
    )


def _train_reference(
    text: str, ids: Ids, held_out: Ids, tokenizer: Tokenizer, held_out_text: str, steps: int
) -> NetworkRow:
    torch.manual_seed(0)
    model = Gpt(tokenizer.get_vocab_size(), WIDTH, LAYERS, HEADS, CONTEXT)
    curve: list[tuple[int, float]] = []

    def measure(step: int) -> None:
        found = _predictor(model).log_probabilities(held_out[:EVAL_TOKENS])
        curve.append((step, float(-found[1:].mean())))

    started = time.monotonic()
    train_gpt(
        model,
        torch.from_numpy(ids.astype("int64")),
        steps,
        BATCH,
        CONTEXT,
        NetworkRecipe.learning_rate,
        measure,
        max(steps // EVALUATIONS, 1),
    )
    seconds = time.monotonic() - started
    return _row(text, REFERENCE, model, steps, curve, seconds, tokenizer, held_out_text)


def _predictor(network: Any) -> NetworkPredictor:
    return NetworkPredictor(network, CONTEXT)


def _row(
    text: str,
    name: str,
    network: torch.nn.Module,
    steps: int,
    curve: list[tuple[int, float]],
    seconds: float,
    tokenizer: Tokenizer,
    held_out_text: str,
) -> NetworkRow:
    found = evaluate(_predictor(network), tokenizer, "bpe", [held_out_text])
    return NetworkRow(
        text,
        name,
        sum(each.numel() for each in network.parameters()),
        steps,
        steps * BATCH * CONTEXT,
        seconds,
        found.perplexity,
        found.character_perplexity,
        found.bits_per_byte,
        curve,
    )


def _line(row: NetworkRow) -> str:
    return (
        f"{row.model:<16}{row.parameters:>12,}{row.steps:>8,}{row.tokens:>13,}"
        f"{row.perplexity:>10,.2f}{row.character_perplexity:>10.3f}{row.bits_per_byte:>10.3f}"
        f"{row.seconds:>9,.0f} s"
    )


def report_networks(rows: Sequence[NetworkRow]) -> None:
    """Print the rows, what the decoder's perplexity is of the Elman RNN's, and all curves."""
    print(
        f"{'model':<16}{'parameters':>12}{'steps':>8}{'tokens':>13}{'per token':>10}"
        f"{'per char':>10}{'bits/byte':>10}"
    )
    for row in rows:
        print(_line(row))
    by_model = {row.model: row for row in rows}
    if {"rnn", "decoder"} <= by_model.keys():
        decoder, rnn = by_model["decoder"], by_model["rnn"]
        share = decoder.perplexity / rnn.perplexity
        verdict = "reached" if share <= RATIO else "missed"
        print(
            f"The decoder's perplexity is {share:.3f} of the Elman RNN's per token "
            f"(target {RATIO}, {verdict}; in the book {BOOK_DECODER} to {BOOK_RNN}) and "
            f"{decoder.character_perplexity / rnn.character_perplexity:.3f} per character."
        )
    print("held-out perplexity while training, by step:")
    for row in rows:
        points = row.curve[:: max(len(row.curve) // 6, 1)]
        print(
            f"  {row.model:<16}"
            + "  ".join(f"{step} {math.exp(loss):,.0f}" for step, loss in points)
        )
