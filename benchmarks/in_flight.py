"""A tournament against a server, with 1, 4 and 16 requests in flight, and after a `kill -9`.

Run it with `python -m benchmarks.in_flight`. Two contestants, one of them at temperature 1, answer
each prompt over OpenAI's protocol; the server is `chatlm serve` with the default model, or the one
of `--url`. Every run begins in an empty data folder. All of them, and one that was killed halfway
and then given again, have to end with the same replies.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.serve import MODEL, serving
from chatlm_arena.store.store import open_arena_store

IN_FLIGHT = (1, 4, 16)
CHATLM = [sys.executable, "-m", "chatlm"]
CONTESTANTS = {"cold": "temperature=0", "hot": "temperature=1"}
TOPICS = (
    *("rivers", "bread", "clouds", "trains", "music", "salt", "bees"),
    *("winter", "maps", "paper", "glass", "moss", "tides"),
)

Replies = dict[tuple[int, int, int], str]


class Run:
    """A tournament in a data folder of its own.

    Args:
        folder: an empty one.
        model: as `--model` takes it.
        prompts: the file.
        tokens: maximum tokens of a reply.
        in_flight: requests that are on their way at a time.
    """

    def __init__(
        self, folder: Path, model: str, prompts: Path, tokens: int, in_flight: int
    ) -> None:
        self._environment = {
            **os.environ,
            "CHATLM_HOME": str(folder),
            "CHATLM_OPENAI_IN_FLIGHT": str(in_flight),
        }
        self._command = [
            *CHATLM, "arena", "run", "--prompts", str(prompts), "--judge", "human",
            "--max-tokens", str(tokens),
        ]  # fmt: skip
        for name, sampling in CONTESTANTS.items():
            subprocess.run(
                [*CHATLM, "arena", "contestants", "add", name, "--model", model, "-s", sampling],
                env=self._environment, check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    def run_to_end(self) -> float:
        """Run it to the end and return the seconds.

        Without a judge the command then ends with an error.
        """
        start = time.perf_counter()
        with self._running_process() as process:
            process.wait()
        return time.perf_counter() - start

    def kill_after(self, count: int) -> int:
        """Start it, kill it after `count` replies, and return the number of stored ones."""
        with self._running_process() as process:
            while len(self.replies()) < count:
                assert process.poll() is None, "the tournament ended too early"
                time.sleep(0.02)
            process.kill()
            process.wait()
        return len(self.replies())

    def replies(self) -> Replies:
        """Replies by prompt, contestant and turn."""
        with self._at_home(), open_arena_store() as store:
            return {
                place: reply.text
                for number, _, _ in store.runs()
                for place, reply in store.run_replies(number).items()
            }

    @contextmanager
    def _running_process(self) -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen(
            self._command, env=self._environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            yield process

    @contextmanager
    def _at_home(self) -> Iterator[None]:
        before = os.environ.get("CHATLM_HOME")
        os.environ["CHATLM_HOME"] = self._environment["CHATLM_HOME"]
        try:
            yield
        finally:
            if before is None:
                del os.environ["CHATLM_HOME"]
            else:
                os.environ["CHATLM_HOME"] = before


def measure(url: str, model: str, prompts: int, tokens: int) -> dict[str, object]:
    """Measure all runs.

    Args:
        url: URL of the server, without `/v1`.
        model: its name on the server.
        prompts: number of prompts; each is answered twice.
        tokens: maximum tokens of a reply.
    """
    name = f"openai:{model}@{url}/v1"
    seconds: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = folder / "prompts.jsonl"
        asked = (
            f"Tell me something about {TOPICS[number % len(TOPICS)]}, number {number}."
            for number in range(prompts)
        )
        file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in asked))
        made: list[Replies] = []
        for in_flight in IN_FLIGHT:
            run = Run(folder / str(in_flight), name, file, tokens, in_flight)
            seconds[in_flight] = run.run_to_end()
            made.append(run.replies())
            line = f"{in_flight} in flight: {len(made[-1])} replies in {seconds[in_flight]:.1f} s"
            print(line, file=sys.stderr)
        again = Run(folder / "killed", name, file, tokens, IN_FLIGHT[-1])
        stored = again.kill_after(prompts)
        again.run_to_end()
        made.append(again.replies())
    replies = len(CONTESTANTS) * prompts
    assert all(len(each) == replies for each in made), "a prompt was not answered"
    return {
        "replies": replies,
        "seconds": seconds,
        "replies_per_second": {each: replies / took for each, took in seconds.items()},
        "killed_after": stored,
        "identical": all(each == made[0] for each in made),
        "different": [
            sum(made[0][place] != each.get(place) for place in made[0]) for each in made[1:]
        ],
    }


def main() -> None:
    """Measure, then print a table, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--prompts", type=int, default=100, help="each is answered twice")
    parser.add_argument("--tokens", type=int, default=48, help="maximum tokens of each reply")
    parser.add_argument("--url", help="URL of another server, without /v1")
    parser.add_argument("--model", default=MODEL, help="the model's name on that server")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.url:
        row = measure(options.url, options.model, options.prompts, options.tokens)
    else:
        os.environ["CHATLM_SERVE_AT_ONCE"] = str(max(IN_FLIGHT))
        with serving() as url:
            row = measure(url, options.model, options.prompts, options.tokens)
    if options.json:
        print(json.dumps(row, indent=2))
        return
    for name, value in row.items():
        print(f"{name:<20}{value}")


if __name__ == "__main__":
    main()
