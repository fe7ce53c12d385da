"""The command `chatlm emotion label`: a panel of models labels the texts of a file."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatlm import check_regular_file, dump_json, escape_controls, one_line
from chatlm.plugin_kit.options import json_option
from chatlm.plugin_kit.progress import status_lines, step_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chatlm import SideChats
    from chatlm_emotion.panel import PanelLabel, Rater

BATCH_SIZE = 8
"""Texts per batch; results are saved after each."""
MIN_RATERS = 3
"""Smallest panel."""
HUMAN = "me"
"""Value of --tie: ask the user."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="File to write, JSON lines."
)
@click.option("--labels", required=True, metavar="A,B,…", help="The labels to choose from.")
@click.option(
    "--rater",
    "models",
    multiple=True,
    metavar="MODEL",
    help="A rater; give three. Default: one model with three questions.",
)
@click.option(
    "--ask",
    "asks",
    multiple=True,
    metavar="TEXT",
    help="A question with {text} and {labels}; one per rater.",
)
@click.option("--tie", metavar=f"MODEL|{HUMAN}", help=f"Breaks ties: a fourth model, or {HUMAN}.")
@json_option
def label(
    file: Path,
    out: Path,
    labels: str,
    models: tuple[str, ...],
    asks: tuple[str, ...],
    tie: str | None,
    as_json: bool,
) -> None:
    """Label texts by the majority vote of several models.

    FILE has one text per line, or JSON lines with `text`. The output fits `chatlm emotion train`.
    After a stop the same command resumes.

    Example: chatlm emotion label texts.txt --out labelled.jsonl --labels joy,anger,other
    """
    from chatlm import UsageError, expand_path, load_config, side_chats
    from chatlm_emotion import examples
    from chatlm_emotion.panel import RaterPanel, measure_agreement

    names = list(dict.fromkeys(name.strip() for name in labels.split(",") if name.strip()))
    if len(names) < 2:
        raise UsageError("At least two labels are needed.", hint="--labels joy,anger,other")
    raters = _build_raters(models, asks)
    if tie == HUMAN and not sys.stdin.isatty():
        raise UsageError(f"--tie {HUMAN} needs a terminal.", hint="Specify a model: --tie MODEL")
    texts = list(dict.fromkeys(examples.read_texts(expand_path(str(file)))))
    target = expand_path(str(out))
    done = _read_finished(target, len(raters))
    todo = [text for text in texts if text not in done]
    with side_chats(load_config(), status_lines()) as chats:
        panel = RaterPanel(chats, raters, names)
        decide = _tie_breaker(tie, chats, names)
        with step_bar(len(todo), "labelling") as progress:
            for begin in range(0, len(todo), BATCH_SIZE):
                found = panel.label(todo[begin : begin + BATCH_SIZE], decide)
                _append_labels(target, found)
                done.update((each.text, each) for each in found)
                progress(len(found))
    _print_agreement(measure_agreement([done[text] for text in texts]), target, as_json)


def _build_raters(models: Sequence[str], questions: Sequence[str]) -> list[Rater]:
    """Return a rater per model, or per question to one model.

    Raises:
        UsageError: there are several of both, or a question lacks a placeholder.
    """
    from chatlm import UsageError
    from chatlm_emotion.panel import QUESTIONS, Rater

    for ask in questions:
        if "{text}" not in ask or "{labels}" not in ask:
            raise UsageError(f"{one_line(ask, 60)!r} needs {{text}} and {{labels}} in it.")
    if len(models) > 1 and len(questions) > 1:
        raise UsageError(
            "Give several models or several questions, not both.",
            hint="Each rater is one model with one question.",
        )
    if len(models) > 1:
        return [Rater(model, questions[0] if questions else QUESTIONS[0]) for model in models]
    model = models[0] if models else ""
    raters = [Rater(model, ask) for ask in questions or QUESTIONS]
    if len(raters) < MIN_RATERS:
        raise UsageError(
            f"A panel has at least {MIN_RATERS} raters, not {len(raters)}.",
            hint="Use --rater or --ask three times, or neither.",
        )
    return raters


def _read_finished(path: Path, raters: int) -> dict[str, PanelLabel]:
    """Return what an earlier run labelled; a truncated line is ignored."""
    from chatlm import UsageError
    from chatlm_emotion.panel import PanelLabel

    if not path.exists():
        if not path.parent.is_dir():
            raise UsageError(f"There is no folder {path.parent}.", hint="Create it first.")
        return {}
    found = {}
    try:
        check_regular_file(path)
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read.", hint="Choose another --out.") from error
    for line in content.splitlines():
        try:
            each = PanelLabel.from_dict(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if len(each.votes) != raters:
            raise UsageError(f"{path} was labelled by another panel.", hint="Choose another --out.")
        found[each.text] = each
    return found


def _append_labels(path: Path, panel_labels: Sequence[PanelLabel]) -> None:
    """Append results, replacing a truncated last line."""
    from chatlm import ChatlmError

    rows = "".join(json.dumps(each.to_dict(), ensure_ascii=False) + "\n" for each in panel_labels)
    try:
        path.touch()
        with path.open("r+b") as file:
            kept = file.read()
            file.seek(kept.rfind(b"\n") + 1)
            file.write(rows.encode())
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ChatlmError(
            f"{path} cannot be written: {error.strerror}.",
            hint="Free some space, then run the same command to resume.",
        ) from error


def _tie_breaker(
    tie: str | None, chats: SideChats, labels: Sequence[str]
) -> Callable[[str, Sequence[str]], str | None]:
    from chatlm_emotion.panel import QUESTIONS, Rater, RaterPanel

    if tie == HUMAN:

        def ask(text: str, leaders: Sequence[str]) -> str | None:
            click.echo(f"\n{one_line(text, 600)}", err=True)
            choice: str = click.prompt(
                "Which label", type=click.Choice([*leaders, "none"]), err=True
            )
            return None if choice == "none" else choice

        return ask
    if tie is None:
        return lambda text, leaders: None
    rater = Rater(tie, QUESTIONS[0])
    return lambda text, leaders: RaterPanel(chats, [rater], leaders).votes(rater, [text])[0]


def _print_agreement(agreement: Any, output_path: Path, as_json: bool) -> None:
    if as_json:
        click.echo(dump_json(agreement.to_dict() | {"out": str(output_path)}))
        return
    alpha = "" if agreement.alpha is None else f"; Krippendorff's alpha {agreement.alpha:.2f}"
    click.echo(
        f"{agreement.texts:,} texts: all raters agree on {agreement.unanimous_share:.0%}, "
        f"a majority on {agreement.majority_share:.0%}{alpha}."
    )
    click.echo(
        f"{agreement.ties_broken:,} ties were broken, "
        f"{agreement.undecided:,} texts have no label; "
        f"{agreement.abstention_share:.0%} of the votes named no label."
    )
    click.echo(
        escape_controls(f"Saved to {output_path}. Train on them: chatlm emotion train --help")
    )
