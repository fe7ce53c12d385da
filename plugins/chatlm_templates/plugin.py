"""The hooks by which chatlm knows the templates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from chatlm import PluginScreen, hookimpl
from chatlm_templates import PLUGIN, slash_commands

if TYPE_CHECKING:
    from chatlm import (
        Commands,
        Conversation,
        RenderedTemplate,
        Request,
        SlashCommand,
        TemplateRenderer,
        TextFacts,
        Turn,
        Ui,
        UsageError,
    )

_open_uis: list[Ui] = []
"""The chat's screen, where there is one."""


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm templates`."""
    cli.add_lazy(
        "templates",
        "chatlm_templates.commands:templates",
        "List, show, make, check and try prompt templates.",
    )


@hookimpl
def register_templates(register: Callable[[str, TemplateRenderer], None]) -> None:
    """Offer each template by its name."""
    from chatlm_templates.library import template_files

    for name in template_files():
        register(name, partial(_render_template, name))


@hookimpl
def register_slash_commands(register: Callable[[SlashCommand], None]) -> None:
    """Add `/template` and what may be asked about a reply."""
    slash_commands.register(register)


@hookimpl
def register_screens(register: Callable[[PluginScreen], None]) -> None:
    """Add the list of templates and the form of one."""
    register(PluginScreen(slash_commands.PICKER_SCREEN, _picker_screen))
    register(PluginScreen(slash_commands.FORM_SCREEN, _form_screen))


@hookimpl
def screen_opened(ui: Ui) -> None:
    """Remember where to suggest a new start."""
    _open_uis[:] = [ui]


@hookimpl
def write_message(
    conversation: Conversation, text: str, facts: TextFacts
) -> str | UsageError | None:
    """What the chat's template makes of what was typed, or why it cannot."""
    if PLUGIN not in conversation.plugin_data:
        return None
    from chatlm_templates import chat_state

    return chat_state.write_message(conversation, text, facts)


@hookimpl
def adjust_request(request: Request, conversation: Conversation) -> Request | None:
    """Fill what the person leaves open with what the chat's template sets."""
    if PLUGIN not in conversation.plugin_data:
        return None
    from chatlm_templates import chat_state

    sampling = request.sampling.with_fallback(chat_state.template_sampling(conversation))
    return dataclasses.replace(request, sampling=sampling)


@hookimpl
def turn_finished(conversation: Conversation, turn: Turn) -> None:
    """After some exchanges, suggest to start afresh."""
    from chatlm_templates.actions import suggest_consolidating

    for ui in _open_uis:
        suggest_consolidating(ui, conversation)


def _render_template(
    name: str, values: Mapping[str, str], raw_input: str, facts: TextFacts
) -> RenderedTemplate:
    from chatlm_templates.library import load_template
    from chatlm_templates.rendering import render_template

    return render_template(load_template(name), values, raw_input, facts)


def _picker_screen(ui: Ui, argument: str) -> Any:
    from chatlm_templates.screens.picker import TemplatePicker

    return TemplatePicker(ui, argument)


def _form_screen(ui: Ui, argument: str) -> Any:
    from chatlm_templates.library import load_template
    from chatlm_templates.screens.form import TemplateForm

    return TemplateForm(ui, load_template(argument))
