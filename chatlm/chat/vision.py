"""Refuse images that a model cannot read, naming the models here that can."""

from __future__ import annotations

from collections.abc import Iterable

from chatlm.errors import UsageError
from chatlm.hub.installed import list_installed_models
from chatlm.text import one_line
from chatlm.types.engine import EngineInfo
from chatlm.types.parts import Image, Part

_MAX_NAMES = 5


def check_images(parts: Iterable[Part], info: EngineInfo) -> None:
    """Refuse images that a model cannot read.

    Args:
        parts: of the message that is to be sent.
        info: of the model.

    Raises:
        UsageError: it has an image and the model reads none; the hint names models that do.
    """
    if "image" in info.accepts or not any(isinstance(part, Image) for part in parts):
        return
    names = [
        model.name
        for model in list_installed_models()
        if model.installed and "images" in model.abilities and model.name != info.model
    ]
    shown = ", ".join(one_line(name, 60) for name in names[:_MAX_NAMES])
    more = f" and {len(names) - _MAX_NAMES:,} more" if names[_MAX_NAMES:] else ""
    others = (
        f"Models here that can: {shown}{more}. Choose one, or send text only."
        if names
        else "No model here can; `chatlm models list` shows others. Send text only."
    )
    own = info.part_hints.get("image")
    raise UsageError(
        f"{one_line(info.model, 60)} cannot read images",
        hint=f"{own}\n{others}" if own else others,
    )
