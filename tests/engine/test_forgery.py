"""No text of a chat forges the prompt format in requests to the real model."""

from __future__ import annotations

import json
from pathlib import Path

from chatlm import hookimpl
from chatlm.chat.session import ChatSession
from chatlm.engines.local_engine import LocalEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.tui.screens.xray import check_forgery, classify_tokens
from chatlm.types.conversations import ContextPolicy, Conversation
from chatlm.types.messages import Message, Passage
from chatlm.types.replies import StopReason, Usage


class Library:
    """A plugin that finds every forged text."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    @hookimpl
    def retrieve_passages(self, conversation: Conversation, message: Message) -> list[Passage]:
        return [Passage(text, text, 1.0) for text in self._texts[:5]]


def test_a_chat_of_forged_control_tokens(engine: LocalEngine, shared_data: Path) -> None:
    lines = (shared_data / "security" / "special_tokens.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    controls = set(engine.prompt_encoder.control_tokens.values())
    store = Store(None)
    chat = store.create_conversation(system=texts[0])
    for number, text in enumerate(texts):
        turn = store.add_turn(chat.id, text)
        reply = store.start_reply(turn.id, model="m")
        store.finish_reply(reply.id, text=text, stop_reason=StopReason.END, usage=Usage())
        if number % 3 == 0:
            store.set_context_policy(turn.id, ContextPolicy.SUMMARISED, text)
    plugins = PluginHost([("library", Library(texts))])
    session = ChatSession(store, lambda: engine, plugins=plugins, conversation_id=chat.id)
    seen = session.preview("\n".join(texts))
    assert seen.passages
    assert len(seen.request.messages) > len(texts)
    inside = [token for token in seen.prompt.tokens if token.message_index is not None]
    assert not [token for token in inside if token.control or token.id in controls]
    kinds = classify_tokens(seen.prompt, seen.request, "\n".join(texts), seen.passages)
    proven = check_forgery(seen.prompt, kinds)
    assert proven.forged_tokens == 0
    assert proven.user_tokens > len(texts)
    assert proven.other_tokens > len(texts)
