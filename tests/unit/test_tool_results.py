"""What the results of tools contain, and where they are kept."""

from __future__ import annotations

import dataclasses
import json

import PIL.ExifTags
import PIL.Image
import pytest

from chatlm import Passage, ToolCall, ToolOutput, tool
from chatlm.chat.tool_set import ToolOptions
from chatlm.store.store import Store
from chatlm.types.conversations import Conversation
from chatlm.types.events import (
    Approval,
    ApprovalNeeded,
    ToolStarted,
)
from chatlm.types.parts import Image
from chatlm.types.tool_rules import ChatTools, ToolSettings
from tests import image_files
from tests.tool_sessions import (
    Plugin,
    call,
    last_reply,
    of_type,
    pull,
    results,
    session_of,
)


@pytest.mark.parametrize("name", ["nothing", "add2"])
def test_an_unknown_tool_is_a_result(store: Store, name: str) -> None:
    session, _ = session_of(store, (call(name),), "Sorry.")
    pull(session.send("Hi."))
    assert results(session)[0].text.startswith("There is no such tool. Tools: add, ask_alone,")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ('{"a": 1}', "argument b: Field required"),
        ('{"a": 1', "the arguments are not JSON"),
        ("[1]", "the arguments must be a JSON object"),
    ],
)
def test_wrong_arguments_are_a_result_and_ask_nobody(
    store: Store, arguments: str, problem: str
) -> None:
    session, _ = session_of(store, (ToolCall("", "add", arguments),), "Sorry.")
    events = pull(session.send("Hi."))
    assert of_type(events, ApprovalNeeded, ToolStarted) == []
    (result,) = results(session)
    assert result.text.startswith(problem)
    assert result.status == "failed"


def test_a_long_result_is_cut(store: Store) -> None:
    @tool(permission="allow")
    def long() -> str:
        """Return much."""
        return "x" * 1000

    options = ToolOptions(ToolSettings(enabled=True, max_output=100))
    session, _ = session_of(store, (call("long"),), "Ok.", plugin=Plugin([long]), tools=options)
    pull(session.send("Go."))
    (result,) = results(session)
    assert result.text == "x" * 100 + "\n[900 of 1,000 characters were left out here]"


def test_passages_of_a_tool_are_numbered_and_stored(store: Store) -> None:
    @tool(permission="allow")
    def look_up() -> ToolOutput:
        """Look it up."""
        return ToolOutput("Found:", passages=(Passage("Cats purr.", "cats.md", 0.9),))

    session, _ = session_of(store, (call("look_up"),), "Ok [1].", "Ok.", plugin=Plugin([look_up]))
    pull(session.send("Go."))
    assert results(session)[0].text == "Found:\n\n[1] cats.md\nCats purr."
    assert results(session)[0].untrusted
    chat = session.conversation
    assert chat is not None
    assert [p.source for p in store.passages(chat.turns[0].id)] == ["cats.md"]
    pull(session.regenerate())
    assert "Cats" not in session.preview("").request.messages[-1].text


@pytest.mark.parametrize("sees", [True, False])
def test_images_of_a_tool_are_checked_and_shown_to_the_user_and_a_model_that_sees(
    store: Store, sees: bool
) -> None:
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Artist] = "SECRET-ARTIST"
    plot = image_files.save(image_files.picture(), exif=exif)
    bomb, _ = image_files.hostile_files()["just-too-large.png"]

    @tool(permission="allow")
    def draw() -> ToolOutput:
        """Draw."""
        return ToolOutput("Drawn.", images=(plot, b"none", bomb, *[b""] * 20))

    session, engine = session_of(store, (call("draw"),), "Ok.", plugin=Plugin([draw]))
    if sees:
        accepts = engine.info.accepts | {"image"}
        engine.info = dataclasses.replace(engine.info, accepts=accepts)
    pull(session.send("Go."))
    (image,) = (part for part in last_reply(session).parts if isinstance(part, Image))
    assert (image.width, image.height) == (40, 20)
    assert b"SECRET" not in store.blob(image.sha256)
    assert results(session)[0].text == (
        "Drawn.\n[A file of the tool is not an image in a known format; it was left out.]"
        "\n[A file of the tool has 8,001 × 8,000 pixels; at most 64 million are read; "
        "it was left out.]"
        + "\n[A file of the tool is empty; it was left out.]"
        * 17
        + "\n[3 more images were left out.]"
        "\n[1 image, shown to the user]"
    )
    request = engine.requests[1]
    shown = [p for message in request.messages for p in message.parts if isinstance(p, Image)]
    assert [request.image_bytes(each) for each in shown] == [store.blob(image.sha256)] * sees


def test_calls_are_in_the_trace(store: Store) -> None:
    session, _ = session_of(store, (call("add", a=1, b=1), call("add")), "Ok.")
    pull(session.send("Go."))
    chat = session.conversation
    assert chat is not None
    traced = [
        (each.plugin, each.hook, each.result_summary, bool(each.error))
        for trace in store.traces(chat.turns[0].id)
        for each in trace.calls
        if each.hook.startswith("tool")
    ]
    assert sorted(traced) == [
        ("things", "tool add", "", True),
        ("things", "tool add", "1 characters", False),
    ]


def test_an_export_keeps_results_and_decisions(store: Store) -> None:
    from chatlm.store.export import conversation_to_dict
    from chatlm.store.importing.chatlm_jsonl import parse_chatlm

    session, _ = session_of(store, (call("fetch", url="u"), call("send", to="a", text="b")), "Ok.")
    pull(session.send("Go."), Approval(True, for_chat=True))
    chat = session.conversation
    assert isinstance(chat, Conversation)
    values = json.loads(json.dumps(conversation_to_dict(chat)))
    assert values["tools"] == {"allow": ["send"]}
    parsed = parse_chatlm(values).conversation
    assert parsed.turns[0].replies[0].steps == chat.turns[0].replies[0].steps
    assert parsed.tools == ChatTools()  # an imported file permits nothing
