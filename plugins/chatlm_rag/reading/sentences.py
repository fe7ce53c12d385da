"""Split text into sentences, in many languages; abbreviations such as "Nov. 12" end none."""

from __future__ import annotations

import re
from collections.abc import Mapping

_END_OF_EMPHASIS = re.compile(r"(\*{1,3}|_{1,3})(?=\s)")
"""A mark of Markdown that ends what the sentence before it began."""

_WORD = re.compile(r"[^\W\d_]+")

_FREQUENT_WORDS: Mapping[str, str] = {
    "en": "the of and to in is was for that with as on by it are",
    "de": "der die das und ist nicht ein eine von mit auf den dem zu im",
    "fr": "le la les des et est dans une un que pour du au qui sur",
    "es": "el la los las y es en una un que por del con se para",
    "it": "il la gli di e che un una per non con del della è nel",
    "pt": "o a os as e que um uma para do da em não com é",
    "nl": "de het een en van is dat niet op te met voor zijn er in",
    "ru": "и в не на что он с по это из как у к за от",
}
"""Of languages in which abbreviations end with a full stop."""

_LANGUAGES = {language: frozenset(words.split()) for language, words in _FREQUENT_WORDS.items()}

_MAX_WORDS = 200
"""Words of a text by which its language is guessed."""


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, without blanks at their ends."""
    from sentencex import segment

    sentences: list[str] = []
    for segmented in segment(guess_language(text), text):
        part = segmented
        if sentences and not any(map(str.isalnum, part)):  # such as ** after **really?
            sentences[-1] += part
            continue
        if sentences and (end := _END_OF_EMPHASIS.match(part)):
            mark = end[1]
            if sentences[-1].count(mark) % 2:  # **Tomatoes.** Water them daily.
                sentences[-1] += mark
                part = part[end.end() :]
        sentences.append(part)
    return [sentence.strip() for sentence in sentences if sentence.strip()]


def guess_language(text: str) -> str:
    """Return the code of the language whose frequent words occur most often, `en` for none."""
    words = [match[0].lower() for match in _WORD.finditer(text)][:_MAX_WORDS]
    counts = {
        language: sum(word in frequent for word in words)
        for language, frequent in _LANGUAGES.items()
    }
    return max(counts, key=lambda language: counts[language])
