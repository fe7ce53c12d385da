"""Fields that Ollama's endpoints share: options, format, thinking and how long a model is kept."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from chatlm import Sampling, Schema, one_line
from chatlm_serve.errors import ApiError, field_error
from chatlm_serve.fields import check_neutral, get_typed, refuse_unknown, without_nulls
from chatlm_serve.generation_request import (
    MAX_TOKENS,
    MAX_TOP_LOGPROBS,
    check_stop,
    checked_schema,
    sampling_value,
)

ERROR_PREFIX = "/api/"
"""Beginning of the paths whose errors have Ollama's format."""

_SAMPLING_OPTIONS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "seed": "seed",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
"""Options, with their names in `Sampling`."""

_MACHINE_OPTIONS = frozenset(
    (
        "embedding_only", "f16_kv", "logits_all", "low_vram", "main_gpu", "num_batch", "num_ctx",
        "num_gpu", "num_keep", "num_thread", "numa", "use_mlock", "use_mmap", "vocab_only",
    )
)  # fmt: skip
"""Options that say how to compute, which chatlm decides. The context is as long as fits, and
messages that do not fit are refused, so `num_ctx` and `num_keep` change no reply."""

_NEUTRAL_OPTIONS: Mapping[str, Any] = {"mirostat": 0, "tfs_z": 1.0, "typical_p": 1.0}
"""Options that are not supported, each with the value that has no effect."""

_MIROSTAT_OPTIONS = ("mirostat_eta", "mirostat_tau")
"""Options that have an effect only with another one."""

_DURATION = re.compile(r"([+-]?)((?:[0-9]+(?:\.[0-9]*)?(?:ns|us|µs|ms|s|m|h))+)")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def error_body(error: ApiError) -> dict[str, Any]:
    """Return the body of an error response, which also ends a stream that failed."""
    return {"error": error.message}


def parse_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling settings of a request's `options` by their names in `Sampling`.

    Raises:
        ApiError: an option is not known, out of range, or cannot be followed.
    """
    options = without_nulls(get_typed(fields, "options", dict, {}), "options")
    known = (
        "num_predict", "stop", "repeat_last_n", "penalize_newline",
        *_SAMPLING_OPTIONS, *_MACHINE_OPTIONS, *_NEUTRAL_OPTIONS, *_MIROSTAT_OPTIONS,
    )  # fmt: skip
    refuse_unknown(options, known, "options.")
    numbers = {
        name: float(value) if type(value) is int and name != "mirostat" else value
        for name, value in options.items()
        if name in _NEUTRAL_OPTIONS
    }
    check_neutral(numbers, _NEUTRAL_OPTIONS, "options.")
    values = {
        setting: sampling_value(f"options.{name}", setting, options[name])
        for name, setting in _SAMPLING_OPTIONS.items()
        if name in options
    }
    if values.get("repetition_penalty", 1.0) != 1.0:
        # it looks at the whole text, so other values of these would change a reply
        check_neutral(options, {"repeat_last_n": -1, "penalize_newline": True}, "options.")
    if "num_predict" in options:
        limit = get_typed(options, "num_predict", int, path="options.")
        if limit < -2:
            raise field_error("options.num_predict", "must be -2 or more.")
        values["max_tokens"] = MAX_TOKENS if limit < 0 else max(1, min(limit, MAX_TOKENS))
    if "stop" in options:
        stop = options["stop"]
        values["stop"] = check_stop("options.stop", [stop] if isinstance(stop, str) else stop)
    return values


def parse_format(fields: Mapping[str, Any]) -> Schema | None:
    """Return the schema that an answer must fit; None if it is free.

    Raises:
        ApiError: the format is neither `json` nor a schema.
    """
    value = fields.get("format", "")
    if value == "":
        return None
    if value == "json":
        return {"type": "object"}
    if not isinstance(value, dict):
        raise field_error("format", 'must be "json" or a JSON schema.')
    return checked_schema(value, "format")


def parse_think(fields: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Return the value for `Sampling.thinking`, None for what is open, and whether it is a switch.

    Raises:
        ApiError: the value is none of Ollama's.
    """
    value = fields.get("think")
    if value is None:
        return None, False
    if isinstance(value, bool):
        return ("medium" if value else "off"), True
    if value not in ("low", "medium", "high"):
        raise field_error("think", "must be true, false, low, medium or high.")
    return str(value), False


def parse_logprobs(fields: Mapping[str, Any]) -> int | None:
    """Return the number of top alternatives per token; None without log-probabilities.

    Raises:
        ApiError: it is out of range.
    """
    if not get_typed(fields, "logprobs", bool, False):
        return None
    top = get_typed(fields, "top_logprobs", int, 0)
    if not 0 <= top <= MAX_TOP_LOGPROBS:
        raise field_error("top_logprobs", f"must be 0 to {MAX_TOP_LOGPROBS}, not {top:,}.")
    return top


def parse_keep_alive(fields: Mapping[str, Any]) -> float | None:
    """Return for how many seconds the model is kept, infinite for ever; None for as usual.

    Raises:
        ApiError: it is neither a number of seconds nor a duration such as `5m`.
    """
    value = fields.get("keep_alive")
    if value is None:
        return None
    if isinstance(value, str):
        value = _parse_duration(value)
    elif type(value) not in (int, float):
        raise field_error("keep_alive", "must be seconds, or a duration such as 5m.")
    return math.inf if value < 0 else float(min(value, 1e9))


def _parse_duration(text: str) -> float:
    if text.lstrip("+-").isdigit() and len(text) < 12:  # some clients send seconds as text
        return float(text)
    match = _DURATION.fullmatch(text)
    if match is None or len(text) > 60:
        raise field_error(
            "keep_alive", f"must be a duration such as 5m or 1h30m, not {one_line(text, 40)!r}."
        )
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(match[2]))
    return -seconds if match[1] == "-" else seconds


def sampling_of(fields: Mapping[str, Any], thinking: str | None) -> Sampling:
    """Return all sampling settings of a request.

    Raises:
        ApiError: one is not as it must be.
    """
    values = parse_options(fields)
    if thinking is not None:
        values["thinking"] = thinking
    values["schema"] = parse_format(fields)
    return Sampling.from_dict(values)
