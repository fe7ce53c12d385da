"""Slash commands; use, change, leave a template; follow-up prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import closing

from chatlm import (
    Conversation,
    Delta,
    Message,
    RenderedTemplate,
    Request,
    SlashCommand,
    Turn,
    Ui,
    UsageError,
    one_line,
)
from chatlm_templates.chat_state import SelectedTemplate, selected_template
from chatlm_templates.library import load_template
from chatlm_templates.rendering import FilledTemplate, fill_template, render_template
from chatlm_templates.template import Template

PICKER_SCREEN, FORM_SCREEN = "templates", "template"
"""The names of the plugin's screens; the form's argument is a template."""


OFF = "off"


def template(ui: Ui, argument: str) -> None:
    """Choose a template, fill one in, or end the use of one.

    Raises:
        UsageError: there is no such template, it cannot be used, or none is in use.
    """
    from chatlm_templates import library

    if argument == OFF:
        stop_using_template(ui)
    elif not argument:
        ui.open_screen(PICKER_SCREEN)
    elif library.load_template(argument).asks:
        ui.open_screen(FORM_SCREEN, argument)
    else:
        use_template(ui, library.load_template(argument), {}, fresh=False)


def find_errors(ui: Ui, _: str) -> None:
    """Ask for the errors in a reply."""

    ask_in_chat(ui, "find-errors")


def simplify(ui: Ui, _: str) -> None:
    """Ask for a reply in plainer words."""

    ask_in_chat(ui, "simplify")


def validate(ui: Ui, _: str) -> None:
    """Ask, in a new chat, whether a reply is right, as if an expert had given it."""

    ask_in_new_chat(ui, "validate")


def review(ui: Ui, model: str) -> None:
    """Let another model review a reply, in a new chat."""

    ask_in_new_chat(ui, "review", model)


def consolidate(ui: Ui, _: str) -> None:
    """Start afresh with one prompt for what was agreed."""

    consolidate_chat(ui)


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


PLACEHOLDER = "…"
"""Stands for the words that are not typed yet."""


def use_template(ui: Ui, template: Template, values: Mapping[str, str], *, fresh: bool) -> None:
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
    written = fill_template(
        template, others, typed or (PLACEHOLDER if template.takes_words else "")
    )
    before = "" if fresh else own_system_prompt(ui)
    choice = SelectedTemplate(template.name, others, written.system, before)
    if fresh:
        ui.new_chat(system=written.system, kept=choice.kept)
    else:
        ui.set_chat(system=written.system or before)
        ui.keep(**choice.kept)
    if first := typed if template.takes_words else written.user:
        ui.write(first)
    ui.tell(_describe_use(template))


def stop_using_template(ui: Ui) -> None:
    """Let the chat go by no template, with the system prompt that it had before.

    Raises:
        UsageError: it goes by none.
    """
    choice = selected_template(ui.kept)
    if choice is None:
        raise UsageError("This chat goes by no template.", hint="Choose one: /template")
    before = own_system_prompt(ui)
    ui.set_chat(system=before)
    ui.keep(template=None, values=None, system=None, before=None, as_is=None)
    told = f"This chat goes by {one_line(choice.template, 40)} no longer."
    ui.tell(told if before or not choice.system else f"{told} /system gives it a system prompt.")


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
    choice, system = selected_template(ui.kept), ui.conversation.system
    return choice.before if choice and choice.system and choice.system == system else system


def _describe_use(template: Template) -> str:
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


SUGGEST_AFTER_REPLIES = 5
"""After so many a new start is suggested."""


def ask_in_chat(ui: Ui, name: str) -> None:
    """Ask about the reply in its own chat, past the template that the chat goes by.

    Of an earlier reply the text is said once more; the newest is just above.

    Raises:
        UsageError: there is no reply, or the template cannot be used.
    """
    turn, text = _selected_reply(ui)
    newest = turn.id == ui.conversation.turns[-1].id
    message = _render_about_turn(name, turn, "" if newest else text).user
    if selected_template(ui.kept):
        ui.keep(as_is=message)
    ui.send(message)


def ask_in_new_chat(ui: Ui, name: str, model: str = "") -> None:
    """Ask about the reply in a new chat, where nothing says whose it is.

    Args:
        ui: the chat's screen.
        name: the template.
        model: ask this one; empty for the one there is.

    Raises:
        UsageError: as `ask_here`.
    """
    asked = _render_about_turn(name, *_selected_reply(ui))
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
    sampling = asked.sampling.over(engine.info.defaults)
    request = Request((*chat.messages(), Message("user", asked.user)), sampling)
    prompt = ""
    with ui.working("Writing one prompt") as work, closing(engine.stream(request)) as events:
        for tokens, event in enumerate(events):
            if work.cancelled:
                return
            prompt += event.text if isinstance(event, Delta) else ""
            work.at(tokens, sampling.max_tokens)
    if not prompt.strip():
        raise UsageError("The model wrote nothing.", hint="Try again, or with another model.")
    ui.new_chat(system=chat.system)
    ui.write(prompt.strip())
    ui.tell("A new chat. Read the prompt, mend it, then send it.")


def suggest_consolidating(ui: Ui, conversation: Conversation) -> None:
    """After some exchanges, once in the life of a chat, say that one can start fresh."""
    long = sum(bool(turn.reply) for turn in conversation.turns) >= SUGGEST_AFTER_REPLIES
    if long and ui.conversation.id == conversation.id and not ui.kept.get("suggested"):
        ui.keep(suggested=True)
        ui.tell(
            "This chat grows long. /consolidate starts afresh with one prompt that holds what "
            "was agreed."
        )


def _selected_reply(ui: Ui) -> tuple[Turn, str]:
    """The turn that is meant, and its reply's text."""
    turn = ui.turn
    if turn is None or turn.reply is None or not turn.reply.text.strip():
        raise UsageError("There is no reply to work on.", hint="Ask something first.")
    return turn, turn.reply.text


def _render_about_turn(name: str, turn: Turn, text: str) -> RenderedTemplate:
    template = load_template(name)
    values = {"question": turn.words} if "question" in template.variables else {}
    return render_template(template, values, text)
