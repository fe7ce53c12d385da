"""The project that `chatlm plugins new` writes asks for a chatlm that it works with."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from chatlm.plugin_host.scaffold import compatible_versions, create_project
from chatlm.version import version


@pytest.mark.parametrize(
    ("now", "fits", "breaks"),
    [
        ("0.1.0", ("0.1.0", "0.1.9"), ("0.0.9", "0.2.0", "1.0")),
        ("0.12.3.dev4", ("0.12.3", "0.12.0"), ("0.13", "0.2")),
        ("1.4.2", ("1.4.0", "1.9"), ("1.3", "2.0")),
    ],
)
def test_a_version_that_may_break_plugins_is_left_out(
    now: str, fits: tuple[str, ...], breaks: tuple[str, ...]
) -> None:
    versions = Requirement(f"chatlm{compatible_versions(now)}").specifier
    assert all(versions.contains(each) for each in fits)
    assert not any(versions.contains(each) for each in breaks)


def test_a_checkout_without_a_version_asks_for_any() -> None:
    assert compatible_versions("checkout") == ""


def test_the_project_depends_on_the_running_version(home: Path, tmp_path: Path) -> None:
    folder = create_project("ducks", tmp_path)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    (dependency,) = project["dependencies"]
    needed = Requirement(dependency)
    assert needed.name == "chatlm"
    assert str(needed.specifier)
    assert needed.specifier.contains(version(), prereleases=True)
