"""Label messages with moods, or with labels of your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from chatlm import Panel, hookimpl
from chatlm_emotion import actions
from chatlm_emotion.settings import Settings, label_scope, label_scope_in_chat

if TYPE_CHECKING:
    from chatlm import Annotation, Commands, Conversation, Message, SlashCommand, Turn, Ui

__all__ = ["Settings"]


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm emotion`."""
    cli.add_lazy(
        "emotion",
        "chatlm_emotion.commands:emotion",
        "Classify the mood of texts; train and evaluate classifiers.",
    )


class EmotionClassifier:
    """The configured classifier as the service `classifier`."""

    def classify(self, text: str) -> Annotation:
        """Return the emotion of a text."""
        from chatlm import ChatlmError

        labeller = actions.get_labeller()
        label = labeller.submit(text).result()
        if label is None:
            raise labeller.load_error or ChatlmError("The text cannot be classified.")
        return label


@hookimpl
def register_services(register: Callable[[str, Any], None]) -> None:
    """Offer the classifier to other plugins."""
    register("classifier", EmotionClassifier())


@hookimpl
def register_slash_commands(register: Callable[[SlashCommand], None]) -> None:
    """Add `/emotion`."""
    actions.register(register)


@hookimpl
def register_panels(register: Callable[[Panel], None]) -> None:
    """Add the mood panel."""
    register(Panel(actions.MOOD_PANEL, "Mood", _mood_panel, key="f8"))


@hookimpl
def chat_shown(ui: Ui) -> None:
    """Load the classifier while the user reads and types."""
    if label_scope(ui.state) != "off":
        actions.get_labeller().preload()


@hookimpl
def describe_text(conversation: Conversation, text: str) -> Mapping[str, str] | None:
    """Return the mood of the input for templates; wait for the classifier to load."""
    if label_scope_in_chat(conversation) == "off":
        return None
    from chatlm_emotion.actions import LABEL_TIMEOUT, result_within

    label = result_within(actions.get_labeller().submit(text), LABEL_TIMEOUT)
    return {label.name: label.value} if label else None


@hookimpl
def annotate_message(conversation: Conversation, message: Message) -> list[Annotation] | None:
    """Label a message, unless that would delay the answer."""
    labelled = label_scope_in_chat(conversation)
    if labelled == "off" or (message.role == "assistant" and labelled != "all"):
        return None
    from chatlm_emotion.actions import LABEL_TIMEOUT, MAX_ANSWER_DELAY, result_within

    asks = message.role == "user"
    text = conversation.turns[-1].display_text if asks else message.text
    label = result_within(
        actions.get_labeller().submit(text), MAX_ANSWER_DELAY if asks else LABEL_TIMEOUT
    )
    return _shown(label)


@hookimpl
def turn_finished(conversation: Conversation, turn: Turn) -> list[Annotation] | None:
    """Label the user's message now, if there was no time before the answer."""
    from chatlm_emotion import PLUGIN

    done = any(reply is None and label.plugin == PLUGIN for reply, label in turn.annotations)
    if done or label_scope_in_chat(conversation) == "off":
        return None
    from chatlm_emotion.actions import LABEL_TIMEOUT, result_within

    return _shown(result_within(actions.get_labeller().submit(turn.display_text), LABEL_TIMEOUT))


def _shown(label: Annotation | None) -> list[Annotation] | None:
    """Return what is shown of a label: nothing where there is none, or the classifier is unsure."""
    from chatlm_emotion.card import NEUTRAL, UNSURE

    return [label] if label and label.value not in (NEUTRAL, UNSURE) else None


@hookimpl
def chat_deleted() -> None:
    """Forget the labelled texts, which may be messages of the deleted chat."""
    actions.forget_labels()


@hookimpl
def shutdown() -> None:
    """Stop the thread that labels."""
    actions.close_labeller()


def _mood_panel(ui: Ui) -> Any:
    from chatlm_emotion.screens.mood_panel import MoodPanel

    return MoodPanel(ui)
