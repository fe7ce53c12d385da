"""Merge adapters (linear, SLERP, TIES, DARE), and export models with an adapter merged in."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from chatlm import Artifact, ModelLocation, UsageError, load_pretrained
from chatlm_lora import validation
from chatlm_lora.adapter_files import MAX_RANK
from chatlm_lora.card import AdapterCard, write_card
from chatlm_lora.library import ADAPTERS, new_folder
from chatlm_lora.peft_utils import explain_out_of_memory, quiet_transformers, save_adapter
from chatlm_lora.validation import ValidatedAdapter, same_base

MERGED_ADAPTER = "merged"
"""Name of the result inside peft."""


_PEFT_METHODS = {"linear": "cat", "slerp": "cat", "ties": "ties_svd", "dare": "dare_linear_svd"}
"""peft's names; its own `linear` sums A and B separately, which is not the sum of the ΔW."""


@dataclass(frozen=True)
class MergeSettings:
    """Method and parameters of a merge.

    Raises:
        UsageError: a value is out of range.
    """

    method: str
    """linear, slerp, ties or dare."""
    weights: tuple[float, ...]
    """One per adapter; for slerp their ratio is the position on the arc."""
    density: float = 0.5
    """Share of the values that ties and dare keep, above 0 to 1."""
    rank: int | None = None
    """Rank of the result of ties and dare; None for the highest rank of the adapters."""
    seed: int = 0
    """Seed for the values that dare drops."""

    def __post_init__(self) -> None:
        if self.method not in _PEFT_METHODS:
            raise UsageError(
                f"There is no method {self.method!r}.", hint=f"{', '.join(_PEFT_METHODS)}."
            )
        if not all(math.isfinite(weight) and abs(weight) <= 100 for weight in self.weights):
            raise UsageError("A weight must be from -100 to 100.")
        if self.method == "slerp" and (
            len(self.weights) != 2 or min(self.weights) < 0 or not sum(self.weights)
        ):
            raise UsageError(
                "SLERP goes between two adapters, with weights that are not negative.",
                hint="Use --method linear for more.",
            )
        if not 0 < self.density <= 1:
            raise UsageError(f"The density must be above 0 and at most 1, not {self.density:g}.")
        if self.rank is not None and not 1 <= self.rank <= MAX_RANK:
            raise UsageError(f"The rank must be from 1 to {MAX_RANK}, not {self.rank}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "method": self.method,
            "weights": list(self.weights),
            "density": self.density,
            "rank": self.rank,
            "seed": self.seed,
        }


def merge_adapters(
    name: str, sources: Sequence[Artifact], base: ModelLocation, merge_settings: MergeSettings
) -> AdapterCard:
    """Merge adapters of one base model, and save the result as an adapter.

    Raises:
        UsageError: the name is taken, or the adapters cannot be merged.
        AdapterRefused: an adapter cannot be used with the base model.
        ModelError, OutOfMemoryError: the base model cannot be loaded.
    """
    place = ADAPTERS.new(name)
    _check_mergeable(sources, base, merge_settings)
    names = [f"source{number}" for number in range(len(sources))]
    with quiet_transformers(), explain_out_of_memory("Use a smaller base."), torch.no_grad():
        model: Any = load_pretrained(base, device="cpu", dtype="float32")
        for source, label in zip(sources, names, strict=True):
            if isinstance(model, PeftModel):
                model.load_adapter(str(source.path), label, local_files_only=True)
            else:
                model = PeftModel.from_pretrained(
                    model, str(source.path), adapter_name=label, local_files_only=True
                )
        torch.manual_seed(merge_settings.seed)
        model.base_model.add_weighted_adapter(
            names,
            [1.0, 1.0] if merge_settings.method == "slerp" else list(merge_settings.weights),
            MERGED_ADAPTER,
            combination_type=_PEFT_METHODS[merge_settings.method],
            svd_rank=merge_settings.rank,
            svd_full_matrices=False,
            density=merge_settings.density,
        )
        if merge_settings.method == "slerp":
            _apply_slerp(model, names, merge_settings.weights[1] / sum(merge_settings.weights))
        adapter_card = AdapterCard(
            name=name,
            origin="merged",
            base=base.name,
            source={"adapters": [source.name for source in sources]},
            settings=merge_settings.to_dict(),
        )
        with ADAPTERS.create(place) as new:
            save_adapter(model, new, base, MERGED_ADAPTER)
            write_card(adapter_card, new)
    return adapter_card


def _check_mergeable(
    sources: Sequence[Artifact], base: ModelLocation, merge_settings: MergeSettings
) -> None:
    if len({source.name for source in sources}) < 2:
        raise UsageError("Merging needs at least two adapters.")
    checked = {source.name: validation.validate_adapter(source.path, base) for source in sources}
    first_name, first = next(iter(checked.items()))
    for other_name, other in checked.items():
        why = _incompatibility(first, other, merge_settings)
        if why:
            raise UsageError(
                f"{first_name} and {other_name} cannot be merged: {why}.",
                hint="Merge adapters of one base model that change the same modules.",
            )
    ranks = sum(each.config.rank for each in checked.values())
    if _PEFT_METHODS[merge_settings.method] == "cat" and ranks > MAX_RANK:
        raise UsageError(f"The sum of the ranks is {ranks}; the maximum is {MAX_RANK}.")


def _incompatibility(
    one: ValidatedAdapter, other: ValidatedAdapter, merge_settings: MergeSettings
) -> str:
    """Return why two adapters cannot be merged; empty if they can."""
    bases = one.config.base_model, other.config.base_model
    if all(bases) and not same_base(*bases):
        return f"one was trained on {bases[0]}, the other on {bases[1]}"
    if merge_settings.method != "linear" and one.modules != other.modules:
        return f"{merge_settings.method} compares the same modules, and they change different ones"
    return ""


def _apply_slerp(model: Any, names: Sequence[str], t: float) -> None:
    """Turn the concatenated adapters into points on the arcs between them, module by module.

    The point is c₁ΔW₁ + c₂ΔW₂, so it is enough to scale the half of B that belongs to each. The
    angle between ΔW₁ and ΔW₂ follows from their factors, without computing either.

    Args:
        model: has both adapters and their concatenation.
        names: names of the two adapters.
        t: position on the arc; 0 is the first adapter, 1 the second.
    """
    for module in model.modules():
        if MERGED_ADAPTER not in getattr(module, "lora_A", {}):
            continue
        factors = [
            (module.lora_A[name].weight, module.lora_B[name].weight * module.scaling[name])
            for name in names
        ]
        one, other = _slerp_coefficients(factors[0], factors[1], t)
        rank = factors[0][0].shape[0]
        module.lora_B[MERGED_ADAPTER].weight[:, :rank] *= one
        module.lora_B[MERGED_ADAPTER].weight[:, rank : rank + factors[1][0].shape[0]] *= other


def _slerp_coefficients(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], t: float
) -> tuple[float, float]:
    """Return the coefficients c₁ and c₂ of the point on the arc."""

    def inner(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> float:
        return float(((x[1].T @ y[1]) * (x[0] @ y[0].T)).sum())

    lengths = math.sqrt(inner(first, first) * inner(second, second))
    cosine = max(-1.0, min(1.0, inner(first, second) / lengths)) if lengths else 1.0
    angle = math.acos(cosine)
    if math.sin(angle) < 1e-4:  # nearly parallel: interpolate linearly
        return 1 - t, t
    return (
        math.sin((1 - t) * angle) / math.sin(angle),
        math.sin(t * angle) / math.sin(angle),
    )


EXCLUDED_FILES = ("chatlm-model.json", "model.safetensors.index.json")
"""Files that are only valid for the base model."""


COPIED_SUFFIXES = (".json", ".jinja", ".model", ".txt")


def export_merged(adapter: Artifact, base: ModelLocation, folder: Path) -> tuple[str, ...]:
    """Merge an adapter into its base model, and write the model.

    The weights are added in float32 and written in the base model's dtype.

    Args:
        adapter: the adapter.
        base: the base model.
        folder: the new folder.

    Returns:
        Notes for the user, as `ValidatedAdapter.warnings`.

    Raises:
        AdapterRefused: the adapter cannot be used with the base model.
        UsageError: the folder exists, or cannot be written.
        ModelError, OutOfMemoryError: the base model cannot be loaded.
    """
    checked = validation.validate_adapter(adapter.path, base)
    with (
        new_folder(folder),
        quiet_transformers(),
        explain_out_of_memory("Use a smaller base."),
        torch.no_grad(),
    ):
        plain: Any = load_pretrained(base, device="cpu", dtype="float32")
        kept = getattr(torch, _base_dtype(base))
        model: Any = PeftModel.from_pretrained(plain, str(adapter.path), local_files_only=True)
        whole = model.merge_and_unload(safe_merge=True).to(kept)
        whole.save_pretrained(folder)
        for path in sorted(base.folder.iterdir()):
            new = folder / path.name
            if (
                path.suffix in COPIED_SUFFIXES
                and path.name not in EXCLUDED_FILES
                and not new.exists()
            ):
                shutil.copyfile(path, new)
    return checked.warnings


def _base_dtype(base: ModelLocation) -> str:
    """Return the dtype in the base model's config, else float32."""
    config = json.loads((base.folder / "config.json").read_bytes())
    named: str | None = config.get("dtype") or config.get("torch_dtype")
    return named if named in ("bfloat16", "float16") else "float32"
