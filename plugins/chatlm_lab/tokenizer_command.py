"""`chatlm lab tokenizer`: watch BPE merge, and see the tokens of a text."""

from __future__ import annotations

from pathlib import Path

import click

from chatlm import dump_json, escape_controls
from chatlm.plugin_kit.options import complete_names, json_option
from chatlm_lab.options import data_option, model_names


@click.group()
def tokenizer() -> None:
    """Watch a tokenizer being made, and see the tokens of a text.

    Example: chatlm lab tokenizer merges --data poems.txt
    """


@tokenizer.command()
@data_option
@click.option("--merges", type=int, default=30, show_default=True, help="Number of merges.")
@json_option
def merges(data: tuple[Path, ...], merges: int, as_json: bool) -> None:
    """Train BPE step by step, and print each merge.

    · is a blank and ↵ a line break. The merges are those of `chatlm lab train --tokenizer bpe`.

    Example: chatlm lab tokenizer merges --data poems.txt --merges 50
    """
    from chatlm import UsageError, expand_path
    from chatlm_lab.bpe_steps import BpeSteps, visible
    from chatlm_lab.corpus import read_texts

    if merges < 1:
        raise UsageError(f"--merges must be 1 or more, not {merges}.")
    steps = BpeSteps(read_texts(expand_path(str(path)) for path in data))
    before = steps.num_tokens
    rows = []
    for number, merge in enumerate(steps.steps(merges), 1):
        left, right, token = map(visible, (merge.left, merge.right, merge.token))
        if as_json:
            rows.append(
                {
                    "left": left,
                    "right": right,
                    "token": token,
                    "count": merge.count,
                    "tokens": merge.tokens,
                    "vocabulary": merge.vocabulary,
                }
            )
            continue
        saved = 1 - merge.tokens / before
        click.echo(
            escape_controls(
                f"{number:>4}  {left:>12} + {right:<12} → {token:<16} {merge.count:>9,} times, "
                f"{merge.tokens:,} tokens ({saved:.1%} fewer)"
            )
        )
    if as_json:
        click.echo(dump_json(rows))


@tokenizer.command()
@click.argument("text")
@click.option(
    "--with",
    "name",
    required=True,
    metavar="NAME",
    shell_complete=complete_names(model_names),
    help="Lab model whose tokenizer is used.",
)
@json_option
def tokens(text: str, name: str, as_json: bool) -> None:
    """Print the tokens of a text with their ids.

    Example: chatlm lab tokenizer tokens "Shall I compare thee" --with poems
    """
    from chatlm_lab.bpe_steps import visible
    from chatlm_lab.opening import open_model

    opened = open_model(name)
    encoding = opened.tokenizer.encode(text, add_special_tokens=False)
    is_bytes = opened.card.tokenizer in ("bytes", "bpe")
    shown = [
        visible(token) if is_bytes else token.replace(" ", "·").replace("\n", "↵")
        for token in encoding.tokens
    ]
    if as_json:
        rows = [
            {"id": number, "text": token} for number, token in zip(encoding.ids, shown, strict=True)
        ]
        click.echo(dump_json(rows))
        return
    pairs = zip(shown, encoding.ids, strict=True)
    click.echo(escape_controls(" | ".join(f"{token} {number}" for token, number in pairs)))
    click.echo(f"{len(shown)} tokens for {len(text)} characters")
