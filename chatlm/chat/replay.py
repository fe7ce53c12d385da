"""Replay: generate a stored reply again from its provenance, and compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from chatlm.chat.reply_methods import CollectsOffers, NoOffers, stream_request
from chatlm.chat.request_builder import provenance
from chatlm.chat.word_diff import DiffSegment, diff_words
from chatlm.errors import UsageError
from chatlm.store.store import Store
from chatlm.text import one_line
from chatlm.types.engine import Engine
from chatlm.types.events import Delta, EngineEvent, Finished, PromptReady
from chatlm.types.messages import Message, Reply, ReplyStep, StopReason, Usage
from chatlm.types.parts import Part, Reasoning, Text, ToolCall, reasoning_of, text_of
from chatlm.types.provenance import Provenance, describe_old_weights
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


ReplayEvent = ReplayStarted | EngineEvent | ReplayFinished


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
) -> Generator[ReplayEvent, None, None]:
    """Run the request of a stored reply again, with its settings and seed; no chat changes.

    Yields `ReplayStarted`, the engine's events, then `ReplayFinished`. Pulled and closed like
    `Engine.stream`. If a plugin gave the reply, the engine answers the same messages. No tool runs:
    each step of a reply with tools reads the recorded results, as long as the calls are the same.

    Args:
        store: where the reply is stored.
        engine: may have another model than the original.
        reply_id: the reply.
        adapter: replaces the reply's adapter; "" for none.
        plugins: offer the method that made the reply, if one did.

    Raises:
        UsageError: the reply has no provenance.
        StoreError: the reply was not found.
        EngineError: the generation failed.
    """
    made_by = require_provenance(store, reply_id)
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
    offers = plugins or NoOffers()
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
    last_step = _steps_with_parts(original)[-1]
    interrupted = original.stop_reason in _INTERRUPTED
    texts = _texts_before(original, prefix, len(recorded))
    limits = {"text": len(original.text), "reasoning": len(original.reasoning)}
    usage, reason, fitted = Usage(), StopReason.CANCELLED, PromptReady(0, 0)
    notes: list[str] = []
    for number, (step, each) in enumerate([*steps, (last_step, request)], 1):
        is_last = number > len(steps)
        calls: Sequence[ToolCall] = ()
        whole = True
        if is_last and number > 1:
            for part in prefix:  # what the last request continued
                if isinstance(part, Text | Reasoning):
                    texts[part.type] += part.text
        with closing(stream_request(engine, each, offers)) as events:
            for event in events:
                yield event
                match event:
                    case PromptReady():
                        fitted = event
                    case Delta(text=piece, withheld=held, part=part_type):
                        texts[part_type], usage = texts[part_type] + piece, event.usage
                        seen = texts | {part_type: texts[part_type] + held}
                        if (
                            is_last
                            and interrupted
                            and all(len(seen[kind]) >= limits[kind] for kind in limits)
                        ):
                            texts = {kind: seen[kind][: limits[kind]] for kind in limits}
                            whole = False
                            break
                    case Finished(stop_reason=reason, usage=usage, tool_calls=calls):
                        pass
        if whole and (note := _compare_calls(number, step, calls)):
            notes.append(note)
            break
    same_text = texts == {"text": original.text, "reasoning": original.reasoning}
    yield ReplayFinished(
        original=original,
        provenance=made_by,
        text=texts["text"],
        reasoning=texts["reasoning"],
        stop_reason=reason.if_answered(bool(texts["text"].strip() or calls)),
        usage=usage,
        same_text=same_text and not notes,
        same_prompt=fitted.prompt_hash == made_by.prompt_hash,
        mismatches=(
            *notes,
            *_find_mismatches(made_by, provenance(request, engine.info, fitted)),
        ),
    )


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


def _compare_calls(number: int, step: ReplyStep, calls: Sequence[ToolCall]) -> str:
    """Return how the calls of a step differ from the recorded ones, whose ids do not matter."""
    before, now = (
        ", ".join(f"{call.name} {one_line(call.arguments, 200)}" for call in each) or "none"
        for each in ([part for part in step.parts if isinstance(part, ToolCall)], calls)
    )
    return "" if before == now else f"calls of tools in step {number}: {before} → {now}"


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
