"""Template files: those shipped with chatlm and the user's own, which override them by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from chatlm import UsageError, bundled_dir, data_dir
from chatlm_templates.template import Template
from chatlm_templates.template_file import TemplateFileError, read_template


def own_folder() -> Path:
    """Return the folder of the user's own templates."""
    return data_dir() / "prompts"


def template_files() -> dict[str, Path]:
    """Return the template files by name, sorted by name; none is opened."""
    files = {
        path.stem: path
        for folder in (bundled_dir("prompts"), own_folder())
        for path in sorted(folder.glob("*.yaml"))
    }
    return dict(sorted(files.items()))


def is_own(path: Path) -> bool:
    """Return whether a file is one of the user's own templates."""
    return path.parent == own_folder()


@dataclass(frozen=True)
class Library:
    """All valid templates, and the errors of the others."""

    templates: Mapping[str, Template] = field(default_factory=dict)
    errors: tuple[TemplateFileError, ...] = ()


def load_library() -> Library:
    """Read all template files."""
    templates: dict[str, Template] = {}
    errors = []
    for name, path in template_files().items():
        try:
            templates[name] = read_template(path)
        except TemplateFileError as error:
            errors.append(error)
    return Library(templates, tuple(errors))


def template_path(name: str) -> Path:
    """Return the file of a template.

    Raises:
        UsageError: there is none of this name; a similar one is suggested.
    """
    files = template_files()
    if name not in files:
        near = get_close_matches(name, files, 1)
        raise UsageError(
            f"There is no template {name!r}.",
            hint=f"Did you mean {near[0]}?" if near else "List them: chatlm templates list",
        )
    return files[name]


def load_template(name: str) -> Template:
    """Read one template.

    Raises:
        UsageError: there is none of this name.
        TemplateFileError: its file is invalid.
    """
    return read_template(template_path(name))
