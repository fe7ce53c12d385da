"""Messages and replies are found by meaning; their vectors follow the chats."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from chatlm.chat import meaning_search
from chatlm.chat.meaning_search import PART_CHARACTERS, search_by_meaning, split_text
from chatlm.errors import Cancelled, StoreError
from chatlm.store.store import Store
from chatlm.types.replies import StopReason, Usage

CONCEPTS = (
    ("deposit", "landlord", "rent", "flat"),
    ("soup", "recipe", "cook", "lentils"),
    ("train", "ticket", "journey"),
)


class Concepts:
    """An embedder whose dimensions are concepts, and the rest."""

    def __init__(self, name: str = "one") -> None:
        self._name = name
        self.texts: list[str] = []

    def fingerprint(self) -> str:
        return self._name

    def embed(
        self, texts: Sequence[str], progress: Callable[[int, int], None]
    ) -> NDArray[np.float32]:
        self.texts += texts
        rows = [
            [*(sum(word in text.lower() for word in words) for words in CONCEPTS), 0.1]
            for text in texts
        ]
        matrix = np.array(rows, np.float32)
        unit: NDArray[np.float32] = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
        return unit


def say(store: Store, message: str, reply: str = "", chat: int | None = None) -> int:
    """Add a turn, to a new chat if none is given; return the id of its chat."""
    chat = chat or store.create_conversation().id
    turn = store.add_turn(chat, message)
    if reply:
        made = store.start_reply(turn.id, model="m")
        store.finish_reply(made.id, text=reply, stop_reason=StopReason.END, usage=Usage())
    return chat


def found(store: Store, query: str, embedder: Concepts | None = None) -> list[str]:
    return [hit.snippet for hit in search_by_meaning(store, embedder or Concepts(), query)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(path) as store:
        yield store


def vectors_on_disk(path: Path) -> int:
    with sqlite3.connect(path) as db:
        return int(db.execute("SELECT count(*) FROM text_vector").fetchone()[0])


def test_what_is_similar_is_found_most_similar_first(store: Store) -> None:
    say(store, "How long do I cook lentils?", "Half an hour.")
    flat = say(store, "When is the rent due?", "Ask your landlord; the flat's deposit stays.")
    hits = search_by_meaning(store, Concepts(), "deposit for the landlord of a flat")
    assert [(hit.conversation_id, hit.role) for hit in hits] == [
        (flat, "assistant"),
        (flat, "user"),
    ]
    assert hits[0].title == "When is the rent due?"
    assert hits[0].snippet == "Ask your landlord; the flat's deposit stays."
    assert hits[0].reply_id == 2
    assert found(store, "a journey by train") == []
    assert found(store, "…") == []


def test_only_new_and_changed_texts_are_embedded(store: Store) -> None:
    embedder = Concepts()
    chat = say(store, "A recipe?", "Soup.")
    found(store, "soup", embedder)
    assert sorted(embedder.texts) == ["A recipe?", "Soup.", "soup"]
    say(store, "A ticket?", chat=chat)
    embedder.texts.clear()
    found(store, "soup", embedder)
    assert embedder.texts == ["A ticket?", "soup"]
    store.rewrite_message(1, "A journey?", "")
    embedder.texts.clear()
    assert set(found(store, "train", embedder)) == {"A journey?", "A ticket?"}
    assert embedder.texts == ["A journey?", "train"]


def test_vectors_are_deleted_with_the_chat(store: Store, path: Path) -> None:
    chat = say(store, "The deposit?", "Ask the landlord.")
    other = say(store, "A soup?")
    assert len(found(store, "deposit")) == 2
    assert vectors_on_disk(path) == 3
    store.trash(chat)
    assert found(store, "deposit") == [], "what is in the trash is not found"
    store.restore(chat)
    assert len(found(store, "deposit")) == 2
    store.delete(chat)
    assert vectors_on_disk(path) == 1
    store.delete(other)
    assert vectors_on_disk(path) == 0
    assert found(store, "deposit") == []


def test_incognito_chats_are_neither_found_nor_stored(store: Store, path: Path) -> None:
    embedder = Concepts()
    with Store(None) as incognito:
        say(incognito, "My secret deposit", "For the landlord.")
        say(store, "A flat")
        assert found(store, "deposit", embedder) == ["A flat"]
    assert embedder.texts == ["A flat", "deposit"]
    assert vectors_on_disk(path) == 1


def test_another_embedder_replaces_the_vectors(store: Store, path: Path) -> None:
    say(store, "The deposit?", "Ask the landlord.")
    found(store, "deposit", Concepts("one"))
    other = Concepts("two")
    assert len(found(store, "deposit", other)) == 2
    assert len(other.texts) == 3
    assert vectors_on_disk(path) == 2


def test_the_part_of_a_long_text_that_is_similar_is_shown_once(store: Store) -> None:
    filler = "Nothing of note happened that day. " * 60
    say(store, f"{filler}The landlord kept the deposit. {filler}And the rent of the flat.")
    (shown,) = found(store, "deposit landlord")
    assert shown.startswith("…")
    assert shown.endswith("…")


def test_texts_without_a_letter_are_read_once(store: Store) -> None:
    say(store, "\n\n", "soup")
    assert found(store, "soup") == ["soup"]
    embedder = Concepts()
    assert found(store, "soup", embedder) == ["soup"]
    assert embedder.texts == ["soup"]
    say(store, "\n")
    assert found(store, "soup", embedder) == ["soup"], "a batch may have nothing to embed"


def test_a_stopped_search_keeps_what_was_embedded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meaning_search, "BATCH_TEXTS", 2)
    for number in range(5):
        say(store, f"Soup {number}")
    told: list[tuple[int, int]] = []
    embedder = Concepts()
    with pytest.raises(Cancelled):
        search_by_meaning(
            store,
            embedder,
            "soup",
            progress=lambda done, total: told.append((done, total)),
            is_cancelled=lambda: len(told) > 2,
        )
    assert told[:2] == [(0, 5), (2, 5)]
    assert embedder.texts[:2] == ["Soup 4", "Soup 3"], "the newest first"
    assert len(found(store, "soup", embedder)) == 5
    assert len([each for each in embedder.texts if each != "soup"]) == 5, "each once"


def test_a_text_that_changes_while_it_is_read_ends_the_search_anyway(store: Store) -> None:
    say(store, "Soup")

    class Rewriting(Concepts):
        def embed(
            self, texts: Sequence[str], progress: Callable[[int, int], None]
        ) -> NDArray[np.float32]:
            store.rewrite_message(1, f"Soup {len(self.texts)}", "")
            return super().embed(texts, progress)

    assert found(store, "soup", Rewriting()) == []
    assert found(store, "soup") == ["Soup 0"], "the next search finds it"


def test_chats_that_cannot_be_changed_are_searched_as_far_as_they_are_embedded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(store, "Soup")
    found(store, "soup")
    say(store, "More soup")
    monkeypatch.setattr(Store, "unwritable", StoreError("read only"))
    assert found(store, "soup") == ["Soup"]


@given(st.text(st.sampled_from("ab .\n。"), max_size=5000))
def test_a_text_is_divided_without_loss(text: str) -> None:
    parts = list(split_text(text))
    assert all(0 < len(part) <= PART_CHARACTERS for _, part in parts)
    assert all(text[start : start + len(part)] == part for start, part in parts)
    assert re.sub(r"\s", "", "".join(part for _, part in parts)) == re.sub(r"\s", "", text)
