"""The command that this plugin adds to the screen; it knows no Textual."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chatlm import ChatlmError, SlashCommand, Ui, UsageError, own_settings
from chatlm_emotion import PLUGIN
from chatlm_emotion.kept import LABEL, labelled_of
from chatlm_emotion.settings import Settings

if TYPE_CHECKING:
    from chatlm_emotion.labelling import Labeller

PANEL = "mood"
"""The name of the plugin's panel."""

ON, OFF, USER, ALL = "on", "off", "user", "all"

_SAID = {
    OFF: "No message of this chat is labelled.",
    USER: "Your messages in this chat are labelled.",
    ALL: "Your messages and the replies in this chat are labelled.",
}

_labellers: list[Labeller] = []
"""The one of this program, once something was to be labelled."""


def labeller() -> Labeller:
    """What labels, made when it is first needed."""
    if not _labellers:
        from chatlm_emotion.labelling import Labeller

        _labellers.append(Labeller())
    return _labellers[0]


def close() -> None:
    """End it, if there is one."""
    while _labellers:
        _labellers.pop().close()


def emotion(ui: Ui, argument: str) -> None:
    """Choose which messages of the chat are labelled, or say which are.

    Raises:
        ChatlmError: there is no such choice, or the classifier cannot be had.
    """
    word = argument.strip().lower()
    if not word:
        _tell(ui)
        return
    choice = ALL if word == ON else word
    if choice not in _SAID:
        raise UsageError(
            f"There is no {word!r} for /emotion.",
            hint=f"/emotion {USER} labels your messages, {ALL} the replies too, {OFF} none.",
        )
    if choice != OFF:
        _prepare(ui)
    ui.keep(**{LABEL: choice})
    ui.tell(_SAID[choice])


def register(add: Callable[[SlashCommand], None]) -> None:
    """Offer it."""
    add(SlashCommand("emotion", "label the mood of messages", emotion, f"[{USER}|{ALL}|{OFF}]"))


def _tell(ui: Ui) -> None:
    labelled = labelled_of(ui.kept)
    if labelled != OFF:
        try:
            labeller().ready()
        except ChatlmError as error:
            hint = f"/emotion {labelled} fetches what is missing."
            raise ChatlmError(f"Nothing is labelled yet. {error.message}", hint=hint) from error
    name = own_settings(PLUGIN, Settings).classifier
    ui.tell(f"{_SAID[labelled]} The classifier is {name}. /{PANEL} shows them all.")


def _prepare(ui: Ui) -> None:
    """Fetch the classifier's base if it is not here, and load it."""
    from chatlm import ensure_model
    from chatlm_emotion import card
    from chatlm_emotion.library import CLASSIFIERS

    place = CLASSIFIERS.located(own_settings(PLUGIN, Settings).classifier)
    base = card.read(place.path).base
    with ui.working("Preparing the classifier") as work:
        if base:
            ensure_model(
                base,
                lambda stage, done, total: work.at(done, total, f"fetching {base} ({stage})"),
                lambda: work.cancelled,
            )
        work.at(0, None, "loading")
        labeller().ready()
