"""Teach the classifier that comes with chatlm which texts are neutral, without training it again.

Run it with `python -m benchmarks.emotion_neutral --data FOLDER --out-of-domain FOLDER
--instructions FILE`: the folders of `benchmarks.emotion` (with `goemotions_dev.tsv`), and a file of
objects with a text `instruction`, such as that of rasbt/LLMs-from-scratch. The probe is fitted to
the states that the classifier has of these texts and of its own everyday sentences, and written
into its folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.emotion import shipped_encoder
from benchmarks.emotion_domains import all_go_emotions
from chatlm import expand_path
from chatlm.plugin_kit.artifacts import write_checksums
from chatlm_emotion import card, examples, network_weights
from chatlm_emotion.examples import LabelledExample
from chatlm_emotion.neutral import NeutralProbe

TWEETS, COMMENTS, INSTRUCTIONS = 1_200, 2_400, 400
"""Texts of each kind, drawn at random."""


def read_sources(options: argparse.Namespace) -> list[Sequence[LabelledExample]]:
    """Return the texts: those near the training texts and instructions, and comments of a forum."""
    draw = random.Random(0)  # noqa: S311 - no secret
    tweets = examples.read_dataset([expand_path(options.data) / "train.jsonl"]).rows
    everyday = Path(card.__file__).parent / "data" / "everyday.jsonl"
    text = expand_path(options.instructions).read_text(encoding="utf-8")
    rows = json.loads(text) if text.startswith("[") else map(json.loads, text.splitlines())
    asked = sorted({row["instruction"] for row in rows})
    comments = all_go_emotions(expand_path(options.out_of_domain), "dev")
    near = [
        *draw.sample(list(tweets), TWEETS),
        *examples.read_dataset([everyday]).rows,
        *(LabelledExample(each, None) for each in draw.sample(asked, INSTRUCTIONS)),
    ]
    return [near, draw.sample(comments, min(COMMENTS, len(comments)))]


def main() -> None:
    """Fit the probe and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out-of-domain", required=True)
    parser.add_argument("--instructions", required=True)
    options = parser.parse_args()
    sources = read_sources(options)
    rows = [row for source in sources for row in source]
    _, states = shipped_encoder().logits_and_states([row.text for row in rows])
    neutral = np.array([row.label is None for row in rows])
    numbers = np.repeat(np.arange(len(sources)), [len(source) for source in sources])
    probe = NeutralProbe.fit(states, neutral, numbers)
    if probe is None:
        raise SystemExit("The neutral texts cannot be told from the others.")
    place = card.CLASSIFIERS.get(card.DEFAULT_CLASSIFIER)
    arrays = {name: torch.from_numpy(each) for name, each in probe.to_arrays().items()}
    network_weights.save_tensors({**network_weights.load_tensors(place.path), **arrays}, place.path)
    known = card.read_card(place.path)
    told = f"{TWEETS:,} texts of train.jsonl, everyday.jsonl, {len(sources[1]):,} comments of "
    told += f"GoEmotions' dev.tsv (Apache-2.0), {INSTRUCTIONS} instructions (Apache-2.0)"
    new = dataclasses.replace(known, source={**known.source, "neutral": told})
    card.write_card(new, place.path)
    write_checksums(place.path)
    print(f"neutral texts: {neutral.sum():,} of {len(rows):,}; bias {probe.bias:.3f}")


if __name__ == "__main__":
    main()
