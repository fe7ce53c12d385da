"""The commands `/chain`, `/consensus` and `/tree`, which set how replies of the chat are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from chatlm import SlashCommand, Ui
from chatlm_reasoning.consensus import DEFAULT_SAMPLES, sample_count
from chatlm_reasoning.tree import DEFAULT_BREADTH, breadth_of

OFF = "off"


def use_method(method: str, ui: Ui, argument: str) -> None:
    """Make the replies of the chat by a method, and send what follows as a message.

    Args:
        method: its name.
        ui: the screen.
        argument: `off`, or a number for the method and a message, both optional.

    Raises:
        UsageError: the number is out of range.
    """
    word, _, rest = argument.strip().partition(" ")
    if word == OFF and not rest:
        _set(ui, OFF)
        ui.notify("Replies are made in one go again.")
        return
    takes_number = method != "chain" and word.isdigit()
    number, message = (word, rest.strip()) if takes_number else ("", argument.strip())
    setting = f"{method}:{number}" if number else method
    _check(method, number)
    _set(ui, setting)
    if message:
        ui.send(message)
    else:
        ui.notify(f"Replies in this chat now use {setting}. /{method} {OFF} ends it.")


def show_method(ui: Ui) -> None:
    """Show the method of the chat in the status bar."""
    method = ui.conversation.sampling.reply_method
    ui.show_status(":".join(filter(None, method)) if method else "")


def register(add: Callable[[SlashCommand], None]) -> None:
    """Register the commands."""
    rows = (
        ("chain", "let the model think step by step", "[MESSAGE|off]"),
        (
            "consensus",
            f"answer by a vote of several samples ({DEFAULT_SAMPLES})",
            "[SAMPLES] [MESSAGE|off]",
        ),
        (
            "tree",
            f"search for the best steps to the answer, {DEFAULT_BREADTH} at a time",
            "[BREADTH] [MESSAGE|off]",
        ),
    )
    for name, help, argument in rows:
        add(SlashCommand(name, help, partial(use_method, name), argument))


def _check(method: str, number: str) -> None:
    """Refuse a number now rather than with the first message."""
    if method == "consensus":
        sample_count(number)
    elif method == "tree":
        breadth_of(number)


def _set(ui: Ui, method: str) -> None:
    sampling = dataclasses.replace(ui.conversation.sampling, method=method)
    ui.set_chat(sampling=sampling)
    ui.show_status("" if method == OFF else method)
