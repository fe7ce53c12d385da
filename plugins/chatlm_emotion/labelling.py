"""Labels texts beside the chat: one thread loads the active classifier and asks it.

A classifier that cannot be loaded labels nothing; `trouble` says why.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING

from chatlm import Annotation, ChatlmError, own_settings
from chatlm_emotion import PLUGIN
from chatlm_emotion.settings import Settings

if TYPE_CHECKING:
    from chatlm_emotion.classifier import Classifier

log = logging.getLogger("chatlm.plugins.emotion")

HOLDS_UP = 0.03
"""Seconds that an answer may wait for a label."""
PATIENCE = 10.0
"""Seconds after which a label is given up."""

_REMEMBERED = 32
"""Texts whose labels are kept."""


class Labeller:
    """Gives labels of texts; its methods may be called in any thread."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="chatlm-emotion")
        self._lock = Lock()
        self._found: OrderedDict[tuple[str, str], Future[Annotation | None]] = OrderedDict()
        self._loaded: Classifier | None = None
        self._name = ""
        self.trouble: ChatlmError | None = None
        """Why the classifier that was asked for last cannot be used."""

    def ask(self, text: str) -> Future[Annotation | None]:
        """Begin to label a text; None comes of it where there is no classifier."""
        name = own_settings(PLUGIN, Settings).classifier
        with self._lock:
            known = self._found.pop((name, text), None)
            if known is None or (known.done() and known.result() is None):
                known = self._worker.submit(self._label, name, text)
            self._found[name, text] = known
            while len(self._found) > _REMEMBERED:
                self._found.popitem(last=False)
        return known

    def warm(self) -> None:
        """Load the classifier, so that the first label need not wait for it."""
        self.ask("")

    def ready(self) -> None:
        """Wait until the classifier is loaded.

        Raises:
            ChatlmError: it cannot be.
        """
        self.ask("").result()
        if self.trouble is not None:
            raise self.trouble

    def close(self) -> None:
        """Begin nothing more."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _label(self, name: str, text: str) -> Annotation | None:
        from chatlm_emotion.classifier import ICONS, load
        from chatlm_emotion.library import CLASSIFIERS

        try:
            if self._loaded is None or self._name != name:
                self._loaded = None
                self._loaded, self._name = load(CLASSIFIERS.located(name)), name
                self.trouble = None
            (verdict,) = self._loaded.classify([text])
        except ChatlmError as error:
            if self.trouble is None or str(self.trouble) != str(error):
                log.info("nothing is labelled: %s", error)
            self.trouble = error
            return None
        icon = ICONS.get(verdict.label, "")
        return Annotation(PLUGIN, self._loaded.card.tells, verdict.label, verdict.score, icon)


def soon(asked: Future[Annotation | None], seconds: float) -> Annotation | None:
    """The label, if it is there in time."""
    with suppress(TimeoutError):
        return asked.result(seconds)
    return None
