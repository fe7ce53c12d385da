"""Full-text search finds chats by any words, and any text is a valid query."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.store.search import ChatSearchHit
from chatlm.store.store import Store
from chatlm.types.messages import Annotation
from chatlm.types.replies import StopReason, Usage

HOSTILE = ['"', '""', "*", "NEAR(", "-", "", " ", "a OR", "AND", "NOT", "content:", "{", "(", ")"]
HOSTILE += ["^", "+", "'", "a* b*", "\0", "a\0b", "a-" * 5000, "a " * 5000, "a" * 10_000, "%", "_"]
HOSTILE += [
    "mood:",
    ":joy",
    "mood:joy",
    'mood:"',
    'mood:"joy',
    'mood:"" x',
    "mood:%",
    "mood:joy " * 900,
]
HOSTILE += ['"a" NEAR "b', "turn_words MATCH x", "世" * 5000, "e\u0301" * 3000, "\u200b", "😀"]


def add(store: Store, content: str, reply: str = "", title: str = "") -> int:
    turn = store.add_turn(store.create_conversation(title).id, content)
    if reply:
        made = store.start_reply(turn.id, model="m")
        store.finish_reply(made.id, text=reply, stop_reason=StopReason.END, usage=Usage())
    return turn.id


def marked(hit: ChatSearchHit) -> list[str]:
    return [hit.snippet[left:right] for left, right in hit.spans]


def test_words_in_messages_and_replies_are_found_newest_first(store: Store) -> None:
    first = add(store, "The capital of France?", "Paris is the capital.", "Geography")
    second = add(store, "A capital letter")
    add(store, "nothing here")
    hits = store.search("capital")
    assert [(hit.turn_id, hit.role) for hit in hits] == [
        (second, "user"),
        (first, "assistant"),
        (first, "user"),
    ]
    assert [hit.title for hit in hits] == ["A capital letter", "Geography", "Geography"]
    assert [marked(hit) for hit in hits] == [["capital"]] * 3
    assert store.search("capital", limit=1) == hits[:1]
    assert store.search("capital", limit=0) == []


def test_every_word_must_be_there_and_only_the_last_may_be_a_beginning(store: Store) -> None:
    add(store, "red green blue")
    assert len(store.search("blue red")) == 1
    assert len(store.search("red gre")) == 1
    assert store.search("re green") == []
    assert store.search("red yellow") == []


@pytest.mark.parametrize(
    ("text", "query", "found"),
    [
        ("Élan vital", "elan", "Élan"),
        ("ELAN", "élan", "ELAN"),
        ("e\u0301lan", "ELAN", "e\u0301lan"),
        ("I don't know", "don't", "don't"),
        ("snake_case here", "case", "case"),
        ("ΑΘΗΝΑ", "αθηνα", "ΑΘΗΝΑ"),
        ("我在北京工作", "北京", "北京"),
        ("東京タワーへ行く", "タワー", "タワー"),
        ("GPT模型", "gpt模", "GPT模"),
        ("서울에서", "서울", "서울"),
    ],
)
def test_case_accents_and_scripts(store: Store, text: str, query: str, found: str) -> None:
    add(store, text)
    add(store, "something else")
    (hit,) = store.search(query)
    assert marked(hit) == [found]


def test_words_of_both_kinds_must_all_be_there(store: Store) -> None:
    both = add(store, "hello 你好世界")
    add(store, "hello")
    add(store, "你好世界")
    assert [hit.turn_id for hit in store.search("世界 hello")] == [both]


def test_the_snippet_is_one_line_around_the_first_hit(store: Store) -> None:
    add(store, "x " * 300 + "needle\n\tand " + "y " * 300)
    (hit,) = store.search("needle")
    assert marked(hit) == ["needle"]
    assert hit.snippet.startswith("…") and hit.snippet.endswith("…")
    assert len(hit.snippet) == 162
    assert "\n" not in hit.snippet and "\t" not in hit.snippet


@pytest.mark.parametrize("query", HOSTILE)
def test_any_text_is_a_query(store: Store, query: str) -> None:
    turn = add(store, "the haystack 世界")
    store.annotate(turn, None, [Annotation("p", "mood", "joy")])
    for hit in store.search(query):
        assert hit.turn_id == turn
    assert [hit.turn_id for hit in store.search('haystack "')] == [turn]


@given(st.text(), st.text())
def test_no_query_fails_and_spans_lie_in_the_snippet(text: str, query: str) -> None:
    with Store(None) as store:
        add(store, text, query)
        for hit in store.search(query):
            ends = [0, *(end for span in hit.spans for end in span), len(hit.snippet)]
            assert ends == sorted(ends)


@given(st.lists(st.text("abcdeéÄ", min_size=1), min_size=1, max_size=5), st.data())
def test_a_text_is_found_by_each_of_its_words(words: list[str], data: st.DataObject) -> None:
    with Store(None) as store:
        turn = add(store, " ".join(words))
        word = data.draw(st.sampled_from(words))
        (hit,) = store.search(word.upper())
        assert hit.turn_id == turn
        assert hit.spans


def test_a_renewed_reply_is_found_by_its_new_words_only(store: Store) -> None:
    turn = store.add_turn(store.create_conversation().id, "q")
    reply = store.start_reply(turn.id, model="m")
    store.journal_reply(reply.id, "oldword")
    store.journal_reply(reply.id, "newword")
    assert store.search("oldword") == []
    assert [hit.reply_id for hit in store.search("newword")] == [reply.id]


def test_labels_are_asked_for_by_name_and_value(store: Store) -> None:
    happy = add(store, "the harbour", "a reply", "A title")
    angry = add(store, "the harbour again")
    both = store.turn(happy).replies[0].id
    store.annotate(
        happy, None, [Annotation("p", "mood", "Joy"), Annotation("p", "topic", "big city")]
    )
    store.annotate(happy, both, [Annotation("p", "mood", "fear")])
    store.annotate(angry, None, [Annotation("p", "mood", "anger")])
    assert [(hit.turn_id, hit.role) for hit in store.search("mood:joy")] == [(happy, "user")]
    assert [(hit.turn_id, hit.role) for hit in store.search("mood:fear")] == [(happy, "assistant")]
    assert [hit.turn_id for hit in store.search("mood:a")] == [angry]
    assert [hit.turn_id for hit in store.search("rbour mood:J")] == []
    assert [hit.turn_id for hit in store.search("mood:J harb")] == [happy]
    assert [marked(hit) for hit in store.search("mood:J harb")] == [["harbour"]]
    assert [hit.turn_id for hit in store.search('topic:"big c" mood:joy')] == [happy]
    assert store.search("mood:joy mood:anger") == []
    assert store.search("mood:joy", limit=0) == []
    store.trash(store.search("mood:anger")[0].conversation_id)
    assert store.search("mood:anger") == []


def test_without_such_labels_they_are_words(store: Store) -> None:
    turn = add(store, "set mood: calm, or mood:calm")
    assert [hit.turn_id for hit in store.search("mood:calm")] == [turn]
