"""Control tokens with which models fill the gap between two texts, as their makers define them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class GapFormat:
    """How a model is told what stands before and after a gap."""

    before: str
    """The token before the text that precedes the gap; empty for none."""
    after: str
    """The token before the text that follows the gap."""
    middle: str
    """The token at the end, after which the model fills the gap; empty for none."""
    ends: tuple[str, ...] = ()
    """Tokens that end the filling, besides those that end a reply."""
    after_first: bool = False
    """Whether the text after the gap comes first."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """All that the model must have."""
        return tuple(filter(None, (self.before, self.after, self.middle)))


FORMATS = (
    GapFormat(  # Qwen2.5-Coder, CodeGemma
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        ("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>"),
    ),
    GapFormat(  # StarCoder, Granite, SantaCoder with its hyphens
        "<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<fim_pad>", "<file_sep>")
    ),
    GapFormat("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ("<fim-pad>",)),
    GapFormat("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    GapFormat("▁<PRE>", "▁<SUF>", "▁<MID>", ("▁<EOT>",)),  # Code Llama
    GapFormat("[PREFIX]", "[SUFFIX]", "", after_first=True),  # Codestral
    GapFormat("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM-4
)
"""The formats that are known."""


def find_gap_format(tokens: Collection[str]) -> GapFormat | None:
    """Return the format of the model that has these added tokens; None if it has none."""
    return next((form for form in FORMATS if all(map(tokens.__contains__, form.tokens))), None)
