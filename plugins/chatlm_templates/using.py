"""A chat begins, changes or ends going by a template, through the screen that plugins see."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from chatlm import Ui, UsageError, one_line
from chatlm_templates.chosen import Chosen, chosen
from chatlm_templates.rendering import Written, write
from chatlm_templates.template import Template

UNSAID = "…"
"""Stands for the words that are not typed yet."""


def use(ui: Ui, template: Template, values: Mapping[str, str], *, fresh: bool) -> None:
    """Let a chat go by the template.

    What is given for the input is put into the composer, since it is what the person would type;
    so is the message of a template that takes no words.

    Args:
        ui: the chat's screen.
        template: the one to use.
        values: texts of its variables, by name.
        fresh: begin a new chat.

    Raises:
        UsageError: a value is missing or wrong; nothing was changed.
    """
    others = dict(values)
    typed = others.pop(template.input, "") if template.takes_words else ""
    written = write(template, others, typed or (UNSAID if template.takes_words else ""))
    before = "" if fresh else system_before(ui)
    choice = Chosen(template.name, others, written.system, before)
    if fresh:
        ui.new_chat(system=written.system, kept=choice.kept)
    else:
        ui.set_chat(system=written.system or before)
        ui.keep(**choice.kept)
    if first := typed if template.takes_words else written.user:
        ui.write(first)
    ui.tell(_told(template))


def end(ui: Ui) -> None:
    """Let the chat go by no template, with the system prompt that it had before.

    Raises:
        UsageError: it goes by none.
    """
    choice = chosen(ui.kept)
    if choice is None:
        raise UsageError("This chat goes by no template.", hint="Choose one: /template")
    before = system_before(ui)
    ui.set_chat(system=before)
    ui.keep(template=None, values=None, system=None, before=None, as_is=None)
    told = f"This chat goes by {one_line(choice.template, 40)} no longer."
    ui.tell(told if before or not choice.system else f"{told} /system gives it a system prompt.")


def preview(template: Template, values: Mapping[str, str]) -> Written:
    """What the model would read; `UNSAID` stands where something is still to be filled in.

    Raises:
        UsageError: a value is wrong.
    """
    gaps = {
        name: each
        if each.default is not None or not each.required
        else dataclasses.replace(each, default=UNSAID, required=False)
        for name, each in template.variables.items()
    }
    return write(dataclasses.replace(template, variables=gaps), values)


def system_before(ui: Ui) -> str:
    """The chat's own system prompt: the one it has, unless its template gave it that."""
    choice, system = chosen(ui.kept), ui.conversation.system
    return choice.before if choice and choice.system and choice.system == system else system


def _told(template: Template) -> str:
    """What the chat goes by now, and what the template was written for."""
    how = (
        "each message goes through it"
        if template.takes_words
        else "it sets how the model answers"
        if not template.makes_message
        else "its message is in the composer"
    )
    told = f"This chat goes by {template.name}: {how}."
    hints = [
        f"{hint} {one_line(value, 60)}"
        for hint in ("model", "adapter", "index")
        if (value := getattr(template, hint))
    ]
    return f"{told} It is meant for {', '.join(hints)}." if hints else told
