"""The state of one reply while it is generated: tokens, text, stop conditions, usage, logprobs."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chatlm.engines.call_constraints import ReplyConstraint
from chatlm.engines.detokenizer import Detokenizer, TokenBytes
from chatlm.engines.reply_parser import ReplyParser, StreamedText
from chatlm.engines.samplers import Sampler
from chatlm.engines.stopping import EosStoppingCriteria, StopStringFilter
from chatlm.engines.tool_call_stream import ToolCallStream
from chatlm.engines.torch_threads import single_torch_thread
from chatlm.types.events import Delta, Finished, LogprobBuffer, TokenLogprob, ToolCallDelta
from chatlm.types.parts import ToolCall
from chatlm.types.replies import StopReason, StreamedPart, Usage
from chatlm.types.requests import Request, prompt_hash

CALL_ID_LENGTH = 9
"""Characters of a tool call's id; Mistral's templates accept no other."""


@dataclass(frozen=True)
class TokenLimits:
    """How many tokens may be generated, each at least 1."""

    answer: int
    """Tokens of the answer."""
    thought: int
    """Tokens of thoughts, after which the answer is begun."""
    total: int
    """All tokens; at most `context`."""
    context: int
    """What the context window has room for."""


@dataclass
class GenerationState:
    """One reply that is being generated."""

    prompt_ids: list[int]
    request: Request
    sampler: Sampler
    token_bytes: TokenBytes
    detokenizer: Detokenizer
    parser: ReplyParser
    stop_filter: StopStringFilter
    format_stop_strings: frozenset[str]
    """Stop strings of the prompt format rather than of the user."""
    eos_criteria: EosStoppingCriteria
    limits: TokenLimits
    end_of_thought: list[int]
    """Ids that end a thought; empty for a model that does not think."""
    usage: Usage
    started_at: float
    """`time.perf_counter()` when the request arrived."""
    constraint: ReplyConstraint | None = None
    """What the reply must be."""
    call_head: re.Pattern[str] | None = None
    """What precedes the arguments of a tool call, see `ToolCallFormat.head`."""
    tokens: list[int] = field(default_factory=list)
    _logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of the tokens so far, where the request wants them."""
    _logprob_buffer: LogprobBuffer = field(default_factory=LogprobBuffer)
    _num_detokenized: int = 0
    _answer_tokens: int = 0
    _reasoning_tokens: int = 0
    """Tokens of each part before the newest, which is counted once its text is known."""
    _forced: deque[int] = field(default_factory=deque)
    """Ids that come next, whatever the model would choose."""
    _markers_left: int = 0
    """Of these, how many end a thought, and are no part of the answer."""
    _is_newest_forced: bool = False
    _first_token_at: float = 0.0
    _call_stream: ToolCallStream = field(init=False)

    def __post_init__(self) -> None:
        self._call_stream = ToolCallStream(self.call_head, self._new_call_id)

    @property
    def forced_tokens(self) -> tuple[int, ...]:
        """The tokens that come next whatever the logits are, as far as is known."""
        return tuple(self._forced)

    @property
    def remaining_tokens(self) -> int:
        """How many more tokens are allowed."""
        return min(self.limits.total - len(self.tokens), self._remaining_answer_tokens)

    @property
    def _remaining_answer_tokens(self) -> int:
        return self.limits.answer - self._answer_tokens - self._is_newest("text")

    def _count_newest(self) -> None:
        self._answer_tokens += self._is_newest("text")
        self._reasoning_tokens += self._is_newest("reasoning")

    def _is_newest(self, part: StreamedPart) -> bool:
        """Whether the newest token is of a part, as far as is known yet."""
        is_of_part = self.parser.part == part and not self.parser.is_at_marker
        is_end_of_budget = part == "reasoning" and self._is_newest_forced
        return bool(self.tokens) and is_of_part and not is_end_of_budget

    def sample(self, logits: Tensor) -> list[Delta | Finished]:
        """Sample a token, check whether it ends the reply, and release the text that is certain.

        Args:
            logits: (vocab_size,), after the previous token.

        Returns:
            `Delta`s, at least one, and `Finished` if it was the last token.
        """
        self._count_newest()
        with single_torch_thread():
            self.tokens.append(self._next_token(logits))
            if (alternatives := self.request.logprobs) is not None:
                self._logprobs.append(
                    token_logprob(logits, self.tokens[-1], alternatives, self.token_bytes)
                )
        pieces = self._release_text()
        calls = self._release_calls()
        reason, stop = self._check_stop(logits)
        rest: list[StreamedText] = []
        if reason is not None:
            rest = self._release_rest(reason)
            calls += self._release_calls()
        is_cut_call = reason is not None and self._call_stream.is_within_call
        self._update_usage()
        if self.stop_filter.matched_stop is not None:
            stop = self.stop_filter.matched_stop
            reason = StopReason.END if stop in self.format_stop_strings else StopReason.STOP_STRING
        deltas = [
            Delta(
                piece.text,
                usage=self.usage,
                logprobs=self._logprob_buffer.release(piece.text, piece.dropped),
                part=piece.part,
                repeats_call=is_cut_call and piece.part == "text" and number >= len(pieces),
            )
            for number, piece in enumerate([*pieces, *rest])
        ]
        withheld = self._withheld_text()
        if not deltas or (withheld and deltas[-1].part != self.parser.part):
            deltas.append(Delta("", usage=self.usage, part=self.parser.part))
        if withheld or calls:
            deltas[-1] = dataclasses.replace(deltas[-1], withheld=withheld, calls=tuple(calls))
        if reason is None:
            return [*deltas]
        whole_calls = self._tool_calls()
        if whole_calls:
            reason, stop = StopReason.TOOL_CALLS, None
        return [*deltas, Finished(reason, self.usage, stop, whole_calls)]

    def _release_calls(self) -> list[ToolCallDelta]:
        """Return what became certain of the tool calls."""
        is_bound = self.constraint is not None and self.constraint.binds_call
        parser = self.parser
        return [*self._call_stream.feed(parser.open_call, parser.calls, is_bound)]

    def _tool_calls(self) -> tuple[ToolCall, ...]:
        """Return the calls of the whole reply."""
        return tuple(
            ToolCall(call_id, call.name, call.arguments)
            for call_id, call in zip(self._call_stream.ids, self.parser.calls, strict=False)
        )

    def _new_call_id(self, number: int) -> str:
        """Return an id that depends on the prompt and the reply up to the call alone."""
        origin = prompt_hash([*self.prompt_ids, *self.tokens])
        return hashlib.sha256(f"{origin} {number}".encode()).hexdigest()[:CALL_ID_LENGTH]

    def _next_token(self, logits: Tensor) -> int:
        """Sample a token; at the end of a thought's budget, its end comes instead."""
        is_thinking = self.parser.part == "reasoning"
        if is_thinking and not self._forced and self._reasoning_tokens >= self.limits.thought:
            self._forced.extend(self.end_of_thought)
            self._markers_left = len(self.end_of_thought)
        self._is_newest_forced = bool(self._forced)
        constraint = self.constraint
        if constraint:
            constraint.follow(self.parser)
        if self._forced:
            token = self.sampler.accept(self._forced.popleft())
        else:
            processed = self._process_logits(logits)
            token = self.sampler(constraint.apply(processed) if constraint else processed)
        if self._markers_left:
            self._markers_left -= 1
        elif constraint:
            constraint.accept(token)
            if not self._forced:
                self._forced.extend(constraint.forced_tokens())
        return token

    def _input_ids(self) -> Tensor:
        return torch.tensor([self.prompt_ids + self.tokens])

    def _plugin_arguments(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return copies as arguments of a processor or criterion, since many of those written for
        transformers change the scores in place."""
        return self._input_ids().to(logits.device), logits[None].clone()

    def _process_logits(self, logits: Tensor) -> Tensor:
        for processor in self.request.logits_processors:
            logits = processor(*self._plugin_arguments(logits))[0]
        return logits

    def _check_stop(self, logits: Tensor) -> tuple[StopReason | None, str | None]:
        """Return why the newest token is the last, apart from stop strings."""
        if self.eos_criteria.match(self.tokens) is not None:
            return StopReason.END, None
        for criterion in self.request.stopping_criteria:
            if torch.as_tensor(criterion(*self._plugin_arguments(logits))).any():
                name = getattr(criterion, "__name__", type(criterion).__name__)
                return StopReason.CRITERION, name
        if self.constraint is not None and self.constraint.is_complete:
            return StopReason.END, None
        if self.remaining_tokens > 0:
            return None, None
        is_full = len(self.tokens) >= self.limits.context and self._remaining_answer_tokens > 0
        return (StopReason.CONTEXT_FULL if is_full else StopReason.LENGTH), None

    def _release_text(self) -> list[StreamedText]:
        """Return the text that became certain, whether or not the newest token is the last."""
        certain = len(self.tokens) - self.eos_criteria.partial_match_length(self.tokens)
        return self._release(self._detokenize_until(certain - len(self._ending)))

    def _release_rest(self, reason: StopReason) -> list[StreamedText]:
        """Return all text that remains after the last token.

        Args:
            reason: why it is the last.
        """
        text = self._detokenize_until(len(self.tokens) - len(self._ending))
        rest = self.detokenizer.flush()
        self._logprob_buffer.feed((), rest)
        released = self._release(text + rest)
        last = self.parser.flush(is_complete=reason is StopReason.END)
        released += map(self._filter_stops, last)
        if held := self.stop_filter.flush():
            released.append(StreamedText("text", held))
        return released

    def _release(self, text: str) -> list[StreamedText]:
        return list(map(self._filter_stops, self.parser.feed(text)))

    @property
    def _ending(self) -> Sequence[int]:
        """The newest tokens that end the reply; none if it goes on."""
        return self.eos_criteria.match(self.tokens) or ()

    def _filter_stops(self, piece: StreamedText) -> StreamedText:
        """Let stop strings end the answer; a thought may contain them."""
        if piece.part == "reasoning":
            return piece
        text = self.stop_filter.feed(piece.text)
        return piece if text == piece.text else dataclasses.replace(piece, text=text)

    def _detokenize_until(self, end: int) -> str:
        """Return the text of all tokens before a position that were not yet released."""
        text = "".join(self._detokenize(position) for position in range(self._num_detokenized, end))
        self._num_detokenized = max(self._num_detokenized, end)
        return text

    def _detokenize(self, position: int) -> str:
        """Return the text that a token adds."""
        text = self.detokenizer.feed(self.tokens[position])
        self._logprob_buffer.feed(self._logprobs[position : position + 1], text)
        return text

    def _withheld_text(self) -> str:
        waiting = (
            self.tokens[self._num_detokenized :] if self.stop_filter.matched_stop is None else []
        )
        pending = waiting[: self.eos_criteria.partial_match_length(self.tokens)]
        held = self.stop_filter.withheld + self.parser.withheld
        return held + (self.detokenizer.peek(pending) if pending else "")

    def _update_usage(self) -> None:
        now = time.perf_counter()
        self._first_token_at = self._first_token_at or now
        self.usage = dataclasses.replace(
            self.usage,
            completion_tokens=len(self.tokens),
            first_token_seconds=self._first_token_at - self.started_at,
            decode_seconds=now - self._first_token_at,
            reasoning_tokens=self._reasoning_tokens + self._is_newest("reasoning"),
        )


def token_logprob(
    logits: Tensor, token: int, alternatives: int, token_bytes: TokenBytes
) -> TokenLogprob:
    """Return a token's log-probability and those of the likeliest tokens.

    Args:
        logits: (vocab_size,), before penalties and temperature.
        token: id of the chosen one.
        alternatives: number of likeliest tokens.
        token_bytes: returns the bytes of an id.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    top = [(number, float(logprobs[number])) for number in top_token_ids(logprobs, alternatives)]
    return TokenLogprob(
        token_bytes(token),
        float(logprobs[token]),
        tuple(TokenLogprob(token_bytes(number), logprob) for number, logprob in top),
    )


def top_token_ids(logprobs: Tensor, count: int) -> list[int]:
    """Return the likeliest ids, best first; of equal ones the lowest first, as `argmax` does."""
    if not count:
        return []
    threshold = torch.topk(logprobs, min(count, len(logprobs))).values[-1]
    ids = torch.nonzero(logprobs >= threshold).flatten()
    order = torch.argsort(logprobs[ids], descending=True, stable=True)
    return list(map(int, ids[order[:count]]))
