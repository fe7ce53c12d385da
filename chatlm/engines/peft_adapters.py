"""LoRA adapters in a model of transformers, by peft: several loaded at once, one acts or none."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from chatlm.engines.adapters import WEIGHTS, check_beginning
from chatlm.engines.model import Unsuitable

_CHANGING = ("layer_replication", "arrow_config", "target_parameters")
"""Settings of adapters that change the model itself, so that it could not go on without them."""


class PeftAdapters:
    """See the module's sentence.

    Args:
        module: the model, whose layers peft changes in their place.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._peft: Any = None
        """Wraps the module once there was an adapter."""
        self._active: str | None = None
        self._numbers = itertools.count()

    def add(self, folder: Path) -> str:
        """Load an adapter; returns a name for it.

        Raises:
            Unsuitable: the model could not go on without it.
            ValueError: it is damaged, or does not fit the model.
        """
        if not (folder / WEIGHTS).is_file():  # peft would take a pickle file
            raise ValueError(f"it has no {WEIGHTS}")
        name = f"adapter{next(self._numbers)}"
        self._active = ""  # whatever peft lets act
        with _quiet():
            try:
                self._load(folder, name)
            except Unsuitable:
                raise
            except Exception as error:  # peft raises many kinds
                with suppress(Exception):
                    self._peft.delete_adapter(name)
                raise ValueError(str(error).strip().partition("\n")[0]) from error
        return name

    def activate(self, name: str | None) -> None:
        """Let an adapter act, and no other; None lets none."""
        if name == self._active or self._peft is None:
            return
        if name is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.base_model.set_adapter(name, inference_mode=True)
        self._active = name

    def remove(self, name: str) -> None:
        """Free an adapter's memory."""
        self._active = ""
        with _quiet():
            self._peft.delete_adapter(name)

    def _load(self, folder: Path, name: str) -> None:
        from peft import PeftConfig, PeftModel

        config: Any = PeftConfig.from_pretrained(str(folder))
        if config.peft_type != "LORA" or config.bias != "none":
            raise Unsuitable("it is no LoRA adapter, or it changes biases")
        for setting in _CHANGING:
            if getattr(config, setting, None):
                raise Unsuitable(f"it uses {setting}")
        check_beginning(config.init_lora_weights)
        config.inference_mode = True
        if self._peft is None:
            self._peft = PeftModel(self._module, config, name, autocast_adapter_dtype=False)
        else:
            self._peft.add_adapter(name, config, autocast_adapter_dtype=False)
        found = self._peft.load_adapter(
            str(folder), name, torch_device=str(self._module.device), autocast_adapter_dtype=False
        )
        if found.missing_keys or found.unexpected_keys:
            wrong = [*found.missing_keys, *found.unexpected_keys][0]
            raise ValueError(f"its tensors are not those that its config names: {wrong}")


@contextmanager
def _quiet() -> Iterator[None]:
    """No remarks of peft in the middle of a screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
