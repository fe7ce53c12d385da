"""Use templates in a chat: start and stop using one, and ask about a reply with one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import closing

from chatlm import (
    Conversation,
    Delta,
    Message,
    RenderedTemplate,
    Request,
    Turn,
    Ui,
    UsageError,
    one_line,
)
from chatlm_templates import PLUGIN
from chatlm_templates.chat_state import SelectedTemplate, selected_template
from chatlm_templates.library import load_template
from chatlm_templates.rendering import FilledTemplate, fill_template, render_template
from chatlm_templates.template import Template

PLACEHOLDER = "…"
"""Stands in a preview for text that is not typed yet."""

SUGGEST_AFTER_REPLIES = 5
"""Number of replies after which `/consolidate` is suggested."""


def use_template(
    ui: Ui, template: Template, values: Mapping[str, str], *, in_new_chat: bool
) -> None:
    """Use a template in a chat from now on.

    The value of the input variable goes into the composer, since it is what the user would type; so
    does the message of a template without an input variable. Images are mentioned there.

    Args:
        ui: the chat screen's API.
        template: the template.
        values: texts of its variables, by name.
        in_new_chat: start a new chat.

    Raises:
        UsageError: a value is missing or invalid, or the chat's replies are made by a method, which
            cannot call the template's tools; nothing was changed.
    """
    method = None if in_new_chat else ui.conversation.sampling.reply_method
    if method and template.tools:
        raise UsageError(
            f"The template {template.name} needs tools, which the method {method[0]} of this chat "
            "cannot call.",
            hint="Set the method to off in /settings; /chain, /consensus and /tree off do it, too.",
        )
    other_values = dict(values)
    raw_input = other_values.pop(template.input, "") if template.takes_input else ""
    filled = fill_template(
        template, other_values, raw_input or (PLACEHOLDER if template.takes_input else "")
    )
    previous_system = "" if in_new_chat else own_system_prompt(ui)
    selected = SelectedTemplate(template.name, other_values, filled.system, previous_system)
    if in_new_chat:
        ui.new_chat(system=filled.system, state=selected.plugin_data, tools=template.tools)
    else:
        ui.set_chat(system=filled.system or previous_system, tools=template.tools)
        ui.set_state(**selected.plugin_data)
    message = raw_input if template.takes_input else filled.user
    mentions = [f"@{json.dumps(path, ensure_ascii=False)}" for path in template.images(values)]
    if message or mentions:
        ui.insert_text(" ".join(filter(None, (message, *mentions))))
    ui.notify(_describe_use(template))


def stop_using_template(ui: Ui) -> None:
    """Stop using a template in the chat, and restore the system prompt it had before.

    Raises:
        UsageError: no template is in use.
    """
    selected = selected_template(ui.state)
    if selected is None:
        raise UsageError("This chat uses no template.", hint="Choose one: /template")
    system = own_system_prompt(ui)
    ui.set_chat(system=system)
    ui.set_state(template=None, values=None, system=None, before=None, as_is=None)
    notice = f'Template "{one_line(selected.name, 40)}" is off.'
    if selected.system and not system:
        notice += " The chat has no system prompt now; set one with /system."
    ui.notify(notice)


def plugin_of_template(ui: Ui, name: str) -> str:
    """Return the other plugin that the template comes from; empty for a file or no template."""
    with ui.side_chats(lambda _: None) as chats:
        offered = chats.available_templates().get(name)
    return offered.plugin if offered and offered.plugin != PLUGIN else ""


def preview_prompt(template: Template, values: Mapping[str, str]) -> FilledTemplate:
    """Fill in a template, with `PLACEHOLDER` for required values that are missing.

    Raises:
        UsageError: a value is invalid.
    """
    variables = {
        name: variable
        if variable.default is not None or not variable.required
        else dataclasses.replace(variable, default=PLACEHOLDER, required=False)
        for name, variable in template.variables.items()
    }
    return fill_template(dataclasses.replace(template, variables=variables), values)


def own_system_prompt(ui: Ui) -> str:
    """Return the chat's system prompt, or the earlier one if its template set the current one."""
    selected, system = selected_template(ui.state), ui.conversation.system
    if selected and selected.system and selected.system == system:
        return selected.previous_system
    return system


def _describe_use(template: Template) -> str:
    """Describe what the template does in the chat, and what it was written for."""
    effect = (
        "it writes each message"
        if template.takes_input
        else "it sets the system prompt"
        if not template.has_message
        else "its message is in the composer"
    )
    notice = f'Template "{template.name}" is on: {effect}.'
    if template.tools:
        notice += f" It offers the model {', '.join(template.tools)}; see /tools."
    hints = [
        f"{hint} {one_line(value, 60)}"
        for hint in ("model", "adapter", "index")
        if (value := getattr(template, hint))
    ]
    return f"{notice} It was written for {', '.join(hints)}." if hints else notice


def ask_in_chat(ui: Ui, template_name: str) -> None:
    """Ask about the selected reply in its own chat, without the chat's template.

    The text of an earlier reply is repeated in the message; the newest is directly above it.

    Raises:
        UsageError: there is no reply, or the template is invalid.
    """
    turn, text = _selected_reply(ui)
    newest = turn.id == ui.conversation.turns[-1].id
    message = _render_about_turn(template_name, turn, "" if newest else text).user
    if selected_template(ui.state):
        ui.set_state(as_is=message)
    ui.send(message)


def ask_in_new_chat(ui: Ui, template_name: str, model: str = "") -> None:
    """Ask about the selected reply in a new chat, where nothing shows who wrote it.

    Args:
        ui: the chat screen's API.
        template_name: the template.
        model: the model to ask; empty for the current one.

    Raises:
        UsageError: there is no reply, or the template is invalid.
    """
    rendered = _render_about_turn(template_name, *_selected_reply(ui))
    ui.new_chat(
        system=rendered.system, sampling=rendered.sampling, model=model, message=rendered.user
    )


def consolidate_chat(ui: Ui) -> None:
    """Let the model summarise the chat as one prompt, and put it into a new chat's composer.

    Raises:
        UsageError: there is no reply or no model yet, or the model wrote nothing.
    """
    _selected_reply(ui)
    chat, engine = ui.conversation, ui.engine
    if engine is None:
        raise UsageError(
            "The model is not loaded yet.", hint="Wait until it is loaded, or choose one: /model"
        )
    rendered = render_template(load_template("consolidate"), {})
    sampling = rendered.sampling.with_fallback(engine.info.default_sampling)
    request = Request((*chat.messages(), Message("user", rendered.user)), sampling)
    prompt = ""
    with ui.progress("Writing the prompt") as progress, closing(engine.stream(request)) as events:
        for tokens, event in enumerate(events):
            if progress.cancelled:
                return
            prompt += event.answer if isinstance(event, Delta) else ""
            progress.update(tokens, sampling.max_tokens)
    if not prompt.strip():
        raise UsageError("The model wrote nothing.", hint="Try again, or with another model.")
    ui.new_chat(system=chat.system)
    ui.insert_text(prompt.strip())
    ui.notify("New chat started. Check and edit the prompt, then send it.")


def suggest_consolidating(ui: Ui, conversation: Conversation) -> None:
    """Suggest `/consolidate` in a long chat, once per chat."""
    is_long = sum(bool(turn.reply) for turn in conversation.turns) >= SUGGEST_AFTER_REPLIES
    if is_long and ui.conversation.id == conversation.id and not ui.state.get("suggested"):
        ui.set_state(suggested=True)
        ui.notify(
            "This chat is getting long. /consolidate starts a new one with a prompt that sums up "
            "what was agreed."
        )


def _selected_reply(ui: Ui) -> tuple[Turn, str]:
    """Return the selected turn, and the text of its reply."""
    turn = ui.turn
    if turn is None or turn.reply is None or not turn.reply.text.strip():
        raise UsageError("There is no reply yet.", hint="Send a message first.")
    return turn, turn.reply.text


def _render_about_turn(template_name: str, turn: Turn, text: str) -> RenderedTemplate:
    template = load_template(template_name)
    values = {"question": turn.display_text} if "question" in template.variables else {}
    return render_template(template, values, text)
