"""Tools while they run: each in a thread, which is told when nobody waits for it any longer."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlm.chat.tool_process import call_tool
from chatlm.types.parts import ToolCall
from chatlm.types.tools import Tool, ToolCancelled, ToolOutput

log = logging.getLogger(__name__)

STOP_SECONDS = 1.0
"""How long a tool that was stopped may take to end, before it is let go."""


@dataclass
class Question:
    """A question of a running tool; `answered` is set with the answer, None for no answer."""

    text: str
    choices: tuple[str, ...]
    answer: str | None = None
    answered: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class ToolEnvironment:
    """What the tools of one plugin are given in one chat."""

    conversation_id: int
    incognito: bool
    data_folder: Path
    workspace_folders: tuple[Path, ...]
    settings: Any


class ThreadContext:
    """The `ToolContext` of a tool that runs in a thread of this process.

    Args:
        environment: what it is given.
        wake: set when there is something new.
    """

    def __init__(self, environment: ToolEnvironment, wake: threading.Event) -> None:
        self.conversation_id = environment.conversation_id
        self.incognito = environment.incognito
        self.data_folder = environment.data_folder
        self.workspace_folders = environment.workspace_folders
        self.settings = environment.settings
        self.said: tuple[str, float | None] = ("", None)
        """Text and fraction of the last call of `progress`."""
        self.questions: queue.SimpleQueue[Question] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._wake = wake

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the result any longer."""
        return self._stop.is_set()

    def cancel(self) -> None:
        """Tell the tool that nobody waits any longer."""
        self._stop.set()

    def check_cancelled(self) -> None:
        """Raise `ToolCancelled` if nobody waits any longer."""
        if self.cancelled:
            raise ToolCancelled("The user stopped it")

    def progress(self, text: str, fraction: float | None = None) -> None:
        """Note it for the next event."""
        self.said = (str(text), fraction)

    def ask(self, question: str, choices: Sequence[str] = ()) -> str:
        """Wait for the user's answer.

        Raises:
            ToolCancelled: there is none.
        """
        asked = Question(str(question), tuple(choices))
        self.questions.put(asked)
        self._wake.set()
        while not asked.answered.wait(0.1):
            self.check_cancelled()
        self.check_cancelled()
        if asked.answer is None:
            raise ToolCancelled("Nobody answered the question of the tool")
        return asked.answer


class RunningTool:
    """One call, running.

    Args:
        tool: what runs.
        call: the call.
        arguments: its arguments, checked.
        environment: what the tool is given.
        wake: set when there is something new.
        longest: seconds that it may take, if the tool's own limit is not less.
    """

    def __init__(
        self,
        tool: Tool,
        call: ToolCall,
        arguments: Mapping[str, Any],
        environment: ToolEnvironment,
        wake: threading.Event,
        longest: float,
    ) -> None:
        self.tool = tool
        self.call = call
        self.context = ThreadContext(environment, wake)
        self.output: ToolOutput | None = None
        """What it returned; None while it runs, and if it was cancelled."""
        self.started = time.monotonic()
        self.limit = min(tool.timeout or longest, longest)
        """Seconds."""
        self._arguments = arguments
        self._wake = wake
        self._waited = 0.0
        self._thread = threading.Thread(
            target=self._run, name=f"chatlm-tool-{tool.name}", daemon=True
        )
        self._thread.start()

    @property
    def seconds(self) -> float:
        """How long it has been running, without waiting for the user."""
        return time.monotonic() - self.started - self._waited

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    @property
    def is_overdue(self) -> bool:
        """Whether it takes longer than it may."""
        return self.seconds > self.limit

    def answer(self, question: Question, answer: str | None, waited: float) -> None:
        """Answer a question.

        Args:
            question: what was asked.
            answer: None for no answer.
            waited: seconds until the user answered, which do not count.
        """
        self._waited += waited
        question.answer = answer
        question.answered.set()

    def stop(self) -> None:
        """Stop it and wait until it has ended, but not for long."""
        self.context.cancel()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            log.warning("the tool %s goes on though it was stopped", self.tool.name)

    def _run(self) -> None:
        try:
            self.output = call_tool(self.tool, self._arguments, self.context)
        except ToolCancelled as error:
            if not self.context.cancelled:
                self.output = ToolOutput(error.message, is_error=True)
        except BaseException as error:  # such as SystemExit of a tool
            log.exception("the tool %s failed", self.tool.name)
            self.output = ToolOutput(f"{type(error).__name__}: {error}", is_error=True)
        finally:
            self._wake.set()
