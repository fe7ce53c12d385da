"""Load test of `chatlm serve` with many clients: answered requests, latency, mixed-up replies.

Run it with `python -m benchmarks.serve`. The real server runs with the real default model; each
client is OpenAI's own and asks the same question again and again, greedily, so that its reply is
known. Half of them stream, one request in eight is left in the middle, and whoever is turned away
tries again.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import random
import re
import statistics
import string
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import openai
from openai import AsyncOpenAI, OpenAI

MODEL = "smollm2-135m-instruct"
LEAVE_EVERY = 8
PAUSE = 0.1
"""Seconds before a rejected client retries."""


@dataclass
class Load:
    """The result."""

    answered: int = 0
    turned_away: int = 0
    left: int = 0
    """Streams that the client closed before the end."""
    mixed: int = 0
    """Replies that differ from the expected one, such as another client's."""
    lost: int = 0
    """Accepted requests without a complete reply."""
    latencies: list[float] = field(default_factory=list)
    """Seconds from an accepted request to its complete reply."""


def questions(count: int) -> list[str]:
    """Return a different question for each client."""
    return [f"Client {number}: what is {number} plus {number + 7}?" for number in range(count)]


async def load(
    address: str, model: str, expected: Mapping[str, str], seconds: float, tokens: int
) -> Load:
    """Run one client per question until the time is up.

    Args:
        address: URL of the server, without a path.
        model: the model's name.
        expected: the expected greedy reply by question.
        seconds: time after which no client sends another request.
        tokens: maximum tokens of each reply.
    """
    client = AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300)
    made = Load()
    end = time.monotonic() + seconds

    async def read_reply(wanted: dict[str, Any]) -> str:
        reply = await client.chat.completions.create(**wanted)
        assert reply.choices[0].finish_reason
        return str(reply.choices[0].message.content)

    async def stream_reply(wanted: dict[str, Any], leave: bool) -> str | None:
        reply_text, reason = "", None
        async with await client.chat.completions.create(**wanted, stream=True) as stream:
            async for piece in stream:
                reply_text += piece.choices[0].delta.content or ""
                reason = piece.choices[0].finish_reason
                if leave and reply_text:
                    return None
        assert reason
        return reply_text

    async def talk(number: int, question: str) -> None:
        wanted = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": tokens,
        }
        asked = number
        while time.monotonic() < end:
            started = time.monotonic()
            try:
                if number % 2:
                    reply_text: str | None = await read_reply(wanted)
                else:
                    reply_text = await stream_reply(wanted, leave=asked % LEAVE_EVERY == 0)
            except openai.RateLimitError:
                made.turned_away += 1
                await asyncio.sleep(PAUSE)
                continue
            except (openai.OpenAIError, AssertionError):
                made.lost += 1
                continue
            asked += 1
            if reply_text is None:
                made.left += 1
                continue
            made.answered += 1
            made.mixed += reply_text != expected[question]
            made.latencies.append(time.monotonic() - started)

    async with client:
        await asyncio.gather(*(talk(*each) for each in enumerate(expected)))
    return made


@contextmanager
def serving() -> Iterator[str]:
    """Run `chatlm serve` with the default model on a free port; yield its URL."""
    command = [sys.executable, "-m", "chatlm", "serve", "--port", "0", "--model", MODEL]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        line = ""
        while not (found := re.search(r"http://[^/\s]+", line)):
            line = server.stderr.readline()
            assert line, "the server did not start"
        try:
            yield found[0]
        finally:
            server.terminate()


STALL_BODIES = 4
"""Large requests at the same time."""
STALL_TOKENS = 400
STALL_SIZES = (900_000, 120_000, 8_000)
"""Characters of a large request: obviously too long for the context, too long only once encoded,
and short enough."""
_WORDS = [
    first + last for first in string.ascii_lowercase for last in ("ain", "orth", "umbled", "y")
]


async def longest_gap(address: str, characters: int) -> tuple[float, list[int]]:
    """Return the longest time between two tokens of a stream, and the status of the others.

    Args:
        address: URL of the server, without a path.
        characters: length of each large request, sent during the stream; 0 for none.
    """
    content = " ".join(random.Random(1).choices(_WORDS, k=characters))[:characters]  # noqa: S311
    async with (
        AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600) as client,
        asyncio.TaskGroup() as group,
    ):

        async def send_large() -> int:
            messages: Any = [{"role": "user", "content": content}]
            try:
                await client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1)
            except openai.APIStatusError as error:
                return error.status_code
            return 200

        question = "Write a long story about a lighthouse."
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": question}],
            max_tokens=STALL_TOKENS,
            seed=1,
            stream=True,
        )
        large: list[asyncio.Task[int]] = []
        gaps, last = [], time.monotonic()
        async for _ in stream:
            now = time.monotonic()
            gaps.append(now - last)
            last = now
            if len(gaps) == 10 and characters:
                large = [group.create_task(send_large()) for _ in range(STALL_BODIES)]
    return max(gaps[10:]), [task.result() for task in large]


GAP_TOKENS = 128
"""Tokens of each reply whose gaps are measured."""


async def gaps_of_streams(address: str, clients: int, seconds: float) -> dict[str, float]:
    """Let clients stream reply after reply, each with a new question; return what they saw.

    Args:
        address: URL of the server, without a path.
        clients: how many stream at a time.
        seconds: time after which no client sends another request.
    """
    gaps: list[float] = []
    firsts: list[float] = []
    tokens = 0
    start = time.monotonic()
    async with AsyncOpenAI(
        base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300
    ) as client:

        async def talk(number: int) -> None:
            nonlocal tokens
            asked = 0
            while time.monotonic() - start < seconds:
                asked += 1
                question = f"Tell the story of lighthouse number {number}, part {asked}."
                last = begun = time.monotonic()
                stream = await client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": question}], seed=number,
                    max_tokens=GAP_TOKENS, temperature=0.9, stream=True,
                    stream_options={"include_usage": True},
                )  # fmt: skip
                is_first = True
                async for chunk in stream:
                    if chunk.usage:
                        tokens += chunk.usage.completion_tokens
                    if not chunk.choices or not chunk.choices[0].delta.content:
                        continue
                    now = time.monotonic()
                    (firsts if is_first else gaps).append(now - (begun if is_first else last))
                    is_first, last = False, now

        await asyncio.gather(*(talk(number) for number in range(clients)))
    gaps.sort()
    return {
        "clients": clients,
        "tokens_per_second": tokens / (time.monotonic() - start),
        "first_token": statistics.median(firsts),
        "median_gap": statistics.median(gaps),
        "p95_gap": gaps[int(len(gaps) * 0.95)],
        "longest_gap": gaps[-1],
    }


def measure_gaps(clients: int, seconds: float, as_json: bool) -> None:
    """Print throughput and gaps of one client, then of several."""
    with serving() as address:
        rows = [asyncio.run(gaps_of_streams(address, count, seconds)) for count in (1, clients)]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    print("clients  tokens/s  first token  median gap     95 %   longest")
    for row in rows:
        print(
            f"{row['clients']:>7.0f}{row['tokens_per_second']:>10.0f}"
            f"{row['first_token'] * 1e3:>10.0f} ms{row['median_gap'] * 1e3:>9.0f} ms"
            f"{row['p95_gap'] * 1e3:>6.0f} ms{row['longest_gap'] * 1e3:>7.0f} ms"
        )


def measure_stalls() -> None:
    """Print the longest gap for each size of the large requests."""
    with serving() as address:
        for characters in (0, *STALL_SIZES):
            gap, statuses = asyncio.run(longest_gap(address, characters))
            large = f"{STALL_BODIES} x {characters:>7,} characters"
            print(f"{large}  longest gap {gap:6.2f} s  {statuses}")


def main() -> None:
    """Measure, then print a table, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--clients", type=int, help="50, or 8 with --gaps")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=24, help="maximum tokens of each reply")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--gaps", action="store_true", help="measure throughput and the gaps between tokens instead"
    )
    parser.add_argument("--stall", action="store_true", help="measure gaps in a stream instead")
    options = parser.parse_args()
    if options.stall:
        measure_stalls()
        return
    if options.gaps:
        measure_gaps(options.clients or 8, options.seconds, options.json)
        return
    with serving() as address:
        alone = OpenAI(base_url=f"{address}/v1", api_key="none")
        expected = {
            question: str(
                alone.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": question}],
                    temperature=0,
                    max_tokens=options.tokens,
                )
                .choices[0]
                .message.content
            )
            for question in questions(options.clients or 50)
        }
        print(f"{len(set(expected.values()))} different expected replies", file=sys.stderr)
        made = asyncio.run(load(address, MODEL, expected, options.seconds, options.tokens))
    latencies = sorted(made.latencies)
    row = dataclasses.asdict(made) | {
        "latencies": None,
        "median": statistics.median(latencies),
        "p95": latencies[int(len(latencies) * 0.95)],
    }
    if options.json:
        print(json.dumps(row, indent=2))
        return
    for name, value in row.items():
        if value is not None:
            print(f"{name:<14}{value:>10,.4g}")


if __name__ == "__main__":
    main()
