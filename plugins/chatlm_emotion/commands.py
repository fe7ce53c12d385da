"""`chatlm emotion`: list, show, use, remove, classify and eval."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatlm import dump_json, escape_controls, human_bytes, one_line
from chatlm.plugin_kit.options import json_option
from chatlm.plugin_kit.progress import step_bar
from chatlm_emotion.label_command import label
from chatlm_emotion.options import classifier_option as _with
from chatlm_emotion.options import name_argument as _name
from chatlm_emotion.train_command import train

if TYPE_CHECKING:
    from chatlm_emotion.classifier import Prediction
    from chatlm_emotion.metrics import Estimate, Scores


@click.group()
def emotion() -> None:
    """Classify texts by mood or other labels; train and evaluate classifiers.

    Example: chatlm emotion classify "I got the job!"
    """


emotion.add_command(train)
emotion.add_command(label)


@emotion.command("list")
@json_option
def list_classifiers(as_json: bool) -> None:
    """List classifiers; ▸ marks the active one.

    Example: chatlm emotion list
    """
    from chatlm import load_plugin_settings
    from chatlm_emotion import PLUGIN, card
    from chatlm_emotion.card import CLASSIFIERS
    from chatlm_emotion.settings import Settings

    active = load_plugin_settings(PLUGIN, Settings).classifier
    found = [(place, card.read_card(place.path)) for place in CLASSIFIERS.all()]
    if as_json:
        click.echo(
            dump_json(
                [
                    {
                        "name": place.name,
                        "active": place.name == active,
                        "own": place.user_owned,
                        "tells": known.attribute,
                        "method": known.method,
                        "base": known.base,
                        "labels": list(known.labels),
                        "accuracy": known.scores.get("accuracy"),
                        "bytes": place.size_bytes,
                    }
                    for place, known in found
                ]
            )
        )
        return
    width = max((len(place.name) for place, _ in found), default=0)
    for place, known in found:
        mark = "▸" if place.name == active else " "
        own = "  (yours)" if place.user_owned else ""
        labels = one_line(", ".join(known.labels), 60)
        click.echo(
            f"{mark} {place.name:<{width}}  {human_bytes(place.size_bytes):>8}  {known.method:<8}  "
            f"{known.attribute}: {labels}{own}"
        )


@emotion.command()
@_name
@json_option
def show(name: str, as_json: bool) -> None:
    """Show a classifier's card.

    Example: chatlm emotion show mood
    """
    from chatlm_emotion import card
    from chatlm_emotion.card import CLASSIFIERS

    place = CLASSIFIERS.get(name)
    known = card.read_card(place.path)
    if as_json:
        click.echo(dump_json(known.to_dict() | {"folder": str(place.path)}))
        return
    click.echo("\n".join([*card.card_lines(known), escape_controls(f"Folder  {place.path}")]))


@emotion.command()
@_name
def use(name: str) -> None:
    """Make a classifier the active one, which labels messages.

    Example: chatlm emotion use topics
    """
    from chatlm import save_setting
    from chatlm_emotion import PLUGIN, card
    from chatlm_emotion.options import resolve_classifier
    from chatlm_emotion.settings import Settings

    known = card.read_card(resolve_classifier(name).path)
    save_setting(PLUGIN, Settings, "classifier", name)
    click.echo(f"Messages are labelled with their {known.attribute} by {name} from now on.")


@emotion.command()
@_name
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def remove(name: str, yes: bool) -> None:
    """Delete one of your classifiers.

    Example: chatlm emotion remove topics --yes
    """
    from chatlm_emotion.card import CLASSIFIERS

    place = CLASSIFIERS.get(name)
    size = place.size_bytes
    if place.user_owned and not yes:
        click.confirm(f"Delete the classifier {name}?", abort=True, err=True)
    place.remove()
    click.echo(f"Removed {name}; freed {human_bytes(size)}.")


@emotion.command()
@click.argument("text", required=False)
@_with
@json_option
def classify(text: str | None, name: str | None, as_json: bool) -> None:
    """Classify a text, or each line of a file or of standard input.

    Example: chatlm emotion classify "I got the job!"
    """
    from chatlm_emotion.classifier import load_classifier
    from chatlm_emotion.options import resolve_classifier

    texts = _read_input_texts(text)
    loaded = load_classifier(resolve_classifier(name))
    with step_bar(len(texts), "classifying") as progress:
        verdicts = loaded.classify(texts, progress)
    if as_json:
        rows = [
            {
                "text": each,
                "label": verdict.label,
                "score": verdict.score,
                "probabilities": verdict.probabilities,
            }
            for each, verdict in zip(texts, verdicts, strict=True)
        ]
        click.echo(dump_json(rows))
        return
    for each, verdict in zip(texts, verdicts, strict=True):
        click.echo(_format_prediction(each, verdict, alone=len(texts) == 1))


@emotion.command("eval")
@click.argument("file", type=click.Path(path_type=Path))
@_with
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Plot the confusion matrix and the calibration to a .png, .svg or .pdf file.",
)
@json_option
def evaluate(file: Path, name: str | None, picture: Path | None, as_json: bool) -> None:
    """Evaluate a classifier on labelled texts: accuracy, macro-F1, calibration, confusion matrix.

    Rows without a label are classified too; for them `unsure` and `neutral`
    are correct.

    Example: chatlm emotion eval val.jsonl --picture confusion.png
    """
    from chatlm import UsageError, expand_path
    from chatlm_emotion import evaluation, examples
    from chatlm_emotion.classifier import load_classifier
    from chatlm_emotion.options import check_image_path, resolve_classifier

    if picture:
        check_image_path(picture)
    read = examples.read_dataset([expand_path(str(file))], min_labels=0)
    if picture and not read.labels:
        raise UsageError(
            "No text has a label, so there is nothing to plot.", hint="Leave --picture out."
        )
    place = resolve_classifier(name)
    loaded = load_classifier(place)
    with step_bar(len(read.rows), "classifying") as progress:
        found = evaluation.evaluate(loaded, read, progress)
    if picture and found.scores:
        from chatlm_emotion.evaluation import save_figure

        save_figure(
            found.scores, f"{place.name} on {file.name}, {found.scores.texts:,} texts", picture
        )
    if as_json:
        click.echo(dump_json(found.to_dict()))
        return
    if found.scores:
        _print_scores(found.scores)
        click.echo(
            f"\nUnsure at the threshold of {found.threshold:g}: {found.unsure_share:.1%} of the "
            f"texts; accuracy on the rest {found.sure_accuracy:.1%}."
        )
    if found.unlabelled:
        click.echo(
            f"Without a label: {found.unlabelled:,} texts, "
            f"unsure or neutral on {found.unsure_unlabelled_share:.1%}. "
            f"Called neutral: {found.neutral_unlabelled_share:.1%} of them, "
            f"{found.neutral_share:.1%} of the others."
        )
    click.echo(f"{found.milliseconds_per_text:.1f} ms per text.")


def _read_input_texts(text: str | None) -> list[str]:
    """Return the texts to classify: the argument, the lines of a file, or standard input."""
    from chatlm import UsageError, expand_path
    from chatlm_emotion import examples

    if text is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError(
                "There is no text.", hint='Write one: chatlm emotion classify "I got the job!"'
            )
        raw = sys.stdin.buffer.read().decode("utf-8", errors="replace")
        lines = [line.strip() for line in raw.splitlines() if line.strip()]
        if not lines:
            raise UsageError("Standard input has no text.")
        return lines
    path = expand_path(text)
    return examples.read_texts(path) if _is_file(path) else [text]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that is too long for a path, or has a zero byte
        return False


def _format_prediction(text: str, prediction: Prediction, *, alone: bool) -> str:
    from chatlm_emotion.classifier import ICONS

    icon = f"{ICONS[prediction.label]} " if prediction.label in ICONS else ""
    head = f"{icon}{prediction.label} ({prediction.score:.2f})"
    if not alone:
        return f"{head:<22}  {one_line(text, 100)}"
    ranked = sorted(prediction.probabilities.items(), key=lambda pair: -pair[1])
    width = max(len(label) for label, _ in ranked)
    bars = [f"  {label:<{width}}  {each:.2f}  {'█' * round(each * 30)}" for label, each in ranked]
    return "\n".join([head, *bars])


def _print_scores(scores: Scores) -> None:
    def measure(title: str, value: Estimate) -> str:
        return f"{title:<18}{value.value:.4f}  ({value.low:.4f} to {value.high:.4f})"

    click.echo(f"{scores.texts:,} texts; 95 % intervals in brackets")
    click.echo(measure("accuracy", scores.accuracy))
    click.echo(measure("macro-F1", scores.macro_f1))
    click.echo(measure("calibration error", scores.ece))
    width = max(map(len, scores.labels))
    cells = [name[:8] for name in scores.labels]
    click.echo(f"\n{'true, predicted →':<{max(width, 14)}}  " + "".join(f"{c:>10}" for c in cells))
    for name, row in zip(scores.labels, scores.confusion, strict=True):
        click.echo(f"{name:<{max(width, 14)}}  " + "".join(f"{count:>10,}" for count in row))
    click.echo(f"\n{'':<{max(width, 14)}}   precision    recall        F1")
    for name, values in scores.per_label.items():
        numbers: list[Any] = [values[key] for key in ("precision", "recall", "f1")]
        click.echo(f"{name:<{max(width, 14)}}  " + "".join(f"{each:>10.3f}" for each in numbers))
