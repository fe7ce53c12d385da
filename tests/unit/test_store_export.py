"""Exported chats are readable, and the JSON is lossless."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.errors import UsageError
from chatlm.store import export
from chatlm.store.store import Store
from chatlm.types.conversations import ContextPolicy, Conversation, Turn
from chatlm.types.messages import Annotation, Message, Passage
from chatlm.types.provenance import Provenance
from chatlm.types.replies import Reply, StopReason
from chatlm.types.sampling import Sampling


def chat(*turns: Turn, title: str = "", system: str = "") -> Conversation:
    return Conversation(id=7, title=title, system=system, turns=turns)


def turn(content: str, *replies: Reply) -> Turn:
    return Turn(id=3, position=0, user=Message("user", content), replies=replies)


def test_markdown_has_title_system_turns_and_a_quiet_line() -> None:
    reply = Reply(1, 1, "Paris.", StopReason.STOP_STRING, model="smollm2", adapter="poet")
    text = export.to_markdown(
        chat(turn("Capital of\nFrance?", reply), title="Cities", system="Be brief.\n\nVery.")
    )
    assert text == (
        "# Cities\n\n> Be brief.\n>\n> Very.\n\n## You\n\nCapital of\nFrance?\n\n"
        "## Assistant\n\nParis.\n\n*smollm2 · poet · stopped: stop string*\n"
    )


def test_markdown_of_a_reply_that_was_cut_off_or_failed() -> None:
    cut = export.to_markdown(chat(turn("q", Reply(1, 1, "```py\nx = 1", model="m"))))
    assert "```py\nx = 1\n```\n\n*m · stopped: cut off*\n" in cut
    failed = Reply(1, 1, "", StopReason.ERROR, error="out of\nmemory *now*", model="m_1")
    text = export.to_markdown(chat(turn("q", failed)))
    assert text.endswith("*m\\_1 · stopped: error · out of memory \\*now\\**\n")


def test_markdown_shows_the_chosen_version_and_a_turn_without_reply() -> None:
    versions = (Reply(1, 1, "first", StopReason.END), Reply(2, 2, "second", StopReason.END))
    chosen = dataclasses.replace(turn("q", *versions), active_reply_id=1)
    text = export.to_markdown(chat(chosen, turn("alone")))
    assert "first" in text
    assert "second" not in text
    assert text.endswith("## You\n\nalone\n")
    assert export.to_markdown(chat()) == "# Chat 7\n"


def test_fences_that_are_closed_or_no_fences_stay() -> None:
    for text in ("```\na\n```", "~~~\n```\n~~~", "``` inline ``` x", "a ``` b", "````\n```\n````"):
        assert f"\n{text}\n\n## Assistant" in export.to_markdown(chat(turn(text, Reply(1, 1))))


def test_jsonl_has_everything_of_the_store() -> None:
    with Store(None) as store:
        made = store.create_conversation("T\u001b[31m", "S")
        asked = store.add_turn(made.id, "q\u2028\u0085\U000e0041\nq")
        first = store.start_reply(asked.id, model="m", adapter="a", settings='{"seed": 4}')
        second = store.start_reply(asked.id, model="m", settings="not json")
        store.save_provenance(second.id, Provenance((), Sampling(), "made"))
        store.set_context_policy(asked.id, ContextPolicy.PINNED, "short")
        store.set_sampling(made.id, Sampling(temperature=0.5))
        store.set_pinned(made.id, True)
        store.save_passages(asked.id, [Passage("p", "s", 0.5, {"line": 3, "ranks": [1, 2]})])
        store.annotate(asked.id, first.id, [Annotation("p", "n", "v", 0.25, "😊")])
        (line,) = export.to_jsonl(
            [store.conversation(made.id)], store.passages, store.annotations, store.provenance
        )
    assert line.endswith("}\n")
    assert line.count("\n") == 1
    assert line[:-1].isprintable()
    back = json.loads(line)
    assert (back["title"], back["system"]) == ("T\u001b[31m", "S")
    (kept,) = back["turns"]
    assert kept["content"] == "q\u2028\u0085\U000e0041\nq"
    assert [reply["settings"] for reply in kept["replies"]] == [{"seed": 4}, "not json"]
    assert kept["chosen"] == kept["replies"][1]["id"]
    assert kept["passages"] == [
        {"text": "p", "source": "s", "score": 0.5, "details": {"line": 3, "ranks": [1, 2]}}
    ]
    assert kept["annotations"] == [
        {"reply": first.id, "plugin": "p", "name": "n", "value": "v", "score": 0.25, "icon": "😊"}
    ]
    assert kept["replies"][0]["usage"]["prompt_tokens"] == 0
    assert (kept["standing"], kept["summary"]) == ("pinned", "short")
    assert (back["pinned"], back["sampling"], back["forked_from"]) == (
        *(True, {"temperature": 0.5}),
        None,
    )
    assert kept["replies"][1]["provenance"]["model"] == "made"
    assert kept["replies"][0]["provenance"] is None


def test_chatml_is_what_the_model_reads() -> None:
    reply = Reply(1, 1, "a", StopReason.END)
    dropped = dataclasses.replace(turn("not this"), context_policy=ContextPolicy.DROPPED)
    pieces = export.to_chatml([chat(turn("q\nq", reply), dropped, system="s"), chat(turn("r"))])
    assert "".join(pieces) == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq\nq<|im_end|>\n"
        "<|im_start|>assistant\na<|im_end|>\n\n<|im_start|>user\nr<|im_end|>\n"
    )


@pytest.mark.parametrize("token", ["<|im_start|>", "<|im_end|>"])
def test_chatml_refuses_a_text_that_would_forge_a_turn(token: str) -> None:
    reply = Reply(1, 1, f"x{token}\n", StopReason.END)
    with pytest.raises(UsageError, match=r"Message 3 \(assistant\) of chat 7 contains") as caught:
        list(export.to_chatml([chat(turn("q", reply), system="s")]))
    assert token in caught.value.message
    assert "jsonl" in caught.value.hint
    assert len(list(export.to_chatml([chat(turn("<|im_ start|> <|endoftext|>"))]))) == 1


def test_messages_are_what_the_model_read() -> None:
    reply = Reply(1, 1, "a", StopReason.END)
    (line,) = export.to_messages([chat(turn("q", reply), turn("alone"), system="s")])
    assert json.loads(line) == {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "alone"},
        ]
    }


@given(st.text(), st.text())
def test_any_text_is_one_json_line_that_gives_it_back(content: str, answer: str) -> None:
    (line,) = export.to_jsonl([chat(turn(content, Reply(1, 1, answer)))])
    assert line.count("\n") == 1
    back = json.loads(line)["turns"][0]
    assert (back["content"], back["replies"][0]["text"]) == (content, answer)
