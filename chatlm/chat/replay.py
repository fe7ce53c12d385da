"""Replay: generate a stored reply again from its provenance, and compare."""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import zip_longest

from chatlm.chat.live_tools import LiveTools
from chatlm.chat.reply_methods import CollectsOffers, NoOffers, stream_request
from chatlm.chat.reply_writer import ReplyWriter
from chatlm.chat.request_builder import provenance
from chatlm.chat.word_diff import DiffSegment, diff_words
from chatlm.errors import UsageError
from chatlm.store.store import Store
from chatlm.text import one_line
from chatlm.types.engine import Engine
from chatlm.types.events import Delta, EngineEvent, Finished, Notice, PromptReady, ToolEvent
from chatlm.types.messages import Message
from chatlm.types.parts import Part, Reasoning, Text, ToolCall, ToolResult, reasoning_of, text_of
from chatlm.types.provenance import Provenance, describe_old_weights
from chatlm.types.replies import Reply, ReplyStep, StopReason, Usage
from chatlm.types.requests import Request

_INTERRUPTED = (StopReason.CANCELLED, StopReason.ERROR, StopReason.CRITERION, None)
"""Stop reasons that a replay cannot reproduce; it stops at the length of the original."""


@dataclass(frozen=True)
class ReplayStarted:
    """The first event."""

    original: Reply
    provenance: Provenance
    """The provenance of the original."""
    reply_prefix: str
    """Text of the original that the request continued."""


@dataclass(frozen=True)
class ReplayFinished:
    """The last event."""

    original: Reply
    provenance: Provenance
    """The provenance of the original."""
    text: str
    """The whole text of the replay; of an interrupted reply, as much as the original has."""
    stop_reason: StopReason
    usage: Usage
    same_text: bool
    """Whether text and reasoning are the original's."""
    same_prompt: bool
    """Whether the prompt has the same tokens."""
    mismatches: tuple[str, ...]
    """Each difference in model, settings and versions, in a sentence."""
    reasoning: str = ""
    """The thoughts of the replay, as `text`."""

    @property
    def thoughts_differ(self) -> bool:
        """Whether it thought something else."""
        return self.reasoning != self.original.reasoning

    def diff(self) -> list[DiffSegment]:
        """Compare the answers word by word; where the thoughts differ, they come first."""
        original = self.original
        if not self.thoughts_differ:
            return diff_words(original.text, self.text)
        before, after = (
            "\n\n".join(filter(None, texts))
            for texts in ((original.reasoning, original.text), (self.reasoning, self.text))
        )
        return diff_words(before, after)


ReplayEvent = ReplayStarted | EngineEvent | ToolEvent | Notice | ReplayFinished


def require_provenance(store: Store, reply_id: int) -> Provenance:
    """Load the provenance of a reply.

    Raises:
        UsageError: it was not saved.
        StoreError: the reply was not found.
    """
    stored = store.provenance(reply_id)
    if stored is None:
        raise UsageError(
            "This reply has no stored provenance, so it cannot be replayed",
            hint="It was imported or written by an older version. Regenerate it to replay it.",
        )
    return stored


def replay(
    store: Store,
    engine: Engine,
    reply_id: int,
    *,
    adapter: str | None = None,
    plugins: CollectsOffers | None = None,
    live: LiveTools | None = None,
) -> Generator[ReplayEvent, None, None]:
    """Run the request of a stored reply again, with its settings and seed; no chat changes.

    Yields `ReplayStarted`, the engine's events, then `ReplayFinished`. Pulled and closed like
    `Engine.stream`. If a plugin gave the reply, the engine answers the same messages. Each step of
    a reply with tools reads the recorded results, as long as the calls are the same; no tool runs,
    unless `live` runs them, whose events are answered like those of a session.

    Args:
        store: where the reply is stored.
        engine: may have another model than the original.
        reply_id: the reply.
        adapter: replaces the reply's adapter; "" for none.
        plugins: offer the method that made the reply, if one did.
        live: runs the tools that the model calls, so that it reads new results.

    Raises:
        UsageError: the reply has no provenance, or had no tools that could run anew.
        StoreError: the reply was not found.
        EngineError: the generation failed.
    """
    made_by = require_provenance(store, reply_id)
    if live is not None and not made_by.tools:
        raise UsageError(
            "This reply had no tools that could run again", hint="Replay it without --live."
        )
    original = store.reply(reply_id)
    last = made_by.messages[-1] if made_by.messages else None
    prefix = last.parts if last is not None and last.role == "assistant" else ()
    so_far = text_of(prefix)
    # without its tools, a step with calls cannot be repeated
    recorded = _recorded_steps(made_by.messages, original) if made_by.tools else []
    yield ReplayStarted(original, made_by, so_far if len(recorded) == 0 else "")
    request = Request(
        made_by.messages,
        made_by.sampling,
        adapter=made_by.adapter if adapter is None else adapter or None,
        tools=made_by.tools,
        tool_choice="auto" if recorded else made_by.tool_choice,
        parallel_tool_calls=made_by.parallel_tool_calls,
        images=store.images,
    )
    steps = [
        (
            step,
            dataclasses.replace(
                request,
                messages=made_by.messages[:end],
                tool_choice=made_by.tool_choice if number == 0 else "auto",
            ),
        )
        for number, (end, step) in enumerate(recorded)
    ]
    steps.append((_steps_with_parts(original)[-1], request))
    output = _Output(engine, plugins or NoOffers(), original)
    output.texts = _texts_before(original, prefix, len(recorded))
    if live is None:
        notes = yield from _replay_recorded(steps, prefix, output)
    else:
        first = steps[0][1]
        notes = yield from _replay_live(first, () if recorded else prefix, output, live)
    texts = output.texts
    same_text = texts == {"text": original.text, "reasoning": original.reasoning}
    answered = bool(texts["text"].strip() or output.calls)
    yield ReplayFinished(
        original=original,
        provenance=made_by,
        text=texts["text"],
        reasoning=texts["reasoning"],
        stop_reason=output.stop_reason.if_answered(answered),
        usage=output.usage,
        same_text=same_text and not notes,
        same_prompt=output.prompt.prompt_hash == made_by.prompt_hash,
        mismatches=(
            *notes,
            *_find_mismatches(made_by, provenance(request, engine.info, output.prompt)),
        ),
    )


class _Output:
    """What the model writes in a replay, over all its steps.

    Args:
        engine: runs the requests.
        offers: of the method that made the reply, if one did.
        original: ends the replay where the original was interrupted.
    """

    def __init__(self, engine: Engine, offers: CollectsOffers, original: Reply) -> None:
        self.texts = {"text": "", "reasoning": ""}
        self.calls: Sequence[ToolCall] = ()
        """Of the newest step."""
        self.usage = Usage()
        self.stop_reason = StopReason.CANCELLED
        self.prompt = PromptReady(0, 0)
        self.original = original
        self._engine, self._offers = engine, offers
        self._limits = {"text": len(original.text), "reasoning": len(original.reasoning)}
        self._is_interrupted = original.stop_reason in _INTERRUPTED

    def stream(
        self, request: Request, *, is_last: bool, writer: ReplyWriter | None = None
    ) -> Generator[EngineEvent, None, bool]:
        """Run the request of one step.

        Args:
            request: of the step.
            is_last: whether the original was interrupted in it, if it was.
            writer: collects the events as the parts of a reply.

        Returns:
            whether the step is whole.
        """
        self.calls = ()
        texts = self.texts
        with closing(stream_request(self._engine, request, self._offers)) as events:
            for event in events:
                yield event
                if writer is not None and isinstance(event, Delta | Finished):
                    writer.add(event)
                match event:
                    case PromptReady():
                        self.prompt = event
                    case Delta(text=piece, withheld=held, part=kind):
                        texts[kind], self.usage = texts[kind] + piece, event.usage
                        seen = texts | {kind: texts[kind] + held}
                        limits = self._limits
                        if (
                            is_last
                            and self._is_interrupted
                            and all(len(seen[each]) >= limits[each] for each in limits)
                        ):
                            self.texts = {each: seen[each][: limits[each]] for each in limits}
                            return False
                    case Finished():
                        self.stop_reason, self.usage = event.stop_reason, event.usage
                        self.calls = event.tool_calls
        return True


def _replay_recorded(
    steps: Sequence[tuple[ReplyStep, Request]], prefix: Sequence[Part], output: _Output
) -> Generator[EngineEvent, None, list[str]]:
    """Replay each step with the recorded results, until the calls differ.

    Args:
        steps: the recorded steps, each with its request.
        prefix: what the last request continued.
        output: collects what the model writes.

    Returns:
        how the calls differ.
    """
    for number, (step, request) in enumerate(steps, 1):
        is_last = number == len(steps)
        if is_last and number > 1:
            for part in prefix:
                if isinstance(part, Text | Reasoning):
                    output.texts[part.type] += part.text
        whole = yield from output.stream(request, is_last=is_last)
        if whole and (note := _compare_calls(number, step.parts, output.calls)):
            return [note]
    return []


def _replay_live(
    request: Request, prefix: Sequence[Part], output: _Output, live: LiveTools
) -> Generator[ReplayEvent, None, list[str]]:
    """Replay the reply with tools that run anew, until the model calls none.

    Args:
        request: of the first step.
        prefix: what it continues.
        output: collects what the model writes.
        live: runs the tools.

    Returns:
        how calls and results differ.
    """
    original, opening = _steps_with_parts(output.original), request.messages
    if opening and opening[-1].role == "assistant":
        opening = opening[:-1]
    notes = [f"tool {name}: not there any longer" for name in live.missing(request.tools)]
    steps = (ReplyStep(tuple(prefix)),) if prefix else ()
    with closing(live.begin(request.tools, steps)) as running:
        images: Mapping[str, bytes] = ChainMap(
            {},
            running.images,  # type: ignore[arg-type]  # only the first is changed
            request.images,  # type: ignore[arg-type]
        )
        while True:
            is_last = len(running.reply.steps) >= len(original)
            writer = running.writer()
            whole = yield from output.stream(request, is_last=is_last, writer=writer)
            writer.close()
            running.reply = writer.reply
            if not whole or not output.calls:
                break
            yield from running.run_tools()
            if limit := running.loop.limit():
                output.stop_reason = StopReason.TOOL_LIMIT
                notes.append(f"limit: {limit} with tools")
                break
            messages = (*opening, *running.loop.messages(0))
            request = dataclasses.replace(
                request, messages=messages, tool_choice="auto", images=images
            )
        now = _steps_with_parts(running.reply)
    for number, (step, again) in enumerate(zip_longest(original, now, fillvalue=ReplyStep()), 1):
        calls = [part for part in again.parts if isinstance(part, ToolCall)]
        if note := _compare_calls(number, step.parts, calls):
            notes.append(note)
        else:
            notes += _compare_results(number, step, again)
    return notes


def _steps_with_parts(reply: Reply) -> tuple[ReplyStep, ...]:
    """Return the steps, without those at the end in which nothing was generated."""
    steps = reply.steps
    while len(steps) > 1 and not steps[-1].parts:
        steps = steps[:-1]
    return steps


def _recorded_steps(messages: Sequence[Message], original: Reply) -> list[tuple[int, ReplyStep]]:
    """Return the steps whose calls and results the last request has.

    Returns:
        each with the number of messages before it; empty unless all earlier steps are there.
    """
    earlier = _steps_with_parts(original)[:-1]
    end = len(messages) - bool(messages and messages[-1].role == "assistant")
    found: list[tuple[int, ReplyStep]] = []
    for step in reversed(earlier):
        roles = [message.role for message in messages[max(0, end - 2) : end]]
        if roles != ["assistant", "tool"]:
            return []
        end -= 2
        found.insert(0, (end, step))
    return found


def _texts_before(original: Reply, prefix: Sequence[Part], replayed: int) -> dict[str, str]:
    """Return the text and reasoning that the reply had before what is replayed.

    Args:
        original: the reply.
        prefix: the parts of its last step that the request continued.
        replayed: how many of its earlier steps are replayed too.
    """
    if replayed:
        return {"text": "", "reasoning": ""}
    earlier = [part for step in original.steps[:-1] for part in step.parts]
    return {"text": text_of([*earlier, *prefix]), "reasoning": reasoning_of([*earlier, *prefix])}


def _compare_calls(number: int, then: Sequence[Part], calls: Sequence[ToolCall]) -> str:
    """Return how the calls of a step differ from the recorded ones, whose ids do not matter."""
    before, now = (
        ", ".join(f"{call.name} {one_line(call.arguments, 200)}" for call in each) or "none"
        for each in ([part for part in then if isinstance(part, ToolCall)], calls)
    )
    return "" if before == now else f"calls of tools in step {number}: {before} → {now}"


def _compare_results(number: int, then: ReplyStep, now: ReplyStep) -> Iterator[str]:
    """Yield how the results of a step's calls, which are the same, differ."""
    before, after = (
        [part for part in step.parts if isinstance(part, ToolResult)] for step in (then, now)
    )
    for old, new in zip_longest(before, after):
        texts = ["none" if each is None else one_line(each.text, 200) for each in (old, new)]
        if old is None or new is None or (old.text, old.is_error) != (new.text, new.is_error):
            name = (old or new).name
            yield f"result of {name} in step {number}: {texts[0]} → {texts[1]}"


def _find_mismatches(then: Provenance, now: Provenance) -> Iterator[str]:
    if not then.model:
        yield f"model: none (reply written by a plugin) → {now.model}"
        return
    facts = [
        ("model", then.model, now.model),
        ("adapter", then.adapter or "none", now.adapter or "none"),
        ("prompt format", then.prompt_format, now.prompt_format),
        ("device", then.device, now.device),
        ("weights", describe_old_weights(then.weights), now.weights),
        ("KV cache", then.kv_cache or "not rounded", now.kv_cache or "not rounded"),
        ("context", str(then.context_length), str(now.context_length)),
    ]
    facts += [
        (name, then.versions.get(name, "none"), now.versions.get(name, "none"))
        for name in sorted({*then.versions, *now.versions})
    ]
    for name, before, after in facts:
        if before != after:
            yield f"{name}: {before or 'unknown'} → {after or 'unknown'}"
    if then.prompt_hash != now.prompt_hash:
        yield "prompt: different tokens"
    for name in then.plugin_processors:
        yield f"{name}: added by a plugin; not applied in the replay"
