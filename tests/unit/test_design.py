"""The maintainers' pages name every folder, and only files and identifiers that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DESIGN = ROOT / "docs" / "design.md"
GLOSSARY = ROOT / "docs" / "glossary.md"
PAGES = (DESIGN, GLOSSARY, ROOT / "CONTRIBUTING.md")
SOURCE_SUFFIXES = {".py", ".c", ".h"}


def code_spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))


def mapped_folders() -> list[str]:
    table = DESIGN.read_text(encoding="utf-8").partition("## Map")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    return [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]


def source_folders() -> set[str]:
    """Every folder of chatlm with sources of its own, and every plugin."""
    files = (path for path in (ROOT / "chatlm").rglob("*") if path.suffix in SOURCE_SUFFIXES)
    folders = {path.parent for path in files}
    folders |= {path.parent for path in (ROOT / "plugins").glob("*/plugin.py")}
    return {f"{folder.relative_to(ROOT).as_posix()}/" for folder in folders}


def test_every_folder_of_chatlm_and_every_plugin_is_on_the_map() -> None:
    assert source_folders() - set(mapped_folders()) == set()


def test_no_folder_is_on_the_map_twice() -> None:
    assert len(mapped_folders()) == len(set(mapped_folders()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    paths = [span for span in code_spans(page) if re.fullmatch(r"[\w./-]+/[\w./-]*", span)]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.fixture(scope="module")
def words() -> set[str]:
    """Every identifier in the sources of chatlm, its plugins, its benchmarks and its tests."""
    found: set[str] = set()
    for folder in ("chatlm", "plugins", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_identifier_that_is_named_exists(page: Path, words: set[str]) -> None:
    spans = (re.sub(r"\(.*\)$", "", span) for span in code_spans(page))
    names = [span for span in spans if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", span)]
    named_files = re.compile(r".*\.(md|toml|py|json)$")
    known = words | {"GOMP_SPINCOUNT", "NAME", "do_NAME", "slow"}
    unknown = [
        name for name in names if not named_files.match(name) and not set(name.split(".")) <= known
    ]
    assert unknown == []
