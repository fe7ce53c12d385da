"""Simulate whether the arena's statistics find what is known about simulated votes.

Run it: python -m benchmarks.arena_statistics [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np

from chatlm_arena.ratings import MEAN_RATING, POINTS_PER_LOG_STRENGTH, fit_strengths
from chatlm_arena.statistics.drop_check import check_drops
from chatlm_arena.statistics.prediction_powered import JudgedPairs, fit_prediction_powered
from chatlm_arena.statistics.preference_model import (
    Ties,
    comparisons_from_votes,
    fit_preferences,
)
from chatlm_arena.statistics.stopping import check_stopping
from chatlm_arena.statistics.style import POSITION, SHOWN_DIFFERENCE, Style, control_style
from chatlm_arena.votes import FloatArray, Votes, tally_votes

Draw = np.random.Generator


def _matches(draw: Draw, size: int, count: int) -> tuple[Any, Any]:
    left = draw.integers(0, size, count)
    return left, (left + draw.integers(1, size, count)) % size


def _votes(size: int, left: Any, right: Any, score: FloatArray) -> Votes:
    return Votes(tuple(f"c{number}" for number in range(size)), left, right, score)


def davidson_scores(difference: FloatArray, nu: float, draw: Draw) -> FloatArray:
    """Draw scores with the odds e^(d/2), ν and e^(-d/2) of a win, a tie and a loss."""
    win, loss = np.exp(difference / 2), np.exp(-difference / 2)
    drawn = draw.random(len(difference)) * (win + nu + loss)
    scores: FloatArray = np.where(drawn < win, 1.0, np.where(drawn < win + nu, 0.5, 0.0))
    return scores


def rao_kupper_scores(difference: FloatArray, threshold: float, draw: Draw) -> FloatArray:
    """Draw scores with a logistic latent difference, a tie within ± threshold."""
    noise = draw.logistic(size=len(difference))
    latent = difference + noise
    scores: FloatArray = np.where(latent > threshold, 1.0, np.where(latent < -threshold, 0.0, 0.5))
    return scores


def _solve_ties(share: float, scores: Callable[[FloatArray, float, Draw], FloatArray]) -> float:
    """Return the parameter that gives about this share of ties among contestants as below."""
    draw = np.random.default_rng(0)
    strengths = np.linspace(-1, 1, 8)
    left, right = _matches(draw, 8, 20_000)
    difference = strengths[left] - strengths[right]
    low, high = 0.0, 20.0
    for _ in range(30):
        middle = (low + high) / 2
        found = (scores(difference, middle, np.random.default_rng(1)) == 0.5).mean()
        low, high = (middle, high) if found < share else (low, middle)
    return (low + high) / 2


def ties(runs: int, votes: int = 2000, share: float = 0.3) -> dict[str, Any]:
    """Compare both models of ties where the strengths are known."""
    result: dict[str, Any] = {"runs": runs, "votes": votes, "contestants": 8}
    truth = np.linspace(-1, 1, 8)
    for name, scores in (("davidson", davidson_scores), ("rao_kupper", rao_kupper_scores)):
        parameter = _solve_ties(share, scores)
        errors: dict[Ties, list[float]] = {each: [] for each in Ties}
        scaled: dict[Ties, list[float]] = {each: [] for each in Ties}
        covered: dict[Ties, list[float]] = {each: [] for each in Ties}
        tied = []
        for run in range(runs):
            draw = np.random.default_rng(run)
            left, right = _matches(draw, 8, votes)
            score = scores(truth[left] - truth[right], parameter, draw)
            tied.append(float((score == 0.5).mean()))
            data = comparisons_from_votes(_votes(8, left, right, score))
            for model in Ties:
                fit = fit_preferences(data, model)
                errors[model].append(float(np.mean((fit.log_strength - truth) ** 2)))
                scale = float(fit.log_strength @ truth / (fit.log_strength @ fit.log_strength))
                scaled[model].append(float(np.mean((scale * fit.log_strength - truth) ** 2)))
                low, high = fit.rating_interval
                true = MEAN_RATING + POINTS_PER_LOG_STRENGTH * truth
                covered[model].append(float(((low <= true) & (true <= high)).mean()))
        result[name] = {
            "tie_share": float(np.mean(tied)),
            **{
                model.value: {
                    "error_points": POINTS_PER_LOG_STRENGTH * float(np.mean(errors[model]) ** 0.5),
                    "scaled_error_points": POINTS_PER_LOG_STRENGTH
                    * float(np.mean(scaled[model]) ** 0.5),
                    "covered": float(np.mean(covered[model])),
                }
                for model in Ties
            },
        }
    return result


TRUE_STYLE = {"length": 1.2, "headings": 0.0, "bold": 0.5, "lists": 0.3, POSITION: 0.25}
"""Log-odds of a difference of 1."""


def style(runs: int, votes: int = 3000) -> dict[str, Any]:
    """Recover known effects of style, and the strengths behind them.

    The weakest contestant writes the longest replies.
    """
    size, truth = 5, np.linspace(0.6, -0.6, 5)
    verbosity = np.linspace(-0.25, 0.25, 5)
    names = [*Style._fields, POSITION]
    effect = np.array([TRUE_STYLE[name] for name in names])
    found: dict[str, list[float]] = {name: [] for name in names}
    covered: dict[str, list[bool]] = {name: [] for name in names}
    errors: dict[str, list[float]] = {"plain": [], "controlled": []}
    for run in range(runs):
        draw = np.random.default_rng(run)
        left, right = _matches(draw, size, votes)
        length = np.clip(verbosity[left] - verbosity[right] + draw.normal(0, 0.2, votes), -1, 1)
        marks = draw.choice([-1.0, 0.0, 1.0], size=(votes, 3), p=[0.2, 0.6, 0.2])
        columns = np.column_stack([length, marks])
        difference = truth[left] - truth[right] + columns @ effect[:-1] + effect[-1]
        ballots = _votes(size, left, right, davidson_scores(difference, 0.8, draw))
        control = control_style(ballots, columns)
        for each in control.effects:
            true = TRUE_STYLE[each.name] * SHOWN_DIFFERENCE[each.name] * POINTS_PER_LOG_STRENGTH
            found[each.name].append(each.points - true)
            covered[each.name].append(each.low <= true <= each.high)
        plain = fit_preferences(comparisons_from_votes(ballots))
        errors["plain"].append(float(np.mean((plain.log_strength - truth) ** 2)))
        errors["controlled"].append(float(np.mean((control.fit.log_strength - truth) ** 2)))
    return {
        "runs": runs,
        "votes": votes,
        "effects": {
            name: {
                "true_points": TRUE_STYLE[name] * SHOWN_DIFFERENCE[name] * POINTS_PER_LOG_STRENGTH,
                "bias_points": float(np.mean(found[name])),
                "covered": float(np.mean(covered[name])),
            }
            for name in names
        },
        "strength_error_points": {
            name: POINTS_PER_LOG_STRENGTH * float(np.mean(values) ** 0.5)
            for name, values in errors.items()
        },
    }


def fewest_drops(votes: Votes, first: int, most: int) -> int | None:
    """Try all sets of votes, smallest first, until another contestant is strictly first."""
    tried = set()
    for number in range(1, most + 1):
        for drop in combinations(range(len(votes)), number):
            keep = np.setdiff1d(np.arange(len(votes)), drop)
            left = _votes(len(votes.names), votes.left[keep], votes.right[keep], votes.score[keep])
            cells = tally_votes(left)
            key = tuple(map(bytes, (cells.one, cells.other, cells.score, cells.count)))
            if key in tried:
                continue
            tried.add(key)
            logs = np.log(fit_strengths(cells))
            if np.delete(logs, first).max() > logs[first] + 1e-5:
                return number
    return None


def drops(boards: int, most: int = 6) -> dict[str, Any]:
    """Compare drop-k with brute force on small boards of 3 or 4 contestants and 8 to 13 votes."""
    same = exact = checked = 0
    for board in range(boards):
        draw = np.random.default_rng(board)
        size = 3 + board % 2
        count = int(draw.integers(8, 14))
        left, right = _matches(draw, size, count)
        votes = _votes(size, left, right, draw.choice([0, 0.5, 1], count, p=[0.3, 0.2, 0.5]))
        found = check_drops(tally_votes(votes))
        if found is None:
            continue  # nobody is first
        checked += 1
        wanted = fewest_drops(votes, found.first, most)
        ours = found.count if found.count is not None and found.count <= most else None
        same += ours == wanted
        exact += found.is_exact
    return {"boards": checked, "equal": same, "proven": exact}


def public_board(votes: int = 57_477, size: int = 20) -> dict[str, Any]:
    """Time drop-k on a board as large as LMArena's public one, with two contestants nearly
    equal."""
    draw = np.random.default_rng(5)
    strengths = np.sort(draw.normal(0, 0.5, size))[::-1]
    strengths[1] = strengths[0] - 0.0005
    left, right = _matches(draw, size, votes)
    score = davidson_scores(strengths[left] - strengths[right], 0.8, draw)
    start = time.perf_counter()
    found = check_drops(tally_votes(_votes(size, left, right, score)))
    return {
        "votes": votes,
        "contestants": size,
        "dropped": None if found is None else found.count,
        "proven": found is not None and found.is_exact,
        "seconds": time.perf_counter() - start,
    }


def judged(draw: Draw, truth: FloatArray, human: int, extra: int, agreement: float) -> JudgedPairs:
    """Draw matches with a biased judge: a vote copies the user's with `agreement`, else is
    biased."""
    size, count = len(truth), human + extra
    left, right = _matches(draw, size, count)
    user = davidson_scores(truth[left] - truth[right], 0.6, draw)
    liked = np.zeros(size)
    liked[-1] = 2.5  # the judge loves the weakest contestant, such as itself
    own = davidson_scores(liked[left] - liked[right] + 0.5, 0.3, draw)
    judge = np.where(draw.random(count) < agreement, user, own)
    user[human:] = np.nan
    return JudgedPairs(left, right, judge, user)


def prediction_powered(
    runs: int, human: int = 400, extra: int = 4000, agreement: float = 0.8
) -> dict[str, Any]:
    """Coverage and width of ratings by the user's votes with and without a biased judge's."""
    truth = np.linspace(0.8, -0.8, 5)
    # the target is the Bradley-Terry strength of the expected score, ties as half-wins
    true = _half_win_ratings(truth, 0.6)
    covered: list[Any] = []
    human_covered: list[Any] = []
    judge_covered, widths, human_widths, trusts = [], [], [], []
    for run in range(runs):
        votes = judged(np.random.default_rng(run), truth, human, extra, agreement)
        found = fit_prediction_powered(votes, 5)
        for (low, high), hits in ((found.interval, covered), (found.human_interval, human_covered)):
            hits.append((low <= true) & (true <= high))
        widths.append(found.error)
        human_widths.append(found.human_error)
        trusts.append(found.trust)
        everything = np.where(np.isfinite(votes.human), votes.human, votes.judge)
        naive = fit_prediction_powered(
            JudgedPairs(votes.one, votes.other, votes.judge, everything), 5
        )
        low, high = naive.human_interval
        judge_covered.append((low <= true) & (true <= high))
    return {
        "runs": runs,
        "human_votes": human,
        "judge_only_votes": extra,
        "covered": float(np.mean(covered)),
        "covered_by_contestant": np.mean(covered, axis=0).tolist(),
        "human_covered": float(np.mean(human_covered)),
        "pooled_covered": float(np.mean(judge_covered)),
        "width_ratio": float(np.mean(widths) / np.mean(human_widths)),
        "trust": float(np.mean(trusts)),
    }


def _half_win_ratings(truth: FloatArray, nu: float) -> FloatArray:
    from chatlm_arena.statistics.win_matrices import fit_win_matrices

    gap = truth[:, np.newaxis] - truth
    win, loss = np.exp(gap / 2), np.exp(-gap / 2)
    expected = (win + nu / 2) / (win + nu + loss)
    np.fill_diagonal(expected, 0.0)
    ratings: FloatArray = (
        MEAN_RATING + POINTS_PER_LOG_STRENGTH * fit_win_matrices(expected[np.newaxis])[0]
    )
    return ratings


def stopping(runs: int, votes: int = 500) -> dict[str, Any]:
    """Look after every vote between two equals, and between one that wins 65 % of decided votes."""
    result: dict[str, Any] = {"runs": runs, "votes": votes}
    for name, chance in (("equal", 0.5), ("better", 0.65)):
        stopped = []
        for run in range(runs):
            draw = np.random.default_rng(run)
            score = np.where(draw.random(votes) < 0.2, 0.5, draw.random(votes) < chance)
            wins, losses = np.cumsum(score == 1), np.cumsum(score == 0)
            looks = enumerate(zip(wins.tolist(), losses.tolist(), strict=True), 1)
            stopped.append(next((at for at, (won, lost) in looks if _settled(won, lost)), 0))
        times = [at for at in stopped if at]
        result[name] = {
            "stopped": len(times) / runs,
            "median_votes": float(np.median(times)) if times else None,
        }
    return result


@cache
def _settled(won: int, lost: int) -> bool:
    """Return whether one of two contestants is named first after some decided votes."""
    number, order = won + lost, [0, 1] if won > lost else [1, 0]
    score = np.repeat([1.0, 0.0], [won, lost])
    votes = _votes(2, np.zeros(number, int), np.ones(number, int), score)
    rule = check_stopping(tally_votes(votes), order)
    return rule is not None and rule.is_settled


def run(scale: float = 1.0) -> dict[str, Any]:
    """Run all simulations; `scale` multiplies the numbers of runs."""

    def some(number: int) -> int:
        return max(int(number * scale), 4)

    return {
        "ties": ties(some(300)),
        "style": style(some(300)),
        "drops": drops(some(100)),
        "public_board": public_board(),
        "prediction_powered": prediction_powered(some(2000)),
        "stopping": stopping(some(2000)),
    }


def main() -> None:
    """Print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    found = run()
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for truth in ("davidson", "rao_kupper"):
        row = found["ties"][truth]
        print(
            f"Ties, truth by {truth}, {row['tie_share']:.0%} ties: error "
            f"{row['half-wins']['error_points']:.1f} points with half-wins (intervals hold "
            f"the truth {row['half-wins']['covered']:.1%}), "
            f"{row['davidson']['error_points']:.1f} with ties modelled "
            f"({row['davidson']['covered']:.1%})"
        )
    for name, row in found["style"]["effects"].items():
        print(
            f"Style, {name}: true {row['true_points']:.1f} points, bias {row['bias_points']:+.1f}, "
            f"intervals hold the truth {row['covered']:.1%}"
        )
    error = found["style"]["strength_error_points"]
    print(f"Style: strengths off by {error['plain']:.1f} points without control, "
          f"{error['controlled']:.1f} with it")  # fmt: skip
    row = found["drops"]
    print(f"Drop-k: equals brute force on {row['equal']} of {row['boards']} boards, "
          f"{row['proven']} proven")  # fmt: skip
    row = found["public_board"]
    print(f"Drop-k: {row['dropped']} of {row['votes']:,} votes, {row['seconds']:.1f} s")
    row = found["prediction_powered"]
    print(
        f"Prediction-powered, {row['runs']:,} runs: intervals hold the truth {row['covered']:.1%}, "
        f"{row['width_ratio']:.0%} as wide as with the user's votes alone "
        f"({row['human_covered']:.1%}); all votes pooled {row['pooled_covered']:.1%}"
    )
    row = found["stopping"]
    print(
        f"Stopping, looking after each vote: {row['equal']['stopped']:.1%} false, "
        f"{row['better']['stopped']:.0%} right after a median of "
        f"{row['better']['median_votes']:.0f} votes"
    )


if __name__ == "__main__":
    main()
