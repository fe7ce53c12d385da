"""Time to first token and tokens per second of a chat, next to transformers with the same weights.

Run it with `python -m benchmarks.chat`. Both sides take turns in one process, on one loaded model
each, greedy, the same prompts; cold starts are whole processes. Nothing here is a pass or a fail.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoTokenizer, TextIteratorStreamer

from chatlm import ModelLocation, load_pretrained
from chatlm.engines.devices import resolve_placement
from chatlm.engines.local_engine import LocalEngine
from chatlm.hub import pull
from chatlm.types.events import Delta, Finished, PromptReady
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling

MODEL = "smollm2-135m-instruct"
NEW_TOKENS = 64
QUESTIONS = (
    "What makes a good lighthouse keeper?",
    "How did keepers spend a winter night?",
    "What did the lamps burn before electricity?",
    "Tell me about a famous storm.",
    "Who built the first lighthouses?",
    "Why are some of them painted in stripes?",
    "What does a fog horn do?",
    "Are there still keepers today?",
    "What could a lighthouse become when it is no longer used?",
)


@dataclass(frozen=True)
class Timing:
    """One reply."""

    first_token: float
    """Seconds from the request to the first text."""
    tokens_per_second: float
    """After the first token."""


def ours(engine: LocalEngine, messages: list[Message]) -> tuple[Timing, list[Any]]:
    """Time one reply of chatlm's engine, with the current prompt cache."""
    wanted = Sampling(temperature=0.0, frequency_penalty=0.0, max_tokens=NEW_TOKENS)
    start = time.perf_counter()
    first = 0.0
    events: list[Any] = []
    for event in engine.stream(Request(tuple(messages), wanted)):
        events.append(event)
        if isinstance(event, Delta) and event.text and not first:
            first = time.perf_counter() - start
    end = events[-1]
    assert isinstance(end, Finished)
    return Timing(first, end.usage.tokens_per_second or 0.0), events


def theirs(model: Any, tokenizer: Any, messages: list[Message]) -> Timing:
    """Time one reply of `generate()` in a thread, read from a `TextIteratorStreamer`."""
    chat = [{"role": message.role, "content": message.text} for message in messages]
    start = time.perf_counter()
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    made: dict[str, Any] = {}

    def generate() -> None:
        with torch.inference_mode():
            made["ids"] = model.generate(
                **inputs, streamer=streamer, max_new_tokens=NEW_TOKENS, do_sample=False
            )

    thread = threading.Thread(target=generate)
    thread.start()
    first = 0.0
    for piece in streamer:
        if piece and not first:
            first = time.perf_counter() - start
    total = time.perf_counter() - start
    thread.join()
    tokens = made["ids"].shape[1] - inputs["input_ids"].shape[1]
    return Timing(first, (tokens - 1) / (total - first))


def conversation(engine: LocalEngine, turns: int, tokens: int) -> list[Message]:
    """A real chat of `turns` turns and about `tokens` tokens, ending with the next question."""
    messages: list[Message] = []
    share = tokens // turns
    for question in QUESTIONS[:turns]:
        messages.append(Message("user", question))
        wanted = Sampling(temperature=0.7, seed=1, frequency_penalty=0.3, max_tokens=share)
        events = engine.stream(Request(tuple(messages), wanted))
        text = "".join(event.answer for event in events if isinstance(event, Delta))
        messages.append(Message("assistant", text))
    return [*messages, Message("user", QUESTIONS[turns])]


@dataclass(frozen=True)
class FullTurn:
    """A turn past a full context."""

    number: int
    """1 for the first turn in which earlier ones were left out."""
    omitted_turns: int
    prompt_tokens: int
    cached_tokens: int
    first_token: float
    """Seconds."""
    cpu_seconds: float
    """Of the turn, without what is read ahead."""


FULL_TURNS = 40
"""Turns measured past a full context."""


def past_full(engine: LocalEngine, *, read_ahead: bool) -> list[FullTurn]:
    """Continue a real chat for `FULL_TURNS` turns after its context is full.

    Args:
        engine: with an empty prompt cache.
        read_ahead: whether the reply is prefilled while the user reads it, as in the UI.
    """
    wanted = Sampling(temperature=0.7, seed=1, frequency_penalty=0.3, max_tokens=NEW_TOKENS)
    messages: list[Message] = []
    turns: list[FullTurn] = []
    number = 0
    while len(turns) < FULL_TURNS:
        messages.append(Message("user", QUESTIONS[number % len(QUESTIONS)]))
        number += 1
        start, cpu = time.perf_counter(), time.process_time()
        events = list(engine.stream(Request(tuple(messages), wanted)))
        used = time.process_time() - cpu
        ready, end = events[0], events[-1]
        assert isinstance(ready, PromptReady)
        assert isinstance(end, Finished)
        if ready.omitted_messages:
            turns.append(
                FullTurn(
                    len(turns) + 1,
                    sum(message.role == "user" for message in ready.omitted_messages),
                    end.usage.prompt_tokens,
                    end.usage.cached_tokens,
                    end.usage.first_token_seconds or time.perf_counter() - start,
                    used,
                )
            )
        text = "".join(event.answer for event in events if isinstance(event, Delta))
        messages.append(Message("assistant", text or "Yes."))
        if read_ahead:
            for _ in engine.read_ahead(Request(tuple(messages), wanted)):
                pass
    return turns


def report_past_full(context: int, folder: Any, *, as_json: bool) -> None:
    """Measure and print turns 9 and 40 past a full context, with and without reading ahead."""
    placement = resolve_placement("cpu", "bfloat16")
    rows = {}
    for name, ahead in (("with read-ahead", True), ("without read-ahead", False)):
        engine = LocalEngine.from_folder(MODEL, folder, placement, context=context)
        rows[name] = past_full(engine, read_ahead=ahead)
        engine.close()
    if as_json:
        print(json.dumps({"context": context, "turns": {
            name: [dataclasses.asdict(turn) for turn in turns] for name, turns in rows.items()
        }}, indent=2))  # fmt: skip
        return
    print(f"{MODEL}, context of {context:,} tokens, {torch.get_num_threads()} threads\n")
    print(f"{'past a full context':<32}{'left out':>9}{'prompt':>8}{'cached':>8}"
          f"{'first token, ms':>17}{'CPU s':>8}")  # fmt: skip
    for name, turns in rows.items():
        for turn in turns:
            if turn.number in (9, FULL_TURNS):
                print(f"{f'turn {turn.number}, {name}':<32}{turn.omitted_turns:>9}"
                      f"{turn.prompt_tokens:>8}{turn.cached_tokens:>8}"
                      f"{1000 * turn.first_token:>17.0f}{turn.cpu_seconds:>8.2f}")  # fmt: skip
        waits = sorted(1000 * turn.first_token for turn in turns)
        cpu = statistics.fmean(turn.cpu_seconds for turn in turns)
        reused = sum(2 * turn.cached_tokens >= turn.prompt_tokens for turn in turns)
        print(f"{f'all {FULL_TURNS}, {name}':<32}{reused} reuse at least half; first token, ms: "
              f"median {statistics.median(waits):.0f}, worst {waits[-1]:.0f}; "
              f"CPU s: mean {cpu:.2f}")  # fmt: skip


def start_up(command: list[str], environment: dict[str, str]) -> float:
    """Seconds from the start of a process to its first byte on stdout."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        seconds = time.perf_counter() - start
        process.communicate()
    return seconds


PLAIN_SCRIPT = """
import pathlib, sys, threading, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
gguf = next((path.name for path in pathlib.Path(folder).glob("*.gguf")), None)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.bfloat16)
inputs = tokenizer.apply_chat_template(
    [{"role": "user", "content": sys.argv[2]}],
    add_generation_prompt=True, return_tensors="pt", return_dict=True)
streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
threading.Thread(target=model.generate, kwargs=dict(
    **inputs, streamer=streamer, max_new_tokens=8, do_sample=False)).start()
for piece in streamer:
    print(piece, end="", flush=True)
"""


def main() -> None:
    """Measure, print a table, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds, both sides in each")
    parser.add_argument("--tokens", type=int, default=1500, help="about the tokens of the chat")
    parser.add_argument(
        "--past-full", type=int, metavar="CONTEXT", help="only turns past a full context, in tokens"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = pull.ensure_model(MODEL).folder
    if options.past_full:
        report_past_full(options.past_full, folder, as_json=options.json)
        return
    placement = resolve_placement("cpu", "bfloat16")
    engine = LocalEngine.from_folder(MODEL, folder, placement)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = load_pretrained(ModelLocation(MODEL, folder, "chat"), device="cpu", dtype="bfloat16")
    short = [Message("user", QUESTIONS[0])]
    chat = conversation(engine, turns=8, tokens=options.tokens)

    def read_the_chat_before() -> None:
        """Read ahead, as the UI does while the user reads the reply."""
        engine.stream(Request(tuple(chat[:-2]), Sampling(max_tokens=1))).close()
        for _ in engine.read_ahead(Request(tuple(chat[:-1]))):
            pass

    def reused() -> Timing:
        read_the_chat_before()
        return ours(engine, chat)[0]

    def afresh(messages: list[Message]) -> Timing:
        engine._prompt_cache.clear()
        return ours(engine, messages)[0]

    sides: dict[str, Callable[[], Timing]] = {
        "first turn, chatlm": lambda: afresh(short),
        "first turn, transformers": lambda: theirs(model, tokenizer, short),
        "turn 9, chatlm": reused,
        "turn 9, chatlm without reuse": lambda: afresh(chat),
        "turn 9, transformers": lambda: theirs(model, tokenizer, chat),
    }
    timings: dict[str, list[Timing]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        for name, measure in sides.items():
            timing = measure()
            if number:  # the first round warms up
                timings[name].append(timing)
        print(f"round {number} of {options.rounds}", file=sys.stderr)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    ask = [sys.executable, "-m", "chatlm", "ask", "--no-save", "--max-tokens", "8", QUESTIONS[0]]
    plain = [sys.executable, "-c", PLAIN_SCRIPT, str(folder), QUESTIONS[0]]
    starts: dict[str, list[float]] = {"chatlm ask": [], "plain transformers script": []}
    for _ in range(options.rounds):
        starts["chatlm ask"].append(start_up(ask, environment))
        starts["plain transformers script"].append(start_up(plain, environment))
    fitted = next(e for e in ours(engine, chat)[1] if isinstance(e, PromptReady))
    report(timings, starts, fitted.prompt_tokens, as_json=options.json)


def report(
    timings: dict[str, list[Timing]],
    starts: dict[str, list[float]],
    prompt: int,
    *,
    as_json: bool,
) -> None:
    """Medians with best and worst, and the ratios of medians."""
    first = {name: [t.first_token for t in rows] for name, rows in timings.items()}
    speed = {name: [t.tokens_per_second for t in rows] for name, rows in timings.items()}

    def ratio(values: dict[str, list[float]], over: str, under: str) -> float:
        return statistics.median(values[over]) / statistics.median(values[under])

    ratios = {
        "first token, turn 9: without reuse / chatlm": ratio(
            first, "turn 9, chatlm without reuse", "turn 9, chatlm"
        ),
        "first token, turn 9: transformers / chatlm": ratio(
            first, "turn 9, transformers", "turn 9, chatlm"
        ),
        "first token, first turn: transformers / chatlm": ratio(
            first, "first turn, transformers", "first turn, chatlm"
        ),
        "tokens/s, first turn: chatlm / transformers": ratio(
            speed, "first turn, chatlm", "first turn, transformers"
        ),
        "tokens/s, turn 9: chatlm / transformers": ratio(
            speed, "turn 9, chatlm", "turn 9, transformers"
        ),
        "process start to first token: plain script / chatlm ask": ratio(
            starts, "plain transformers script", "chatlm ask"
        ),
    }
    if as_json:
        rows = {name: [dataclasses.asdict(t) for t in found] for name, found in timings.items()}
        print(json.dumps({"prompt_tokens": prompt, "rounds": rows, "starts": starts,
                          "ratios": ratios}, indent=2))  # fmt: skip
        return
    print(f"{MODEL}, bfloat16, {torch.get_num_threads()} threads, {prompt} tokens at turn 9\n")
    print(f"{'median (best to worst)':<30}{'first token, ms':>24}{'tokens/s':>24}")
    for name in timings:
        waits = _spread([1000 * value for value in first[name]], best=min)
        print(f"{name:<30}{waits:>24}{_spread(speed[name], best=max):>24}")
    print(f"\n{'process start to first token':<30}{'s':>24}")
    for name, values in starts.items():
        print(f"{name:<30}{_spread(values, best=min):>24}")
    print()
    for name, value in ratios.items():
        print(f"{name:<60}{value:>8.2f}")


def _spread(values: list[float], best: Callable[[list[float]], float]) -> str:
    worst = max if best is min else min
    digits = 0 if statistics.median(values) >= 100 else 1
    middle, good, bad = statistics.median(values), best(values), worst(values)
    return f"{middle:.{digits}f} ({good:.{digits}f} to {bad:.{digits}f})"


if __name__ == "__main__":
    main()
