"""Read documents in a child process with limits on time and memory.

Any of the parsers can be kept busy for minutes by a file made for it: libxml2 compares all
attributes of a tag with each other, Markdown nests without end, a PDF refers to itself. The child
serves many files, so that a folder of small ones costs one start.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Thread
from typing import IO, Any, TextIO, cast

from chatlm_rag.documents import reader
from chatlm_rag.documents.document import Document, Problem, Section, UnreadableFile

MAX_CPU_SECONDS = 120
"""CPU time for one file."""


MAX_MEMORY_BYTES = 4_000_000_000
"""Address space of the child process."""


TOO_EXPENSIVE = "takes too long or too much memory to read"


WALL_CLOCK_FACTOR = 5
"""Limit on the elapsed time, as a multiple of that on CPU time: other programs run too."""


_CANCEL_INTERVAL = 0.1
"""Seconds between two looks at whether the user stopped the work."""


class DocumentReader:
    """Reader of files in a child process, which starts with the first file; close it at the end.

    Args:
        check_cancelled: called while a file is read; may raise, which ends the child.
    """

    def __init__(self, check_cancelled: Callable[[], None] = lambda: None) -> None:
        self._check_cancelled = check_cancelled
        self._child: _Child | None = None

    def __enter__(self) -> DocumentReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def read(self, path: Path, source: str) -> Iterator[Document | Problem]:
        """Yield the documents of a file, and a `Problem` for each part that cannot be read.

        Nothing in the file is executed, and nothing it links to is fetched.

        Args:
            path: the file.
            source: the name of its document.
        """
        try:
            if reader.is_corpus(path):  # read line by line, and may be large
                yield from reader.read_corpus(path)
            else:
                yield self._read_whole(path, source)
        except UnreadableFile as error:
            yield Problem("", str(error))
        except OSError as error:
            yield Problem("", f"cannot be read: {error.strerror}")

    def _read_whole(self, path: Path, source: str) -> Document:
        if self._child is None:
            self._child = _Child(MAX_CPU_SECONDS)
        try:
            answer = self._child.ask({"path": str(path), "source": source}, self._check_cancelled)
        except BaseException:
            self.close()
            raise
        if "error" in answer:
            raise UnreadableFile(answer["error"])
        sections = tuple(Section(**section) for section in answer.pop("sections"))
        return Document(sections=sections, **answer)


class _Child:
    """The child process and a thread that receives its answers."""

    def __init__(self, cpu_seconds: int) -> None:
        self._seconds = cpu_seconds * WALL_CLOCK_FACTOR
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(cpu_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._stdin = cast("IO[bytes]", self._process.stdin)
        self._stdout = cast("IO[bytes]", self._process.stdout)
        self._answers: queue.Queue[bytes] = queue.Queue()
        Thread(target=self._receive, name="rag-reader", daemon=True).start()

    def ask(self, request: dict[str, str], check_cancelled: Callable[[], None]) -> dict[str, Any]:
        """Return the answer of the child to a request.

        Raises:
            UnreadableFile: the child died, or does not answer in time.
        """
        try:
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()
        except OSError as error:
            raise UnreadableFile(TOO_EXPENSIVE) from error
        for _ in range(round(self._seconds / _CANCEL_INTERVAL)):
            check_cancelled()
            try:
                line = self._answers.get(timeout=_CANCEL_INTERVAL)
            except queue.Empty:
                continue
            if not line.endswith(b"\n"):
                raise UnreadableFile(TOO_EXPENSIVE)
            answer: dict[str, Any] = json.loads(line)
            return answer
        raise UnreadableFile(TOO_EXPENSIVE)

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        with suppress(OSError):  # what was not sent yet cannot be
            self._stdin.close()

    def _receive(self) -> None:
        with self._stdout as answers:
            for line in answers:
                self._answers.put(line)
        self._answers.put(b"")


def main() -> None:
    """Answer each line of stdin, a JSON object with `path` and `source`, with a line on stdout.

    `argv[1]` is the limit on CPU time for one file in seconds.
    """
    logging.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this
    _limit_memory()
    # whatever a library prints must not get between the answers
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        for line in sys.stdin.buffer:
            _limit_cpu(int(sys.argv[1]))
            _send(answers, _answer(**json.loads(line)))


def _answer(path: str, source: str) -> dict[str, Any]:
    try:
        return asdict(reader.read_whole(Path(path), source))
    except UnreadableFile as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": f"cannot be read: {error.strerror}"}
    except MemoryError:
        return {"error": "takes too much memory to read"}
    except RecursionError:
        return {"error": "is nested too deeply"}
    except Exception as error:  # a damaged file can make a library raise anything
        return {"error": f"is damaged ({type(error).__name__})"}


def _send(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_cpu(seconds: int) -> None:
    """Let the kernel end the process when it has used that many more seconds."""
    try:
        import resource
    except ImportError:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(usage.ru_utime + usage.ru_stime) + seconds
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


if __name__ == "__main__":
    main()
