"""Tell a model's thoughts from its answer while the text streams.

A model marks its thoughts with tags, which its chat template or its tokenizer shows. Only a marker
at the start of the reply begins a thought, unless the family marks every section by control tokens;
so an answer may be about `<think>`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from chatlm.engines.stopping import longest_partial_match
from chatlm.types.messages import StreamedPart
from chatlm.types.sampling import Thinking


@dataclass(frozen=True)
class ReasoningFormat:
    """The markers of a family of models."""

    starts: tuple[str, ...]
    """Texts that begin a thought."""
    ends: tuple[str, ...]
    """Texts that end it; the answer follows."""
    ignored: tuple[str, ...] = ()
    """Markers of the answer, which are no text of it."""
    is_sectioned: bool = False
    """Whether thoughts may follow parts of the answer."""

    @property
    def ending(self) -> str:
        """Text that ends a thought, and starts the answer, as the model would write it."""
        marker = self.ends[0]
        return marker if self.is_sectioned else f"\n{marker}\n\n"

    @property
    def markers(self) -> tuple[str, ...]:
        """All markers."""
        return self.starts + self.ends + self.ignored


def _channel(name: str) -> str:
    return f"<|channel|>{name}<|message|>"


_NEXT = "<|end|><|start|>assistant"

HARMONY = ReasoningFormat(
    starts=(_channel("analysis"), _NEXT + _channel("analysis")),
    ends=(_NEXT + _channel("final"), _NEXT + _channel("commentary")),
    ignored=(_channel("final"), _channel("commentary")),
    is_sectioned=True,
)
"""gpt-oss: sections of the channels analysis, commentary and final."""


FORMATS: tuple[ReasoningFormat, ...] = (
    HARMONY,
    ReasoningFormat(("<|channel>thought\n", "<|channel>thought"), ("<channel|>",)),  # Gemma 4
    ReasoningFormat(("<seed:think>",), ("</seed:think>",)),
    ReasoningFormat(("[THINK]",), ("[/THINK]",)),  # Ministral, Magistral
    ReasoningFormat(
        ("<|START_THINKING|>",),
        ("<|END_THINKING|>",),
        ignored=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),  # Command A and R7B
    ReasoningFormat(("<|inner_prefix|>",), ("<|inner_suffix|>",)),  # Apertus
    ReasoningFormat(("◁think▷",), ("◁/think▷",)),  # Kimi-VL
    ReasoningFormat(
        ("Here is my thought process:", "Here's my thought process:"),
        ("Here is my response:", "Here's my response:", "[BEGIN FINAL RESPONSE]"),
        ignored=("[END FINAL RESPONSE]",),
    ),  # Granite 3.2, Apriel
    ReasoningFormat(("<think>",), ("</think>",)),
)
"""Most specific first: some templates mention `<think>` as well."""


_NONE = ReasoningFormat((), ())


def find_reasoning_format(
    template_texts: Iterable[str], tokens: Collection[str]
) -> ReasoningFormat | None:
    """Return how a model marks its thoughts; None if nothing shows that it thinks.

    Args:
        template_texts: texts and constants of its chat templates.
        tokens: texts of its added tokens.
    """
    written = "\0".join(template_texts)
    for candidate in FORMATS:
        if candidate is HARMONY:
            if {"<|channel|>", "<|message|>"} <= set(tokens):
                return candidate
        elif any(
            marker.strip() in written or marker.strip() in tokens
            for marker in candidate.starts + candidate.ends
        ):
            return candidate
    return None


def thinking_variables(thinking: Thinking) -> dict[str, Any]:
    """Return what chat templates read to switch thinking, under the names of all families."""
    if thinking == "auto":
        return {}
    if thinking == "off":  # gpt-oss cannot be switched off
        return {
            "enable_thinking": False,
            "thinking": False,
            "reasoning": False,
            "reasoning_effort": "low",
            "thinking_budget": 0,
        }
    return {
        "enable_thinking": True,
        "thinking": True,
        "reasoning": True,
        "reasoning_effort": thinking,
    }


def thinking_levels(variables: Collection[str]) -> tuple[Thinking, ...]:
    """Return the values of `thinking` that a chat template follows, by the variables it reads."""
    if not {"enable_thinking", "thinking", "reasoning"}.isdisjoint(variables):
        return ("off", "low", "medium", "high")
    if "reasoning_effort" in variables:
        return ("low", "medium", "high")
    return ("off",) if "thinking_budget" in variables else ()


@dataclass(frozen=True)
class StreamedText:
    """Text of one part that became certain."""

    part: StreamedPart
    text: str
    dropped: int = 0
    """Number of characters before it that are markers, or white space around them."""


class ReasoningParser:
    """A filter that splits a streamed text into thoughts and the answer.

    White space around a thought and before the answer is dropped. How the stream is split makes no
    difference.

    Args:
        form: the markers; None to take all for the answer.
        is_open: whether the prompt ends inside a thought.
        continues: whether the text continues a part that has text already.
    """

    def __init__(
        self, form: ReasoningFormat | None, is_open: bool = False, continues: bool = False
    ) -> None:
        self._form = form or _NONE
        self.part: StreamedPart = "reasoning" if is_open else "text"
        """The part that follows."""
        self._is_start = form is not None and not continues
        """Whether the part has no text yet."""
        self._may_start = self._is_start and not is_open
        self._pending = ""

    @property
    def is_at_marker(self) -> bool:
        """Whether the newest text is a marker or the start of one, so that it counts as neither."""
        return self._is_start and (not self._pending or bool(self._pending.strip()))

    @property
    def withheld(self) -> str:
        """Text held back because it may become a marker or end a thought."""
        return self._pending

    def feed(self, text: str) -> list[StreamedText]:
        """Add text; return what is certain, in order."""
        if self._form is _NONE:
            return [StreamedText("text", text)] if text else []
        self._pending += text
        out: list[StreamedText] = []
        dropped = 0
        while True:
            markers = self._expected()
            place, marker = _find_first(self._pending, markers)
            if marker is None:
                break
            dropped = self._emit(self._pending[:place], out, dropped, is_last=True) + len(marker)
            self._pending = self._pending[place + len(marker) :]
            self._pass(marker)
        keep = len(self._pending) - longest_partial_match(self._pending, markers)
        if self.part == "reasoning":
            keep = len(self._pending[:keep].rstrip())
        certain, self._pending = self._pending[:keep], self._pending[keep:]
        if not certain.strip() and self._is_start:
            self._pending = certain + self._pending
        else:
            dropped = self._emit(certain, out, dropped, is_last=False)
        if dropped:
            out.append(StreamedText(self.part, "", dropped))
        return out

    def flush(self) -> list[StreamedText]:
        """Return the withheld text at the end of the stream."""
        pending, self._pending = self._pending, ""
        out: list[StreamedText] = []
        if dropped := self._emit(pending, out, 0, is_last=True):
            out.append(StreamedText(self.part, "", dropped))
        return out

    def _expected(self) -> tuple[str, ...]:
        """Return the markers that count here."""
        if self.part == "reasoning":
            return self._form.ends
        head = self._pending.lstrip()
        starts = tuple(
            start
            for start in self._form.starts
            if self._form.is_sectioned
            or (self._may_start and (head.startswith(start) or start.startswith(head)))
        )
        return starts + self._form.ignored

    def _emit(self, text: str, out: list[StreamedText], dropped: int, *, is_last: bool) -> int:
        """Add text to the output without the white space around it; return what was dropped."""
        shown = text
        if self._is_start:
            shown = shown.lstrip()
            dropped += len(text) - len(shown)
        after = 0
        if is_last and self.part == "reasoning":
            after = len(shown) - len(shown.rstrip())
            shown = shown.rstrip()
        if not shown:
            return dropped + after
        self._is_start = False
        self._may_start = False
        out.append(StreamedText(self.part, shown, dropped))
        return after

    def _pass(self, marker: str) -> None:
        self._is_start = True
        self._may_start = False
        self.part = "reasoning" if marker in self._form.starts else "text"


def _find_first(text: str, markers: Iterable[str]) -> tuple[int, str | None]:
    """Return the place of the first marker, of those at one place the longest, or (-1, None)."""
    found = [(text.find(marker), -len(marker), marker) for marker in markers if marker in text]
    if not found:
        return -1, None
    place, _, marker = min(found)
    return place, marker
