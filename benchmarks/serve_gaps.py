"""Gaps in the streams of many clients of `chatlm serve`, of three protocols.

Run it with `python -m benchmarks.serve_gaps`. Each client streams reply after reply with a new
question and a chat of some turns; meanwhile another model is loaded and freed again and again, and
with `--hostile` clients send long chats, large schemas and broken bodies. A gap lies between two
tokens of one stream; the wait for the first token is none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from chatlm.hub import pull
from chatlm.hub.model_folder import read_manifest, write_manifest

MODEL = "smollm2-135m-instruct"
OTHER = "another-model"
PATHS = ("/v1/chat/completions", "/v1/messages", "/api/chat")
TOKENS = 100
PAUSE = 3.0
"""Seconds between freeing the other model and loading it again."""
LIMIT = 0.2
"""Seconds; a longer gap is a stall."""


@dataclass
class Seen:
    """What the clients saw."""

    gaps: list[float] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    """When each gap ended, in seconds since the start."""
    firsts: list[float] = field(default_factory=list)
    turned_away: int = 0
    failed: int = 0
    tokens: int = 0
    loads: list[float] = field(default_factory=list)
    """Seconds that each loading of the other model took."""
    attacks: dict[str, float] = field(default_factory=dict)
    """The longest time until a hostile body was answered, with its status, by its name."""


@contextmanager
def serving(at_once: int) -> Iterator[tuple[str, int]]:
    """Run `chatlm serve` over two copies of the default model; yield its URL and process id."""
    folder = pull.ensure_model(MODEL).folder
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "models").mkdir()
        (home / "models" / MODEL).symlink_to(folder, target_is_directory=True)
        copy_model(folder, home / "models" / OTHER)
        (home / "kernels").symlink_to(folder.parents[1] / "kernels", target_is_directory=True)
        (home / "first-start.json").write_text('{"format": 1, "choice": ""}')
        environment = os.environ | {
            "CHATLM_HOME": str(home),
            "CHATLM_PLUGINS_SERVE_AT_ONCE": str(at_once),
        }
        command = [sys.executable, "-m", "chatlm", "serve", "--port", "0", "--model", MODEL]
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=environment
        ) as server:
            assert server.stderr is not None
            line = ""
            while not (found := re.search(r"http://[^/\s]+", line)):
                line = server.stderr.readline()
                assert line, "the server did not start"
            try:
                yield found[0], server.pid
            finally:
                server.terminate()


def copy_model(folder: Path, place: Path) -> None:
    """Install a model once more, by another name."""
    shutil.copytree(folder, place)
    manifest = read_manifest(folder)
    assert manifest is not None
    write_manifest(place, place.name, manifest.kind, manifest.origin, known=manifest.files)


def body_of(path: str, number: int, turn: int) -> dict[str, Any]:
    """Return a request with a short chat before its question."""
    words = f"lighthouse number {number} in the year {1800 + turn}"
    messages = [
        {"role": "user", "content": f"Who keeps {words}?"},
        {"role": "assistant", "content": f"An old woman keeps {words}, and her dog."},
        {"role": "user", "content": f"Tell a long story of {words}."},
    ]
    body: dict[str, Any] = {"model": MODEL, "messages": messages, "stream": True}
    if path == "/api/chat":
        return body | {"options": {"num_predict": TOKENS, "seed": number}}
    return body | {"max_tokens": TOKENS, "temperature": 0.9}


def has_text(path: str, line: bytes) -> bool:
    """Return whether a line of a stream has a token."""
    try:
        value = json.loads(line.removeprefix(b"data: "))
    except ValueError:
        return False
    match path:
        case "/api/chat":
            return bool(value.get("message", {}).get("content"))
        case "/v1/messages":
            return bool(value.get("type") == "content_block_delta")
    return any(choice["delta"].get("content") for choice in value.get("choices", ()))


async def talk(session: aiohttp.ClientSession, number: int, end: float, seen: Seen) -> None:
    """Stream reply after reply until the time is up."""
    path, turn, begun = PATHS[number % len(PATHS)], 0, time.monotonic()
    while time.monotonic() < end:
        turn += 1
        asked = last = time.monotonic()
        is_first = True
        async with session.post(path, json=body_of(path, number, turn)) as response:
            if response.status == 429:
                seen.turned_away += 1
                await asyncio.sleep(float(response.headers["Retry-After"]))
                continue
            seen.failed += response.status != 200
            async for line in response.content:
                if not has_text(path, line):
                    continue
                now = time.monotonic()
                seen.tokens += 1
                if is_first:
                    seen.firsts.append(now - asked)
                else:
                    seen.gaps.append(now - last)
                    seen.at.append(now - begun)
                is_first, last = False, now
                if now > end:
                    break


async def load_models(session: aiohttp.ClientSession, end: float, seen: Seen) -> None:
    """Load and free the other model again and again."""
    while time.monotonic() < end:
        await asyncio.sleep(PAUSE)
        begin = time.monotonic()
        for keep in ("1m", 0):
            async with session.post(
                "/api/generate", json={"model": OTHER, "keep_alive": keep}
            ) as response:
                seen.failed += response.status != 200
                await response.read()
            if keep:
                seen.loads.append(time.monotonic() - begin)


def hostile_bodies() -> list[tuple[str, str, bytes]]:
    """Return names, paths and bodies that cost as much as they can."""
    talk_of = [{"role": ("user", "assistant")[at % 2], "content": f"m{at}"} for at in range(999)]
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(60):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    huge = {"enum": [f"value number {number}" for number in range(20_000)]}
    tools = [
        {"type": "function", "function": {"name": f"tool{at}", "parameters": {
            "type": "object",
            "properties": {f"p{key}": {"type": "string"} for key in range(20)}}}}
        for at in range(128)
    ]  # fmt: skip
    short = [{"role": "user", "content": "Hello."}]

    def chat(name: str, messages: Any, **more: Any) -> tuple[str, str, bytes]:
        body = {"model": MODEL, "messages": messages, "max_tokens": 5} | more
        return name, PATHS[0], json.dumps(body).encode()

    def formed(schema: Any) -> dict[str, Any]:
        described = {"name": "x", "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": described}}

    words = [{"role": "user", "content": "word " * 25_000}]
    return [
        chat("999 short messages", talk_of),
        chat("an enum of 20,000", short, **formed(huge)),
        chat("a schema 60 levels deep", short, **formed(deep)),
        chat("128 tools", short, tools=tools),
        chat("125,000 characters", words),
        ("100,000 brackets", PATHS[1], b'{"model": ' + b"[" * 100_000),
        ("a long name", PATHS[2], b'{"model": "' + b"x" * 900_000 + b'"}'),
    ]


async def attack(session: aiohttp.ClientSession, end: float, seen: Seen) -> None:
    """Send hostile bodies one after the other."""
    bodies = hostile_bodies()
    headers = {"Content-Type": "application/json"}
    while time.monotonic() < end:
        for name, path, content in bodies:
            begin = time.monotonic()
            if begin >= end:
                return
            async with session.post(path, data=content, headers=headers) as response:
                await response.read()
                seen.failed += response.status >= 500
                if response.status == 429:
                    await asyncio.sleep(0.2)
                    continue
            answered = f"{name}: {response.status}"
            taken = time.monotonic() - begin
            seen.attacks[answered] = max(taken, seen.attacks.get(answered, 0.0))


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session for any number of clients."""
    async with aiohttp.ClientSession(
        address,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=300),
        read_bufsize=2**20,
    ) as session:
        yield session


async def measure(address: str, options: argparse.Namespace) -> Seen:
    """Let all clients run at once."""
    seen = Seen()
    async with connected(address) as session:
        end = time.monotonic() + options.seconds
        tasks = [talk(session, number, end, seen) for number in range(options.clients)]
        if not options.no_load:
            tasks.append(load_models(session, end, seen))
        if options.hostile:
            tasks.append(attack(session, end, seen))
        await asyncio.gather(*tasks)
    return seen


def describe(seen: Seen, seconds: float) -> Mapping[str, Any]:
    """Sum up what the clients saw."""
    gaps = sorted(seen.gaps)
    return {
        "tokens_per_second": seen.tokens / seconds,
        "gaps": len(gaps),
        "median_gap": gaps[len(gaps) // 2],
        "p99_gap": gaps[int(len(gaps) * 0.99)],
        "longest_gap": gaps[-1],
        "stalls": sum(gap > LIMIT for gap in gaps),
        "stalled_at": sorted(
            {round(at, 1) for at, gap in zip(seen.at, seen.gaps, strict=True) if gap > LIMIT}
        ),
        "median_first_token": sorted(seen.firsts)[len(seen.firsts) // 2],
        "turned_away": seen.turned_away,
        "failed": seen.failed,
        "attacks": {name: round(taken, 2) for name, taken in seen.attacks.items()},
        "loads": [round(each, 2) for each in seen.loads],
    }


def main() -> None:
    """Measure, then print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--at-once", type=int, default=8, help="replies at a time, as configured")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--no-load", action="store_true", help="load no other model meanwhile")
    parser.add_argument("--hostile", action="store_true", help="send hostile bodies meanwhile")
    options = parser.parse_args()
    with serving(options.at_once) as (address, pid):
        print(f"the server is process {pid}", file=sys.stderr, flush=True)
        seen = asyncio.run(measure(address, options))
    print(json.dumps(describe(seen, options.seconds), indent=2))


if __name__ == "__main__":
    main()
