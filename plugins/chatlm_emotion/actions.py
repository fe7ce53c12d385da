"""/emotion, and the thread that labels messages.

If the classifier cannot be loaded, nothing is labelled; `Labeller.load_error` says why.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING

from chatlm import Annotation, ChatlmError, SlashCommand, Ui, UsageError, load_plugin_settings
from chatlm_emotion import PLUGIN
from chatlm_emotion.settings import LABEL_KEY, Settings, label_scope

if TYPE_CHECKING:
    from chatlm_emotion.classifier import Classifier


log = logging.getLogger("chatlm.plugins.emotion")


MAX_ANSWER_DELAY = 0.03
"""Maximum seconds that an answer waits for a label."""

LABEL_TIMEOUT = 7.0
"""Seconds after which a label is given up; well before chatlm calls the hook slow."""

_CACHE_SIZE = 32
"""Number of texts whose labels are cached."""


class Labeller:
    """Labels texts in a thread of its own; all methods are thread-safe."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="chatlm-emotion")
        self._lock = Lock()
        self._cache: OrderedDict[tuple[str, str], Future[Annotation | None]] = OrderedDict()
        self._classifier: Classifier | None = None
        self._name = ""
        self.load_error: ChatlmError | None = None
        """Why the current classifier cannot be used; None if it can."""

    def submit(self, text: str) -> Future[Annotation | None]:
        """Start to label a text; the result is None if the classifier cannot be used."""
        name = load_plugin_settings(PLUGIN, Settings).classifier
        with self._lock:
            known = self._cache.pop((name, text), None)
            if known is None or (known.done() and known.result() is None):
                known = self._executor.submit(self._label, name, text)
            self._cache[name, text] = known
            while len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
        return known

    def preload(self) -> None:
        """Start to load the classifier, so that the first label does not wait for it."""
        self.submit("")

    def wait_until_loaded(self) -> None:
        """Wait until the classifier is loaded.

        Raises:
            ChatlmError: it cannot be loaded.
        """
        self.submit("").result()
        if self.load_error is not None:
            raise self.load_error

    def forget(self) -> None:
        """Forget all texts and their labels."""
        with self._lock:
            self._cache.clear()

    def close(self) -> None:
        """Stop the thread."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _label(self, name: str, text: str) -> Annotation | None:
        from chatlm_emotion.card import CLASSIFIERS
        from chatlm_emotion.classifier import ICONS, load_classifier

        try:
            if self._classifier is None or self._name != name:
                self._classifier = None
                self._classifier, self._name = load_classifier(CLASSIFIERS.get(name)), name
                self.load_error = None
            (verdict,) = self._classifier.classify([text])
        except ChatlmError as error:
            if self.load_error is None or str(self.load_error) != str(error):
                log.info("nothing is labelled: %s", error)
            self.load_error = error
            return None
        icon = ICONS.get(verdict.label, "")
        return Annotation(
            PLUGIN, self._classifier.card.attribute, verdict.label, verdict.score, icon
        )


def result_within(future: Future[Annotation | None], seconds: float) -> Annotation | None:
    """Return the label, or None if it is not ready in time."""
    with suppress(TimeoutError):
        return future.result(seconds)
    return None


MOOD_PANEL = "mood"
"""Name of the panel."""

ON, OFF, USER, ALL = "on", "off", "user", "all"


_SCOPE_MESSAGES = {
    OFF: "No message of this chat is labelled.",
    USER: "Your messages in this chat are labelled.",
    ALL: "Your messages and the replies in this chat are labelled.",
}


_labellers: list[Labeller] = []
"""The labeller of this process, once it was needed."""


def get_labeller() -> Labeller:
    """Return the labeller of this process, created on first use."""
    if not _labellers:
        _labellers.append(Labeller())
    return _labellers[0]


def forget_labels() -> None:
    """Forget the texts that were labelled and their labels."""
    for labeller in _labellers:
        labeller.forget()


def close_labeller() -> None:
    """Stop the labeller, if there is one."""
    while _labellers:
        _labellers.pop().close()


def emotion(ui: Ui, argument: str) -> None:
    """Set which messages of the chat are labelled; without an argument say which are.

    Raises:
        ChatlmError: the argument is not valid, or the classifier cannot be loaded.
    """
    word = argument.strip().lower()
    if not word:
        _show_scope(ui)
        return
    choice = ALL if word == ON else word
    if choice not in _SCOPE_MESSAGES:
        raise UsageError(
            f"/emotion has no setting {word!r}.",
            hint=f"/emotion {USER} labels your messages, {ALL} the replies too, {OFF} none.",
        )
    if choice != OFF:
        _prepare_classifier(ui)
    ui.set_state(**{LABEL_KEY: choice})
    ui.notify(_SCOPE_MESSAGES[choice])


def register(add: Callable[[SlashCommand], None]) -> None:
    """Register the command."""
    add(SlashCommand("emotion", "label the mood of messages", emotion, f"[{USER}|{ALL}|{OFF}]"))


def _show_scope(ui: Ui) -> None:
    labelled = label_scope(ui.state)
    if labelled != OFF:
        try:
            get_labeller().wait_until_loaded()
        except ChatlmError as error:
            hint = f"/emotion {labelled} downloads what is missing."
            raise ChatlmError(f"Nothing is labelled yet. {error.message}", hint=hint) from error
    name = load_plugin_settings(PLUGIN, Settings).classifier
    ui.notify(
        f"{_SCOPE_MESSAGES[labelled]} The classifier is {name}. /{MOOD_PANEL} shows them all."
    )


def _prepare_classifier(ui: Ui) -> None:
    """Pull the classifier's base model if it is not local, and load the classifier."""
    from chatlm import ensure_model
    from chatlm_emotion import card
    from chatlm_emotion.card import CLASSIFIERS

    place = CLASSIFIERS.get(load_plugin_settings(PLUGIN, Settings).classifier)
    base = card.read_card(place.path).base
    with ui.progress("Preparing the classifier") as work:
        if base:
            ensure_model(
                base,
                lambda stage, done, total: work.update(
                    done, total, f"downloading {base} ({stage})"
                ),
                lambda: work.cancelled,
            )
        work.update(0, None, "loading")
        get_labeller().wait_until_loaded()
