"""Building the request for a turn: history, passages and plugins' adjustments."""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

from chatlm.chat.untrusted_text import mark_messages
from chatlm.errors import ChatlmError, ContextTooLong, UsageError
from chatlm.plugin_host.trace_diff import callable_name
from chatlm.plugin_host.turn_plugins import TurnPlugins
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.engine import Engine, EngineInfo
from chatlm.types.events import PromptReady
from chatlm.types.messages import Message, Passage
from chatlm.types.parts import (
    File,
    Image,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    merge_texts,
)
from chatlm.types.provenance import Call, Provenance
from chatlm.types.replies import Reply
from chatlm.types.requests import Request, ToolDefinition
from chatlm.types.sampling import DEFAULT_SAMPLING, Sampling
from chatlm.version import version


def build_request(
    conversation: Conversation,
    turn: Turn,
    passages: Sequence[Passage],
    *,
    engine: Engine,
    plugins: TurnPlugins,
    sampling: Sampling,
    config_sampling: Sampling,
    adapter: str | None = None,
    logprobs: int | None = None,
    continue_from: Reply | None = None,
    regenerate: bool = False,
    tools: Sequence[ToolDefinition] = (),
    tool_choice: str = "auto",
    images: Mapping[str, bytes] | None = None,
) -> Request:
    """Build the request for a turn.

    Args:
        conversation: the chat, with the turn.
        turn: the turn to answer.
        passages: the passages retrieved for it.
        engine: the engine that will run it.
        plugins: the plugins whose hooks are called.
        sampling: the user's settings for the chat; what they leave open plugins may set.
        config_sampling: the user's settings for all chats, for what is open then.
        adapter: the user's choice, "" for none, which plugins cannot change; None leaves it to
            plugins.
        logprobs: as `Request.logprobs`.
        continue_from: the reply to continue; None for a new one.
        regenerate: whether the turn has another reply; a model that is greedy by default would
            repeat it, so it samples, unless the user set the temperature.
        tools: what the model may call; then text from outside is marked as data.
        tool_choice: as `Request.tool_choice`.
        images: as `Request.images`; None for none.

    Returns:
        every setting is set, except the seed and what the engine's defaults leave open.
    """
    messages = mark_messages(
        _with_reply(build_messages(conversation, turn, passages, plugins), continue_from),
        passages if tools else (),
        files=bool(tools),
    )
    request: Request = plugins.call_hook(
        "adjust_request",
        request=Request(
            tuple(describe_old_parts(messages, engine.info, _only_retrieved(turn, passages))),
            sampling,
            adapter or None,
            adapter_fixed=adapter is not None,
            logprobs=logprobs,
            tools=tuple(tools),
            tool_choice=tool_choice if tools else "auto",
            # a store without images may get some from tools before they are read
            images=with_contents({} if images is None else images, passages),
        ),
        conversation=conversation,
        turn=turn,
        passages=passages,
        engine=engine,
    )
    settings = request.sampling.with_fallback(config_sampling)
    defaults = engine.info.default_sampling
    if regenerate and defaults.temperature == 0:
        settings = settings.with_fallback(Sampling(temperature=DEFAULT_SAMPLING.temperature))
    return dataclasses.replace(
        request,
        sampling=settings.with_fallback(defaults),
        adapter=(request.adapter if adapter is None else adapter) or None,
    )


def message_from_input(conversation: Conversation, raw_input: str, plugins: TurnPlugins) -> str:
    """Return the message for what the user typed, as the first plugin rewrites it, if any does.

    Raises:
        UsageError: that plugin refuses it.
    """
    typed = {"conversation": conversation, "text": raw_input}
    facts = partial(plugins.call_hook, "describe_text", **typed)
    message: str | UsageError = plugins.call_hook("write_message", raw_input, **typed, facts=facts)
    if isinstance(message, UsageError):
        raise message
    return message


def retrieve_passages(
    conversation: Conversation, turn: Turn, plugins: TurnPlugins
) -> list[Passage]:
    """Let all plugins retrieve passages for what the user typed."""
    asked = turn.user.with_text(turn.display_text)
    passages: list[Passage] = plugins.call_hook(
        "retrieve_passages", conversation=conversation, message=asked
    )
    return passages


def build_messages(
    conversation: Conversation, turn: Turn, passages: Sequence[Passage], plugins: TurnPlugins
) -> list[Message]:
    """Return the first plugin's messages for the turn, else the default ones."""
    usual = default_messages(conversation, turn, passages)
    messages: list[Message] = plugins.call_hook(
        "build_messages", usual, conversation=conversation, turn=turn, passages=passages
    )
    return messages


def default_messages(
    conversation: Conversation, turn: Turn, passages: Sequence[Passage]
) -> list[Message]:
    """Return the history and the user's message.

    Passages go into that message, so that the tokens of the history stay in the prompt cache.
    """
    history = list(conversation.messages(before=turn.position))
    if not passages:
        return [*history, turn.user]
    sources: list[Part] = []
    for number, passage in enumerate(passages, start=1):
        head = "Sources:\n\n" if number == 1 else "\n\n"
        sources.append(Text(f"{head}[{number}] {passage.source}\n{passage.text}"))
        # each once: two passages may be of the same page
        sources += [image for image in passage.images if image not in sources]
    parts = merge_texts((*sources, Text("\n\n"), *turn.user.parts))
    return [*history, Message("user", parts, turn.user.pinned)]


def with_contents(stored: Mapping[str, bytes], passages: Iterable[Passage]) -> Mapping[str, bytes]:
    """Return the bytes of stored images and of those that came with passages, by hash."""
    new = {key: content for passage in passages for key, content in passage.contents.items()}
    # a ChainMap reads a stored image only when it is asked for, and writes to the first map alone
    return ChainMap(new, stored) if new else stored  # type: ignore[arg-type]


def _only_retrieved(turn: Turn, passages: Iterable[Passage]) -> frozenset[str]:
    """Return the hashes of the images that came with passages alone, not from the user."""
    attached = {part.sha256 for part in turn.user.parts if isinstance(part, Image)}
    found = {image.sha256 for passage in passages for image in passage.images}
    return frozenset(found - attached)


def describe_old_parts(
    messages: Sequence[Message], info: EngineInfo, retrieved: Collection[str] = ()
) -> list[Message]:
    """Replace parts that the engine cannot take by text; leave out images of tools, whose results
    mention them.

    These are tool calls that were never run, since servers and templates want the result of each;
    and images and files that the engine does not accept, save those that the user attached to the
    newest message. So a chat with a picture goes on with a model that cannot see; one that is asked
    about a new one refuses it.

    Args:
        messages: of the request.
        info: of the engine.
        retrieved: hashes of the images that came with passages, which the user did not attach.
    """
    newest = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)
    run = {
        part.call_id
        for message in messages
        for part in message.parts
        if isinstance(part, ToolResult)
    }

    def is_described(part: Part, index: int) -> bool:
        if isinstance(part, ToolCall):
            return index != newest and part.id not in run
        if not isinstance(part, Image | File) or part.type in info.accepts:
            return False
        return index != newest or (isinstance(part, Image) and part.sha256 in retrieved)

    def describe(message: Message, index: int) -> Message:
        described = [is_described(part, index) for part in message.parts]
        if not any(described):
            return message
        parts = (
            _describe(part) if changes else part
            for part, changes in zip(message.parts, described, strict=True)
            if not (changes and message.role == "tool" and isinstance(part, Image))
        )
        return Message(message.role, parts, message.pinned)

    return [describe(message, index) for index, message in enumerate(messages)]


def _describe(part: Part) -> Part:
    if isinstance(part, Image):
        size = f"{part.width}×{part.height} pixels"
        return Text(f"[Image: {part.name or part.media_type}, {size}; not shown]\n")
    if isinstance(part, File):
        return Text(f"{part.name}:\n\n{part.text}\n\n")
    if isinstance(part, ToolCall):
        return Text(f"[Tool call, not run: {part.name} {part.arguments}]\n")
    return part


def explain_overflow(
    error: ContextTooLong,
    request: Request,
    conversation: Conversation,
    turn: Turn,
    passages: Sequence[Passage],
    calls: Iterable[Call],
    engine: Engine,
) -> ContextTooLong:
    """Return the error to report for a prompt that does not fit; it names the plugins to blame.

    Args:
        error: raised by the engine.
        request: what did not fit.
        conversation: the chat, with the turn.
        turn: the turn to answer.
        passages: the passages retrieved for it.
        calls: the plugins' calls for the turn.
        engine: the engine that refused the request.

    Returns:
        `error`, unless the prompt fits without the passages.
    """
    if not passages:
        return error
    plain = (*conversation.messages(before=turn.position), turn.user)
    try:
        engine.preview(dataclasses.replace(request, messages=plain))
    except ChatlmError:
        return error
    found = [call for call in calls if call.hook == "retrieve_passages" and call.result_summary]
    names = list(dict.fromkeys(call.plugin for call in found))
    sees = Image.type in engine.info.accepts
    tokens = engine.count_tokens(
        Message("user", (Text(passage.text), *(passage.images if sees else ())))
        for passage in passages
    )
    who = f" of {' and '.join(names)}" if names else ""
    return ContextTooLong(
        f"The passages{who} take about {tokens:,} tokens, and the context holds "
        f"{engine.info.context_length:,}; without them the message fits",
        hint="Ask for less at once"
        + (f", or leave {names[0]} out of this chat: /plugins." if names else ".")
        + " A larger context: `chatlm config set context`.",
    )


def _with_reply(messages: list[Message], reply: Reply | None) -> list[Message]:
    """Append the messages of a reply that is to be continued, though it be only a thought."""
    prefix = reply.messages() if reply else ()
    last = reply.steps[-1] if reply else None
    if last and last.parts and all(isinstance(part, Reasoning) for part in last.parts):
        prefix += (Message("assistant", last.parts),)
    if not prefix:
        return messages
    if messages[-1].role == "assistant":  # a plugin's beginning of the reply, which has it already
        messages = messages[:-1]
    return [*messages, *prefix]


def reply_prefix(request: Request) -> str:
    """Return the beginning that plugins gave the reply; empty for none."""
    last = request.messages[-1]
    return last.text if last.role == "assistant" else ""


def provenance(request: Request, info: EngineInfo, fitted: PromptReady) -> Provenance:
    """Return the provenance of the reply to a running request."""
    return Provenance(
        messages=tuple(_without_omitted(request.messages, fitted.omitted_messages)),
        sampling=request.sampling,
        model=info.model,
        adapter=request.adapter,
        prompt_format=info.prompt_format,
        device=info.device,
        weights=info.weights,
        kv_cache=info.kv_cache,
        context_length=info.context_length,
        prompt_hash=fitted.prompt_hash,
        versions={"chatlm": version(), **info.versions},
        plugin_processors=tuple(
            map(callable_name, (*request.logits_processors, *request.stopping_criteria))
        ),
        tools=request.tools,
        tool_choice=request.tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
    )


def engineless_provenance(request: Request) -> Provenance:
    """Return the provenance of a reply that plugins gave: what a model would have been sent."""
    return Provenance(
        messages=request.messages[:-1],
        sampling=request.sampling,
        model="",
        versions={"chatlm": version()},
        plugin_processors=tuple(
            map(callable_name, (*request.logits_processors, *request.stopping_criteria))
        ),
        tools=request.tools,
        tool_choice=request.tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
    )


def _without_omitted(messages: Sequence[Message], omitted: Sequence[Message]) -> Iterator[Message]:
    """Yield the messages that were not omitted; both are in the same order."""
    gone = list(omitted)
    for message in messages:
        if gone and message == gone[0]:
            del gone[0]
        else:
            yield message
