"""A panel of language models labels texts, by majority (the book's 2.1); it knows no files."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from chatlm import Delta, Message, Request, Sampling, Setup, SideChat, SideChats, stream_many

QUESTIONS = (
    "Which of these labels fits the text best: {labels}?\n\nText: {text}",
    "Text: {text}\n\nName the label of this text. The labels are {labels}.",
    "You sort texts. Choose one label of: {labels}.\n\n{text}\n\nWhich one is it?",
)
"""The questions of a panel that is one model."""

_REPLY_PREFIX = "The label is"
"""How each reply begins, so that it comes to the point."""
_SAMPLING = Sampling(temperature=0.0, max_tokens=12, stop=("\n",))


@dataclass(frozen=True)
class Rater:
    """Who votes: a model that is asked in one way."""

    model: str
    question: str
    """With `{text}` and `{labels}`."""


@dataclass(frozen=True)
class PanelLabel:
    """What the panel says of one text."""

    text: str
    label: str | None
    """None where no label has a majority and nobody decided."""
    votes: tuple[str | None, ...]
    """Of each rater; None for a reply that names no label."""
    tie_broken: bool = False
    """Whether a tie was decided by another."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "text": self.text,
            "label": self.label,
            "votes": list(self.votes),
            "decided": self.tie_broken,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PanelLabel:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            text=values["text"],
            label=values["label"],
            votes=tuple(values["votes"]),
            tie_broken=values["decided"],
        )


class RaterPanel:
    """Raters with their chats.

    Args:
        chats: begins a chat for each question.
        raters: who votes.
        labels: what they choose from.
    """

    def __init__(self, chats: SideChats, raters: Sequence[Rater], labels: Sequence[str]) -> None:
        self._chats, self._raters, self._labels = chats, raters, tuple(labels)

    def label(
        self, texts: Sequence[str], break_tie: Callable[[str, Sequence[str]], str | None]
    ) -> list[PanelLabel]:
        """Let every rater vote on every text.

        Args:
            texts: to label.
            break_tie: asked where no label has more votes than each other one, with the text and
                the labels that share the lead; None leaves it open.

        Raises:
            ChatlmError: a model cannot be loaded or asked.
        """
        votes = [self.votes(rater, texts) for rater in self._raters]
        found = []
        for text, cast in zip(texts, zip(*votes, strict=True), strict=True):
            leaders = leading_labels(cast)
            if len(leaders) == 1:
                found.append(PanelLabel(text, leaders[0], cast))
            else:
                chosen = break_tie(text, leaders or self._labels)
                found.append(PanelLabel(text, chosen, cast, tie_broken=chosen is not None))
        return found

    def votes(self, rater: Rater, texts: Sequence[str]) -> list[str | None]:
        """One rater's labels of texts."""
        chats = [self._chats.begin(Setup(model=rater.model)) for _ in texts]
        requests = [
            self._build_request(chat, rater, text) for chat, text in zip(chats, texts, strict=True)
        ]
        said = [""] * len(texts)
        with closing(stream_many(chats[0].engine, requests)) as events:
            for number, event in events:
                if isinstance(event, Delta):
                    said[number] += event.text
        return [find_label(reply, self._labels) for reply in said]

    def _build_request(self, chat: SideChat, rater: Rater, text: str) -> Request:
        labels = ", ".join(self._labels)
        question = rater.question.replace("{labels}", labels).replace("{text}", text)
        request = chat.request(question)
        messages = (*request.messages, Message("assistant", _REPLY_PREFIX))
        sampling = _SAMPLING.with_fallback(request.sampling)
        return dataclasses.replace(request, messages=messages, sampling=sampling)


def find_label(reply: str, labels: Sequence[str]) -> str | None:
    """The label that a reply names first; None for none."""
    places = []
    for label in labels:
        match = re.search(rf"(?<!\w){re.escape(label)}(?!\w)", reply, re.IGNORECASE)
        if match:
            places.append((match.start(), -len(label), label))
    return min(places)[2] if places else None


def leading_labels(votes: Sequence[str | None]) -> list[str]:
    """The labels that have the most votes."""
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    return sorted(label for label, count in counts.items() if count == most)


@dataclass(frozen=True)
class Agreement:
    """How far the raters of a panel agree."""

    texts: int
    unanimous_share: float
    """Share of texts on which all raters gave the same label."""
    majority_share: float
    """Share of texts for which one label had more votes than each other one."""
    ties_broken: int
    """Texts that another decided."""
    undecided: int
    """Texts without a label."""
    abstention_share: float
    """Share of votes that named no label."""
    alpha: float | None
    """Krippendorff's alpha for names: 1 for perfect agreement, 0 for that by chance; None where
    fewer than two labels were given."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "texts": self.texts,
            "unanimous": self.unanimous_share,
            "majority": self.majority_share,
            "decided": self.ties_broken,
            "open": self.undecided,
            "silent": self.abstention_share,
            "alpha": self.alpha,
        }


def measure_agreement(panel_labels: Sequence[PanelLabel]) -> Agreement:
    """How far the raters agreed."""
    texts = max(len(panel_labels), 1)
    cast = [vote for each in panel_labels for vote in each.votes]
    unanimous = sum(None not in each.votes and len(set(each.votes)) == 1 for each in panel_labels)
    return Agreement(
        texts=len(panel_labels),
        unanimous_share=unanimous / texts,
        majority_share=sum(len(leading_labels(each.votes)) == 1 for each in panel_labels) / texts,
        ties_broken=sum(each.tie_broken for each in panel_labels),
        undecided=sum(each.label is None for each in panel_labels),
        abstention_share=sum(vote is None for vote in cast) / max(len(cast), 1),
        alpha=_krippendorff_alpha(
            [[vote for vote in each.votes if vote is not None] for each in panel_labels]
        ),
    )


def _krippendorff_alpha(units: Sequence[Sequence[str]]) -> float | None:
    """Krippendorff's alpha of nominal values; units with one value say nothing."""
    paired = [unit for unit in units if len(unit) > 1]
    totals = Counter(value for unit in paired for value in unit)
    count = sum(totals.values())
    apart = count**2 - sum(each**2 for each in totals.values())
    if apart == 0:
        return None
    seen = sum(
        (len(unit) ** 2 - sum(each**2 for each in Counter(unit).values())) / (len(unit) - 1)
        for unit in paired
    )
    return 1 - (count - 1) * seen / apart
