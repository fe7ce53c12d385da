"""Compare the chat template of a GGUF file with the one its model's maker published.

Templates in files that others have made have been changed to add instructions that nobody sees.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from chatlm.hub.gguf.file import GgufFile

FACTS_FILE = "gguf.json"
"""File of a folder that was made from a GGUF file: what that said about its origin and weights."""


_FACTS = ("name", "architecture", "organization", "basename", "finetune", "size_label", "repo_url")


@dataclass(frozen=True)
class KnownTemplate:
    """The published template of a family of models."""

    repository: str
    """Where it comes from."""
    names: str
    """Pattern of the models' names, in lower case and with hyphens."""
    sha256: tuple[str, ...]
    """Hashes of its versions."""


@functools.cache
def known_templates() -> tuple[KnownTemplate, ...]:
    """Return the templates whose makers are known."""
    text = resources.files("chatlm.hub.gguf").joinpath("known_templates.toml").read_text("utf-8")
    return tuple(
        KnownTemplate(row["repository"], row["names"], tuple(row["sha256"]))
        for row in tomllib.loads(text)["templates"]
    )


def template_facts(file: GgufFile) -> dict[str, Any]:
    """Return what a file says about its origin, for `FACTS_FILE`."""
    facts = {key: file.get(f"general.{key}") for key in _FACTS}
    return {"general": {key: value for key, value in facts.items() if isinstance(value, str)}}


def template_warning(folder: Path) -> str | None:
    """Tell that the template of a GGUF model is not the one its maker published.

    None where it is, where the folder was not made from a GGUF file, and where the model's name or
    its template are not known.
    """
    try:
        general = json.loads((folder / FACTS_FILE).read_bytes())["general"]
        files = [folder / "chat_template.jinja"]
        files += sorted((folder / "additional_chat_templates").glob("*.jinja"))
        texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(general, dict):
        return None
    return compare_templates(general, texts)


def compare_templates(general: Mapping[str, Any], templates: list[str]) -> str | None:
    """Tell that a template differs from the published one of a model; None if it is not known."""
    known = next(
        (each for name in _names(general) for each in known_templates()
         if re.fullmatch(each.names, name)),
        None,
    )  # fmt: skip
    if known is None or all(template_hash(text) in known.sha256 for text in templates):
        return None
    return (
        f"Its chat template is not the one published in {known.repository}. It may be another "
        "version or a repair, but templates have also been changed to add hidden instructions: "
        f"compare it with https://huggingface.co/{known.repository}, or set prompt_format."
    )


def template_hash(template: str) -> str:
    """Return the hash that `known_templates.toml` has for a template."""
    return hashlib.sha256(template.replace("\r\n", "\n").strip().encode()).hexdigest()


def _names(general: Mapping[str, Any]) -> list[str]:
    """Return the names that a model goes by.

    The name of the model it was trained from does not count: a finetune may have its own template.
    """
    parts = [general.get(key) for key in ("basename", "size_label", "finetune")]
    names = [general.get("name"), "-".join(part for part in parts if isinstance(part, str))]
    return [
        re.sub(r"[\s_-]+", "-", name.rpartition("/")[2].strip().lower()).removesuffix("-gguf")
        for name in names
        if isinstance(name, str) and name
    ]
