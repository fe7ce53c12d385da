"""Validated sampling settings; `engines.samplers` applies them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatlm.errors import UsageError

RANGES: dict[str, tuple[float, float, str]] = {
    "temperature": (0.0, 5.0, "0 always takes the likeliest token; higher is more varied"),
    "top_k": (0, 1_000_000, "keep the k likeliest tokens; 0 keeps all"),
    "top_p": (0.0, 1.0, "keep the likeliest tokens that together reach this probability"),
    "min_p": (0.0, 1.0, "drop tokens below this share of the likeliest token's probability"),
    "frequency_penalty": (-2.0, 2.0, "subtracted for each time a token was already made"),
    "presence_penalty": (-2.0, 2.0, "subtracted once for a token that was already made"),
    "repetition_penalty": (0.1, 10.0, "divides the score of tokens already seen; 1 is off"),
    "max_tokens": (1, 1_000_000, "at most this many new tokens"),
    "seed": (0, 2**63 - 1, "same seed and request, same reply"),
}
"""Setting -> minimum, maximum, and what it does in one line."""


INTEGER_SETTINGS = frozenset({"top_k", "max_tokens", "seed"})


def format_number(value: object) -> str:
    """Format a number, such as 0.5, 9 or 1,000,000; anything else by `repr`."""
    if type(value) is float:
        return f"{value:.15g}"
    return f"{value:,}" if type(value) is int else repr(value)


@dataclass(frozen=True)
class Sampling:
    """Settings of one generation; None means the model's default, else chatlm's.

    Raises:
        UsageError: a value is outside its range in `RANGES`.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Stop strings, which end the reply and are cut from it."""

    def __post_init__(self) -> None:
        said = self.settings()
        for name, (low, high, meaning) in RANGES.items():
            value = said[name]
            if value is None:
                continue
            wanted = "a whole number" if name in INTEGER_SETTINGS else "a number"
            right_type = type(value) is int or (
                name not in INTEGER_SETTINGS and type(value) is float
            )
            if not right_type or not low <= value <= high:
                raise UsageError(
                    f"{name} must be {wanted} from {format_number(low)} to "
                    f"{format_number(high)}, not {format_number(value)}",
                    hint=f"{name}: {meaning}.",
                )
        if not isinstance(self.stop, tuple) or not all(
            isinstance(text, str) and text for text in self.stop
        ):
            raise UsageError(f"stop must be texts that are not empty, not {self.stop!r}")

    def with_fallback(self, fallback: Sampling) -> Sampling:
        """Return these settings, with `fallback`'s where one is not set."""
        mine = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        said = {name: value for name, value in mine.items() if value not in (None, ())}
        return dataclasses.replace(fallback, **said)

    def settings(self) -> dict[str, Any]:
        """Return every setting by its key in files; None or () for one that is not set."""
        return {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "repetition_penalty": self.repetition_penalty,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "stop": self.stop,
        }

    def to_dict(self) -> dict[str, Any]:
        """Convert the settings that are set to JSON values."""
        return {key: value for key, value in self.settings().items() if value not in (None, ())}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sampling:
        """Read back what `to_dict` returned, or a section of the config file.

        Raises:
            UsageError: an unknown name or a value out of range.
        """
        known = {*RANGES, "stop"}
        if unknown := sorted(set(values) - known):
            raise UsageError(
                f"unknown sampling setting {', '.join(unknown)}",
                hint=f"Known: {', '.join(sorted(known))}.",
            )
        stop = values.get("stop", ())
        if isinstance(stop, str):
            stop = (stop,)
        elif isinstance(stop, list):
            stop = tuple(stop)
        return cls(
            temperature=values.get("temperature"),
            top_k=values.get("top_k"),
            top_p=values.get("top_p"),
            min_p=values.get("min_p"),
            frequency_penalty=values.get("frequency_penalty"),
            presence_penalty=values.get("presence_penalty"),
            repetition_penalty=values.get("repetition_penalty"),
            max_tokens=values.get("max_tokens"),
            seed=values.get("seed"),
            stop=stop,
        )


DEFAULT_SAMPLING = Sampling(
    temperature=0.7,
    top_k=0,
    top_p=0.95,
    min_p=0.0,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    repetition_penalty=1.0,
    max_tokens=1024,
)
"""Defaults for what neither the user, a template nor the model sets."""


@dataclass(frozen=True)
class EffectiveSetting:
    """One setting in effect, and where it comes from."""

    name: str
    value: Any
    """None, or () for `stop`, if it is not set anywhere."""
    source: str
    """The layer that sets it; empty for none."""


def effective_sampling(layers: Sequence[tuple[str, Sampling]]) -> list[EffectiveSetting]:
    """Resolve each setting from the layers.

    Args:
        layers: name and settings, highest priority first, such as `("this chat", …),
            ("config", …), ("model", …), ("default", DEFAULT_SAMPLING)`.
    """
    out = []
    for field in dataclasses.fields(Sampling):
        said = [
            EffectiveSetting(field.name, value, source)
            for source, sampling in layers
            if (value := getattr(sampling, field.name)) not in (None, ())
        ]
        out.append(said[0] if said else EffectiveSetting(field.name, field.default, ""))
    return out
