"""Golden chats: marked in the chat, asked again, with an exit code for CI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import chatlm_arena.plugin
from chatlm import Conversation, Image, Reply, Sampling, Setup, StopReason, Text, Turn, UsageError
from chatlm.chat.side_chats import InMemorySideChats
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.testing import scripted_screen
from chatlm.types.messages import Message
from chatlm_arena import golden
from chatlm_arena.contestants import Contestant
from chatlm_arena.golden import GoldenChat
from chatlm_arena.store import store as store_module
from tests.plugins.arena import chatlm


def chat(*pairs: tuple[str, str], reason: StopReason | None = StopReason.END) -> Conversation:
    turns = []
    for position, (message, said) in enumerate(pairs):
        reply = Reply(position + 1, 1, said, reason, settings='{"seed": 7}')
        turns.append(Turn(position + 1, position, Message("user", message), (reply,)))
    return Conversation(1, turns=tuple(turns))


def test_a_golden_chat_contains_the_turns_before() -> None:
    whole = chat(("One?", "1."), ("Two?", "2."), ("Three?", "3."))
    marked = golden.golden_from_turn("count", whole, whole.turns[1])
    assert marked == GoldenChat("count", (("One?", "1."),), "Two?", "2.", 7)
    assert GoldenChat.from_dict(marked.to_dict()) == marked


def test_a_chat_with_images_is_not_golden() -> None:
    seen = Message("user", (Image("image/png", 8, 8, "0" * 64), Text("Which colour?")))
    turn = Turn(1, 0, seen, (Reply(1, 1, "Red.", StopReason.END),))
    with pytest.raises(UsageError, match="has images"):
        golden.golden_from_turn("x", Conversation(1, turns=(turn,)), turn)


@pytest.mark.parametrize(
    "reason", [None, StopReason.CANCELLED, StopReason.ERROR, StopReason.CONTENT_FILTER]
)
def test_only_a_whole_reply_is_golden(reason: StopReason | None) -> None:
    half = chat(("One?", "1"), reason=reason)
    with pytest.raises(UsageError, match="no complete reply"):
        golden.golden_from_turn("x", half, half.turns[0])


def test_an_empty_reply_is_not_golden() -> None:
    empty = chat(("One?", ""), reason=StopReason.EMPTY)
    with pytest.raises(UsageError, match="no complete reply"):
        golden.golden_from_turn("x", empty, empty.turns[0])


def test_asked_again() -> None:
    engine = ScriptedEngine("2.", "two it is")
    chats = InMemorySideChats(Config(), PluginHost(), lambda m, r: engine, lambda w: None)
    one = GoldenChat("a", (("One?", "1."),), "Two?", "2.", 7)
    same, other = golden.check_goldens(chats, Contestant(1, "x", Setup()), [one, one])
    assert same.passes(1)
    assert not other.passes(1)
    assert other.passes(0)
    assert [m.text for m in engine.requests[0].messages] == ["One?", "1.", "Two?"]
    assert engine.requests[0].sampling.seed == 7
    with pytest.raises(UsageError, match="cannot play"):
        list(golden.check_goldens(chats, Contestant(1, "x"), [one]))


async def test_marked_in_the_chat(home: Path) -> None:
    async with scripted_screen(chatlm_arena.plugin, replies=["Paris."]) as shown:
        await shown.submit("/arena golden early")
        await shown.submit("What is the capital of France?")
        await shown.submit("/arena golden capital")
        await shown.submit("/arena golden capital")
        assert any("There is no reply yet" in notice for notice in shown.notifications)
        assert any("already a golden chat capital" in notice for notice in shown.notifications)
        assert shown.faults == []
    with store_module.open_arena_store() as store:
        (kept,) = store.goldens()
        assert (kept.prompt, kept.expected) == ("What is the capital of France?", "Paris.")
        store.remove_golden("capital")
        with pytest.raises(UsageError, match="no golden chat"):
            store.remove_golden("capital")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "is not JSON"),
        ("{}", "not a list of golden chats"),
        ('[{"name": "x", "messages": ["a", "b"], "expected": "c"}]', "entry 1: it needs an odd"),
        (
            '[{"name": "x", "messages": ["a"], "expected": "c", "seed": "1"}]',
            "seed is not an integer",
        ),
        ('[{"name": "", "messages": ["a"], "expected": "c"}]', "Invalid contestant name"),
    ],
)
def test_a_wrong_file_is_reported(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "golden.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=what):
        golden.read_goldens(path)


def test_exit_codes_with_the_real_model(chat_home: Path, tmp_path: Path) -> None:
    with store_module.open_arena_store() as store:
        store.add_contestant("cold", Setup(sampling=Sampling(temperature=0.0, max_tokens=8)))
        store.add_contestant("lost", Setup(adapter="gone"))
        store.add_golden(GoldenChat("colours", (), "Name three colours.", "?", None))
    empty = tmp_path / "none.json"
    empty.write_text("[]")
    assert chatlm("arena", "check", "cold", "--file", str(empty)).returncode == 2
    unknown = chatlm("arena", "check", "lost")
    assert unknown.returncode == 2
    assert "lost could not answer. There is no adapter 'gone'." in unknown.stderr
    first = chatlm("arena", "check", "cold", "--json", OMP_NUM_THREADS="1")
    assert first.returncode == 1, first.stderr
    (row,) = json.loads(first.stdout)
    assert (row["passes"], row["expected"]) == (False, "?")
    right = GoldenChat("colours", (), "Name three colours.", row["said"], None)
    path = tmp_path / "golden.json"
    path.write_text(json.dumps([right.to_dict()]))
    again = chatlm("arena", "check", "cold", "--file", str(path), OMP_NUM_THREADS="1")
    assert (again.returncode, again.stdout) == (0, "1 of 1 replies are as expected.\n")
    assert "colours: Name three colours. → ?" in chatlm("arena", "golden", "list").stdout
    wrong = chatlm("arena", "check", "cold", OMP_NUM_THREADS="1")
    assert "[-?-]" in wrong.stdout
    assert "0 of 1 replies are as expected." in wrong.stdout
