"""Quality against time: which contestants no other one beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from chatlm_arena.leaderboard import LeaderboardRow


@dataclass(frozen=True)
class SpeedRow:
    """A contestant's rating and speed."""

    name: str
    rating: float
    low: float
    high: float
    """Ends of the 95 % interval of the rating; infinite with too few games."""
    seconds: float
    """Median seconds of a reply."""
    tokens_per_second: float | None
    """Of all its replies together; None if their tokens are unknown."""
    replies: int
    is_efficient: bool
    """Whether no other contestant is both faster and rated higher."""

    def to_dict(self) -> dict[str, str | float | int | bool | None]:
        """Return the row as plain values, ready for JSON; unknown ends are None."""
        return {
            "name": self.name,
            "rating": self.rating,
            "low": self.low if abs(self.low) < 1e9 else None,
            "high": self.high if abs(self.high) < 1e9 else None,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "replies": self.replies,
            "efficient": self.is_efficient,
        }


def speed_rows(
    rows: Sequence[LeaderboardRow], times: Sequence[tuple[str, float, int | None]]
) -> list[SpeedRow]:
    """Combine ratings with the times of replies; contestants without times are left out.

    Args:
        rows: the leaderboard.
        times: contestant, seconds and tokens of each reply.

    Returns:
        The fastest first.
    """
    points = []
    for row in rows:
        own = [(seconds, tokens) for name, seconds, tokens in times if name == row.name]
        if not own:
            continue
        counted = [(seconds, tokens) for seconds, tokens in own if tokens]
        total = sum(seconds for seconds, _ in counted)
        rate = sum(tokens or 0 for _, tokens in counted) / total if total else None
        points.append((row, median(seconds for seconds, _ in own), rate, len(own)))
    return sorted(
        (
            SpeedRow(
                row.name,
                row.rating,
                row.rating_low,
                row.rating_high,
                seconds,
                rate,
                count,
                not any(
                    other.rating >= row.rating
                    and time <= seconds
                    and (other.rating > row.rating or time < seconds)
                    for other, time, _, _ in points
                ),
            )
            for row, seconds, rate, count in points
        ),
        key=lambda each: each.seconds,
    )
