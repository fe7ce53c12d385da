"""Fill in prompts that you use again."""

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
"""The open chat screen; empty outside the terminal UI."""


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm templates`."""
    cli.add_lazy(
        "templates",
        "chatlm_templates.commands:templates",
        "List, show, create, check and render prompt templates.",
    )


@hookimpl(specname="register_templates", tryfirst=True)
def register_own_templates(register: Callable[[str, TemplateRenderer], None]) -> None:
    """Register the user's own templates, which override those of all plugins."""
    _register(register, own=True)


@hookimpl(trylast=True)
def register_templates(register: Callable[[str, TemplateRenderer], None]) -> None:
    """Register the templates that come with chatlm, which all others override."""
    _register(register, own=False)


def _register(register: Callable[[str, TemplateRenderer], None], *, own: bool) -> None:
    from chatlm_templates.library import is_own, template_files

    for name, path in template_files().items():
        if is_own(path) == own:
            register(name, partial(_render_template, name))


@hookimpl
def register_slash_commands(register: Callable[[SlashCommand], None]) -> None:
    """Add `/template` and the commands that ask about a reply."""
    slash_commands.register(register)


@hookimpl
def register_screens(register: Callable[[PluginScreen], None]) -> None:
    """Add the list of templates and the form of a template."""
    register(PluginScreen(slash_commands.PICKER_SCREEN, _picker_screen))
    register(PluginScreen(slash_commands.FORM_SCREEN, _form_screen))


@hookimpl
def screen_opened(ui: Ui) -> None:
    """Remember the screen for suggestions."""
    _open_uis[:] = [ui]


@hookimpl
def suggest_text(text: str) -> str | None:
    """Suggest the rest of the name after `/template`."""
    return slash_commands.suggest_name(text)


@hookimpl
def write_message(
    conversation: Conversation, text: str, facts: TextFacts
) -> str | UsageError | None:
    """Write the message with the chat's template, or refuse it."""
    if PLUGIN not in conversation.plugin_data:
        return None
    from chatlm_templates import chat_state

    return chat_state.write_message(conversation, text, facts)


@hookimpl
def adjust_request(request: Request, conversation: Conversation) -> Request | None:
    """Use the sampling of the chat's template where the user has set none for the chat."""
    if PLUGIN not in conversation.plugin_data:
        return None
    from chatlm_templates import chat_state

    sampling = request.sampling.with_fallback(chat_state.template_sampling(conversation))
    return dataclasses.replace(request, sampling=sampling)


@hookimpl
def turn_finished(conversation: Conversation, turn: Turn) -> None:
    """Suggest `/consolidate` in a long chat."""
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
