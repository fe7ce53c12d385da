"""What several commands take: a classifier's name, completed by the shell, and `--json`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from chatlm import Artifact

IMAGE_SUFFIXES = (".png", ".svg", ".pdf")
"""Endings of picture files."""


def complete_classifier(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The names of classifiers that begin so."""
    from click.shell_completion import CompletionItem

    from chatlm_emotion.card import CLASSIFIERS

    return [
        CompletionItem(each.name) for each in CLASSIFIERS.all() if each.name.startswith(incomplete)
    ]


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
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


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


@contextmanager
def progress_bar(total: int, title: str) -> Iterator[Callable[[int], None]]:
    """Show how far a long work is, on a terminal only.

    Args:
        total: steps in all.
        title: what is being done.

    Yields:
        a function that is told how many more steps are done.
    """
    hidden = not sys.stderr.isatty() or total < 2
    with click.progressbar(length=total, label=title, file=sys.stderr, hidden=hidden) as shown:
        yield shown.update


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
