"""Use templates in a chat: start and stop using one, and ask about a reply with one."""

from __future__ import annotations

import dataclasses
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
    """Let a chat go by the template.

    What is given for the input is put into the composer, since it is what the person would type;
    so is the message of a template that takes no words.

    Args:
        ui: the chat's screen.
        template: the one to use.
        values: texts of its variables, by name.
        in_new_chat: begin a new chat.

    Raises:
        UsageError: a value is missing or wrong; nothing was changed.
    """
    others = dict(values)
    typed = others.pop(template.input, "") if template.takes_input else ""
    written = fill_template(
        template, others, typed or (PLACEHOLDER if template.takes_input else "")
    )
    before = "" if in_new_chat else own_system_prompt(ui)
    choice = SelectedTemplate(template.name, others, written.system, before)
    if in_new_chat:
        ui.new_chat(system=written.system, state=choice.plugin_data)
    else:
        ui.set_chat(system=written.system or before)
        ui.set_state(**choice.plugin_data)
    if first := typed if template.takes_input else written.user:
        ui.insert_text(first)
    ui.notify(_describe_use(template))


def stop_using_template(ui: Ui) -> None:
    """Let the chat go by no template, with the system prompt that it had before.

    Raises:
        UsageError: it goes by none.
    """
    choice = selected_template(ui.state)
    if choice is None:
        raise UsageError("This chat goes by no template.", hint="Choose one: /template")
    before = own_system_prompt(ui)
    ui.set_chat(system=before)
    ui.set_state(template=None, values=None, system=None, before=None, as_is=None)
    told = f"This chat goes by {one_line(choice.name, 40)} no longer."
    ui.notify(told if before or not choice.system else f"{told} /system gives it a system prompt.")


def preview_prompt(template: Template, values: Mapping[str, str]) -> FilledTemplate:
    """What the model would read; `UNSAID` stands where something is still to be filled in.

    Raises:
        UsageError: a value is wrong.
    """
    gaps = {
        name: each
        if each.default is not None or not each.required
        else dataclasses.replace(each, default=PLACEHOLDER, required=False)
        for name, each in template.variables.items()
    }
    return fill_template(dataclasses.replace(template, variables=gaps), values)


def own_system_prompt(ui: Ui) -> str:
    """The chat's own system prompt: the one it has, unless its template gave it that."""
    choice, system = selected_template(ui.state), ui.conversation.system
    return (
        choice.previous_system if choice and choice.system and choice.system == system else system
    )


def _describe_use(template: Template) -> str:
    """What the chat goes by now, and what the template was written for."""
    how = (
        "each message goes through it"
        if template.takes_input
        else "it sets how the model answers"
        if not template.has_message
        else "its message is in the composer"
    )
    told = f"This chat goes by {template.name}: {how}."
    hints = [
        f"{hint} {one_line(value, 60)}"
        for hint in ("model", "adapter", "index")
        if (value := getattr(template, hint))
    ]
    return f"{told} It is meant for {', '.join(hints)}." if hints else told


def ask_in_chat(ui: Ui, template_name: str) -> None:
    """Ask about the reply in its own chat, past the template that the chat goes by.

    Of an earlier reply the text is said once more; the newest is just above.

    Raises:
        UsageError: there is no reply, or the template cannot be used.
    """
    turn, text = _selected_reply(ui)
    newest = turn.id == ui.conversation.turns[-1].id
    message = _render_about_turn(template_name, turn, "" if newest else text).user
    if selected_template(ui.state):
        ui.set_state(as_is=message)
    ui.send(message)


def ask_in_new_chat(ui: Ui, template_name: str, model: str = "") -> None:
    """Ask about the reply in a new chat, where nothing says whose it is.

    Args:
        ui: the chat's screen.
        template_name: the template.
        model: ask this one; empty for the one there is.

    Raises:
        UsageError: as `ask_here`.
    """
    asked = _render_about_turn(template_name, *_selected_reply(ui))
    ui.new_chat(system=asked.system, sampling=asked.sampling, model=model, message=asked.user)


def consolidate_chat(ui: Ui) -> None:
    """Let the model write one prompt that holds what was agreed, for the composer of a new chat.

    Raises:
        UsageError: there is no reply yet or no model, or the model wrote nothing.
    """
    _selected_reply(ui)
    chat, engine = ui.conversation, ui.engine
    if engine is None:
        raise UsageError("The model is not loaded yet.", hint="Wait until it is, or see /model.")
    asked = render_template(load_template("consolidate"), {})
    sampling = asked.sampling.with_fallback(engine.info.default_sampling)
    request = Request((*chat.messages(), Message("user", asked.user)), sampling)
    prompt = ""
    with ui.progress("Writing one prompt") as work, closing(engine.stream(request)) as events:
        for tokens, event in enumerate(events):
            if work.cancelled:
                return
            prompt += event.text if isinstance(event, Delta) else ""
            work.update(tokens, sampling.max_tokens)
    if not prompt.strip():
        raise UsageError("The model wrote nothing.", hint="Try again, or with another model.")
    ui.new_chat(system=chat.system)
    ui.insert_text(prompt.strip())
    ui.notify("A new chat. Read the prompt, mend it, then send it.")


def suggest_consolidating(ui: Ui, conversation: Conversation) -> None:
    """After some exchanges, once in the life of a chat, say that one can start fresh."""
    long = sum(bool(turn.reply) for turn in conversation.turns) >= SUGGEST_AFTER_REPLIES
    if long and ui.conversation.id == conversation.id and not ui.state.get("suggested"):
        ui.set_state(suggested=True)
        ui.notify(
            "This chat grows long. /consolidate starts afresh with one prompt that holds what "
            "was agreed."
        )


def _selected_reply(ui: Ui) -> tuple[Turn, str]:
    """The turn that is meant, and its reply's text."""
    turn = ui.turn
    if turn is None or turn.reply is None or not turn.reply.text.strip():
        raise UsageError("There is no reply to work on.", hint="Ask something first.")
    return turn, turn.reply.text


def _render_about_turn(template_name: str, turn: Turn, text: str) -> RenderedTemplate:
    template = load_template(template_name)
    values = {"question": turn.display_text} if "question" in template.variables else {}
    return render_template(template, values, text)
