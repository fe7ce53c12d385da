"""Constrain a reply: whether it calls tools, what each call may be, and what the answer may be.

Calls are in the format of the model's family. Inside one, only what fits the schemas of the tools
may come; outside, the model writes what it likes, unless a call is demanded or forbidden, or the
answer itself is bound.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from chatlm.engines.constraints import AnswerConstraint, GrammarState, Openings, mask_logits
from chatlm.engines.model_families import ReasoningFormat, ToolCallFormat
from chatlm.engines.reply_parser import OpenCall, ReplyParser
from chatlm.engines.vocabulary import Vocabulary


@dataclass(frozen=True)
class CallRules:
    """What the tool calls of one request may be."""

    form: ToolCallFormat
    reasoning: ReasoningFormat | None
    names: Sequence[str]
    """Of the tools that may be called."""
    choice: Literal["auto", "none", "required"]
    is_parallel: bool
    """Whether a reply may have several calls."""
    matcher: LLMatcher
    """At the start of the grammar of what follows a start marker."""
    tokenizer: LLTokenizer
    vocabulary: Vocabulary
    encode: Callable[[str], list[int]]
    """Returns the ids of a marker."""
    _into_call: dict[tuple[bytes, int], list[int]] = field(default_factory=dict)

    @cached_property
    def starts(self) -> tuple[bytes, ...]:
        """The start markers."""
        return tuple(start.encode() for start in self.form.starts)

    def openings(self, is_begun: bool) -> list[list[int]]:
        """Return the ids of each marker that may begin a call of the answer.

        Args:
            is_begun: whether the reply has text already, a thought for instance.
        """
        starts = self.form.starts
        if is_begun:  # rather what ends the text before it as well
            chosen = [one for one in starts if not any(_ends_longer(one, more) for more in starts)]
        else:
            shorter = (*starts, self.form.bare_start)
            chosen = [one for one in starts if not any(_ends_longer(less, one) for less in shorter)]
        return [self.encode(start) for start in chosen]

    def openings_after_thought(self) -> Openings:
        """Return what may come after a thought if it must be a call."""
        starts = self.openings(is_begun=True)
        gap = self.encode(self.reasoning.after_end) if self.reasoning else []
        return Openings([*starts, *([*gap, *start] for start in starts if gap)], True)

    def begin(self, text: str) -> GrammarState | None:
        """Return the place in the grammar after the beginning of a call; None if it does not fit.

        Args:
            text: what follows the start marker.
        """
        matcher = self.matcher.deep_copy()
        ids = self.tokenizer.tokenize_bytes(text.encode()) if text else []
        return GrammarState(matcher) if matcher.try_consume_tokens(ids) == len(ids) else None

    def forbidden_into_call(self, tail: bytes) -> list[int]:
        """Return the tokens that would begin a call that may not be.

        Such a token completes a start marker where calls are forbidden, or goes on beyond it with
        what does not fit the grammar.

        Args:
            tail: the newest bytes of the reply.
        """
        forbidden: list[int] = []
        for start in self.starts:
            for length in range(min(len(start) - 1, len(tail)), -1, -1):
                if length and not tail.endswith(start[:length]):
                    continue
                key = (start, length)
                if key not in self._into_call:
                    self._into_call[key] = list(self._wrong_ends(start[length:]))
                forbidden += self._into_call[key]
        return forbidden

    def onward_from_thought(self, tail: bytes) -> int | None:
        """Return the token that leads from the end of a thought to a call, not to an answer.

        In some families both begin with the same tokens. None where a thought has not ended.

        Args:
            tail: the newest bytes of the reply.
        """
        if self.reasoning is None or not self.form.interrupts_thoughts:
            return None
        for start in self.form.starts:
            first = self.vocabulary.tokens[self.encode(start)[0]]
            if not any(end.encode().startswith(first) for end in self.reasoning.ends):
                continue
            written = start.encode()
            for length in range(len(written) - 1, len(first) - 1, -1):
                if tail.endswith(written[:length]):
                    return self.encode(written[length:].decode())[0]
        return None

    def _wrong_ends(self, rest: bytes) -> Iterator[int]:
        for token in self.vocabulary.starting_with(rest):
            after = self.vocabulary.tokens[token][len(rest) :]
            if self.choice == "none" or (after and not self._fits(after)):
                yield token

    def _fits(self, after: bytes) -> bool:
        try:
            return self.begin(after.decode()) is not None
        except UnicodeDecodeError:  # part of a character, which no grammar of calls begins with
            return False


def _ends_longer(text: str, longer: str) -> bool:
    return bool(text) and text != longer and longer.endswith(text)


class ReplyConstraint:
    """What the rest of one reply may be.

    Args:
        answer: what the answer may be; None if it is free.
        rules: what the tool calls may be; None without tools.
        is_begun: whether the reply continues an answer.
    """

    def __init__(
        self, answer: AnswerConstraint | None, rules: CallRules | None, is_begun: bool
    ) -> None:
        self._answer = answer
        self._rules = rules
        self._is_begun = is_begun
        self._tail = b""
        """The newest bytes of the reply, no more than a start marker has."""
        self._call: GrammarState | None = None
        """Place in the call that has begun."""
        self._is_in_call = False
        self._is_thinking = False
        self._has_thought = False
        self._calls_made = 0
        self._openings: Openings | None = None
        """Of the call that must come next."""

    def expect(self, openings: Sequence[Sequence[int]], is_required: bool) -> None:
        """Let a marker come before the answer; see `AnswerConstraint.expect`."""
        if self._answer is not None:
            self._answer.expect(openings, is_required)
        if self._rules is not None and self._rules.choice == "required" and not self._is_begun:
            reasoning = self._rules.reasoning
            starts = [self._rules.encode(each) for each in reasoning.starts] if reasoning else []
            thoughts = [each for each in openings if each in starts]
            if self._rules.form.bare_start and not thoughts:
                self._call = self._rules.begin("")
            else:
                self._openings = Openings([*thoughts, *self._rules.openings(is_begun=False)], True)

    def follow(self, parser: ReplyParser) -> None:
        """Take note of what the reply is so far; call it before each token.

        Args:
            parser: has read all tokens before it.
        """
        was_thinking, self._is_thinking = self._is_thinking, parser.part == "reasoning"
        self._has_thought = self._has_thought or self._is_thinking
        if self._rules is None:
            return
        self._calls_made = len(parser.calls)
        call = parser.open_call
        if call is not None and not self._is_in_call:
            self._is_in_call = True
            if self._call is None:
                self._follow_call(self._rules, call)
        elif call is not None and self._call is None and not call.start:
            self._follow_call(self._rules, call)
        elif call is None and self._is_in_call:
            self._is_in_call, self._call = False, None
        if self._is_thinking or self._is_in_call:
            self._openings = None
        elif was_thinking and self._must_call:
            self._openings = self._rules.openings_after_thought()

    def apply(self, logits: Tensor) -> Tensor:
        """Set the logits of all tokens that may not come next to -inf.

        Args:
            logits: (vocab_size,)

        Raises:
            UsageError: the grammar has become too complex.
        """
        forbidden = self._forbidden(len(logits))
        return logits if forbidden is None else mask_logits(logits, forbidden)

    def accept(self, token: int) -> None:
        """Take the chosen token.

        Raises:
            EngineError: the grammar does not allow it.
        """
        if self._rules is not None:
            longest = max(map(len, self._rules.starts), default=0)
            self._tail = (self._tail + self._rules.vocabulary.tokens[token])[-longest:]
        if self._call is not None:
            self._call.accept(token)
        elif self._openings is not None:
            if not self._openings.accept(token) or self._openings.is_complete:
                self._openings = None
        elif answer := self._bound_answer:
            answer.accept(token)

    def forced_tokens(self) -> list[int]:
        """Return the tokens that come next because there is no choice; often none."""
        if self._call is not None:
            return self._call.forced_tokens()
        answer = self._bound_answer
        return answer.forced_tokens() if answer and self._openings is None else []

    @property
    def is_complete(self) -> bool:
        """Whether the reply is whole and cannot go on."""
        if self._call is not None and self._rules is not None:
            is_last = not self._rules.form.ends or not self._rules.is_parallel
            return self._call.is_complete and is_last
        answer = self._bound_answer
        return answer is not None and answer.is_complete

    @property
    def binds_call(self) -> bool:
        """Whether the block of calls that has begun can only become calls."""
        return self._is_in_call and self._call is not None

    @property
    def _bound_answer(self) -> AnswerConstraint | None:
        """What the next token must fit, if it belongs to a bound answer."""
        is_other = self._is_thinking or self._is_in_call or self._calls_made
        return None if is_other else self._answer

    @property
    def _must_call(self) -> bool:
        return self._rules is not None and self._rules.choice == "required" and not self._calls_made

    def _follow_call(self, rules: CallRules, call: OpenCall) -> None:
        """Begin to constrain a call that the model began."""
        bare = rules.form.bare_start
        if call.start:
            self._call = rules.begin(call.text)
        elif not bare.startswith("{"):
            self._call = rules.begin(call.text.removeprefix(bare))
        elif any(json.dumps(name) in call.text for name in rules.names):
            self._call = rules.begin(call.text)  # an answer may begin with a bracket, too

    def _forbidden(self, vocab_size: int) -> Any:
        """Return which tokens may not come next, (vocab_size,) and bool; None for no limits."""
        if self._call is not None:
            return self._call.forbidden(vocab_size)
        if self._is_in_call:
            return None
        rules = self._rules
        if rules is not None and not self._is_thinking:
            if self._calls_made and (self._answer is not None or not rules.is_parallel):
                return _all_but(rules.vocabulary.end_ids, vocab_size)
            if self._must_call and self._openings is None:
                is_later = self._is_begun or self._has_thought
                self._openings = Openings(rules.openings(is_later), is_required=True)
            if self._openings is not None:
                return _all_but(self._openings.next_ids(), vocab_size)
        if rules is not None and self._is_thinking and self._must_call:
            onward = rules.onward_from_thought(self._tail)
            if onward is not None:
                return _all_but([onward], vocab_size)
        if answer := self._bound_answer:
            return answer.forbidden(vocab_size)
        if rules is None or (self._is_thinking and not rules.form.interrupts_thoughts):
            return None
        wrong = rules.forbidden_into_call(self._tail)
        if not wrong:
            return None
        forbidden = np.zeros(vocab_size, dtype=bool)
        forbidden[wrong] = True
        return forbidden


def _all_but(allowed: Any, vocab_size: int) -> Any:
    forbidden = np.ones(vocab_size, dtype=bool)
    forbidden[list(allowed)] = False
    return forbidden
