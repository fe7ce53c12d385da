"""The command /schema: the replies of a chat fit a schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from chatlm.tui.engine_loader import Ready
from tests.tui.support import app_of, chat_of, make_app, run, toasts, until

pytestmark = pytest.mark.usefixtures("home")


async def test_a_schema_is_set_shown_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text('{"type": "integer"}')
    async with make_app(ScriptedEngine("1"), Store(None)).run_test() as pilot:
        await until(pilot, lambda: isinstance(app_of(pilot).engine_state, Ready))

        def schema() -> object:
            text = chat_of(pilot).conversation.sampling.schema
            return json.loads(text) if text else None

        await run(pilot, "schema", "name, age int")
        await until(pilot, lambda: schema() is not None)
        await run(pilot, "schema", str(file))
        await until(pilot, lambda: schema() == {"type": "integer"})
        await run(pilot, "schema", "age integer")
        await until(pilot, lambda: "unknown type" in str(toasts(pilot)))
        assert schema() == {"type": "integer"}
        await run(pilot, "schema", "off")
        await until(pilot, lambda: schema() is None)
