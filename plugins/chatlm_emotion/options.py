"""Options of `chatlm emotion`: classifiers' names, completed by the shell; image paths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatlm.plugin_kit.options import complete_names

if TYPE_CHECKING:
    from chatlm import Artifact

IMAGE_SUFFIXES = (".png", ".svg", ".pdf")
"""Endings of picture files."""


def _classifier_names() -> list[str]:
    from chatlm_emotion.card import CLASSIFIERS

    return [classifier.name for classifier in CLASSIFIERS.all()]


complete_classifier = complete_names(_classifier_names)
name_argument = click.argument("name", shell_complete=complete_classifier)
classifier_option = click.option(
    "--with",
    "name",
    metavar="NAME",
    shell_complete=complete_classifier,
    help="The classifier; the active one if left out.",
)
teacher_option = click.option(
    "--teacher",
    multiple=True,
    metavar="CLASSIFIER",
    shell_complete=complete_classifier,
    help="A slower classifier of the same labels to learn from too. May be repeated.",
)


def resolve_classifier(name: str | None) -> Artifact:
    """The classifier that is meant, its base model fetched first if it is not here.

    Raises:
        UsageError: there is none of that name.
        ChatlmError: it cannot be read, or its base cannot be fetched.
    """
    from chatlm import ensure_model, load_plugin_settings
    from chatlm_emotion import PLUGIN, card
    from chatlm_emotion.card import CLASSIFIERS
    from chatlm_emotion.settings import Settings

    place = CLASSIFIERS.get(name or load_plugin_settings(PLUGIN, Settings).classifier)
    if base := card.read_card(place.path).base:
        ensure_model(base)
    return place


def check_image_path(path: Path) -> None:
    """See that a picture can be put there, before the work that it shows.

    Raises:
        UsageError: it cannot.
    """
    from chatlm import UsageError

    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UsageError(
            f"{path} is no picture's name.", hint=f"It ends in {', '.join(IMAGE_SUFFIXES)}."
        )
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}.", hint="Make it first.")
