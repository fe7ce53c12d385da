"""`chatlm lab vectors`: train word vectors, and look at them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatlm import dump_json, human_bytes, one_line
from chatlm.plugin_kit.options import complete_names, json_option
from chatlm_lab.options import data_option
from chatlm_lab.pictures import picture_option

if TYPE_CHECKING:
    from chatlm_lab.word_vectors import Floats

MAP_COLUMNS, MAP_LINES = 78, 24
"""Size of a map on the terminal, in characters."""

NOTHING_SAVED = "Nothing was saved; the same command starts again."


def vector_names() -> list[str]:
    """Return the names of all word vectors, for completion."""
    from chatlm_lab.vector_files import VECTORS

    return [place.name for place in VECTORS.all()]


name_argument = click.argument("name", shell_complete=complete_names(vector_names))

count_option = click.option(
    "--count", type=click.IntRange(1, 1000), default=10, show_default=True, help="Words to show."
)


@click.group()
def vectors() -> None:
    """Train word vectors (skip-gram, CBOW), and look at them.

    Example: chatlm lab vectors train books --data ~/books
    """


@vectors.command()
@click.argument("name")
@data_option
@click.option(
    "--method",
    type=click.Choice(["skip-gram", "cbow"]),
    default="skip-gram",
    show_default=True,
    help="Predict the words near each word, or each word from those near it.",
)
@click.option("--width", type=int, default=64, show_default=True, help="Dimensions.")
@click.option("--window", type=int, default=5, show_default=True, help="Words on each side.")
@click.option(
    "--negatives", type=int, default=5, show_default=True, help="Random words for a pair."
)
@click.option("--epochs", type=int, default=5, show_default=True, help="Passes over the data.")
@click.option("--min-count", type=int, default=2, show_default=True, help="Leave out rarer words.")
@click.option("--vocabulary", type=int, default=20_000, show_default=True, help="Maximum words.")
@click.option(
    "--subsample",
    type=float,
    default=1e-3,
    show_default=True,
    help="Share above which words are left out at random; 0 for none.",
)
@click.option("--learning-rate", type=float, default=0.01, show_default=True, help="Initial rate.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of vectors and order.")
@json_option
def train(name: str, data: tuple[Path, ...], as_json: bool, **settings: Any) -> None:
    """Train word vectors on texts. Ctrl-C stops, and nothing is saved.

    Example: chatlm lab vectors train books --data ~/books --method cbow
    """
    from chatlm import expand_path
    from chatlm.plugin_kit.progress import progress_bar
    from chatlm.plugin_kit.training import TrainingStopped, stop_on_interrupt
    from chatlm_lab.corpus import read_texts
    from chatlm_lab.vector_files import VECTORS, save_vectors
    from chatlm_lab.word_vectors import VectorRecipe, train_vectors

    place = VECTORS.new(name)
    recipe = VectorRecipe(**settings)
    paths = [expand_path(str(path)) for path in data]
    texts = read_texts(paths)
    started = time.perf_counter()
    with stop_on_interrupt(NOTHING_SAVED) as should_stop, progress_bar() as progress:

        def report(done: int, total: int, note: str) -> None:
            if should_stop():
                raise TrainingStopped("Stopped.", hint=NOTHING_SAVED)
            progress.update(done, total, note)

        found, losses = train_vectors(texts, recipe, report)
    card = {
        "name": name,
        "data": [path.name for path in paths],
        "words": len(found.words),
        "settings": recipe.to_dict(),
        "losses": losses,
        "seconds": round(time.perf_counter() - started, 2),
    }
    save_vectors(place, found, card)
    if as_json:
        click.echo(dump_json(card))
        return
    curve = ", ".join(f"{loss:.3f}" for loss in losses)
    click.echo(f"{name}: {len(found.words):,} words; loss by epoch: {curve}.")
    click.echo(f"Look at them: chatlm lab vectors neighbours {name} {found.words[0]}")


@vectors.command()
@name_argument
@click.argument("words", nargs=-1, required=True)
@count_option
@json_option
def neighbours(name: str, words: tuple[str, ...], count: int, as_json: bool) -> None:
    """Show the words with the most similar vectors, by their cosine.

    Example: chatlm lab vectors neighbours books sea ship
    """
    from chatlm_lab.vector_files import load_vectors

    stored = load_vectors(name).vectors
    found = {word: stored.neighbours(word, count) for word in words}
    if as_json:
        click.echo(dump_json({word: dict(rows) for word, rows in found.items()}))
        return
    for word, rows in found.items():
        click.echo(f"{one_line(word, 40)}: {_scored(rows)}")


@vectors.command()
@name_argument
@click.argument("a")
@click.argument("b")
@click.argument("c")
@count_option
@json_option
def analogy(name: str, a: str, b: str, c: str, count: int, as_json: bool) -> None:
    """Find what is to C as B is to A.

    Example: chatlm lab vectors analogy books man king woman
    """
    from chatlm_lab.vector_files import load_vectors

    rows = load_vectors(name).vectors.analogies(a, b, c, count)
    if as_json:
        click.echo(dump_json(dict(rows)))
        return
    asked = ", ".join(one_line(word, 40) for word in (a, b, c))
    click.echo(f"{asked}: {_scored(rows)}")


@vectors.command("map")
@name_argument
@click.argument("words", nargs=-1)
@click.option(
    "--count",
    type=click.IntRange(3, 1000),
    default=40,
    show_default=True,
    help="Without words: how many of the most frequent.",
)
@picture_option
@json_option
def show_map(
    name: str, words: tuple[str, ...], count: int, output: Path | None, as_json: bool
) -> None:
    """Draw words in the plane in which they differ most (principal components).

    Example: chatlm lab vectors map books sea ship bread butter -o words.png
    """
    from chatlm import expand_path
    from chatlm_lab.pictures import save_figure
    from chatlm_lab.vector_files import load_vectors

    stored = load_vectors(name).vectors
    chosen = list(dict.fromkeys(words)) or list(stored.words[:count])
    places = stored.project(chosen)
    if output is not None:
        with save_figure(expand_path(str(output)), (8, 8)) as figure:
            axes = figure.add_subplot()
            axes.scatter(places[:, 0], places[:, 1], s=12, color="#0072b2")
            for word, (x, y) in zip(chosen, places.tolist(), strict=True):
                shown = one_line(word, 30).replace("$", r"\$")  # no formula
                axes.annotate(shown, (x, y), xytext=(4, 3), textcoords="offset points")
            axes.set_xlabel("first principal component")
            axes.set_ylabel("second principal component")
    if as_json:
        click.echo(dump_json(dict(zip(chosen, places.tolist(), strict=True))))
    elif output is not None:
        click.echo(f"Drawn into {output}.")
    else:
        click.echo("\n".join(map_lines(chosen, places)))


def map_lines(words: Sequence[str], places: Floats) -> list[str]:
    """Return words written where they lie, as lines; one that has no space is left out.

    Args:
        words: to write.
        places: of the words, (words, 2).
    """
    low, high = places.min(0), places.max(0)
    spread = [max(float(size), 1e-9) for size in high - low]
    cells = [[" "] * MAP_COLUMNS for _ in range(MAP_LINES)]
    left_out = 0
    for word, (x, y) in zip(words, places.tolist(), strict=True):
        shown = one_line(word, 20)
        column = round((x - float(low[0])) / spread[0] * (MAP_COLUMNS - len(shown)))
        line = cells[round((float(high[1]) - y) / spread[1] * (MAP_LINES - 1))]
        around = line[max(column - 1, 0) : column + len(shown) + 1]
        if any(cell != " " for cell in around):
            left_out += 1
            continue
        line[column : column + len(shown)] = shown
    lines = ["".join(line).rstrip() for line in cells]
    if left_out:
        lines.append(f"{left_out} more are hidden behind others; a picture shows all: -o words.png")
    return lines


@vectors.command("list")
@json_option
def list_vectors(as_json: bool) -> None:
    """List the word vectors that you trained.

    Example: chatlm lab vectors list
    """
    from chatlm_lab.vector_files import VECTORS, load_vectors

    found = [(place, load_vectors(place.name).card) for place in VECTORS.all()]
    if as_json:
        click.echo(dump_json([{**card, "bytes": place.size_bytes} for place, card in found]))
        return
    if not found:
        click.echo("There are no word vectors yet: chatlm lab vectors train NAME --data FILE")
    for place, card in found:
        settings = card.get("settings", {})
        click.echo(
            f"{place.name}  {human_bytes(place.size_bytes)}  {settings.get('method')}, "
            f"{card.get('words', 0):,} words of {settings.get('width')}"
        )


@vectors.command()
@name_argument
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def remove(name: str, yes: bool) -> None:
    """Delete word vectors.

    Example: chatlm lab vectors remove books --yes
    """
    from chatlm_lab.vector_files import VECTORS

    place = VECTORS.get(name)
    if not yes:
        click.confirm(f"Delete the word vectors {name}?", abort=True, err=True)
    place.remove()
    click.echo(f"Removed {name}.")


def _scored(rows: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{one_line(word, 40)} {cosine:.2f}" for word, cosine in rows)
