"""docs/model-names.md shows what chatlm answers to each kind of name now."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "model-names.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = spec_from_file_location("model_names_page", ROOT / "docs" / "model_names.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_chatlm_answers(script: ModuleType) -> None:
    assert script.render() == PAGE, "run: python docs/model_names.py"


def test_each_refusal_has_a_command_or_says_what_to_check(script: ModuleType) -> None:
    cells = dict(line.strip("| ").split(" | ", 1) for line in PAGE.splitlines() if "| `" in line)
    for name in (*script.REFUSED, *script.WITHOUT_A_HUB):
        answer = cells[f"`{name}`"]
        assert any(step in answer for step in ("chatlm ", "Check ", "hf auth login")), name
