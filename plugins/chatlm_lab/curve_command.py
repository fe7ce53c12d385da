"""`chatlm lab curve`: the losses of trainings, on the terminal and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatlm import dump_json
from chatlm.plugin_kit.options import complete_names, json_option
from chatlm_lab.options import model_names
from chatlm_lab.pictures import COLUMNS, LINES, picture_option

if TYPE_CHECKING:
    from chatlm_lab.models import LabCard


@click.command()
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names(model_names))
@picture_option
@json_option
def curve(names: tuple[str, ...], output: Path | None, as_json: bool) -> None:
    """Show how the loss fell while networks were trained.

    Example: chatlm lab curve poems-rnn poems-decoder -o losses.png
    """
    from chatlm import UsageError, expand_path
    from chatlm_lab.models import LAB_MODELS, read_card

    cards = [read_card(LAB_MODELS.get(name)) for name in dict.fromkeys(names)]
    for card in cards:
        if not card.curve.get("train"):
            raise UsageError(
                f"{card.name} has no curve: it was counted, not trained in steps.",
                hint="Only networks have one: --arch rnn, gru, lstm, minlstm, decoder or llama.",
            )
    if output is not None:
        draw_curves(cards, expand_path(str(output)))
    if as_json:
        click.echo(dump_json({card.name: card.curve for card in cards}))
        return
    if output is not None:
        click.echo(f"Drawn into {output}.")
        return
    for card in cards:
        click.echo("\n".join(curve_lines(card)))


def curve_lines(card: LabCard) -> list[str]:
    """Return the training and held-out losses of a model as lines of Braille characters."""
    from chatlm.plugin_kit.training import braille_curve

    lines = []
    losses = [loss for points in card.curve.values() for _, loss in points]
    low, high, last = min(losses), max(losses), card.curve["train"][-1][0]
    for title, points in _curves(card.curve).items():
        if not points:
            continue
        lines.append(f"{card.name}, {title}: {points[0][1]:.3f} to {points[-1][1]:.3f} nats")
        drawn = braille_curve(points, last, low, high, (COLUMNS, LINES))
        labels = {0: f"{high:.3f}", LINES - 1: f"{low:.3f}"}
        lines += [f"{labels.get(number, ''):>7} {row}" for number, row in enumerate(drawn)]
    return [*lines, f"{'':>7} 1{f'step {last:,}':>{COLUMNS - 1}}"]


def draw_curves(cards: list[LabCard], path: Path) -> None:
    """Draw the curves of several models into one picture.

    Args:
        cards: of models with a curve.
        path: a file that ends in .png or .svg.

    Raises:
        UsageError: the file has another ending, or cannot be written.
    """
    from chatlm_lab.pictures import save_figure

    with save_figure(path, (8, 5)) as figure:
        axes = figure.add_subplot()
        for number, card in enumerate(cards):
            colour = f"C{number % 10}"
            for title, points in _curves(card.curve).items():
                held_out = title == "held-out loss"
                axes.plot(
                    [step for step, _ in points],
                    [loss for _, loss in points],
                    color=colour,
                    linestyle="--" if held_out else "-",
                    marker="o" if held_out else None,
                    markersize=3,
                    label=f"{card.name}, {title}",
                )
        axes.set_xlabel("step")
        axes.set_ylabel("loss, nats per token")
        axes.grid(alpha=0.3)
        axes.legend()


def _curves(values: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    return {
        "training loss": [tuple(point) for point in values["train"]],
        "held-out loss": [tuple(point) for point in values.get("held_out", ())],
    }
