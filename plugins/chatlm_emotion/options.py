"""Options of `chatlm emotion`: classifiers' names, completed by the shell; image paths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatlm.plugin_kit.options import complete_names

if TYPE_CHECKING:
    from chatlm import Artifact

IMAGE_SUFFIXES = (".png", ".svg", ".pdf")
"""Supported image formats."""


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
    help="Classifier. Default: the active one.",
)
teacher_option = click.option(
    "--teacher",
    multiple=True,
    metavar="CLASSIFIER",
    shell_complete=complete_classifier,
    help="Classifier of the same labels to distil; repeatable.",
)


def resolve_classifier(name: str | None) -> Artifact:
    """Return a classifier, its base model pulled first if it is not local.

    Args:
        name: as the user gave it; None for the active one.

    Raises:
        UsageError: it does not exist.
        ChatlmError: it cannot be read, or its base model cannot be pulled.
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
    """Check that an image can be written there, before the long work.

    Raises:
        UsageError: the format is not supported, or the folder does not exist.
    """
    from chatlm import UsageError

    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UsageError(
            f"{path} is not an image file.", hint=f"Use one of {', '.join(IMAGE_SUFFIXES)}."
        )
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}.", hint="Create it first.")
