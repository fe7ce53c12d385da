"""The command `chatlm adapters merge`: its options, and what it prints."""

from __future__ import annotations

import click

from chatlm import UsageError, dump_json
from chatlm_lora.options import as_json_option as _json
from chatlm_lora.options import base_model, complete_adapter
from chatlm_lora.options import model_option as _model

METHODS = ("linear", "slerp", "ties", "dare")


@click.command()
@click.argument("name")
@click.argument("sources", nargs=-1, required=True, shell_complete=complete_adapter)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="linear",
    show_default=True,
    help="linear: the weighted sum; slerp: on the arc between two; ties: where they agree in "
    "sign; dare: a random part of each, scaled up.",
)
@click.option(
    "-w",
    "--weight",
    "weights",
    multiple=True,
    type=float,
    help="Of each source, in their order. Default: equal parts",
)
@click.option("--density", type=float, default=0.5, show_default=True, help="For ties and dare.")
@click.option("--rank", type=int, help="Of the result for ties and dare. Default: the highest")
@click.option("--seed", type=int, default=0, show_default=True, help="For dare.")
@_model
@_json
def merge(
    name: str,
    sources: tuple[str, ...],
    method: str,
    weights: tuple[float, ...],
    density: float,
    rank: int | None,
    seed: int,
    model: str | None,
    as_json: bool,
) -> None:
    """Make one adapter of several.

    Example: chatlm adapters merge both instruct pirate --method ties -w 0.7 -w 0.3
    """

    from chatlm_lora.library import ADAPTERS
    from chatlm_lora.merging import Mix, merge_adapters

    if weights and len(weights) != len(sources):
        raise UsageError(
            f"There are {len(sources)} adapters and {len(weights)} weights.",
            hint="Give one -w for each adapter, in their order.",
        )
    mix = Mix(method, weights or (1 / len(sources),) * len(sources), density, rank, seed)
    made = merge_adapters(
        name, [ADAPTERS.located(source) for source in sources], base_model(model), mix
    )
    if as_json:
        click.echo(dump_json(made.to_dict()))
    else:
        click.echo(f"Merged {', '.join(sources)} into {name} ({method}).")
        click.echo(f"See what it does: chatlm adapters verify {name}")
