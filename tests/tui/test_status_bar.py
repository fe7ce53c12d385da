"""The status bar fits any width; the most important parts stay."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult

from chatlm.errors import ModelError
from chatlm.tui.chat.status import Status, StatusBar, describe_engine, status_line
from chatlm.tui.engine_loader import EngineState, Failed, Loading, Ready
from chatlm.types.memory import MemoryBudget
from tests.tui.support import StillEngine

MEMORY = MemoryBudget(
    device="cpu",
    weights=1_500_000_000,
    kv_cache=300_000_000,
    context_length=4096,
    prompt_cache=100_000_000,
    program=320_000_000,
    available=8_000_000_000,
)

READY = Ready(StillEngine().info)


def test_the_status_line_at_80_columns_says_all() -> None:
    status = Status(312, "31.2 tokens/s", "stopped")
    line = status_line(READY, status, 78)
    assert line.split("  ")[0] == "smollm2-135m-instruct · cpu bfloat16"
    assert line.endswith("  31.2 tokens/s · stopped")
    assert status_line(Loading("m"), Status(), 30) == "m · loading".ljust(30)
    words = status_line(READY, status, 78, ("adapter pirate",))
    assert words.split("  ")[0].endswith("-instruct · adapter pirate · cpu bfloat16")
    assert "not loaded" in status_line(Failed("m", ModelError("no")), Status(), 30)


@given(st.integers(0, 130), st.one_of(st.just(READY), st.builds(Loading, st.text(max_size=80))))
def test_the_status_line_fits_any_width(width: int, engine: EngineState) -> None:
    status = Status(10**6, "99.9 tokens/s", reason="stopped")
    assert cell_len(status_line(engine, status, width)) == width


def test_a_pointer_on_the_line_is_told_what_the_model_takes_in_memory() -> None:
    bare, filled = READY.info, dataclasses.replace(READY.info, weights="8-bit", memory=MEMORY)
    assert str(describe_engine(bare)) == "smollm2-135m-instruct on cpu, weights bfloat16"
    assert str(describe_engine(filled)).splitlines() == [
        "smollm2-135m-instruct on cpu, weights 8-bit",
        "weights: 1.5 GB",
        "KV cache at 4,096 tokens: 300.0 MB",
        "prompt cache: 100.0 MB",
        "program: 320.0 MB",
        "total: 2.2 GB",
        "available: 8.0 GB",
    ]


async def test_the_tooltip_is_that_of_the_loaded_model() -> None:
    class Bar(App[None]):
        def compose(self) -> ComposeResult:
            yield StatusBar()

    async with Bar().run_test() as pilot:
        bar = pilot.app.query_one(StatusBar)
        assert bar.tooltip is None
        bar.engine_state = READY
        await pilot.pause()
        assert "smollm2-135m-instruct on cpu" in str(bar.tooltip)
        bar.engine_state = Loading("m")
        await pilot.pause()
        assert bar.tooltip is None


def test_the_most_important_parts_stay() -> None:
    status = Status(312, "31.2 tokens/s", "stopped")
    assert status_line(READY, status, 40).split() == ["smollm2-135m-instruct", "stopped"]
