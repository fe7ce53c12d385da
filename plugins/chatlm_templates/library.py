"""The templates there are: the shipped ones, and the person's own, which win by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from chatlm import UsageError, data_dir, shipped
from chatlm_templates.template import Template
from chatlm_templates.template_file import TemplateFault, read


def own_folder() -> Path:
    """Where the person's own templates are."""
    return data_dir() / "prompts"


def files() -> dict[str, Path]:
    """Each template's file by its name, in the order of the names; none is opened."""
    found = {
        path.stem: path
        for folder in (shipped("prompts"), own_folder())
        for path in sorted(folder.glob("*.yaml"))
    }
    return dict(sorted(found.items()))


def is_own(path: Path) -> bool:
    """Whether it is one of the person's own."""
    return path.parent == own_folder()


@dataclass(frozen=True)
class Library:
    """All templates that can be used, and what is wrong with the others."""

    templates: Mapping[str, Template] = field(default_factory=dict)
    faults: tuple[TemplateFault, ...] = ()


def load() -> Library:
    """Read every template."""
    templates: dict[str, Template] = {}
    faults = []
    for name, path in files().items():
        try:
            templates[name] = read(path)
        except TemplateFault as fault:
            faults.append(fault)
    return Library(templates, tuple(faults))


def path_of(name: str) -> Path:
    """The file of a template.

    Raises:
        UsageError: there is none of this name; the nearest is suggested.
    """
    there = files()
    if name not in there:
        near = get_close_matches(name, there, 1)
        raise UsageError(
            f"There is no template {name!r}.",
            hint=f"Did you mean {near[0]}?" if near else "See them: chatlm templates list",
        )
    return there[name]


def named(name: str) -> Template:
    """Read one template.

    Raises:
        UsageError: as `path_of`.
        TemplateFault: its file cannot be used.
    """
    return read(path_of(name))
