"""What made the replies of a chat, and what they cost, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from chatlm.generation import Provenance
from chatlm.messages import Conversation, Reply, Standing
from chatlm.store.export import title_of
from chatlm.store.lookups import ProvenanceOf
from chatlm.text import one_line

_WIDTH = 72


def details(conversation: Conversation, provenance: ProvenanceOf) -> Iterator[str]:
    """Each turn with all versions of its reply; lines that are not yet `visible`."""
    yield f"{conversation.id}  {one_line(title_of(conversation), _WIDTH)}"
    for turn in conversation.turns:
        standing = "" if turn.standing is Standing.AUTO else f"  [{turn.standing}]"
        yield ""
        yield f"Turn {turn.position + 1}: {one_line(turn.words, _WIDTH)}{standing}"
        if not turn.replies:
            yield "  no reply"
        for reply in turn.replies:
            shown = ", shown" if reply is turn.reply and len(turn.replies) > 1 else ""
            yield f"  Version {reply.version}{shown}: {one_line(reply.text, _WIDTH)}"
            for name, value in _facts(reply, provenance(reply.id)):
                yield f"    {name:<15} {one_line(value, 300)}"


def _facts(reply: Reply, made: Provenance | None) -> Iterator[tuple[str, str]]:
    usage = reply.usage
    yield "stopped", reply.stop_reason.replace("_", " ") if reply.stop_reason else "cut off"
    if reply.error:
        yield "error", reply.error
    if usage.prompt_tokens or usage.completion_tokens:
        reused = f"(of these {usage.cached_tokens} reused)"
        yield "tokens", f"{usage.completion_tokens}, prompt {usage.prompt_tokens} {reused}"
    if usage.tokens_per_second is not None:
        yield "speed", f"{usage.tokens_per_second:.1f} tokens/s"
    if usage.first_token_seconds is not None:
        yield "first token", f"after {usage.first_token_seconds:.2f} s"
    by_plugin = made is not None and not made.model
    yield "model", "none, a plugin gave the reply" if by_plugin else reply.model or "not known"
    yield "adapter", reply.adapter or "none"
    settings = reply.sampling
    yield "seed", str(settings.pop("seed", "not known"))
    if settings:
        yield "sampling", ", ".join(f"{name} {value}" for name, value in settings.items())
    yield "made", f"{reply.created.astimezone():%Y-%m-%d %H:%M:%S}"
    if made is None:
        yield "prompt", "not kept"
        return
    if made.model:
        yield "prompt format", made.prompt_format or "not known"
        yield "prompt hash", made.prompt_hash or "not known"
        yield "device", ", ".join(filter(None, (made.device, made.dtype))) or "not known"
        yield "context", f"{made.context_length} tokens"
    if made.versions:
        yield "versions", ", ".join(f"{name} {value}" for name, value in made.versions.items())
    if made.added:
        yield "added", ", ".join(made.added)
