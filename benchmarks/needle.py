"""Whether a fact hidden in a long context is found, at ten depths.

Run it with `python -m benchmarks.needle`. A sentence with a number is put between sentences of the
guide, and the default model has to give the number: with a KV cache of 16 bits and of 8 bits. Then
tiny models that recall by the weights that they were given (see `benchmarks.recall_model`) do the
same with windows and with YaRN; with windows alone, a fact is to be found only within them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from benchmarks import recall_model
from benchmarks.speed_sides import CPU
from chatlm.engines.load import load
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.native.kv_cache import KVFormat
from chatlm.engines.native.model import NativeModel
from chatlm.hub import pull
from chatlm.types.events import Delta
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling

MODEL = "smollm2-135m-instruct"

FACT = "The secret number of the lighthouse is"

QUESTION = "What is the secret number of the lighthouse?"

KV_CACHES: Mapping[KVFormat, str] = {"auto": "16-bit KV cache", "int8": "8-bit KV cache"}


@dataclass(frozen=True)
class Answer:
    """What a model made of one prompt."""

    tokens: int
    """Of the prompt."""
    depth: float
    found: bool
    text: str


def sentences() -> Iterator[str]:
    """Yield prose of the guide, again and again."""
    guide = Path(__file__).parents[1].joinpath("docs", "guide.md").read_text(encoding="utf-8")
    prose = " ".join(line for line in guide.splitlines() if re.match(r"[A-Za-z]", line))
    parts = re.split(r"(?<=[.;]) ", prose)
    for number in count():
        yield parts[number % len(parts)]


def hide(engine: LocalEngine, tokens: int, depth: float, number: int) -> tuple[Message, ...]:
    """Return a prompt of about so many tokens with the fact at a depth, and the answer's start."""
    text: list[str] = []
    length = 0
    for sentence in sentences():
        length += len(engine.prompt_encoder.encode_text(f"{sentence} "))
        if length > tokens - 60:
            break
        text.append(sentence)
    text.insert(round(depth * len(text)), f"{FACT} {number}.")
    asked = f"{' '.join(text)}\n\n{QUESTION}\n"
    return Message("user", asked), Message("assistant", FACT)


def ask(engine: LocalEngine, tokens: int, depth: float) -> Answer:
    """Return whether the fact is found."""
    number = 1000 + round(7919 * (depth + tokens)) % 9000
    sampling = Sampling(temperature=0.0, repetition_penalty=1.0, max_tokens=8)
    request = Request(hide(engine, tokens, depth, number), sampling)
    text = "".join(event.text for event in engine.stream(request) if isinstance(event, Delta))
    found = re.search(r"\d+", text)
    is_right = found is not None and int(found[0]) == number
    return Answer(engine.count_tokens(request.messages), depth, is_right, text)


def ask_all(engine: LocalEngine, lengths: Sequence[int], depths: Sequence[float]) -> list[Answer]:
    """Ask at each length and depth, from the end on, so that most of each prompt is read once."""
    with closing(engine):
        return [
            ask(engine, tokens, depth)
            for tokens in lengths
            for depth in sorted(depths, reverse=True)
        ]


def recall_all(
    kind: recall_model.Kind, kv_cache: KVFormat, lengths: Sequence[int], depths: Sequence[float]
) -> list[Answer]:
    """Ask a model whose weights were set; right is also not to find what it cannot see."""
    answers = []
    with tempfile.TemporaryDirectory() as place:
        folder = recall_model.save(Path(place), kind)
        model = load("recall", folder, CPU, "native", kv_cache=kv_cache)
        if not isinstance(model, NativeModel):
            raise TypeError("not a native decoder")
        for tokens in lengths:
            for depth in depths:
                ids, distance = recall_model.prompt(tokens, depth)
                found = recall_model.recalls(model, ids)
                is_right = found == recall_model.is_visible(kind, distance)
                text = "found" if found else "not found"
                answers.append(Answer(len(ids), depth, is_right, text))
    return answers


def main() -> None:
    """Ask, then print tables, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=(1000, 2000, 4000, 7000))
    parser.add_argument("--depths", type=int, default=10, help="number of depths")
    parser.add_argument("--only-set", action="store_true", help="leave out the default model")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    depths = tuple((number + 0.5) / options.depths for number in range(options.depths))
    sides: dict[str, list[Answer]] = {}
    for kv_cache, name in KV_CACHES.items() if not options.only_set else ():
        folder = pull.ensure_model(MODEL).folder
        engine = LocalEngine.from_folder(MODEL, folder, CPU, kv_cache=kv_cache)
        sides[f"{MODEL}, {name}"] = ask_all(engine, options.lengths, depths)
        print(name, file=sys.stderr)
    for what, kind in recall_model.KINDS.items():
        for kv_cache, name in KV_CACHES.items():
            sides[f"{what}, {name}"] = recall_all(kind, kv_cache, options.lengths, depths)
        print(what, file=sys.stderr)
    if options.json:
        rows = {name: [asdict(each) for each in answers] for name, answers in sides.items()}
        print(json.dumps(rows, indent=2))
        return
    heads = "".join(f"{each:>8}" for each in options.lengths)
    print(f"{f'right of {options.depths}':<52}{heads}")
    for name, answers in sides.items():
        found = [
            sum(each.found for each in answers[at : at + options.depths])
            for at in range(0, len(answers), options.depths)
        ]
        print(f"{name:<52}{''.join(f'{each:>8}' for each in found)}")


if __name__ == "__main__":
    main()
