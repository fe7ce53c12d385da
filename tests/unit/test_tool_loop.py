"""A reply goes on with the results of the tools that it calls."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from chatlm import Text, ToolContext, UsageError, tool
from chatlm.chat.tool_process import call_tool
from chatlm.chat.tool_set import ToolOptions
from chatlm.store.store import Store
from chatlm.testing import ScriptedToolContext
from chatlm.types.events import (
    Finished,
    Notice,
    StepStarted,
    ToolFinished,
    ToolProgress,
    ToolStarted,
)
from chatlm.types.replies import StopReason
from chatlm.types.tool_rules import ChatTools, ToolSettings
from tests.tool_sessions import (
    ALL,
    RAN,
    Plugin,
    call,
    last_reply,
    of_type,
    pull,
    results,
    session_of,
)


class Pace(enum.Enum):
    SLOW = "slow"
    FAST = "fast"


@dataclass(frozen=True)
class Settings:
    """Of every type that a setting may have."""

    names: tuple[str, ...] = ()
    folder: Path = Path("none")
    pace: Pace = Pace.SLOW
    limit: int | None = None


@tool(own_process=True, timeout=None)
def show_settings(context: ToolContext) -> str:
    """Show the plugin's settings in a process of its own."""
    return repr(context.settings)


def test_the_model_reads_the_result_and_goes_on_in_the_same_reply(store: Store) -> None:
    session, engine = session_of(store, (Text("Let me see. "), call("add", a=2, b=3)), "It is 5.")
    events = pull(session.send("2 + 3?"))
    reply = last_reply(session)
    assert [type(part).__name__ for part in reply.parts] == [
        "Text", "ToolCall", "ToolResult", "Text",
    ]  # fmt: skip
    assert reply.text == "Let me see. It is 5."
    assert reply.stop_reason is StopReason.END
    assert [message.role for message in engine.requests[1].messages] == [
        "user", "assistant", "tool",
    ]  # fmt: skip
    (result,) = results(session)
    assert (result.text, result.status) == ("5", "done")
    assert result.seconds is not None
    started, finished, step = of_type(events, ToolStarted, ToolFinished, StepStarted)
    assert finished.reply.parts[-1] == step.reply.parts[-1] == result
    assert started.call.name == "add"
    assert [tool.name for tool in engine.requests[0].tools] == sorted(t.name for t in ALL)


def test_the_next_turn_reads_calls_and_results(store: Store) -> None:
    session, engine = session_of(store, (call("add", a=2, b=3),), "It is 5.", "Bye.")
    pull(session.send("2 + 3?"))
    pull(session.send("Thanks."))
    assert [message.role for message in engine.requests[-1].messages] == [
        "user", "assistant", "tool", "assistant", "user",
    ]  # fmt: skip


def test_without_tools_nothing_is_offered(store: Store) -> None:
    session, engine = session_of(store, "Hello.", tools=ToolOptions())
    pull(session.send("Hi."))
    assert engine.requests[0].tools == ()


def test_a_chat_switches_tools(store: Store) -> None:
    session, engine = session_of(
        store, "Hello.", tools=ToolOptions(), chat_tools=ChatTools(True, off=("things",), on=())
    )
    pull(session.send("Hi."))
    assert engine.requests[0].tools == ()
    assert session.conversation_id is not None
    store.set_tools(session.conversation_id, ChatTools(True, off=("things",), on=("add",)))
    engine.queue("Hello.")
    pull(session.send("Hi."))
    assert [tool.name for tool in engine.requests[1].tools] == ["add"]


def test_calls_that_change_nothing_run_at_the_same_time(store: Store) -> None:
    both = threading.Barrier(2, timeout=20)

    @tool(permission="allow", read_only=True)
    def meet() -> str:
        """Wait for the other one."""
        both.wait()
        return "met"

    session, _ = session_of(store, (call("meet"), call("meet")), "Done.", plugin=Plugin([meet]))
    pull(session.send("Go."))
    assert [result.text for result in results(session)] == ["met", "met"]


def test_other_calls_run_one_after_the_other(store: Store) -> None:
    order = []

    @tool(permission="allow")
    def change(name: str) -> str:
        """Change something."""
        order.append(f"{name} begins")
        time.sleep(0.02)
        order.append(f"{name} ends")
        return ""

    session, _ = session_of(
        store,
        (call("change", name="a"), call("change", name="b")),
        "Done.",
        plugin=Plugin([change]),
    )
    pull(session.send("Go."))
    assert order == ["a begins", "a ends", "b begins", "b ends"]


def test_a_tool_that_takes_too_long_is_stopped(store: Store) -> None:
    session, _ = session_of(store, (call("hang"),), "Sorry.")
    events = pull(session.send("Go."))
    (result,) = results(session)
    assert result.status == "timed out"
    assert RAN == ["was cancelled"]
    assert of_type(events, ToolProgress)


@pytest.mark.parametrize("name", ["wait", "hang_alone"])
def test_closing_stops_the_tool_and_keeps_everything(store: Store, name: str) -> None:
    session, _ = session_of(store, (Text("Well. "), call("add", a=1, b=1), call(name)), "Never.")
    with closing(session.send("Go.")) as events:
        for event in events:
            if isinstance(event, ToolProgress) and event.call.name == name:
                break
    reply = last_reply(session)
    assert [result.status for result in results(session)] == ["done", "stopped"]
    assert (reply.text, reply.stop_reason) == ("Well. ", StopReason.CANCELLED)
    assert not [t for t in threading.enumerate() if t.name.startswith("chatlm-tool-")]


def test_a_step_limit_ends_the_reply_which_can_be_continued(store: Store) -> None:
    replies = [(call("add", a=n, b=n),) for n in range(3)]
    options = ToolOptions(ToolSettings(enabled=True, max_steps=2))
    session, _ = session_of(store, *replies, "Done.", tools=options)
    events = pull(session.send("Go."))
    assert of_type(events, Finished)[-1].stop_reason is StopReason.TOOL_LIMIT
    assert of_type(events, Notice)[-1].text.startswith("The reply was stopped after 2 steps")
    assert last_reply(session).stop_reason is StopReason.TOOL_LIMIT
    assert len(results(session)) == 2
    pull(session.continue_reply())
    assert last_reply(session).stop_reason is StopReason.END
    assert len(results(session)) == 3


def test_a_tool_runs_in_a_process_of_its_own(store: Store, tmp_path: Path) -> None:
    options = ToolOptions(ToolSettings(enabled=True, folders=(str(tmp_path),)))
    session, _ = session_of(
        store, (call("process_id"), call("process_id", fail=True), call("ask_alone")), "Good.",
        tools=options,
    )  # fmt: skip
    events = pull(session.send("Go."), "Ann")
    done, failed, asked = results(session)
    assert json.loads(done.text)["id"] != os.getpid()
    assert failed.text.startswith("its process ended with code 3")
    assert "noise" in failed.text
    assert asked.text == f"Ann{(tmp_path,)}"
    assert of_type(events, ToolProgress)


def test_names_of_tools_are_checked(store: Store) -> None:
    session, _ = session_of(store, "Ok.", tools=ToolOptions(names=("ad",)))
    with pytest.raises(UsageError, match="There is no tool ad"):
        pull(session.send("Go."))


def test_a_model_without_tools_says_so(store: Store) -> None:
    session, engine = session_of(store, "Ok.")
    engine.info = dataclasses.replace(engine.info, accepts=frozenset({"text"}))
    events = pull(session.send("Go."))
    assert of_type(events, Notice)[0].text == "scripted cannot call tools, so it has none here."
    assert last_reply(session).text == "Ok."


def test_the_first_output_can_be_made_to_call(store: Store) -> None:
    options = ToolOptions(names=("add",), choice="required")
    session, engine = session_of(store, (call("add", a=1, b=1),), "2", tools=options)
    pull(session.send("Go."))
    assert [request.tool_choice for request in engine.requests] == ["required", "auto"]


def test_reading_ahead_and_previews_have_the_tools(store: Store) -> None:
    session, engine = session_of(store, "Ok.")
    pull(session.send("Go."))
    list(session.read_ahead())
    assert engine.read_ahead_requests[0].tools == engine.requests[0].tools != ()
    assert session.preview("More.").request.tools == engine.requests[0].tools


def test_a_tool_in_a_process_of_its_own_has_the_settings_of_its_plugin(tmp_path: Path) -> None:
    settings = Settings(("a", "b"), tmp_path, Pace.FAST)
    output = call_tool(show_settings, {}, ScriptedToolContext(settings=settings))
    assert output.text == repr(settings)
    assert call_tool(show_settings, {}, ScriptedToolContext()).text == "None"


def test_settings_of_a_hidden_class_are_named(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Hidden:
        names: tuple[str, ...] = ()

    output = call_tool(show_settings, {}, ScriptedToolContext(settings=Hidden()))
    assert output.is_error
    assert "show_settings cannot run in a process of its own: its plugin's class" in output.text
