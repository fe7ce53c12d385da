"""Logits processors and stopping criteria of plugins, called so that none can fail a reply."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from chatlm.changes import name_of
from chatlm.plugins.faults import Fault, pass_on
from chatlm.trace import Call


class Guarded(ABC):
    """One of them, called for each token until it fails; from then on it is left out.

    Args:
        plugin: who added it.
        added: what it added.
        failed: is told where it failed, and how.
    """

    where: ClassVar[str]
    """What it is, as a fault names it."""

    def __init__(
        self,
        plugin: str,
        added: Callable[[Any, Any], Any],
        failed: Callable[[str, BaseException], Fault],
    ) -> None:
        self.plugin = plugin
        self.__name__ = name_of(added)
        self.calls = 0
        self.seconds = 0.0
        """What all calls took."""
        self.fault: Fault | None = None
        self._added = added
        self._failed = failed

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Call it with a copy of the scores, so that a failure leaves nothing half done."""
        if self.fault is not None:
            return self._without(scores)
        started = time.perf_counter()
        try:
            return self._checked(self._added(input_ids, scores.clone()), scores)
        except BaseException as error:  # the reply goes on without it
            pass_on(error)
            self.fault = self._failed(self.where, error)
            return self._without(scores)
        finally:
            self.calls += 1
            self.seconds += time.perf_counter() - started

    def as_call(self) -> Call:
        """All of its calls as one."""
        tokens = "1 token" if self.calls == 1 else f"{self.calls:,} tokens"
        error = self.fault.error if self.fault else ""
        said = f"{self.__name__}, {tokens}"
        return Call(self.plugin, self.where, round(self.seconds, 6), said, error=error)

    @abstractmethod
    def _checked(self, result: Any, scores: Any) -> Any:
        """What a result is worth; raises TypeError or ValueError for one that is worth nothing."""

    @abstractmethod
    def _without(self, scores: Any) -> Any:
        """What holds when it is left out."""


class GuardedProcessor(Guarded):
    """A `LogitsProcessor`."""

    where = "a logits processor"

    def _checked(self, result: Any, scores: Any) -> Any:
        if not isinstance(result, type(scores)):
            raise TypeError(f"{self.__name__} returned {type(result).__name__}, not a tensor")
        if result.shape != scores.shape:
            shapes = f"{tuple(result.shape)}, not {tuple(scores.shape)}"
            raise ValueError(f"{self.__name__} returned scores of shape {shapes}")
        if not result.is_floating_point() or result.device != scores.device:
            kind = f"{result.dtype} on {result.device}"
            raise TypeError(f"{self.__name__} returned scores of {kind}")
        if not _can_be_drawn_from(result) and _can_be_drawn_from(scores):
            raise ValueError(f"{self.__name__} left no token that could come next")
        return result

    def _without(self, scores: Any) -> Any:
        return scores


class GuardedCriterion(Guarded):
    """A `StoppingCriterion`."""

    where = "a stopping criterion"

    def _checked(self, result: Any, scores: Any) -> bool:
        one = isinstance(result, type(scores)) and result.numel() == 1
        if not isinstance(result, bool) and not one:
            said = type(result).__name__
            raise TypeError(f"{self.__name__} returned {said}, not true or false for one row")
        return bool(result)

    def _without(self, scores: Any) -> bool:
        return False


def _can_be_drawn_from(scores: Any) -> bool:
    """Whether no score is NaN or +inf, and one at least is not -inf; the greatest tells it all."""
    return math.isfinite(scores.max())
