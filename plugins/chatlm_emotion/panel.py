"""Label texts by the majority vote of a panel of language models, and measure agreement."""

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
"""Default questions when one model is all raters."""

_REPLY_PREFIX = "The label is"
"""Prefix of each reply, so that the label follows at once."""
_SAMPLING = Sampling(temperature=0.0, max_tokens=12, stop=("\n",))


@dataclass(frozen=True)
class Rater:
    """One voter: a model and how it is asked."""

    model: str
    question: str
    """Template with `{text}` and `{labels}`."""


@dataclass(frozen=True)
class PanelLabel:
    """The panel's label of one text, with the votes."""

    text: str
    label: str | None
    """None if no label has a majority and the tie was not broken."""
    votes: tuple[str | None, ...]
    """One per rater; None for a reply without a label."""
    tie_broken: bool = False
    """Whether a tie was broken."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "text": self.text,
            "label": self.label,
            "votes": list(self.votes),
            "decided": self.tie_broken,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PanelLabel:
        """Restore from `to_dict`.

        Raises:
            KeyError, TypeError: the values are not valid.
        """
        return cls(
            text=values["text"],
            label=values["label"],
            votes=tuple(values["votes"]),
            tie_broken=values["decided"],
        )


class RaterPanel:
    """Asks raters, and takes the majority.

    Args:
        chats: starts a side chat for each question.
        raters: the voters.
        labels: the labels to choose from.
    """

    def __init__(self, chats: SideChats, raters: Sequence[Rater], labels: Sequence[str]) -> None:
        self._chats, self._raters, self._labels = chats, raters, tuple(labels)

    def label(
        self, texts: Sequence[str], break_tie: Callable[[str, Sequence[str]], str | None]
    ) -> list[PanelLabel]:
        """Label texts by the votes of all raters.

        Args:
            texts: the texts.
            break_tie: called with a text and its tied labels; None leaves the text unlabelled.

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
        """Return one rater's vote on each text."""
        chats = [self._chats.begin(Setup(model=rater.model)) for _ in texts]
        requests = [
            self._build_request(chat, rater, text) for chat, text in zip(chats, texts, strict=True)
        ]
        replies = [""] * len(texts)
        with closing(stream_many(chats[0].engine, requests)) as events:
            for number, event in events:
                if isinstance(event, Delta):
                    replies[number] += event.answer
        return [find_label(reply, self._labels) for reply in replies]

    def _build_request(self, chat: SideChat, rater: Rater, text: str) -> Request:
        labels = ", ".join(self._labels)
        question = rater.question.replace("{labels}", labels).replace("{text}", text)
        request = chat.request(question)
        messages = (*request.messages, Message("assistant", _REPLY_PREFIX))
        sampling = _SAMPLING.with_fallback(request.sampling)
        return dataclasses.replace(request, messages=messages, sampling=sampling)


def find_label(reply: str, labels: Sequence[str]) -> str | None:
    """Return the first label in a reply, or None."""
    places = []
    for label in labels:
        match = re.search(rf"(?<!\w){re.escape(label)}(?!\w)", reply, re.IGNORECASE)
        if match:
            places.append((match.start(), -len(label), label))
    return min(places)[2] if places else None


def leading_labels(votes: Sequence[str | None]) -> list[str]:
    """Return the labels with the most votes."""
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    return sorted(label for label, count in counts.items() if count == most)


@dataclass(frozen=True)
class Agreement:
    """Agreement of a panel's raters."""

    texts: int
    unanimous_share: float
    """Share of texts with the same label from all raters."""
    majority_share: float
    """Share of texts for which one label has the most votes."""
    ties_broken: int
    """Number of ties that were broken."""
    undecided: int
    """Number of texts without a label."""
    abstention_share: float
    """Share of votes without a label."""
    alpha: float | None
    """Krippendorff's alpha for nominal values: 1 is perfect agreement, 0 is chance; None if fewer
    than two labels were given."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
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
    """Measure the agreement of the raters."""
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
    """Return Krippendorff's alpha of nominal values; units with one value do not count."""
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
