"""The commands that this plugin adds to the screen; they know no Textual."""

from __future__ import annotations

from collections.abc import Callable

from chatlm import SlashCommand, Ui

PICKER, FORM = "templates", "template"
"""The names of the plugin's screens; the form's argument is a template."""

OFF = "off"


def template(ui: Ui, argument: str) -> None:
    """Choose a template, fill one in, or end the use of one.

    Raises:
        UsageError: there is no such template, it cannot be used, or none is in use.
    """
    from chatlm_templates import library, using

    if argument == OFF:
        using.end(ui)
    elif not argument:
        ui.open_screen(PICKER)
    elif library.named(argument).asks:
        ui.open_screen(FORM, argument)
    else:
        using.use(ui, library.named(argument), {}, fresh=False)


def find_errors(ui: Ui, _: str) -> None:
    """Ask for the errors in a reply."""
    from chatlm_templates import follow_ups

    follow_ups.ask_here(ui, "find-errors")


def simplify(ui: Ui, _: str) -> None:
    """Ask for a reply in plainer words."""
    from chatlm_templates import follow_ups

    follow_ups.ask_here(ui, "simplify")


def validate(ui: Ui, _: str) -> None:
    """Ask, in a new chat, whether a reply is right, as if an expert had given it."""
    from chatlm_templates import follow_ups

    follow_ups.ask_afresh(ui, "validate")


def review(ui: Ui, model: str) -> None:
    """Let another model review a reply, in a new chat."""
    from chatlm_templates import follow_ups

    follow_ups.ask_afresh(ui, "review", model)


def consolidate(ui: Ui, _: str) -> None:
    """Start afresh with one prompt for what was agreed."""
    from chatlm_templates import follow_ups

    follow_ups.consolidate(ui)


def register(add: Callable[[SlashCommand], None]) -> None:
    """Offer all of them."""
    add(SlashCommand("template", "write messages by a template", template, f"[NAME|{OFF}]"))
    add(SlashCommand("find-errors", "ask for the errors in the reply", find_errors))
    add(SlashCommand("simplify", "ask for the reply in plain words", simplify))
    add(SlashCommand("validate", "check the reply in a new chat", validate))
    add(SlashCommand("review", "let another model review the reply", review, "MODEL"))
    add(
        SlashCommand("consolidate", "new chat with one prompt for all that was agreed", consolidate)
    )
