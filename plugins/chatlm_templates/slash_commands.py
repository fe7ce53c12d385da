"""The slash commands of templates; what they need is imported when one is used."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from chatlm import SlashCommand, Ui, UsageError

PICKER_SCREEN, FORM_SCREEN = "templates", "template"
"""The names of the plugin's screens; the form's argument is a template's name."""

OFF = "off"
"""The argument of `/template` that stops using a template."""

METHODS = {
    "program": "answer by Python programs that the model writes and runs",
    "react": "let the model think, call a tool and read its result in turn",
}
"""Templates with tools that have a command of their own, each with what it says."""


def register(add: Callable[[SlashCommand], None]) -> None:
    """Register all commands."""
    add(SlashCommand("template", "write messages with a template", template, f"[NAME|{OFF}]"))
    for name, about in METHODS.items():
        add(SlashCommand(name, about, partial(use_method, name), f"[MESSAGE|{OFF}]"))
    add(SlashCommand("find-errors", "ask for the errors in the reply", find_errors))
    add(SlashCommand("simplify", "ask for the reply in plain words", simplify))
    add(SlashCommand("validate", "check the reply in a new chat", validate))
    add(SlashCommand("review", "let another model review the reply", review, "MODEL"))
    add(
        SlashCommand(
            "consolidate", "start a new chat with one prompt for what was agreed", consolidate
        )
    )


def template(ui: Ui, argument: str) -> None:
    """Open the list of templates or a template's form, or use one at once or stop using it.

    Raises:
        UsageError: the template does not exist or cannot be used, or none is in use.
    """
    from chatlm_templates import actions, library

    if argument == OFF:
        actions.stop_using_template(ui)
    elif not argument:
        ui.open_screen(PICKER_SCREEN)
    elif plugin := actions.plugin_of_template(ui, argument):
        raise UsageError(
            f"The template {argument} comes from the plugin {plugin}; it can only start a chat.",
            hint=f"In the shell: chatlm ask -t {argument} TEXT",
        )
    elif library.load_template(argument).needs_form:
        ui.open_screen(FORM_SCREEN, argument)
    else:
        actions.use_template(ui, library.load_template(argument), {}, in_new_chat=False)


def use_method(name: str, ui: Ui, argument: str) -> None:
    """Use a template of `METHODS` in the chat, and send what follows as a message.

    Raises:
        UsageError: the template does not exist, or with `off`, none is in use.
    """
    from chatlm_templates import actions, library

    if argument.strip() == OFF:
        actions.stop_using_template(ui)
        return
    actions.use_template(ui, library.load_template(name), {}, in_new_chat=False)
    if argument.strip():
        ui.send(argument.strip())


def suggest_name(text: str) -> str | None:
    """Return the rest of the first template's name that starts as typed after `/template`."""
    match = re.fullmatch(r"/template\s+(\S+)", text)
    if match is None:
        return None
    from chatlm_templates.library import template_files

    names = (OFF, *template_files())
    typed = match[1]
    if typed in names:
        return None
    return next((name.removeprefix(typed) for name in names if name.startswith(typed)), None)


def find_errors(ui: Ui, _: str) -> None:
    """Ask for the errors in a reply."""
    from chatlm_templates import actions

    actions.ask_in_chat(ui, "find-errors")


def simplify(ui: Ui, _: str) -> None:
    """Ask for a reply in plain words."""
    from chatlm_templates import actions

    actions.ask_in_chat(ui, "simplify")


def validate(ui: Ui, _: str) -> None:
    """Ask in a new chat whether a reply is right, as if an expert had written it."""
    from chatlm_templates import actions

    actions.ask_in_new_chat(ui, "validate")


def review(ui: Ui, model: str) -> None:
    """Let another model review a reply in a new chat."""
    from chatlm_templates import actions

    actions.ask_in_new_chat(ui, "review", model)


def consolidate(ui: Ui, _: str) -> None:
    """Start a new chat with one prompt for everything that was agreed."""
    from chatlm_templates import actions

    actions.consolidate_chat(ui)
