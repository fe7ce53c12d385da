"""The templates there are: the shipped ones, and the person's own, which win by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from chatlm import UsageError, bundled_dir, data_dir
from chatlm_templates.template import Template
from chatlm_templates.template_file import TemplateFileError, read_template


def own_folder() -> Path:
    """Where the person's own templates are."""
    return data_dir() / "prompts"


def template_files() -> dict[str, Path]:
    """Each template's file by its name, in the order of the names; none is opened."""
    found = {
        path.stem: path
        for folder in (bundled_dir("prompts"), own_folder())
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
    errors: tuple[TemplateFileError, ...] = ()


def load_library() -> Library:
    """Read every template."""
    templates: dict[str, Template] = {}
    faults = []
    for name, path in template_files().items():
        try:
            templates[name] = read_template(path)
        except TemplateFileError as fault:
            faults.append(fault)
    return Library(templates, tuple(faults))


def template_path(name: str) -> Path:
    """The file of a template.

    Raises:
        UsageError: there is none of this name; the nearest is suggested.
    """
    there = template_files()
    if name not in there:
        near = get_close_matches(name, there, 1)
        raise UsageError(
            f"There is no template {name!r}.",
            hint=f"Did you mean {near[0]}?" if near else "See them: chatlm templates list",
        )
    return there[name]


def load_template(name: str) -> Template:
    """Read one template.

    Raises:
        UsageError: as `path_of`.
        TemplateFault: its file cannot be used.
    """
    return read_template(template_path(name))
