"""Tools in `chatlm ask`: questions on the terminal, and a line for each call."""

from __future__ import annotations

import json

import click

from chatlm.text import escape_controls, one_line
from chatlm.types.events import Approval, ApprovalNeeded, ToolFinished, ToolQuestion, ToolStarted
from chatlm.types.parts import ToolCall

_MAX_ARGUMENTS = 160


def ask_about_call(event: ApprovalNeeded, *, is_replay: bool = False) -> None:
    """Ask whether a call may run, on stderr; in a replay nothing is allowed for the chat."""
    _print(f"The model wants to call {_describe(event.call)}", bold=True)
    shown = event.preview.text if event.preview else _pretty(event)
    for line in shown.splitlines():
        _print(f"  {line}")
    for copied in event.copied:
        _print(f"  {copied}: {one_line(copied.text, 80)}", colour="yellow")
    if event.interrupted:
        _print("  It ran before, and the program ended meanwhile.", colour="yellow")
    can_stay = not (event.copied or event.always or is_replay)
    choice = click.prompt(
        "Allow it? [y]es, for this [c]hat, [n]o" if can_stay else "Allow it? [y]es, [n]o",
        type=click.Choice(["y", "c", "n"] if can_stay else ["y", "n"]),
        show_choices=False,
        default="n",
        show_default=False,
        err=True,
    )
    reason = ""
    if choice == "n":
        reason = click.prompt(
            "Why not (the model reads it)", default="", show_default=False, err=True
        )
    event.answer = Approval(choice != "n", reason, choice == "c")


def ask_for_tool(event: ToolQuestion) -> None:
    """Ask a question of a running tool, on stderr."""
    question = escape_controls(event.question)
    if event.choices:
        event.answer = click.prompt(question, type=click.Choice(event.choices), err=True)
    else:  # a text may be left empty, as on the screen
        event.answer = click.prompt(question, default="", show_default=False, err=True)


def print_tool_event(event: ToolStarted | ToolFinished) -> None:
    """Print a line about a call on stderr."""
    if isinstance(event, ToolStarted):
        _print(f"[{_describe(event.call)} …]", dim=True)
        return
    result = event.result
    facts = [result.name, result.status, result.cost, one_line(result.source, 60)]
    if result.is_error:
        facts.append(one_line(result.text, 200))
    _print(f"[{' · '.join(filter(None, facts))}]", dim=True)


def _describe(call: ToolCall) -> str:
    return f"{one_line(call.name, 64)} {one_line(call.arguments, _MAX_ARGUMENTS)}"


def _pretty(event: ApprovalNeeded) -> str:
    return json.dumps(dict(event.arguments), ensure_ascii=False, indent=2)


def _print(text: str, *, bold: bool = False, dim: bool = False, colour: str | None = None) -> None:
    click.secho(escape_controls(text), bold=bold, dim=dim, fg=colour, err=True)
