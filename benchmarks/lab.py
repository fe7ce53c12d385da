"""How well lab models predict text, and what the autocompletion of the composer is worth.

Run it with `python -m benchmarks.lab --data FOLDER [--json]`. FOLDER has one or more of

- `brown/`, NLTK's Brown corpus (files `ca01` to `cr09`), or `brown` or `brown.gz`, the text that
  the notebook of the book downloads;
- other texts (.txt, .md, .jsonl), each measured by itself;
- `messages.jsonl`, messages of one user, oldest first: lines of {"text": …}.

The count-based part follows the book's notebook: lower-case words and periods, the last 10 % of
the tokens held out, n = 5, no token for unknown words. Its back-off is not normalised, so what its
probabilities sum to is printed beside it. The other models have normalised probabilities over all
words of the text, those of the held-out part included.

With `--steps N` networks are trained on each text, too, all with the book's sizes, one BPE
vocabulary, one split and N steps: the Elman RNN, the decoder and others of `--architectures`, and
a small GPT in nanoGPT's manner that shares no code with them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lab_autocomplete import report, type_messages
from benchmarks.lab_networks import measure_networks, report_networks
from chatlm_lab.corpus import read_texts
from chatlm_lab.counts import NgramCounts, count_ngrams
from chatlm_lab.smoothing import BackOff, KneserNey, Laplace, Smoothing, mean_sum
from chatlm_lab.tokenizer_kinds import Ids

BOOK, NOTEBOOK = 302.08, 299.06
"""Perplexity in the book, and in the output of its public notebook. Its text has 6,185,606
characters; the words of NLTK's corpus, joined by blanks, have 6,127,073."""

ORDER = 5

HELD_OUT = 0.1

SUM_PLACES = 200
"""Contexts over which the sum of the probabilities is averaged."""

_BROWN_FILE = re.compile(r"c[a-r]\d\d")


@dataclass(frozen=True)
class Row:
    """A model's perplexity on the held-out part of a text."""

    text: str
    model: str
    order: int
    perplexity: float
    mean_sum: float
    """What the probabilities sum to on average."""

    @property
    def normalised(self) -> bool:
        """Whether the perplexity can be compared."""
        return abs(self.mean_sum - 1) < 1e-9


def read_brown(folder: Path) -> str:
    """Return the words of NLTK's Brown corpus, sentence by sentence, without their tags."""
    sentences = []
    for file in sorted(each for each in folder.iterdir() if _BROWN_FILE.fullmatch(each.name)):
        for line in file.read_text(encoding="ascii").splitlines():
            if words := [token.rpartition("/")[0] for token in line.split()]:
                sentences.append(" ".join(words))
    return "\n".join(sentences)


def find_texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each corpus in a folder."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and any(_BROWN_FILE.fullmatch(each.name) for each in path.iterdir()):
            yield "Brown (NLTK)", read_brown(path)
        elif path.name in ("brown", "brown.gz") and path.is_file():
            content = path.read_bytes()
            if content[:2] == b"\x1f\x8b":
                content = gzip.decompress(content)
            yield "Brown (the book's file)", content.decode()
        elif path.suffix in (".txt", ".md", ".jsonl") and path.name != "messages.jsonl":
            yield path.name, "\n".join(read_texts([path]))


def tokenize(text: str) -> list[str]:
    """Return the lower-case words and periods of a text, as the book's notebook does."""
    return re.findall(r"\b[a-zA-Z0-9]+\b|[.]", text.lower())


def measure(name: str, text: str) -> tuple[list[Row], dict[str, Any]]:
    """Measure all count-based models on a text; return the rows, and facts about the run."""
    words = tokenize(text)
    distinct, ids = np.unique(np.array(words), return_inverse=True)
    cut = int(len(words) * (1 - HELD_OUT))
    train, held_out = ids[:cut].astype(np.uint32), ids[cut:].astype(np.uint32)
    started = time.perf_counter()
    counts = count_ngrams(train, ORDER, len(distinct))
    seconds = time.perf_counter() - started
    rows = [_row(name, "back-off (the book's)", BackOff(counts), held_out)]
    for order in range(1, ORDER + 1):
        rows.append(_row(name, "Laplace", Laplace(counts, order), held_out))
    for order in range(1, ORDER + 1):
        rows.append(_row(name, "Kneser–Ney", KneserNey(counts, order), held_out))
    return rows, {
        "text": name,
        "characters": len(text),
        "tokens": len(words),
        "words": len(distinct),
        "ngrams": counts.num_ngrams,
        "counting_seconds": seconds,
        "counting_megabytes_per_second": len(text.encode()) * (1 - HELD_OUT) / 1e6 / seconds,
        "microseconds_per_distribution": _distribution_time(counts, held_out) * 1e6,
    }


def _row(text: str, model: str, smoothing: Smoothing, held_out: Ids) -> Row:
    places = np.linspace(0, len(held_out) - 1, SUM_PLACES).astype(int).tolist()
    found = smoothing.probabilities(held_out)
    return Row(
        text,
        model,
        smoothing.order,
        math.exp(-float(np.log(found).mean())),
        mean_sum(smoothing, held_out, places),
    )


def _distribution_time(counts: NgramCounts, held_out: Ids) -> float:
    """Return the median seconds of the distribution after a context."""
    smoothing = KneserNey(counts)
    smoothing.distribution(held_out[:4])
    seconds = []
    for place in range(4, min(len(held_out), 2004), 10):
        started = time.perf_counter()
        smoothing.distribution(held_out[place - 4 : place])
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def report_counts(rows: list[Row], facts: dict[str, Any]) -> None:
    """Print the table of one text, and whether Kneser–Ney is the best."""
    print(
        f"\n{facts['text']}: {facts['characters']:,} characters, {facts['tokens']:,} tokens, "
        f"{facts['words']:,} different words; {facts['ngrams']:,} n-grams counted in "
        f"{facts['counting_seconds']:.2f} s ({facts['counting_megabytes_per_second']:.1f} MB/s), "
        f"a distribution in {facts['microseconds_per_distribution']:.0f} µs"
    )
    print(f"{'model':<24}{'n':>3}{'perplexity':>14}{'sum':>8}")
    for row in rows:
        print(f"{row.model:<24}{row.order:>3}{row.perplexity:>14,.2f}{row.mean_sum:>8.3f}")
    if facts["text"].startswith("Brown"):
        print(f"The book has {BOOK}, its public notebook {NOTEBOOK}, for the first row.")
    best = min((row for row in rows if row.normalised), key=lambda row: row.perplexity)
    print(f"Lowest of the normalised models: {best.model}, n = {best.order}.")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with texts, see above")
    parser.add_argument("--steps", type=int, default=0, help="train networks for so many steps")
    parser.add_argument(
        "--architectures", nargs="+", default=["rnn", "decoder"], help="which networks to train"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    options = parser.parse_args()
    found: dict[str, Any] = {"texts": [], "rows": [], "networks": []}
    for name, text in find_texts(options.data):
        rows, facts = measure(name, text)
        found["texts"].append(facts)
        found["rows"] += [asdict(row) for row in rows]
        if not options.json:
            report_counts(rows, facts)
        if options.steps:
            networks = measure_networks(name, text, HELD_OUT, options.steps, options.architectures)
            found["networks"] += [asdict(row) for row in networks]
            if not options.json:
                report_networks(networks)
    messages = options.data / "messages.jsonl"
    if messages.is_file():
        texts = read_texts([messages])
        cut = int(len(texts) * (1 - HELD_OUT))
        acceptance = type_messages(texts[:cut], texts[cut:])
        found["autocompletion"] = asdict(acceptance)
        if not options.json:
            report(acceptance)
    if not found["texts"] and "autocompletion" not in found:
        parser.error(f"{options.data} has no text, see --help")
    if options.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
