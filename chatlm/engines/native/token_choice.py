"""Choose tokens with the compiled functions of `csrc/choose.c`, called by ctypes."""

from __future__ import annotations

import ctypes
import functools
import logging
from ctypes import POINTER, c_double, c_float, c_int64, c_void_p
from pathlib import Path

from torch import Tensor

from chatlm.engines.native.compiler import KernelUnavailable, open_library

log = logging.getLogger(__name__)

_NO_MEMORY = -2


class _ChoiceStruct(ctypes.Structure):
    _fields_ = (
        *(
            (name, c_float)
            for name in ("temperature", "top_p", "min_p", "top_n_sigma", "xtc_threshold")
        ),
        ("top_k", c_int64),
        ("point", c_double),
    )


class TokenChooser:
    """The compiled functions.

    Args:
        library: the compiled choose.c.

    Raises:
        KernelUnavailable: the system cannot load it.
    """

    def __init__(self, library: Path) -> None:
        try:
            self._choose = ctypes.CDLL(str(library)).choose_token
        except (OSError, AttributeError) as error:
            raise KernelUnavailable(f"{library} cannot be loaded: {error}") from error
        self._choose.argtypes = (c_void_p, c_int64, POINTER(_ChoiceStruct))
        self._choose.restype = c_int64

    def choose(
        self,
        logits: Tensor,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        top_n_sigma: float,
        xtc_threshold: float,
        point: float,
    ) -> int | None:
        """Choose a token as `chatlm.engines.samplers` does with torch, in the order of `Sampler`.

        Args:
            logits: (vocab_size,), float32, contiguous, on the CPU.
            temperature: 0 takes the largest logit.
            top_k: 0 is off.
            top_p: 1 is off.
            min_p: 0 is off.
            top_n_sigma: 0 is off.
            xtc_threshold: above 0.5 is off.
            point: the random number of the draw, from 0 to 1 without 1.

        Returns:
            its id; None if all logits are -inf, or one is NaN.

        Raises:
            MemoryError: there is not enough memory.
        """
        how = _ChoiceStruct(temperature, top_p, min_p, top_n_sigma, xtc_threshold, top_k, point)
        token = int(self._choose(logits.data_ptr(), len(logits), ctypes.byref(how)))
        if token == _NO_MEMORY:
            raise MemoryError
        return token if token >= 0 else None


@functools.cache
def token_chooser() -> TokenChooser | None:
    """Return the compiled functions, loaded once; None where there is no C compiler."""
    try:
        return open_library("choose", TokenChooser)
    except KernelUnavailable as error:
        log.info("tokens are chosen with torch: %s", error)
        return None
