"""`chatlm lab demo`: gradient descent on small examples, with a plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatlm import dump_json
from chatlm.plugin_kit.options import json_option
from chatlm_lab.pictures import COLUMNS, LINES, picture_option

if TYPE_CHECKING:
    from chatlm_lab.demos import Demo, DemoResult

NAMES = ("linear-regression", "logistic-regression", "mlp", "cnn", "bag-of-words")


@click.command()
@click.argument("name", required=False, type=click.Choice(NAMES))
@picture_option
@json_option
def demo(name: str | None, output: Path | None, as_json: bool) -> None:
    """Watch gradient descent learn a small example; without a name, list them.

    Example: chatlm lab demo linear-regression -o line.png
    """
    from chatlm import UsageError, expand_path
    from chatlm_lab.demos import DEMOS

    if name is None:
        if output is not None:
            raise UsageError("There is nothing to draw.", hint="Name a demo: chatlm lab demo mlp")
        if as_json:
            click.echo(
                dump_json([{"name": key, "title": each.title} for key, each in DEMOS.items()])
            )
            return
        for key, each in DEMOS.items():
            click.echo(f"{key:<21}{each.title} ({each.place})")
        click.echo("Chapters are those of The Hundred-Page Language Models Book (Burkov, 2025).")
        return
    chosen = DEMOS[name]
    found = chosen.run()
    if output is not None:
        draw_demo(chosen, found, expand_path(str(output)))
    if as_json:
        click.echo(dump_json({"name": name, "losses": found.losses, **found.values}))
        return
    click.echo("\n".join([*found.lines, "", *loss_lines(found)]))
    if output is not None:
        click.echo(f"Drawn into {output}.")


def loss_lines(found: DemoResult) -> list[str]:
    """Return the loss curve as lines of Braille characters."""
    from chatlm.plugin_kit.training import braille_curve

    losses = found.losses
    low, high = min(losses), max(losses)
    drawn = braille_curve(list(enumerate(losses)), len(losses), low, high, (COLUMNS, LINES))
    labels = {0: f"{high:.4g}", LINES - 1: f"{low:.4g}"}
    return [
        *(f"{labels.get(number, ''):>9} {row}" for number, row in enumerate(drawn)),
        f"{'loss':>9} 0{f'step {len(losses) - 1:,}':>{COLUMNS - 1}}",
    ]


def draw_demo(chosen: Demo, found: DemoResult, path: Path) -> None:
    """Draw what was learnt and the loss curve into a picture.

    Args:
        chosen: the demo.
        found: its result.
        path: a file that ends in .png or .svg.

    Raises:
        UsageError: the file has another ending, or cannot be written.
    """
    from chatlm_lab.pictures import save_figure

    with save_figure(path, (10, 4.5)) as figure:
        learnt, losses = figure.subplots(1, 2)
        found.draw(learnt)
        losses.plot(found.losses, color="#0072b2")
        losses.set_xlabel("step")
        losses.set_ylabel("loss")
        losses.grid(alpha=0.3)
        figure.suptitle(chosen.title)
