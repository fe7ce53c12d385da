"""Compute longer for a better answer: chain, consensus, tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chatlm import ReplyMethod, hookimpl
from chatlm_reasoning import actions
from chatlm_reasoning.chain import stream_chain
from chatlm_reasoning.consensus import DEFAULT_SAMPLES, stream_consensus
from chatlm_reasoning.tree import DEFAULT_BREADTH, stream_tree

if TYPE_CHECKING:
    from chatlm import Commands, SlashCommand, Ui


@hookimpl
def register_methods(register: Callable[[ReplyMethod], None]) -> None:
    """Offer chain of thought, consensus and tree of thought."""
    register(
        ReplyMethod("chain", "asks the model to think step by step before it answers", stream_chain)
    )
    register(
        ReplyMethod(
            "consensus",
            f"samples several replies ({DEFAULT_SAMPLES}) and takes the answer most of them give",
            stream_consensus,
            "[SAMPLES]",
        )
    )
    register(
        ReplyMethod(
            "tree",
            f"tries several next steps ({DEFAULT_BREADTH}) and continues from those that the model "
            "itself rates best",
            stream_tree,
            "[BREADTH]",
        )
    )


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm reason`."""
    cli.add_lazy(
        "reason",
        "chatlm_reasoning.commands:reason",
        "Spend more computation on an answer, and compare what it costs.",
    )


@hookimpl
def register_slash_commands(register: Callable[[SlashCommand], None]) -> None:
    """Add `/chain`, `/consensus` and `/tree`."""
    actions.register(register)


@hookimpl
def chat_shown(ui: Ui) -> None:
    """Show the chat's method in the status bar."""
    actions.show_method(ui)
