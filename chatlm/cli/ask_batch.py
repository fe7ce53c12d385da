"""`chatlm ask --batch`: answer a file of requests together."""

from __future__ import annotations

import functools
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from chatlm.chat.answer_file import AnswerFile
from chatlm.chat.batch_answers import BatchRun, CommonSettings
from chatlm.chat.request_lines import FileRequest, read_requests
from chatlm.errors import EXIT_INTERRUPTED, UsageError
from chatlm.plugin_kit.progress import graceful_interrupt
from chatlm.text import escape_controls, one_line
from chatlm.types.sampling import Sampling

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from chatlm.config.config import Config
    from chatlm.plugin_host.host import PluginHost

LINE_SECONDS = 10.0
"""Seconds between two lines about the progress where stderr is no terminal."""


def answer_file(
    path: Path,
    output: Path,
    common: CommonSettings,
    settings: Config,
    plugins: PluginHost,
    *,
    at_once: int,
    command: Sequence[str],
) -> None:
    """Answer the requests of a file that have no answer in the output yet.

    Args:
        path: of the requests.
        output: of the answers.
        common: what the requests have in common.
        settings: the user's.
        plugins: are called for each request.
        at_once: how many requests are answered at once, at most.
        command: the words of this command, after `chatlm`.

    Raises:
        ChatlmError: one of the files cannot be used.
        SystemExit: Ctrl-C was pressed, or requests failed.
    """
    from chatlm.chat.side_chats import InMemorySideChats
    from chatlm.engines.open import make_model_opener

    requests = read_requests(path)
    digests = {request.id: common.digest(request) for request in requests}
    with AnswerFile(output) as answers:
        answered = answers.resume(digests)
        waiting = [request for request in requests if request.id not in answered]
        if answered:
            click.echo(f"{len(answered):,} of {len(requests):,} are answered already.", err=True)
        if not waiting:
            return
        with (
            _progress(len(waiting)) as progress,
            InMemorySideChats(
                settings, plugins, make_model_opener(settings, plugins), progress.tell
            ) as chats,
        ):
            run = BatchRun(chats, common, at_once)
            count = _Count(len(waiting))
            interrupted = _run(run, waiting, answers, plugins, progress, count)
    name = one_line(str(output), 80)
    click.echo(f"{count.summary} in {name}", err=True)
    if interrupted:
        again = escape_controls(shlex.join(["chatlm", *command]))
        click.echo(f"Stopped; what is done is kept. Go on: {again}", err=True)
        sys.exit(EXIT_INTERRUPTED)
    if count.failed or count.misfits:
        if count.failed:
            again = "ask them again" if count.failed > 1 else "ask it again"
            click.echo(f"The reasons are in `error`. The same command will {again}.", err=True)
        sys.exit(1)


class _Count:
    """Counts what came of the requests."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.answered = self.failed = self.misfits = 0

    @property
    def done(self) -> int:
        return self.answered + self.failed

    @property
    def summary(self) -> str:
        """Such as `7 answers, 1 that does not fit its schema, and 2 failures`."""
        parts = [f"{self.answered:,} answer{'s' * (self.answered != 1)}"]
        if self.misfits:
            verb = "do not fit their schemas" if self.misfits > 1 else "does not fit its schema"
            parts.append(f"of which {self.misfits:,} {verb}")
        if self.failed:
            parts.append(f"{self.failed:,} failure{'s' * (self.failed != 1)}")
        return ", ".join(parts)


def check_no_method(*layers: Sampling) -> None:
    """Refuse a method that would make all answers of a batch.

    Args:
        layers: the settings, those that take priority first.

    Raises:
        UsageError: one is set.
    """
    merged = functools.reduce(Sampling.with_fallback, layers)
    if merged.reply_method:
        raise UsageError(
            f"--batch generates each answer once, and cannot use the method {merged.method}.",
            hint="Add --method off, or ask without --batch.",
        )


def _run(
    run: BatchRun,
    requests: Sequence[FileRequest],
    answers: AnswerFile,
    plugins: PluginHost,
    progress: _Progress,
    count: _Count,
) -> bool:
    """Answer the requests; returns whether Ctrl-C was pressed."""
    with graceful_interrupt() as should_stop, closing(run.answers(requests)) as results:
        for answer in results:
            if answer is not None:
                answers.add(answer)
                count.failed += answer.error is not None
                count.answered += answer.error is None
                count.misfits += answer.error is None and answer.misfits
                for fault in plugins.take_faults():
                    progress.tell(str(fault))
            progress.update(count.done, run.new_tokens)
            if should_stop():
                return count.done < count.total
    return False


class _Progress(Protocol):
    def tell(self, text: str) -> None:
        """Show a line."""

    def update(self, done: int, tokens: int) -> None:
        """Show how many requests are done, and how many tokens were generated for all."""


class _Rate:
    """Tokens per second and the seconds that are left, since the first token."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._started = 0.0

    def describe(self, done: int, tokens: int) -> str:
        now = time.monotonic()
        if not tokens or not self._started:
            self._started = now
            return ""
        seconds = now - self._started
        text = f"{tokens / seconds:,.0f} tokens/s" if seconds > 0 else ""
        if not done or done == self._total:
            return text
        return f"{text}, {_describe_seconds(seconds / done * (self._total - done))} left"


def _describe_seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


@contextmanager
def _progress(total: int) -> Iterator[_Progress]:
    """Show a bar on a terminal, else a line now and then; on stderr."""
    if not sys.stderr.isatty():
        yield _Lines(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(24), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress, progress.add_task("", total=total), total)


class _Bar:
    def __init__(self, progress: Progress, task: TaskID, total: int) -> None:
        self._progress = progress
        self._task = task
        self._rate = _Rate(total)

    def tell(self, text: str) -> None:
        self._progress.console.print(escape_controls(text), markup=False, highlight=False)

    def update(self, done: int, tokens: int) -> None:
        description = self._rate.describe(done, tokens)
        self._progress.update(self._task, completed=done, description=description)


class _Lines:
    def __init__(self, total: int) -> None:
        self._total = total
        self._rate = _Rate(total)
        self._next = time.monotonic() + LINE_SECONDS

    def tell(self, text: str) -> None:
        click.echo(escape_controls(text), err=True)

    def update(self, done: int, tokens: int) -> None:
        rate = self._rate.describe(done, tokens)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            self.tell(f"{done:,} of {self._total:,}" + (f", {rate}" if rate else ""))
