"""Passages are exact, cover their document, keep to their section and fit the embedder."""

from __future__ import annotations

import time
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from chatlm import UsageError
from chatlm_rag.documents import text_files
from chatlm_rag.documents.document import Document, Section
from chatlm_rag.index.chunks import Chunker, Chunking
from tests.models import embedder_model


@cache
def chunker(tokens: int, overlap: int) -> Chunker:
    return Chunker(embedder_model() / "tokenizer.json", Chunking(tokens, overlap))


@cache
def tokenizer() -> Tokenizer:
    loaded = Tokenizer.from_file(str(embedder_model() / "tokenizer.json"))
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


def check(document: Document, tokens: int, overlap: int) -> None:
    pieces = list(chunker(tokens, overlap).split(document, 7))
    assert [piece.id for piece in pieces] == [*range(7, 7 + len(pieces))]
    covered = [False] * len(document.text)
    for piece in pieces:
        assert document.text[piece.start : piece.end] == piece.text
        assert piece.text == piece.text.strip()
        assert any(
            section.start <= piece.start < piece.end <= section.end for section in document.sections
        )
        ids = tokenizer().encode(piece.text, add_special_tokens=False).ids
        assert len(ids) <= tokens + 8  # a cut inside a word may make a few more
        covered[piece.start : piece.end] = [True] * len(piece.text)
        if document.has_file_lines:
            assert piece.line == document.text.count("\n", 0, piece.start) + 1
    missed = "".join(c for c, done in zip(document.text, covered, strict=True) if not done)
    for section in document.sections:
        inside = covered[section.start : section.end]
        if any(inside):
            left = [
                c
                for c, done in zip(document.text[section.start : section.end], inside, strict=True)
                if not done
            ]
            assert not any(map(str.isalnum, left)), missed


WORDS = st.text(st.sampled_from("abc déß漢字é👩‍👩‍👧\n\n.#*`>- \t\r0"), max_size=400)


@settings(max_examples=60)
@given(WORDS, st.integers(16, 60), st.floats(0, 0.5))
def test_text_of_any_kind(text: str, tokens: int, overlap: float) -> None:
    data = text.encode()
    if not data.strip():
        return
    check(text_files.read_plain(data, "a.txt"), tokens, int(tokens * overlap))
    check(text_files.read_markdown(data, "a.md"), tokens, int(tokens * overlap))


@pytest.mark.parametrize(
    "text", ["x" * 9_000, "lorem ipsum " * 900, "a\n" * 3_000, "漢字" * 900, "👩‍👩‍👧‍👦é" * 900]
)
def test_long_texts(text: str) -> None:
    check(text_files.read_plain(text.encode(), "a.txt"), 200, 40)


def test_a_text_without_joints_is_cut_in_time() -> None:
    document = text_files.read_plain(b"x" * 2_000_000, "a.txt")
    begun = time.process_time()
    pieces = list(chunker(200, 40).split(document, 0))
    assert time.process_time() - begun < 6
    assert all(two.start <= one.end for one, two in pairwise(pieces))
    assert (pieces[0].start, pieces[-1].end) == (0, 2_000_000)


def test_passages_are_of_like_length() -> None:
    sentence = "The quick brown fox jumps over the lazy dog and runs far away today. "
    pieces = list(
        chunker(200, 0).split(text_files.read_plain((sentence * 15).encode(), "a.txt"), 0)
    )
    lengths = [len(piece.text) for piece in pieces]
    assert len(pieces) == 2
    assert min(lengths) > 0.7 * max(lengths)


def test_neighbours_share_what_the_overlap_says() -> None:
    text = " ".join(f"Sentence number {number} is here." for number in range(200))
    pieces = list(chunker(100, 30).split(text_files.read_plain(text.encode(), "a.txt"), 0))
    shared = [one.end - two.start for one, two in pairwise(pieces)]
    assert all(share > 0 for share in shared)
    assert max(shared) < 0.4 * max(len(piece.text) for piece in pieces)


def test_a_section_that_fits_is_one_passage() -> None:
    document = Document(
        "a", "One. \n\nTwo. \n\n---", (Section(0, 7, "A", "T"), Section(7, 14), Section(14, 17))
    )
    pieces = list(chunker(16, 4).split(document, 0))
    assert [(piece.text, piece.place) for piece in pieces] == [("One.", "A"), ("Two.", "")]
    assert pieces[0].indexed_text == "T\nOne."
    assert pieces[1].indexed_text == "Two."


@pytest.mark.parametrize(("tokens", "overlap"), [(15, 0), (9000, 0), (100, 51), (100, -1)])
def test_wrong_lengths_are_refused(tokens: int, overlap: int) -> None:
    with pytest.raises(UsageError):
        Chunking(tokens, overlap)


def test_text_without_blanks_is_split_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it is, the splitter gets little of it at once."""
    import semantic_text_splitter

    original = semantic_text_splitter.TextSplitter
    lengths: list[int] = []

    class Counting:
        def __init__(self, chars: int, overlap: int) -> None:
            self._splitter = original(chars, overlap)

        def chunk_indices(self, text: str) -> list[tuple[int, str]]:
            lengths.append(len(text))
            return list(self._splitter.chunk_indices(text))

    monkeypatch.setattr(semantic_text_splitter, "TextSplitter", Counting)
    text = "".join(chr(0x4E00 + (37 * number) % 3000) for number in range(20_000))
    document = Document("long.txt", text, (Section(0, len(text)),))
    check(document, 200, 40)
    assert 1000 < max(lengths) <= 2000
