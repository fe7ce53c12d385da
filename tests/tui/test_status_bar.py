"""Header and footer fit any width; the most important parts stay."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult

from chatlm.errors import ModelError
from chatlm.tui.chat.header import ModelLabel, describe_engine, model_label, shorten_model
from chatlm.tui.chat.status import Status, footer_line, state_parts
from chatlm.tui.engine_loader import EngineState, Failed, Loading, Ready
from chatlm.tui.widgets.hints import hint
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


HINTS = tuple(
    hint(key, word) for key, word in (("enter", "send"), ("f1", "help"), ("tab", "turns"))
)


def footer(state: EngineState, status: Status, width: int, *plugins: str) -> str:
    return footer_line(HINTS, state_parts(state, status, plugins), width).plain


def test_the_footer_at_80_columns_says_all() -> None:
    status = Status(312, "31.2 tokens/s", "stopped")
    line = footer(READY, status, 78, "adapter pirate")
    assert line.startswith("enter send · f1 help · tab turns  ")
    assert line.endswith("  adapter pirate · 31.2 tokens/s · stopped")
    wide = footer(READY, status, 100, "adapter pirate")
    assert wide.endswith("  adapter pirate · 31.2 tokens/s · stopped · cpu bfloat16")
    assert len(wide) == 100


@given(st.integers(1, 130), st.one_of(st.just(READY), st.builds(Loading, st.text(max_size=80))))
def test_the_footer_fits_any_width(width: int, engine: EngineState) -> None:
    status = Status(10**6, "99.9 tokens/s", reason="stopped")
    assert cell_len(footer(engine, status, width)) <= width


def test_the_most_important_parts_stay() -> None:
    status = Status(312, "31.2 tokens/s", "stopped")
    assert footer(READY, status, 21).split() == ["enter", "send", "stopped"]


def test_the_header_names_the_model_and_what_it_can_do() -> None:
    gifted = dataclasses.replace(
        READY.info,
        model="org/Qwen3-4B",
        thinks=True,
        accepts=frozenset({"text", "tool_call", "image"}),
    )
    assert model_label(Ready(gifted)).plain == "Qwen3-4B thinking tools vision"
    assert model_label(Ready(gifted), shows_abilities=False).plain == "Qwen3-4B"
    assert model_label(READY).plain == "smollm2-135m-instruct"
    assert model_label(Loading("m")).plain == "m loading…"
    assert model_label(Failed("m", ModelError("no"))).plain == "m not loaded"
    assert len(shorten_model("x" * 90)) == 40
    assert shorten_model("openai:org/m:4b@http://u:p@127.0.0.1:8000/v1") == "m:4b@127.0.0.1:8000"
    assert shorten_model("openai:m@ollama") == "openai:m@ollama"


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
            yield ModelLabel()

    async with Bar().run_test() as pilot:
        label = pilot.app.query_one(ModelLabel)
        assert label.tooltip is None
        label.state = READY
        await pilot.pause()
        assert "smollm2-135m-instruct on cpu" in str(label.tooltip)
        label.state = Loading("m")
        await pilot.pause()
        assert label.tooltip is None
