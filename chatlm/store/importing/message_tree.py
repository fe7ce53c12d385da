"""Builds the tree of messages that ChatGPT's export has from the messages of other programs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from chatlm.store.importing.fields import ParsedChat


class TreeBuilder:
    """One chat in the form that `parse_chatgpt` reads, so that versions and branches are found in
    one place.

    Args:
        title: the chat's title; empty for none.
        created: in seconds since 1970; None if unknown.
        updated: likewise.
    """

    def __init__(self, title: str, created: float | None, updated: float | None) -> None:
        self._head = {"title": title, "create_time": created, "update_time": updated}
        self._nodes: dict[str, dict[str, Any]] = {}

    def add(
        self,
        name: str,
        parent: str | None,
        role: str,
        text: str,
        *,
        thoughts: str = "",
        model: str = "",
        created: float | None = None,
    ) -> None:
        """Add a message, after or before its parent.

        Args:
            name: its id.
            parent: the id of the message before it; None for the first.
            role: `user`, `assistant` or another.
            text: what it says.
            thoughts: what the model thought before it.
            model: what wrote it.
            created: in seconds since 1970; None if unknown.
        """
        if thoughts:
            head = f"{name}/thoughts"
            content = {"content_type": "thoughts", "thoughts": [{"content": thoughts}]}
            self._add_node(head, parent, role, content, model, created)
            parent = head
        content = {"content_type": "text", "parts": [text]}
        self._add_node(name, parent, role, content, model, created)

    def chat(self, current: str | None) -> dict[str, Any]:
        """Return the chat as ChatGPT's export has it.

        Args:
            current: id of the message that was shown last; None if unknown.
        """
        for name, node in self._nodes.items():
            parent = self._nodes.get(node["parent"] or "")
            if parent is not None and name not in parent["children"]:
                parent["children"].append(name)
        return {**self._head, "mapping": self._nodes, "current_node": current}

    def finish(
        self, found: ParsedChat, system: str, left_out: Mapping[str, int] | None = None
    ) -> ParsedChat:
        """Return the parsed chat with a system prompt, and with what was left out before."""
        counts = Counter(found.left_out)
        counts.update({what: number for what, number in (left_out or {}).items() if number})
        return dataclasses.replace(
            found,
            conversation=dataclasses.replace(found.conversation, system=system),
            forks=tuple(dataclasses.replace(fork, system=system) for fork in found.forks),
            left_out=counts,
        )

    def _add_node(
        self,
        name: str,
        parent: str | None,
        role: str,
        content: dict[str, Any],
        model: str,
        created: float | None,
    ) -> None:
        self._nodes[name] = {
            "parent": parent,
            "children": [],
            "message": {
                "author": {"role": role},
                "content": content,
                "create_time": created,
                "metadata": {"model_slug": model},
            },
        }
