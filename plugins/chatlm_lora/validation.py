"""Validate an adapter folder against a base model, without loading either."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from chatlm import ChatlmError, ModelError, ModelLocation, one_line, tensor_shapes
from chatlm_lora import adapter_files
from chatlm_lora.adapter_files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterConfig,
    InvalidAdapterFile,
    TensorEntry,
)

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
"""Suffixes of weight files that can run code when they are loaded."""


_LORA_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


_LAYER_INDEX = re.compile(r"\.\d+\.")


LoraPair = tuple[TensorEntry, TensorEntry]
"""A module's matrices A (rank, inputs) and B (outputs, rank)."""


class AdapterRefused(ChatlmError):
    """An adapter cannot be used."""


@dataclass(frozen=True)
class ValidatedAdapter:
    """Facts about an adapter that can be used."""

    config: AdapterConfig
    modules: tuple[str, ...]
    """Modules of the base model that it changes."""
    parameters: int
    """Number of parameters."""
    warnings: tuple[str, ...]
    """Notes for the user, such as another base model than it was trained on."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "rank": self.config.rank,
            "alpha": self.config.alpha,
            "targets": self.config.describe_targets(),
            "modules": len(self.modules),
            "parameters": self.parameters,
            "warnings": list(self.warnings),
        }


def validate_adapter(folder: Path, base: ModelLocation | None) -> ValidatedAdapter:
    """Validate all files of an adapter.

    Args:
        folder: as peft writes it.
        base: the model to use it with; None validates the adapter alone.

    Raises:
        AdapterRefused: it cannot be used.
    """
    weights = _weights_path(folder)
    try:
        config = adapter_files.read_config(_contained_path(folder, CONFIG_FILE))
    except InvalidAdapterFile as damage:
        raise _refusal(folder, f"{CONFIG_FILE} {damage}") from None
    except OSError:
        raise _refusal(
            folder, f"it has no {CONFIG_FILE}", "Give the folder that peft saved."
        ) from None
    try:
        table = adapter_files.read_tensor_table(weights)
    except InvalidAdapterFile as damage:
        raise _refusal(
            folder, f"{WEIGHTS_FILE} {damage}", "Copy or download the adapter again."
        ) from None
    pairs = _pair_matrices(folder, table)
    warnings: list[str] = []
    if base is not None:
        shapes = _base_shapes(base)
        _check_size(folder, table, shapes, base)
        _check_base(folder, config, pairs, shapes, base)
        warnings += _base_warnings(config, base)
    for reason in _rank_mismatches(config, pairs):
        raise _refusal(folder, reason)
    for name, tensor in table.items():
        if adapter_files.has_nonfinite(weights, tensor):
            raise _refusal(folder, f"{_short_name(name)} contains NaN or infinite values")
    if all(adapter_files.is_all_zero(weights, pair[1]) for pair in pairs.values()):
        warnings.append("All its B matrices are zero: it has no effect.")
    numbers = sum(prod(tensor.shape) for tensor in table.values())
    return ValidatedAdapter(config, tuple(sorted(pairs)), numbers, tuple(warnings))


def _weights_path(folder: Path) -> Path:
    if not folder.is_dir():
        raise _refusal(folder, "it is not a folder", "Give the folder that peft saved.")
    if not (folder / WEIGHTS_FILE).is_file():
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
        if pickled:
            raise _refusal(
                folder,
                f"its weights are a pickle file ({one_line(pickled[0], 60)}), which can run code",
                "Use a version with adapter_model.safetensors; its maker can save one with "
                "save_pretrained(..., safe_serialization=True).",
            )
        raise _refusal(folder, f"it has no {WEIGHTS_FILE}", "Give the folder that peft saved.")
    return _contained_path(folder, WEIGHTS_FILE)


def _contained_path(folder: Path, name: str) -> Path:
    """Return the path of a file, refused if it is a link that leads out of the folder."""
    path = folder / name
    # the files of a hub cache are links into its blobs folder
    inside = path.resolve().is_relative_to(folder.resolve())
    cached = folder.parent.name == "snapshots" and path.resolve().is_relative_to(
        folder.parent.parent.resolve()
    )
    if not inside and not cached:
        raise _refusal(folder, f"{name} is a link to a file outside the folder")
    return path


def _pair_matrices(folder: Path, tensors: Mapping[str, TensorEntry]) -> dict[str, LoraPair]:
    """Return the matrices by module."""
    halves: dict[str, dict[str, TensorEntry]] = {}
    for name, tensor in tensors.items():
        key = _LORA_KEY.fullmatch(name)
        if key is None or len(tensor.shape) != 2:
            raise _refusal(
                folder, f"{_short_name(name)} in {WEIGHTS_FILE} is no matrix of plain LoRA"
            )
        if tensor.dtype not in adapter_files.supported_dtypes():
            raise _refusal(folder, f"{_short_name(name)} is in the number format {tensor.dtype}")
        halves.setdefault(key[1], {})[key[2]] = tensor
    if not halves:
        raise _refusal(folder, f"{WEIGHTS_FILE} holds no matrices")
    for module, half in halves.items():
        if len(half) != 2:
            raise _refusal(folder, f"{_short_name(module)} has only one of its matrices A and B")
    return {module: (half["A"], half["B"]) for module, half in halves.items()}


def _rank_mismatches(config: AdapterConfig, pairs: Mapping[str, LoraPair]) -> Iterator[str]:
    for module, (a, b) in pairs.items():
        wanted = config.rank_of(module)
        if not a.shape[0] == b.shape[1] == wanted:
            yield (
                f"{_short_name(module)} has matrices of rank {a.shape[0]} and {b.shape[1]}, "
                f"but {CONFIG_FILE} says {wanted}"
            )


def _base_shapes(base: ModelLocation) -> Mapping[str, tuple[int, ...]]:
    try:
        return tensor_shapes(base.folder)
    except (ModelError, OSError) as error:
        raise ChatlmError(
            f"The model {base.name} cannot be read: {error}.",
            hint=f"chatlm models verify {base.name} checks its files.",
        ) from error


def _check_size(
    folder: Path,
    table: Mapping[str, TensorEntry],
    shapes: Mapping[str, tuple[int, ...]],
    base: ModelLocation,
) -> None:
    numbers = sum(prod(tensor.shape) for tensor in table.values())
    whole = sum(map(prod, shapes.values()))
    if numbers > whole:
        raise _refusal(
            folder,
            f"{WEIGHTS_FILE} has {numbers:,} numbers, more than the whole model {base.name} "
            f"({whole:,})",
        )


def _check_base(
    folder: Path,
    config: AdapterConfig,
    pairs: Mapping[str, LoraPair],
    shapes: Mapping[str, tuple[int, ...]],
    base: ModelLocation,
) -> None:
    fit = (
        "Choose the model it was made for "
        f"({one_line(config.base_model, 80) or 'not named'}): --model"
    )
    own = architecture(base)
    if config.architecture and own and config.architecture != own:
        raise _refusal(
            folder,
            f"it was made for {one_line(config.architecture, 60)}, and {base.name} is {own}",
            fit,
        )
    modules = {name.removesuffix(".weight") for name in shapes if name.endswith(".weight")}
    _check_targets(folder, config, modules, base)
    for module, (a, b) in pairs.items():
        shape = shapes.get(f"{module}.weight") or shapes.get(
            f"{module.partition('.')[2]}.weight"  # some models omit the first part
        )
        if shape is None:
            raise _refusal(folder, f"{base.name} has no module {_short_name(module)}", fit)
        outputs, inputs = reversed(shape) if config.fan_in_fan_out else shape
        if (b.shape[0], a.shape[1]) != (outputs, inputs):
            raise _refusal(
                folder,
                f"{_short_name(module)} has {a.shape[1]} inputs and {b.shape[0]} outputs, "
                f"in {base.name} {inputs} and {outputs}",
                fit,
            )


def _check_targets(
    folder: Path, config: AdapterConfig, modules: set[str], base: ModelLocation
) -> None:
    if isinstance(config.target_modules, str):
        return  # a regular expression; the modules themselves are checked one by one
    unknown = [
        target
        for target in config.target_modules
        if not any(module == target or module.endswith(f".{target}") for module in modules)
    ]
    if unknown:
        raise _refusal(
            folder,
            f"its target modules {one_line(', '.join(unknown), 100)} are not in {base.name}",
            f"{base.name} has: {', '.join(_layer_module_names(modules))}",
        )


def _layer_module_names(modules: set[str]) -> list[str]:
    """Return the last parts of the names of modules inside layers."""
    return sorted({name.rpartition(".")[2] for name in modules if _LAYER_INDEX.search(name)})


def architecture(base: ModelLocation) -> str:
    """Return the model class named in config.json; empty if it names none."""
    try:
        names = json.loads((base.folder / "config.json").read_bytes()).get("architectures")
        return str(names[0])
    except (OSError, ValueError, AttributeError, TypeError, IndexError):
        return ""


def same_base(one: str, other: str) -> bool:
    """Return whether two names may mean one model, whatever owner or folder precedes them."""
    return _model_basename(one) == _model_basename(other)


def _model_basename(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].partition("@")[0].lower()


def _base_warnings(config: AdapterConfig, base: ModelLocation) -> Iterator[str]:
    if config.base_model and not same_base(config.base_model, base.name):
        yield (
            f"It was trained on {one_line(config.base_model, 80)}, not on {base.name}; "
            "its shapes fit, but its answers may be useless."
        )


def _short_name(name: str) -> str:
    return one_line(name.removeprefix("base_model.model."), 90)


def _refusal(folder: Path, reason: str, hint: str = "") -> AdapterRefused:
    return AdapterRefused(f"The adapter in {folder} cannot be used: {reason}.", hint=hint)
