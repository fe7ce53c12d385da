"""Options and arguments that commands of the lab share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from chatlm.plugin_kit.options import complete_names


def model_names() -> list[str]:
    """Return the names of all lab models, for completion."""
    from chatlm_lab.models import LAB_MODELS

    return [place.name for place in LAB_MODELS.all()]


name_argument = click.argument("name", shell_complete=complete_names(model_names))

DATA_HELP = 'Text files, folders of them, or lines of {"text": …} (.jsonl). Repeatable.'

data_option = click.option(
    "--data",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help=DATA_HELP,
)


def perplexity_line(scores: Mapping[str, Any]) -> str:
    """Return the scores of a model, see `Evaluation.to_dict`, as a sentence."""
    line = f"Perplexity on held-out text: {scores['perplexity']:,.2f} per token"
    if scores["bits_per_byte"] is not None:
        line += (
            f", {scores['character_perplexity']:,.3f} per character; "
            f"{scores['bits_per_byte']:.3f} bits per byte"
        )
    else:
        line += f"; {scores['unknown_tokens']:,} of {scores['tokens']:,} tokens are unknown"
    if abs(scores["mean_sum"] - 1) > 1e-6:
        line += (
            f". The probabilities are not normalised: they sum to {scores['mean_sum']:.2f} on "
            "average, so this cannot be compared with other models"
        )
    return f"{line}."
