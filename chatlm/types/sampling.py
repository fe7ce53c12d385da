"""Validated sampling settings; `engines.samplers` applies them."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chatlm.errors import UsageError
from chatlm.text import dump_json
from chatlm.types.schemas import check_schema, parse_schema, schema_text
from chatlm.types.settings import setting, setting_specs

Thinking = Literal["auto", "off", "low", "medium", "high"]

THINKING_LEVELS: tuple[Thinking, ...] = typing.get_args(Thinking)


def _number(low: float, high: float, help: str) -> Any:
    return setting(None, help, minimum=low, maximum=high)


def _stop_strings(value: Any) -> Any:
    """Convert stop strings from JSON or TOML: one text, or a list of texts."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


LogitBias = tuple[tuple[int | str, float], ...]
"""Pairs of a token, by its id or as text, and the number added to its logit."""


MAX_BIAS = 100.0
"""Limit of a bias in both directions, as in OpenAI's protocol; about enough to rule a token out or
to force it."""


def _logit_bias(value: Any) -> Any:
    """Convert biases from JSON, TOML or YAML: a list of pairs, or an object by token.

    As in OpenAI's protocol, a key of an object that is a whole number is an id, if a valid one.
    """
    if isinstance(value, Mapping):
        return tuple(
            (int(token) if isinstance(token, str) and _IS_ID.fullmatch(token) else token, bias)
            for token, bias in value.items()
        )
    if isinstance(value, list | tuple):
        return tuple(tuple(pair) if isinstance(pair, list) else pair for pair in value)
    return value


NO_METHOD = "off"
"""Value of `Sampling.method` for a plain reply where another layer sets a method."""


_METHOD = re.compile(r"[a-z][a-z0-9-]{0,29}(:\S(.*\S)?)?")


def _is_method(value: Any) -> bool:
    return _METHOD.fullmatch(value) is not None


_IS_ID = re.compile("-?[0-9]{1,4000}", re.ASCII)
"""Whole numbers that Python reads, invalid ids too, so that they are refused."""


def _are_biases(value: Any) -> bool:
    return all(
        (token >= 0 if isinstance(token, int) else token != "") and abs(bias) <= MAX_BIAS
        for token, bias in value
    )


def _schema(value: Any) -> Any:
    """Convert a schema from JSON, TOML or YAML: an object, or a text in either notation.

    Raises:
        UsageError: it is no schema.
    """
    if isinstance(value, Mapping):
        check_schema(value)
        return schema_text(value)
    return schema_text(parse_schema(value)) if isinstance(value, str) and value else value


@dataclass(frozen=True)
class Sampling:
    """Settings of one generation; None means the model's default, else chatlm's.

    Raises:
        UsageError: a value is outside its range.
    """

    temperature: float | None = _number(
        0.0, 5.0, "0 always takes the most likely token; higher is more varied"
    )
    top_k: int | None = _number(0, 1_000_000, "keep the k most likely tokens; 0 keeps all")
    top_p: float | None = _number(
        0.0, 1.0, "keep the most likely tokens that together reach this probability"
    )
    min_p: float | None = _number(
        0.0, 1.0, "drop tokens below this share of the most likely token's probability"
    )
    frequency_penalty: float | None = _number(
        -2.0, 2.0, "subtracted from a token's logit for each earlier occurrence in the reply"
    )
    presence_penalty: float | None = _number(
        -2.0, 2.0, "subtracted once from the logit of a token that occurs in the reply"
    )
    repetition_penalty: float | None = _number(
        0.1,
        10.0,
        "divides positive and multiplies negative logits of tokens in prompt or reply; 1 is off",
    )
    max_tokens: int | None = _number(1, 1_000_000, "maximum number of tokens of the answer")
    seed: int | None = _number(0, 2**63 - 1, "the same seed and request give the same reply")
    stop: tuple[str, ...] = setting(
        (),
        "texts that end a reply and are cut from it",
        accepts=all,
        convert=_stop_strings,
        expected="non-empty texts",
    )
    thinking: Literal["auto", "off", "low", "medium", "high"] | None = setting(
        None,
        "how much a reasoning model thinks before it answers; auto leaves it to the model",
        expected=f"{', '.join(THINKING_LEVELS[:-1])} or {THINKING_LEVELS[-1]}",
    )
    thinking_budget: int | None = _number(
        1, 1_000_000, "at most this many tokens of thoughts; then the model answers"
    )
    top_n_sigma: float | None = _number(
        0.0,
        100.0,
        "drop tokens more than this many standard deviations below the top logit; 0 is off",
    )
    xtc_probability: float | None = _number(
        0.0, 1.0, "how often all top choices but the last are dropped (XTC); 0 is off"
    )
    xtc_threshold: float | None = _number(
        0.0, 1.0, "probability from which a token is a top choice for XTC"
    )
    dry_multiplier: float | None = _number(
        0.0, 100.0, "how strongly repeated sequences are penalised (DRY); 0 is off"
    )
    dry_base: float | None = _number(1.0, 10.0, "how fast DRY's penalty grows with the length")
    dry_allowed_length: int | None = _number(
        1, 1000, "length from which DRY penalises a repetition"
    )
    logit_bias: tuple[tuple[int | str, float], ...] = setting(
        (),
        "added to the logits of these tokens; a text means each of its tokens",
        accepts=_are_biases,
        convert=_logit_bias,
        expected=f"pairs of a token id or a text and a bias from {-MAX_BIAS:g} to {MAX_BIAS:g}",
    )
    schema: str | None = setting(
        None,
        "JSON schema that the answer must fit, as JSON or as `name str, age int`; empty for none",
        convert=_schema,
    )
    grammar: str | None = setting(
        None, "grammar that the answer must match, such as `regex:[0-9]+`; empty for none"
    )
    method: str | None = setting(
        None,
        "how a reply is made, such as `consensus:9`, which takes the answer that most samples "
        "agree on; off for a plain reply",
        accepts=_is_method,
        expected="a name such as chain, or name:argument such as consensus:9",
    )

    def __post_init__(self) -> None:
        for name, spec in setting_specs(Sampling).items():
            if problem := spec.problem(getattr(self, name)):
                raise UsageError(f"{name} {problem}", hint=f"{name}: {spec.help}.")
        if self.schema and self.grammar:
            raise UsageError("schema and grammar cannot be combined", hint="Choose one.")

    @property
    def reply_method(self) -> tuple[str, str] | None:
        """Name and argument of the method that makes the reply; None for a plain one."""
        if self.method in (None, "", NO_METHOD):
            return None
        name, _, argument = str(self.method).partition(":")
        return name, argument

    def with_fallback(self, fallback: Sampling) -> Sampling:
        """Return these settings, with `fallback`'s where one is not set."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        own = {name: value for name, value in values.items() if value not in (None, ())}
        if self.schema or self.grammar:  # either replaces both
            own = {"schema": None, "grammar": None, **own}
        return dataclasses.replace(fallback, **own)

    def settings(self) -> dict[str, Any]:
        """Return every setting by its key in files; None or () for one that is not set."""
        return {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "top_n_sigma": self.top_n_sigma,
            "xtc_probability": self.xtc_probability,
            "xtc_threshold": self.xtc_threshold,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "repetition_penalty": self.repetition_penalty,
            "dry_multiplier": self.dry_multiplier,
            "dry_base": self.dry_base,
            "dry_allowed_length": self.dry_allowed_length,
            "logit_bias": self.logit_bias,
            "max_tokens": self.max_tokens,
            "thinking": self.thinking,
            "thinking_budget": self.thinking_budget,
            "seed": self.seed,
            "stop": self.stop,
            "schema": self.schema,
            "grammar": self.grammar,
            "method": self.method,
        }

    def to_dict(self) -> dict[str, Any]:
        """Convert the settings that are set to JSON values."""
        return {key: value for key, value in self.settings().items() if value not in (None, ())}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sampling:
        """Restore from the values of `to_dict`, or a section of the config file.

        YAML reads `off` as false.

        Raises:
            UsageError: an unknown name or a value out of range.
        """
        known = setting_specs(cls)
        if unknown := sorted(set(values) - known.keys()):
            raise UsageError(
                f"unknown sampling setting {', '.join(unknown)}",
                hint=f"Known: {', '.join(sorted(known))}.",
            )
        return cls(
            temperature=values.get("temperature"),
            top_k=values.get("top_k"),
            top_p=values.get("top_p"),
            min_p=values.get("min_p"),
            top_n_sigma=values.get("top_n_sigma"),
            xtc_probability=values.get("xtc_probability"),
            xtc_threshold=values.get("xtc_threshold"),
            frequency_penalty=values.get("frequency_penalty"),
            presence_penalty=values.get("presence_penalty"),
            repetition_penalty=values.get("repetition_penalty"),
            dry_multiplier=values.get("dry_multiplier"),
            dry_base=values.get("dry_base"),
            dry_allowed_length=values.get("dry_allowed_length"),
            logit_bias=_logit_bias(values.get("logit_bias", ())),
            max_tokens=values.get("max_tokens"),
            thinking="off" if values.get("thinking") is False else values.get("thinking"),
            thinking_budget=values.get("thinking_budget"),
            seed=values.get("seed"),
            stop=_stop_strings(values.get("stop", ())),
            schema=_schema(values.get("schema")),
            grammar=values.get("grammar"),
            method="off" if values.get("method") is False else values.get("method"),
        )


_BIAS_ITEM = re.compile(
    r'\s*(?:([0-9]{1,9})|("(?:[^"\\]|\\.)*"))\s*=\s*([-+0-9.eE]+)\s*(?:,|$)', re.ASCII
)
"""A token id or a JSON string, and its bias."""


def parse_logit_bias(text: str) -> LogitBias:
    """Parse typed biases, such as `15043=-100, " cat"=5`; a text is a JSON string.

    Raises:
        UsageError: they are written in another way, or a bias is out of range.
    """
    biases: list[tuple[int | str, float]] = []
    at = 0
    while at < len(text):
        match = _BIAS_ITEM.match(text, at)
        try:
            if match is None:
                raise ValueError
            number, string, bias = match.groups()
            biases.append((int(number) if number else json.loads(string), float(bias)))
        except ValueError:
            raise UsageError(
                f'logit_bias must be written as 15043=-100, " cat"=5, not {text[at:][:60]!r}',
                hint="Before = is a token id, or a text in double quotes; after it a bias from "
                f"{-MAX_BIAS:g} to {MAX_BIAS:g}.",
            ) from None
        at = match.end()
    return Sampling(logit_bias=tuple(biases)).logit_bias


def format_logit_bias(biases: LogitBias) -> str:
    """Format biases as `parse_logit_bias` reads them."""
    return ", ".join(
        f"{token if isinstance(token, int) else dump_json(token)}={bias:g}"
        for token, bias in biases
    )


NUMERIC_SAMPLING = {
    name: spec
    for name, spec in setting_specs(Sampling).items()
    if name not in ("stop", "thinking", "logit_bias", "schema", "grammar", "method")
}
"""The settings that are numbers, by name."""


DEFAULT_SAMPLING = Sampling(
    temperature=0.7,
    top_k=0,
    top_p=0.95,
    min_p=0.0,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    repetition_penalty=1.0,
    max_tokens=1024,
    top_n_sigma=0.0,
    xtc_probability=0.0,
    xtc_threshold=0.1,
    dry_multiplier=0.0,
    dry_base=1.75,
    dry_allowed_length=2,
    thinking="auto",
    thinking_budget=8192,
)
"""Defaults for settings that neither the user, a template nor the model sets."""


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
        settings = [
            EffectiveSetting(field.name, value, source)
            for source, sampling in layers
            if (value := getattr(sampling, field.name)) not in (None, ())
        ]
        out.append(settings[0] if settings else EffectiveSetting(field.name, field.default, ""))
    return out
