"""Turn the bytes of stored weights into numbers, for any number format of ggml that is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

CHUNK_VALUES = 1 << 20
"""How many weights to dequantize at once, so that their 32-bit floats take little memory."""


class UnreadableType(Exception):
    """Weights have a number format that cannot be read."""


def dequantize(raw: np.ndarray[Any, Any], type_name: str) -> np.ndarray[Any, Any]:
    """Return the numbers that rows of weights stand for, exactly, in 32 bits.

    Args:
        raw: (rows, bytes of a row), uint8.
        type_name: ggml's name of the format, such as Q4_K.

    Raises:
        UnreadableType: there is no such format, or it cannot be read.
    """
    import numpy as np
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize as dequantize_blocks

    if type_name in ("F32", "F16"):
        stored = np.ascontiguousarray(raw).view("<f4" if type_name == "F32" else "<f2")
        return stored.astype(np.float32)
    try:
        values = dequantize_blocks(raw, GGMLQuantizationType[type_name])
    except (KeyError, NotImplementedError):
        raise UnreadableType(type_name) from None
    return np.ascontiguousarray(values, dtype=np.float32)
