"""The status bar fits any width; the most important parts stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from chatlm.errors import ModelError
from chatlm.tui.chat.status import Status, status_line
from chatlm.tui.engine_loader import EngineState, Failed, Loading, Ready
from tests.tui.support import StillEngine

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


def test_the_most_important_parts_stay() -> None:
    status = Status(312, "31.2 tokens/s", "stopped")
    assert status_line(READY, status, 40).split() == ["smollm2-135m-instruct", "stopped"]
