"""What may be asked about a reply (5.7.2), each by a prompt that is a template of its own."""

from __future__ import annotations

from contextlib import closing

from chatlm import Conversation, Delta, Message, Rendered, Request, Turn, Ui, UsageError
from chatlm_templates.chosen import chosen
from chatlm_templates.library import named
from chatlm_templates.rendering import render

EXCHANGES = 5
"""After so many a new start is suggested."""


def ask_here(ui: Ui, name: str) -> None:
    """Ask about the reply in its own chat, past the template that the chat goes by.

    Of an earlier reply the text is said once more; the newest is just above.

    Raises:
        UsageError: there is no reply, or the template cannot be used.
    """
    turn, text = _reply(ui)
    newest = turn.id == ui.conversation.turns[-1].id
    message = _about(name, turn, "" if newest else text).user
    if chosen(ui.kept):
        ui.keep(as_is=message)
    ui.send(message)


def ask_afresh(ui: Ui, name: str, model: str = "") -> None:
    """Ask about the reply in a new chat, where nothing says whose it is.

    Args:
        ui: the chat's screen.
        name: the template.
        model: ask this one; empty for the one there is.

    Raises:
        UsageError: as `ask_here`.
    """
    asked = _about(name, *_reply(ui))
    ui.new_chat(system=asked.system, sampling=asked.sampling, model=model, message=asked.user)


def consolidate(ui: Ui) -> None:
    """Let the model write one prompt that holds what was agreed, for the composer of a new chat.

    Raises:
        UsageError: there is no reply yet or no model, or the model wrote nothing.
    """
    _reply(ui)
    chat, engine = ui.conversation, ui.engine
    if engine is None:
        raise UsageError("The model is not loaded yet.", hint="Wait until it is, or see /model.")
    asked = render(named("consolidate"), {})
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


def suggest(ui: Ui, conversation: Conversation) -> None:
    """After some exchanges, once in the life of a chat, say that one can start fresh."""
    long = sum(bool(turn.reply) for turn in conversation.turns) >= EXCHANGES
    if long and ui.conversation.id == conversation.id and not ui.kept.get("suggested"):
        ui.keep(suggested=True)
        ui.tell(
            "This chat grows long. /consolidate starts afresh with one prompt that holds what "
            "was agreed."
        )


def _reply(ui: Ui) -> tuple[Turn, str]:
    """The turn that is meant, and its reply's text."""
    turn = ui.turn
    if turn is None or turn.reply is None or not turn.reply.text.strip():
        raise UsageError("There is no reply to work on.", hint="Ask something first.")
    return turn, turn.reply.text


def _about(name: str, turn: Turn, text: str) -> Rendered:
    template = named(name)
    values = {"question": turn.words} if "question" in template.variables else {}
    return render(template, values, text)
