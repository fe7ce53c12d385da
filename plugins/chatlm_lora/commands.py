"""`chatlm adapters`: list, add, show, verify, merge, export and remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatlm import UsageError, dump_json, escape_controls, human_bytes, one_line
from chatlm.plugin_kit.options import json_option
from chatlm_lora.options import complete_adapter, resolve_base_model
from chatlm_lora.options import model_option as _model
from chatlm_lora.options import name_argument as _name
from chatlm_lora.train_command import train

if TYPE_CHECKING:
    from chatlm import Artifact
    from chatlm_lora.card import AdapterCard
    from chatlm_lora.comparison import Comparison


METHODS = ("linear", "slerp", "ties", "dare")


@click.command()
@click.argument("name")
@click.argument("sources", nargs=-1, required=True, shell_complete=complete_adapter)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="linear",
    show_default=True,
    help="linear: weighted sum; slerp: spherical interpolation of two; ties: sum where signs "
    "agree; dare: random part of each, rescaled.",
)
@click.option(
    "-w",
    "--weight",
    "weights",
    multiple=True,
    type=float,
    help="Weight of each source, in order. Default: equal weights",
)
@click.option(
    "--density", type=float, default=0.5, show_default=True, help="Share kept by ties and dare."
)
@click.option("--rank", type=int, help="Rank of the result of ties and dare. Default: the highest")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of dare.")
@_model
@json_option
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
    """Merge several adapters into one.

    Example: chatlm adapters merge both instruct pirate --method ties -w 0.7 -w 0.3
    """
    from chatlm_lora.library import ADAPTERS
    from chatlm_lora.merging import MergeSettings, merge_adapters

    if weights and len(weights) != len(sources):
        raise UsageError(
            f"There are {len(sources)} adapters and {len(weights)} weights.",
            hint="Specify one -w per adapter, in the same order.",
        )
    mix = MergeSettings(method, weights or (1 / len(sources),) * len(sources), density, rank, seed)
    merged = merge_adapters(
        name, [ADAPTERS.get(source) for source in sources], resolve_base_model(model), mix
    )
    if as_json:
        click.echo(dump_json(merged.to_dict()))
    else:
        click.echo(f"Merged {', '.join(sources)} into {name} ({method}).")
        click.echo(f"Check its effect: chatlm adapters verify {name}")


@click.group()
def adapters() -> None:
    """Train, add, verify, merge and export LoRA adapters.

    Example: chatlm adapters train pirate --data pirate.jsonl
    """


adapters.add_command(train)


adapters.add_command(merge)


@adapters.command("list")
@json_option
def list_adapters(as_json: bool) -> None:
    """List adapters.

    Example: chatlm adapters list
    """
    from chatlm_lora import card
    from chatlm_lora.library import ADAPTERS

    found = [(adapter, card.read_card(adapter.path)) for adapter in ADAPTERS.all()]
    if as_json:
        click.echo(dump_json([_adapter_dict(adapter, known) for adapter, known in found]))
        return
    if not found:
        click.echo("There are no adapters yet. Train one: chatlm adapters train NAME --data FILE")
    width = max((len(adapter.name) for adapter, _ in found), default=0)
    for adapter, known in found:
        own = "  (yours)" if adapter.user_owned else ""
        summary = card.summarize_card(known) if known else ""
        click.echo(f"{adapter.name:<{width}}  {human_bytes(adapter.size_bytes):>8}  {summary}{own}")


@adapters.command()
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
@_model
@click.option("--licence", default="", metavar="TEXT", help="Licence of the adapter.")
@json_option
def add(name: str, path: Path, model: str | None, licence: str, as_json: bool) -> None:
    """Validate an adapter and copy it under a name: a folder that peft saved, or a GGUF file.

    Example: chatlm adapters add medical ~/downloads/medical-lora
    """
    from chatlm_lora import library
    from chatlm_lora.library import ADAPTERS

    base = resolve_base_model(model)
    checked = library.add_adapter(name, path.expanduser(), base, licence)
    if as_json:
        row = _adapter_dict(ADAPTERS.get(name))
        click.echo(dump_json(row | {"warnings": list(checked.warnings)}))
        return
    click.echo(
        f"Added {name}: rank {checked.config.rank}, {len(checked.modules)} modules, "
        f"{checked.parameters:,} parameters, for {base.name}."
    )
    _print_warnings(checked.warnings)


@adapters.command()
@_name
@json_option
def show(name: str, as_json: bool) -> None:
    """Show an adapter's card, and sample answers with and without it.

    Example: chatlm adapters show instruct
    """
    from chatlm_lora import card, validation
    from chatlm_lora.library import ADAPTERS

    adapter = ADAPTERS.get(name)
    known = card.read_card(adapter.path)
    checked = validation.validate_adapter(adapter.path, None)
    if as_json:
        click.echo(dump_json(_adapter_dict(adapter, known) | _card_dict(known) | checked.to_dict()))
        return
    config = checked.config
    click.echo(f"{name}: {card.summarize_card(known) if known else 'no card'}")
    click.echo(
        f"Rank {config.rank}, alpha {config.alpha:g}, {len(checked.modules)} modules "
        f"({one_line(config.describe_targets(), 200)}), {checked.parameters:,} parameters, "
        f"{human_bytes(adapter.size_bytes)}"
    )
    click.echo(escape_controls(str(adapter.path)))
    if known is None:
        return
    click.echo("\n" + "\n".join(card.card_lines(known)))
    for answer in known.answers:
        click.echo(f"\n> {one_line(answer.prompt, 400)}")
        click.echo(f"  wanted  {one_line(answer.expected, 400)}")
        click.echo(f"  before  {one_line(answer.before, 400)}")
        click.echo(f"  after   {one_line(answer.after, 400)}")


@adapters.command()
@_name
@_model
@click.option(
    "--judge",
    metavar="MODEL",
    help="Also let this model judge whether answers with the adapter are better.",
)
@json_option
def verify(name: str, model: str | None, judge: str | None, as_json: bool) -> None:
    """Check every byte of an adapter's weights, and measure whether it changes the model's output.

    The exit code is 1 if it has no effect. An effect need not be an improvement: --judge compares
    the answers to a few prompts in both orders, as chatlm arena run does for a file of prompts.

    Example: chatlm adapters verify instruct
    """
    from chatlm_lora import effect as effect_module
    from chatlm_lora.library import ADAPTERS

    adapter = ADAPTERS.get(name)
    adapter.verify()
    base = resolve_base_model(model)
    effect = effect_module.measure_effect(adapter, base)
    comparison = _compare_with_base(name, base.name, judge) if judge else None
    if as_json:
        row = {"name": name, "acts": effect.has_effect} | effect.to_dict()
        judged = {"comparison": comparison.to_dict()} if comparison else {}
        click.echo(dump_json(row | judged))
    else:
        click.echo(f"{name}: {effect.describe()}")
        if comparison:
            click.echo(escape_controls(f"{name}: {comparison.describe()}"))
        _print_warnings(effect.warnings)
    if not effect.has_effect:
        raise click.exceptions.Exit(1)


@adapters.command()
@_name
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), metavar="FOLDER")
@click.option(
    "--merged", is_flag=True, help="Merge the adapter into the model, and write the model."
)
@_model
def export(name: str, folder: Path, merged: bool, model: str | None) -> None:
    """Export an adapter as peft loads it, or the model with the adapter merged in.

    Example: chatlm adapters export instruct --merged --to ~/models/instructed
    """
    from chatlm_lora import library
    from chatlm_lora.library import ADAPTERS

    adapter = ADAPTERS.get(name)
    folder = folder.expanduser()
    if not merged:
        library.export_adapter(adapter, folder)
        click.echo(escape_controls(f"Wrote the adapter {name} to {folder}."))
        return
    from chatlm_lora.merging import export_merged

    _print_warnings(export_merged(adapter, resolve_base_model(model), folder))
    click.echo(escape_controls(f"Wrote the model with {name} to {folder}."))
    click.echo(escape_controls(f"Chat with it: chatlm --model {folder}"))


@adapters.command()
@_name
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def remove(name: str, yes: bool) -> None:
    """Delete one of your adapters.

    Example: chatlm adapters remove pirate --yes
    """
    from chatlm_lora.library import ADAPTERS

    adapter = ADAPTERS.get(name)
    size = adapter.size_bytes
    if adapter.user_owned and not yes:
        click.confirm(f"Delete the adapter {name}?", abort=True, err=True)
    adapter.remove()
    click.echo(f"Removed {name}; freed {human_bytes(size)}.")


def _compare_with_base(name: str, base: str, judge: str) -> Comparison:
    from chatlm import load_config, side_chats
    from chatlm.plugin_kit.progress import progress_bar
    from chatlm_lora.comparison import compare_with_base

    with (
        progress_bar() as progress,
        side_chats(load_config(), lambda text: progress.update(0, None, text)) as chats,
    ):
        return compare_with_base(chats, name, base, judge, progress.update)


def _print_warnings(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        click.echo(f"Note: {escape_controls(warning)}", err=True)


def _adapter_dict(adapter: Artifact, adapter_card: AdapterCard | None = None) -> dict[str, Any]:
    return {
        "name": adapter.name,
        "own": adapter.user_owned,
        "base": adapter_card.base if adapter_card else None,
        "description": adapter_card.description if adapter_card else "",
        "bytes": adapter.size_bytes,
        "folder": str(adapter.path),
    }


def _card_dict(adapter_card: AdapterCard | None) -> dict[str, Any]:
    return {"card": adapter_card.to_dict() if adapter_card else None}
