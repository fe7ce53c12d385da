"""docs/api.md has every public name, and is what its script writes now."""

from __future__ import annotations

import dataclasses
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

import chatlm
from chatlm import testing
from chatlm.types import parts

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PARTS = (parts.Text, parts.Reasoning, parts.ToolCall, parts.ToolResult, parts.Image, parts.File)


def script() -> ModuleType:
    spec = spec_from_file_location("api_page", ROOT / "docs" / "api.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def section(name: str) -> str:
    (found,) = re.findall(rf"^### {name}$\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_page_is_what_the_script_writes() -> None:
    assert script().render() == PAGE, "run: python docs/api.py"


@pytest.mark.parametrize("name", [*sorted({*chatlm.__all__} - {"__version__"}), *testing.__all__])
def test_each_public_name_has_a_signature_or_members_and_a_description(name: str) -> None:
    text = section(name)
    assert re.search(r"^[\w`].*\w", text, re.MULTILINE)
    assert "`" in text or "Members" not in text


@pytest.mark.parametrize(
    "kind",
    [chatlm.Message, chatlm.Turn, chatlm.Reply, chatlm.ReplyStep, chatlm.Request, *PARTS],
    ids=lambda kind: kind.__name__,
)
def test_each_field_is_listed(kind: type) -> None:
    text = section(kind.__name__)
    for field in dataclasses.fields(kind):
        assert f"- `{field.name}: {field.type}" in text
