"""Runner of the tools that one reply calls: permission, approval, running, storing each result."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from chatlm.chat.images import read_image
from chatlm.chat.tool_run import RunningTool, ToolEnvironment
from chatlm.chat.tool_set import OfferedTool, ToolSet, data_folder, with_chat_tools
from chatlm.chat.untrusted_text import find_copies, mark_messages, texts_from_outside
from chatlm.errors import ChatlmError, StoreError, UsageError
from chatlm.plugin_host.turn_plugins import TurnPlugins
from chatlm.store.store import Store
from chatlm.text import one_line
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.events import (
    Approval,
    ApprovalNeeded,
    Notice,
    ToolEvent,
    ToolFinished,
    ToolPreview,
    ToolProgress,
    ToolQuestion,
    ToolStarted,
)
from chatlm.types.messages import Message, Passage
from chatlm.types.parts import MAX_IMAGES, Image, Part, ToolCall, ToolResult
from chatlm.types.replies import Reply, StopReason, Usage
from chatlm.types.tools import ToolOutput, parse_arguments

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1

TOOL_PASSAGE = "tool_call"
"""Key in `Passage.details` of passages that a tool found, with the id of its call."""

INTERRUPTED = (
    "The program ended while this call ran, so it is not known what it did. It was not run again."
)

LoopEvents = Generator[ToolEvent | Notice, None, None]


@dataclass
class _Slot:
    """One call of a step, and what is known of its result."""

    call: ToolCall
    result: ToolResult | None = None
    images: tuple[Image, ...] = ()


class ToolLoop:
    """Runs the calls of one reply, step by step, and counts what the reply has cost.

    Args:
        store: where the reply is stored.
        plugins: notes each call for the trace.
        tools: the tools and the rules of the chat.
        conversation: the chat, with the turn.
        turn: the turn that is answered.
    """

    def __init__(
        self,
        store: Store,
        plugins: TurnPlugins,
        tools: ToolSet,
        conversation: Conversation,
        turn: Turn,
    ) -> None:
        self.tools = tools
        self._store = store
        self._plugins = plugins
        self._conversation = conversation
        self._turn = turn
        self._own_words = "\n".join(
            text
            for each in (*conversation.turns[: turn.position], turn)
            for text in (each.user.text, each.raw_input)
        )
        self._started = time.monotonic()
        self._waited = 0.0
        """Seconds in which the user was asked."""
        self._outputs = 0
        self._tokens = 0
        self._slots: list[_Slot] = []
        self._reply = Reply(0, 1)
        self._new_images: list[bytes] = []
        self._save_failed = False
        self.was_stopped = False
        """Whether the user stopped the reply while calls were run."""
        self._wake = threading.Event()

    @property
    def reply(self) -> Reply:
        """The reply with all results so far."""
        return self._reply

    def count_output(self, usage: Usage) -> None:
        """Count one output of the model."""
        self._outputs += 1
        self._tokens += usage.completion_tokens

    def limit(self) -> str:
        """Return which limit is reached, in words; empty for none."""
        settings = self.tools.options.settings
        if self._outputs >= settings.max_steps:
            return f"{settings.max_steps} steps"
        if self._tokens >= settings.max_tokens:
            return f"{settings.max_tokens:,} tokens"
        if self._seconds >= settings.max_seconds:
            return f"{settings.max_seconds} seconds"
        return ""

    def run(self, reply: Reply) -> LoopEvents:
        """Run the calls of the last step that have no result yet; each result is stored at once.

        Closing the generator stops what runs and stores that.

        Args:
            reply: ends with the calls; `self.reply` has the results afterwards.
        """
        self._reply = reply
        step = reply.steps[-1]
        unanswered = {id(call) for call in step.unanswered_calls}
        self._slots = [_Slot(part) for part in step.parts if isinstance(part, ToolCall)]
        self._take_old_results(step.parts)
        running: list[tuple[_Slot, RunningTool]] = []
        complete = False
        try:
            for slot in self._slots:
                if id(slot.call) not in unanswered:
                    continue
                allowed = yield from self._decide(slot)
                if allowed is None:
                    continue
                offered, arguments = allowed
                if not offered.tool.read_only:
                    yield from self._finish_all(running)
                # stored before it runs, so that it does not run again if the program ends now
                slot.result = ToolResult(
                    slot.call.id, slot.call.name, INTERRUPTED, True, outcome="interrupted"
                )
                yield from self._save()
                yield ToolStarted(slot.call)
                running.append((slot, self._start(offered, slot.call, arguments)))
                if not offered.tool.read_only:
                    yield from self._finish_all(running)
            yield from self._finish_all(running)
            complete = True
        finally:
            if not complete:
                self._stop_all(running)

    def messages(self, first_step: int) -> list[Message]:
        """Return the messages of the reply's steps in a request, with text from outside marked.

        Args:
            first_step: index of the first step.
        """
        steps = self._reply.steps[first_step:]
        return mark_messages((m for step in steps for m in step.messages()), (), files=False)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started - self._waited

    def _take_old_results(self, parts: tuple[Part, ...]) -> None:
        """Put the results that the step has already to their calls."""
        slot: _Slot | None = None
        for part in parts:
            if isinstance(part, ToolResult):
                slot = next((s for s in self._slots if s.call.id == part.call_id), None)
                if slot is not None:
                    slot.result = part
            elif isinstance(part, Image) and slot is not None:
                slot.images += (part,)

    def _decide(
        self, slot: _Slot
    ) -> Generator[ToolEvent | Notice, None, tuple[OfferedTool, Mapping[str, Any]] | None]:
        """Return the tool and the arguments of a call that may run; else give it a result."""
        call = slot.call
        offered = self.tools.offered.get(call.name)
        if offered is None:
            names = ", ".join(self.tools.offered) or "none"
            yield from self._finish(slot, _error(call, f"There is no such tool. Tools: {names}."))
            return None
        try:
            arguments = parse_arguments(call.arguments)
            problem = offered.tool.problem(arguments)
        except UsageError as error:
            problem = error.message
        except Exception as error:  # a schema that cannot be made
            log.exception("the arguments of the tool %s cannot be checked", call.name)
            problem = f"{type(error).__name__}: {error}"
        if problem:
            yield from self._finish(slot, _error(call, one_line(problem, 1000)))
            return None
        decision = self.tools.decide(offered, arguments)
        if decision.permission == "deny":
            text = f"Not run: denied by {decision.reason}."
            yield from self._finish(slot, _denied(call, text))
            return None
        interrupted = slot.result is not None
        copied = find_copies(arguments, self._outside(), self._own_words)
        if decision.permission == "allow" and not copied and not interrupted:
            return offered, arguments
        event = ApprovalNeeded(
            call,
            arguments,
            offered.tool.description,
            _preview(offered, arguments),
            copied,
            interrupted,
            offered.tool.always_ask,
        )
        asked = time.monotonic()
        yield event
        self._waited += time.monotonic() - asked
        if event.answer is None and interrupted:
            return None
        if event.answer is None or not event.answer.allowed:
            yield from self._finish(slot, _denied(call, _why_denied(event.answer)))
            return None
        if event.answer.for_chat and not event.always:
            yield from self._allow_in_chat(call.name)
        return offered, arguments

    def _outside(self) -> Iterator[Any]:
        """Yield the text from outside that the model has read."""
        history = self._conversation.messages(before=self._turn.position)
        messages = (*history, self._turn.user, *self._reply.messages())
        return texts_from_outside(messages, self._store.passages(self._turn.id))

    def _allow_in_chat(self, name: str) -> Iterator[Notice]:
        """Let a tool run in this chat without asking from now on."""
        chat = self.tools.chat
        allowed = chat.tools.with_permission(name, "allow")
        self.tools = ToolSet(self.tools.tools, self.tools.options, with_chat_tools(chat, allowed))
        try:
            self._store.allow_tool(self._conversation.id, name)
        except StoreError as error:
            log.error("permission not saved: %s", error)
            yield Notice(f"That {name} may run in this chat is not saved. {error}")

    def _start(
        self, offered: OfferedTool, call: ToolCall, arguments: Mapping[str, Any]
    ) -> RunningTool:
        environment = ToolEnvironment(
            self._conversation.id,
            not self._store.on_disk,
            data_folder(offered.plugin),
            self.tools.folders,
            self._plugins.loaded_settings(offered.plugin),
        )
        longest = max(1.0, self.tools.options.settings.max_seconds - self._seconds)
        return RunningTool(offered.tool, call, arguments, environment, self._wake, longest)

    def _finish_all(self, running: list[tuple[_Slot, RunningTool]]) -> LoopEvents:
        """Wait until all running tools have ended, and store their results."""
        while running:
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()
            for slot, tool in list(running):
                done = tool.done  # before its questions, so that none is lost
                while not tool.context.questions.empty():
                    question = tool.context.questions.get()
                    event = ToolQuestion(tool.call, question.text, question.choices)
                    asked = time.monotonic()
                    yield event
                    waited = time.monotonic() - asked
                    self._waited += waited
                    tool.answer(question, event.answer, waited)
                if done:
                    yield from self._finish(slot, *self._result_of(tool))
                    running.remove((slot, tool))
                elif tool.is_overdue:
                    tool.stop()
                    text = f"It did not end within {tool.limit:.0f} seconds and was stopped."
                    result = _error(tool.call, text, "timed out", tool.seconds)
                    yield from self._finish(slot, result)
                    running.remove((slot, tool))
                else:
                    said, fraction = tool.context.said
                    yield ToolProgress(tool.call, tool.seconds, said, fraction)

    def _result_of(self, tool: RunningTool) -> tuple[ToolResult, tuple[Image, ...]]:
        """Return the result of a tool that has ended, and its images."""
        output = tool.output
        if output is None:
            text = "It was stopped before it ended."
            return _error(tool.call, text, "stopped", tool.seconds), ()
        text = output.text
        images: list[Image] = []
        for content in output.images[:MAX_IMAGES]:
            try:
                prepared = read_image(content, "A file of the tool")
            except UsageError as error:
                text += f"\n[{error.message}; it was left out.]"
            else:
                images.append(dataclasses.replace(prepared.image, name=""))
                self._new_images.append(prepared.content)
        if more := output.images[MAX_IMAGES:]:
            text += f"\n[{len(more):,} more images were left out.]"
        if images:
            text += f"\n[{len(images)} image{'s' * (len(images) > 1)}, shown to the user]"
        if output.passages:
            text = "\n\n".join(filter(None, (text, self._store_passages(tool.call, output))))
        result = ToolResult(
            tool.call.id,
            tool.call.name,
            _cut(text.strip("\n"), self.tools.options.settings.max_output),
            output.is_error,
            seconds=round(tool.seconds, 3),
            untrusted=output.untrusted or bool(output.passages),
            source=output.source,
        )
        return result, tuple(images)

    def _store_passages(self, call: ToolCall, output: ToolOutput) -> str:
        """Store passages with the turn and return them, numbered as they can be cited."""
        before = self._store.passages(self._turn.id)
        new = [
            dataclasses.replace(each, details={**each.details, TOOL_PASSAGE: call.id})
            for each in output.passages
        ]
        try:
            self._store.save_passages(self._turn.id, [*before, *new])
        except StoreError as error:
            log.error("passages of a tool not saved: %s", error)
        return "\n\n".join(
            f"[{number}] {passage.source}\n{passage.text}"
            for number, passage in enumerate(new, len(before) + 1)
        )

    def _finish(
        self, slot: _Slot, result: ToolResult, images: tuple[Image, ...] = ()
    ) -> LoopEvents:
        """Store the result of a call, and note it for the trace."""
        slot.result, slot.images = result, images
        yield from self._save()
        offered = self.tools.tools.get(slot.call.name)
        self._plugins.note_tool(
            offered.plugin if offered else "",
            slot.call.name,
            result.seconds or 0.0,
            "" if result.is_error else f"{len(result.text):,} characters",
            one_line(result.text, 200) if result.is_error else "",
        )
        yield ToolFinished(slot.call, result, self._reply)

    def _save(self) -> Iterator[Notice]:
        """Save the reply with all results so far; a failure is reported once."""
        self._put_results()
        images, self._new_images = self._new_images, []
        try:
            self._store.journal_reply(self._reply.id, self._reply.steps, images)
        except StoreError as error:
            log.error("result not saved: %s", error)
            first, self._save_failed = not self._save_failed, True
            if first:
                yield Notice(f"The results of tools are not being saved. {error}")

    def _put_results(self, stop_reason: StopReason = StopReason.TOOL_CALLS) -> None:
        """Put the results into the last step of the reply."""
        *earlier, last = self._reply.steps
        parts: list[Part] = list(last.output)
        for slot in self._slots:
            if slot.result is not None:
                parts += (slot.result, *slot.images)
        step = dataclasses.replace(last, parts=tuple(parts), stop_reason=stop_reason)
        self._reply = dataclasses.replace(self._reply, steps=(*earlier, step))

    def _stop_all(self, running: list[tuple[_Slot, RunningTool]]) -> None:
        """Stop what runs, when nobody pulls events any longer, and store the reply as it is."""
        self.was_stopped = True
        ended = [tool for _, tool in running if tool.done]
        for _, tool in running:
            tool.context.cancel()
        for slot, tool in running:
            tool.stop()
            if tool in ended:
                slot.result, slot.images = self._result_of(tool)
            else:
                text = "The user stopped it before it ended."
                slot.result = _error(tool.call, text, "stopped", tool.seconds)
        self._put_results(StopReason.CANCELLED)
        try:
            self._store.journal_reply(self._reply.id, self._reply.steps, self._new_images)
            self._store.finish_reply(self._reply.id, steps=self._reply.steps)
        except StoreError as error:
            log.error("results not saved: %s", error)


def retrieved_only(passages: list[Passage]) -> list[Passage]:
    """Return the passages of a turn that were retrieved for it, without those that tools found."""
    return [passage for passage in passages if TOOL_PASSAGE not in passage.details]


def _error(
    call: ToolCall, text: str, outcome: Any = "", seconds: float | None = None
) -> ToolResult:
    rounded = None if seconds is None else round(seconds, 3)
    return ToolResult(call.id, call.name, text, True, outcome=outcome, seconds=rounded)


def _denied(call: ToolCall, text: str) -> ToolResult:
    return _error(call, text, "denied")


def _why_denied(answer: Approval | None) -> str:
    if answer is None:
        return "Not run: it needs the user's permission, and nobody was there to give it."
    reason = answer.reason.strip()
    return f"Not run: the user denied it: {reason}" if reason else "Not run: the user denied it."


def _preview(offered: OfferedTool, arguments: Mapping[str, Any]) -> ToolPreview | None:
    """Return what the user sees of a call; None for its arguments."""
    if offered.tool.preview is None:
        return None
    try:
        preview = offered.tool.preview(arguments)
    except ChatlmError as error:
        log.info("no preview of %s: %s", offered.tool.name, error)
        return None
    except Exception:  # of a plugin, which may raise anything
        log.exception("the preview of the tool %s failed", offered.tool.name)
        return None
    return preview if isinstance(preview, ToolPreview) else None


def _cut(text: str, limit: int) -> str:
    """Truncate a text to a number of characters, with a note of what was left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[{len(text) - limit:,} of {len(text):,} characters were left out here]"
