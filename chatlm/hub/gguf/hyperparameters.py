"""The settings of a GGUF file's architecture, with a record of which have been understood."""

from __future__ import annotations

import math
import re
import struct
from typing import Any, TypeVar, overload

from chatlm.hub.architecture import MAX_COUNT
from chatlm.hub.gguf.file import GgufError, GgufFile

_T = TypeVar("_T")


_NO_EFFECT = (
    "vocab_size",  # the embedding's own size counts
    "tensor_data_layout",
    "rope.scaling.finetuned",  # except for granitehybrid
)
"""Settings that change no result."""


_COUNTS = ("block_count", "expert_count")
"""Settings that say how many modules a model has."""


class Hyperparameters:
    """The metadata below the architecture's name.

    Every setting that is asked for counts as understood; `refuse_unread` names the others, since
    a setting that nobody reads means a model that computes something else.

    Args:
        file: the GGUF file.
    """

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self._prefix = f"{file.architecture}."
        self._read: set[str] = set(_NO_EFFECT)

    def __contains__(self, key: str) -> bool:
        return self._prefix + key in self.file

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a whole number, which may be given once for each layer if all are equal.

        Raises:
            GgufError: it is missing without a default, or not such a number.
        """
        value = self._constant(key, default)
        limit = MAX_COUNT if key in _COUNTS else (1 << 31) - 1
        if type(value) is not int or not 0 <= value <= limit:
            raise self._invalid(key, value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number as its author wrote it: GGUF rounds 1e-05 to 9.999999747378752e-06.

        Raises:
            GgufError: it is missing without a default, or not a number.
        """
        value = self._constant(key, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self._invalid(key, value)
        return shortest_float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return a truth value.

        Raises:
            GgufError: it is of another type.
        """
        value = self._constant(key, default)
        if type(value) is not bool:
            raise self._invalid(key, value)
        return value

    def text(self, key: str, default: str) -> str:
        """Return a string.

        Raises:
            GgufError: it is of another type.
        """
        value = self._constant(key, default)
        if type(value) is not str:
            raise self._invalid(key, value)
        return value

    @overload
    def per_layer(self, key: str, layers: int) -> list[Any] | None: ...
    @overload
    def per_layer(self, key: str, layers: int, default: _T) -> list[Any] | _T: ...
    def per_layer(self, key: str, layers: int, default: Any = None) -> Any:
        """Return one value for each layer; the default if the file does not say.

        Raises:
            GgufError: there are not as many values as layers.
        """
        self._read.add(key)
        value = self.file.get(self._prefix + key)
        if value is None:
            return default
        if not isinstance(value, list):
            return [value] * layers
        if len(value) != layers:
            raise self._invalid(key, f"{len(value)} values for {layers} layers")
        return value

    def require(self, key: str, expected: float | bool | str) -> None:
        """Refuse the file unless a setting is missing or has the only value that is supported.

        Raises:
            GgufError: it has another value.
        """
        value = self._constant(key, expected)
        if isinstance(value, float):
            value = shortest_float(value)
        if value != expected:
            raise self.unsupported(key, value)

    def refuse_unread(self) -> None:
        """Refuse the file if it has settings that nobody asked for.

        Raises:
            GgufError: it has, and the message names them.
        """
        own = (key for key in self.file.keys if key.startswith(self._prefix))
        unread = [name for key in own if (name := key.removeprefix(self._prefix)) not in self._read]
        if unread:
            raise self.unsupported(unread[0], self.file.get(self._prefix + unread[0]))

    def unsupported(self, key: str, value: Any) -> GgufError:
        """Return the error about a setting that chatlm cannot apply."""
        shown = re.sub(r"\s+", " ", repr(value))[:60]
        return GgufError(
            f"{self.file.path.name} needs {self._prefix}{key} = {shown}, which chatlm cannot apply "
            f"to the architecture {self.file.architecture}; its replies would be wrong.",
            "A safetensors version of the model may work: chatlm models pull ORG/NAME",
        )

    def _constant(self, key: str, default: Any) -> Any:
        self._read.add(key)
        value = self.file.get(self._prefix + key, default)
        if value is None:
            raise GgufError(
                f"{self.file.path.name} does not say its {self._prefix}{key}.",
                "Use a newer conversion of the model.",
            )
        if isinstance(value, list):
            if not value or any(each != value[0] for each in value):
                raise self.unsupported(key, value)
            return value[0]
        return value

    def _invalid(self, key: str, value: Any) -> GgufError:
        return GgufError(
            f"{self.file.path.name} is damaged: its {self._prefix}{key} is {str(value)[:60]!r}.",
            "Download it again, from another source if it stays so.",
        )


def shortest_float(value: float) -> float:
    """Return the shortest decimal number that rounds to the same 32-bit float."""
    try:
        stored = struct.pack("<f", value)
    except OverflowError:
        return value
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == stored:
            return short
    return value
