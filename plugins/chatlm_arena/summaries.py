"""The arena's statistics as lines of text, for the command line and the screen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from chatlm import one_line
from chatlm_arena.charts import NAME_WIDTH
from chatlm_arena.statistics.aspects import VOTES, AspectReport
from chatlm_arena.statistics.boards import MIN_TOPIC_VOTES, Board
from chatlm_arena.statistics.judges import Calibration, JudgeRow, PoweredRow
from chatlm_arena.statistics.pareto import SpeedRow
from chatlm_arena.statistics.prediction_powered import PredictionPowered
from chatlm_arena.statistics.preference_model import Ties
from chatlm_arena.statistics.style import MIN_VARYING, STYLE_NAMES

PLOT_ROWS = 12
"""Lines of the plot of quality against time."""


def board_lines(board: Board) -> Iterator[str]:
    """Draw a board, what it assumes, and the effects of style."""
    width = _name_width([row.name for row in board.rows])
    yield f"     {'contestant':<{width}}  rating   95 % interval   games  without"
    for row in board.rows:
        interval = f"{row.low:.0f} to {row.high:.0f}" if math.isfinite(row.low) else "unknown"
        moved = row.plain_place - row.place
        note = f"{row.plain_place}" + (f" {'▲' if moved > 0 else '▼'}{abs(moved)}" if moved else "")
        yield (
            f"{row.place:>3}  {one_line(row.name, NAME_WIDTH):<{width}}  {row.rating:6.0f}"
            f"  {interval:^14}  {row.games:>5}  {note}"
        )
    yield ""
    yield (
        "Without: the place by half-wins"
        + (
            " and without style control."
            if board.effects or board.same_style or board.confounded
            else "."
        )
    )
    if board.ties is Ties.DAVIDSON and board.even_tie_chance is not None:
        yield (
            f"Ties modelled: {board.tie_share:.0%} of {board.votes:,} votes are ties; between "
            f"equals {board.even_tie_chance:.0%} would be."
        )
    if board.left_out:
        yield f"{board.left_out:,} votes do not count here: their replies are unknown."
    yield from effect_lines(board)


def effect_lines(board: Board) -> Iterator[str]:
    """Draw the effects of style, largest first."""
    if not (board.effects or board.same_style or board.confounded):
        return
    yield ""
    yield "What style is worth between equals, in rating points:"
    width = max((len(STYLE_NAMES[effect.name]) for effect in board.effects), default=0)
    for effect in board.effects:
        chance = "" if effect.is_significant else ", may be chance"
        yield (
            f"  {STYLE_NAMES[effect.name]:<{width}}  {effect.points:+5.0f}  "
            f"({effect.low:+.0f} to {effect.high:+.0f}), wins {effect.win_rate:.0%}{chance}"
        )
    if board.same_style:
        yield (
            f"  Too few votes differ in {', '.join(board.same_style)} ({MIN_VARYING} are needed), "
            "so that is not controlled."
        )
    if board.confounded:
        yield (
            f"  Not controlled: {', '.join(board.confounded)}. Each contestant is nearly always "
            "the same in it, so its effect cannot be told from the contestant."
        )


def topic_lines(boards: Mapping[str, Board | None]) -> Iterator[str]:
    """Draw a board for each topic, side by side where there are many topics."""
    known = {topic: board for topic, board in boards.items() if board is not None}
    names = list(dict.fromkeys(row.name for board in known.values() for row in board.rows))
    width = _name_width(names)
    for topic, board in known.items():
        if board is None:
            continue
        yield f"{one_line(topic, 60)} ({board.votes:,} votes)"
        for row in board.rows:
            interval = f"{row.low:.0f} to {row.high:.0f}" if math.isfinite(row.low) else "unknown"
            yield (
                f"{row.place:>3}  {one_line(row.name, NAME_WIDTH):<{width}}  {row.rating:6.0f}"
                f"  {interval:^14}  {row.games:>5}"
            )
        yield ""
    small = [one_line(topic, 40) for topic, board in boards.items() if board is None]
    if small:
        yield f"Fewer than {MIN_TOPIC_VOTES} votes: {'; '.join(small)}."


def powered_lines(rows: Sequence[PoweredRow], fit: PredictionPowered, judge: str) -> Iterator[str]:
    """Draw ratings by the user's votes, with and without a judge's."""
    width = _name_width([row.name for row in rows])
    yield f"     {'contestant':<{width}}  rating   95 % interval   your votes alone"
    for place, row in enumerate(rows, 1):
        yield (
            f"{place:>3}  {one_line(row.name, NAME_WIDTH):<{width}}  {row.rating:6.0f}"
            f"  {f'{row.low:.0f} to {row.high:.0f}':^14}"
            f"  {row.human_rating:.0f}, {row.human_low:.0f} to {row.human_high:.0f}"
        )
    ratio = float(fit.error.mean() / fit.human_error.mean())
    yield ""
    yield (
        f"Your votes, and {fit.judge_only:,} of {one_line(judge, 40)} on matches that you have not "
        f"judged, corrected by {fit.shared:,} that you both have: intervals {ratio:.0%} as wide. "
        f"Weight of the judge: {fit.trust:.0%}."
    )
    if fit.trust < 0.1:
        yield "It hardly agrees with you, so its votes add next to nothing."
    yield ("This holds if the matches that you judged were not chosen by their answers.")


def judge_lines(calibration: Calibration) -> Iterator[str]:
    """Draw how far each judge agrees with the user and with itself."""
    if not calibration.rows:
        yield "No model has judged anything yet: chatlm arena judge MODEL"
        return
    names = [row.name for row in calibration.rows]
    width = _name_width(names, 32)
    yield f"{'judge':<{width}}  votes  shared  agrees  κ (95 % interval)        same in both orders"
    for row in calibration.rows:
        kappa = row.kappa
        agrees = f"{kappa.agreement:.0%}" if kappa.matches else "·"
        interval = (
            f"{kappa.value:.2f} ({kappa.low:.2f} to {kappa.high:.2f})"
            if math.isfinite(kappa.value)
            else "·"
        )
        yield (
            f"{one_line(row.name, 32):<{width}}  {row.votes:>5}  {kappa.matches:>6}  {agrees:>6}  "
            f"{interval:<24}  {_orders(row)}"
        ).rstrip()
    yield ""
    yield (
        f"Shared: matches that you have voted on, too ({calibration.human_votes:,} votes). "
        "κ is 1 for full agreement and 0 for that of chance."
    )
    if calibration.reliability is not None:
        alpha = calibration.reliability
        yield (
            f"Among the models: Krippendorff's α {alpha.value:.2f} ({alpha.low:.2f} to "
            f"{alpha.high:.2f}) over {alpha.units:,} matches."
        )
    weighted = [row for row in calibration.rows if row.weight is not None]
    if weighted:
        listed = ", ".join(f"{one_line(row.name, 32)} {row.weight:.2f}" for row in weighted)
        yield f"Weights in a panel (--weighted): {listed}."


def _orders(row: JudgeRow) -> str:
    if row.orders is None or not row.orders.both + row.orders.undecided:
        return "·"
    orders = row.orders
    same = f"{orders.same / orders.both:.0%} of {orders.both:,}" if orders.both else "·"
    first = f", first wins {orders.first_wins / orders.decided:.0%}" if orders.decided else ""
    return same + first


def aspect_lines(report: AspectReport) -> Iterator[str]:
    """Draw averages, correlations and reliability by aspect."""
    if not report.means:
        yield "No answer has been rated yet: chatlm arena run --prompts FILE --judge … --likert"
        return
    aspects = list(dict.fromkeys(mean.aspect for mean in report.means))
    names = list(dict.fromkeys(mean.contestant for mean in report.means))
    width = _name_width([*names, "correlation of votes"])
    columns = [max(len(aspect), 22) for aspect in aspects]
    head = "  ".join(f"{aspect:<{size}}" for aspect, size in zip(aspects, columns, strict=True))
    yield f"{'mean from -2 to 2':<{width}}  {head}".rstrip()
    table = {(mean.contestant, mean.aspect): mean for mean in report.means}
    for name in names:
        cells = []
        for aspect, size in zip(aspects, columns, strict=True):
            mean = table.get((name, aspect))
            cell = "·"
            if mean is not None:
                known = math.isfinite(mean.low)
                spread = f" ({mean.low:+.2f} to {mean.high:+.2f})" if known else ""
                cell = f"{mean.mean:+.2f}{spread}"
            cells.append(f"{cell:<{size}}")
        yield f"{one_line(name, NAME_WIDTH):<{width}}  {'  '.join(cells)}".rstrip()
    cells = []
    for aspect, size in zip(aspects, columns, strict=True):
        alpha = report.reliability.get(aspect)
        cell = f"{alpha.value:.2f} ({alpha.low:.2f} to {alpha.high:.2f})" if alpha else "·"
        cells.append(f"{cell:<{size}}")
    yield f"{'reliability α':<{width}}  {'  '.join(cells)}".rstrip()
    yield ""
    if all(alpha is None for alpha in report.reliability.values()):
        yield "Reliability needs two judges that rated the same answers differently."
    for each in report.correlations:
        value = f"{each.value:.2f}" if math.isfinite(each.value) else "unknown"
        what = (
            f"difference in {each.one} with the votes"
            if each.other == VOTES
            else f"{each.one} with {each.other}"
        )
        noun = "votes" if each.other == VOTES else "answers"
        yield f"Rank correlation of {what}: {value} ({each.count:,} {noun})"


def speed_lines(rows: Sequence[SpeedRow], width: int) -> Iterator[str]:
    """Draw a table and a plot of quality against time.

    Args:
        rows: fastest first.
        width: columns of the plot.
    """
    if not rows:
        yield "No reply of a rated contestant has a known time yet."
        return
    longest = _name_width([row.name for row in rows])
    yield f"     {'contestant':<{longest}}  rating  seconds  tokens/s  replies"
    for number, row in enumerate(rows, 1):
        rate = f"{row.tokens_per_second:.1f}" if row.tokens_per_second else "·"
        mark = "★" if row.is_efficient else " "
        yield (
            f"{number:>3}{mark} {one_line(row.name, NAME_WIDTH):<{longest}}  {row.rating:6.0f}"
            f"  {row.seconds:7.2f}  {rate:>8}  {row.replies:>7}"
        )
    yield ""
    yield from _plot(rows, max(min(width, 80), 30))
    yield ""
    yield "★ No other contestant is both faster and rated higher. Seconds: median of a reply."


def _plot(rows: Sequence[SpeedRow], width: int) -> Iterator[str]:
    """Plot the numbers of the rows: rating upwards, seconds to the right on a logarithmic scale."""
    inner = width - 8
    times = [math.log(max(row.seconds, 1e-3)) for row in rows]
    left, right = min(times), max(times)
    low, high = min(row.rating for row in rows), max(row.rating for row in rows)
    cells = [[" "] * inner for _ in range(PLOT_ROWS)]
    for number, (row, time) in enumerate(zip(rows, times, strict=True), 1):
        label = f"{number}{'★' if row.is_efficient else ''}"
        across = (time - left) / (right - left) if right > left else 0.5
        up = (row.rating - low) / (high - low) if high > low else 0.5
        column = min(round(across * (inner - 1)), inner - len(label))
        line = PLOT_ROWS - 1 - round(up * (PLOT_ROWS - 1))
        while any(cells[line][at] != " " for at in range(column, column + len(label))):
            column = column + 1 if column + len(label) < inner else 0
        cells[line][column : column + len(label)] = label
    for at, line_cells in enumerate(cells):
        value = high if at == 0 else low if at == PLOT_ROWS - 1 else None
        head = f"{value:6.0f} ┤" if value is not None else "       │"
        yield (head + "".join(line_cells)).rstrip()
    yield "       └" + "─" * inner
    ends = (f"{rows[0].seconds:.2f} s", f"{rows[-1].seconds:.2f} s")
    yield "        " + ends[0] + ends[1].rjust(inner - len(ends[0]))


def _name_width(names: Sequence[str], most: int = NAME_WIDTH) -> int:
    return max([10, *(len(one_line(name, most)) for name in names)])
