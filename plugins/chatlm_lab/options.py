"""Options and arguments that commands of the lab share."""

from __future__ import annotations

from pathlib import Path

import click

from chatlm.plugin_kit.options import complete_names


def model_names() -> list[str]:
    """Return the names of all lab models, for completion."""
    from chatlm_lab.models import LAB_MODELS

    return [place.name for place in LAB_MODELS.all()]


name_argument = click.argument("name", shell_complete=complete_names(model_names))

data_option = click.option(
    "--data",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help='Text files, folders of them, or lines of {"text": …} (.jsonl). Repeatable.',
)
