"""Encode messages as prompt tokens, with control tokens inserted by id only."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import jinja2

from chatlm.engines import chat_formats
from chatlm.engines.chat_formats import Span
from chatlm.engines.detokenizer import Detokenizer, make_token_bytes
from chatlm.errors import ModelError
from chatlm.types.messages import Message
from chatlm.types.requests import PromptToken

PROMPT_FORMATS = ("auto", "template", "chatml", "alpaca", "vicuna")


MAX_CACHED_TEXTS = 2048
"""Texts whose tokens are cached: a chat's messages are encoded again in every turn."""


MAX_CACHED_TEXT_LENGTH = 8_000
"""Limit of a cached text in characters."""


class ChatTokenizer(Protocol):
    """A fast tokenizer with an optional chat template, as transformers has them."""

    @property
    def is_fast(self) -> bool:
        """Whether it has a `backend_tokenizer`."""
        ...

    @property
    def backend_tokenizer(self) -> Any:
        """A `tokenizers.Tokenizer`. The engine changes its settings, so it must not be shared."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The model's own Jinja template."""
        ...

    @property
    def eos_token(self) -> str | None:
        """Text of the end-of-sequence token."""
        ...

    @property
    def eos_token_id(self) -> int | None:
        """Id of the end-of-sequence token."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text with the special tokens that the tokenizer adds."""
        ...

    def apply_chat_template(
        self,
        messages: list[dict[str, str]],
        /,
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        continue_final_message: bool,
    ) -> Any:
        """Render the template as text; `tokenize` is False."""
        ...


@dataclass(frozen=True)
class EncodedText:
    """The tokens of plain text."""

    ids: array[int]
    end_offsets: array[int]
    """End of the text covered so far after each token, in characters; never decreases."""


class PromptEncoder:
    """An encoder under which no message content can become a control token.

    Args:
        tokenizer: a fast tokenizer.
        prompt_format: one of `PROMPT_FORMATS`; auto takes the model's template, or else ChatML.
        eos_token_ids: ids that end a reply, from the generation config.

    Raises:
        ModelError: the model cannot be used with the format.
    """

    def __init__(
        self, tokenizer: ChatTokenizer, prompt_format: str, eos_token_ids: Iterable[int]
    ) -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                "This model's tokenizer has no tokenizer.json",
                hint="Save it with AutoTokenizer.save_pretrained of transformers, then try again.",
            )
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self.notes: list[str] = []
        added = self._backend.get_added_tokens_decoder()
        self._added_token_ids: dict[str, int] = {
            token.content: number for number, token in added.items()
        }
        self.format = self._resolve_format(prompt_format)
        template = tokenizer.chat_template or "" if self.format == "template" else ""
        specials = {token.content for token in added.values() if token.special}
        in_template = {text for text in self._added_token_ids if text in template}
        end_texts = {
            text for text, number in self._added_token_ids.items() if number in set(eos_token_ids)
        }
        self.control_tokens: dict[str, int] = {
            text: self._added_token_ids[text]
            for text in specials | in_template | end_texts
            if len(text.strip()) > 1  # a newline is text even as an added token
        }
        """Ids of control tokens by text; no content is ever encoded to these ids."""
        self._control_pattern = re.compile(
            "|".join(re.escape(text) for text in sorted(self.control_tokens, key=len, reverse=True))
            or r"(?!)"
        )
        self._render = self._make_renderer()
        self.prefix_ids = self._find_prefix_ids()
        """Ids before the format's own text."""
        # set once, since a tokenizer in use by other threads cannot be changed
        self._backend.encode_special_tokens = True
        self._backend.post_processor = None  # it may trim spaces from the offsets
        self._cached_encode = lru_cache(MAX_CACHED_TEXTS)(self._encode_with_offsets)
        self.token_bytes = make_token_bytes(self._backend)
        """Returns the bytes of a token by its id."""

    def _resolve_format(self, requested: str) -> str:
        has_template = bool(self._tokenizer.chat_template)
        if requested == "auto":
            requested = "template" if has_template else "chatml"
            if not has_template:
                self.notes.append(
                    "This model has no chat template; prompts are in ChatML, "
                    "which it may not have learned. `chatlm config set prompt_format` changes it."
                )
        if requested == "template" and not has_template:
            raise ModelError(
                "This model has no chat template of its own",
                hint="Use `chatlm config set prompt_format chatml` (or alpaca, or vicuna).",
            )
        if requested == "chatml" and "<|im_start|>" not in self._added_token_ids:
            self.notes.append("This model has no ChatML control tokens; they are sent as text.")
        return requested

    def _make_renderer(self) -> chat_formats.Renderer:
        if self.format == "template":
            return chat_formats.template_renderer(self._apply_template, self.control_tokens)
        if self.format == "vicuna":
            return chat_formats.vicuna_renderer(self._tokenizer.eos_token or "")
        return {"chatml": chat_formats.render_chatml, "alpaca": chat_formats.render_alpaca}[
            self.format
        ]

    def _apply_template(self, messages: list[dict[str, str]], continue_final_message: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=not continue_final_message,
                continue_final_message=continue_final_message,
            )
        )

    def _find_prefix_ids(self) -> list[int]:
        """Return the ids that the tokenizer puts before a text; a template has its own."""
        if self.format == "template":
            return []
        return [i for i in self._tokenizer.encode("") if i != self._tokenizer.eos_token_id]

    @property
    def eos_token_id(self) -> int | None:
        """Id of the tokenizer's end-of-sequence token."""
        return self._tokenizer.eos_token_id

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Strings with which a model starts the user's turn, in formats of plain text."""
        heads = {"alpaca": (chat_formats.ALPACA_STOP,), "vicuna": (chat_formats.VICUNA_STOP,)}
        if self.format == "chatml" and "<|im_end|>" not in self._added_token_ids:
            return ("<|im_end|>", "<|im_start|>")
        return heads.get(self.format, ())

    @property
    def end_sequences(self) -> list[list[int]]:
        """Token sequences that end a turn in the format."""
        if self.format != "chatml":
            return []
        ends = ("<|im_end|>", "<|im_start|>")
        return [
            [self._added_token_ids[text]]
            if text in self._added_token_ids
            else self.encode_text(text)
            for text in ends
        ]

    def spans(self, messages: Sequence[Message]) -> list[Span]:
        """Render the messages as spans of control tokens, format text and content."""
        groups = chat_formats.group_by_role(messages)
        try:
            return chat_formats.render_groups(self._render, messages, groups)
        except jinja2.TemplateError:
            try:  # some templates refuse a system role
                groups = chat_formats.merge_system_into_user(groups, messages)
                return chat_formats.render_groups(self._render, messages, groups)
            except jinja2.TemplateError as error:
                raise ModelError(
                    f"The model's chat template refuses this conversation: {error}",
                    hint="Try `chatlm config set prompt_format chatml`.",
                ) from error

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the prompt; control ids occur only where the format has them."""
        ids = list(self.prefix_ids)
        for run in chat_formats.span_runs(self.spans(messages)):
            ids += self.encode_run(run).ids
        return ids

    def encode_run(self, run: Sequence[Span]) -> EncodedText:
        """Encode one run of `chat_formats.span_runs`."""
        text = "".join(span.text for span in run)
        if self.is_control(run[0]):
            return EncodedText(array("I", [self._added_token_ids[text]]), array("I", [len(text)]))
        return self.encode_with_offsets(text)

    def is_control(self, span: Span) -> bool:
        """Tell whether the span is a control token that the model has."""
        return span.control and span.text in self._added_token_ids

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of plain text, which never contain a control token."""
        return list(self.encode_with_offsets(text).ids)

    def encode_with_offsets(self, text: str) -> EncodedText:
        """Encode plain text, see `encode_text`, with the end of each token."""
        if len(text) > MAX_CACHED_TEXT_LENGTH:
            return self._encode_with_offsets(text)
        return self._cached_encode(text)

    def _encode_with_offsets(self, text: str) -> EncodedText:
        forbidden = set(self.control_tokens.values())
        text = text.encode("utf-8", "replace").decode()  # tokenizers refuse lone surrogates
        encoding = self._backend.encode(text, add_special_tokens=False)
        if forbidden.isdisjoint(encoding.ids):
            ends = (end for _, end in encoding.offsets)
            return _to_encoded_text(zip(encoding.ids, ends, strict=True))
        tokens, start = [], 0
        for part in self._split_control_tokens(text):  # added tokens that are not marked special
            encoding = self._backend.encode(part, add_special_tokens=False)
            tokens += [
                (number, start + end)
                for number, (_, end) in zip(encoding.ids, encoding.offsets, strict=True)
                if number not in forbidden
            ]
            start += len(part)
        return _to_encoded_text(tokens)

    def _split_control_tokens(self, text: str) -> Iterator[str]:
        """Split the text inside the text of every control token."""
        start = 0
        for match in self._control_pattern.finditer(text):
            yield text[start : match.start() + 1]
            start = match.start() + 1
        yield text[start:]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, with control tokens by name."""
        return str(self._backend.decode(list(ids), skip_special_tokens=False))

    def detokenizer(self, context: Sequence[int] = ()) -> Detokenizer:
        """Return a new streaming decoder; `context` are the ids before its first."""
        return Detokenizer(self._backend, list(context))


def _to_encoded_text(tokens: Iterable[tuple[int, int]]) -> EncodedText:
    """Collect ids with their ends, made monotonic."""
    ids, ends = array("I"), array("I")
    covered = 0
    for number, end in tokens:
        covered = max(covered, end)
        ids.append(number)
        ends.append(covered)
    return EncodedText(ids, ends)


def prompt_tokens(
    encoder: PromptEncoder, messages: Sequence[Message], included: Sequence[int]
) -> Iterator[PromptToken]:
    """Yield the tokens of `PromptEncoder.encode` with their text and the message they belong to.

    A token across a boundary belongs to the message in which it starts.

    Args:
        encoder: of the model.
        messages: of the request.
        included: indices of the messages in the prompt, ascending.
    """
    for number in encoder.prefix_ids:
        yield PromptToken(number, encoder.decode([number]), control=True)
    controls = set(encoder.control_tokens.values())
    for run in chat_formats.span_runs(encoder.spans([messages[index] for index in included])):
        encoded = encoder.encode_run(run)
        text = "".join(span.text for span in run)
        start = 0
        for span, positions in zip(run, _token_ranges(run, encoded), strict=True):
            message = None if span.message_index is None else included[span.message_index]
            for index in positions:
                end = len(text) if index == len(encoded.ids) - 1 else encoded.end_offsets[index]
                token = encoded.ids[index]
                yield PromptToken(token, text[start:end], token in controls, message)
                start = end


def count_message_tokens(encoder: PromptEncoder, messages: Sequence[Message]) -> tuple[int, ...]:
    """Count the tokens of each message, with the format's tokens around it."""
    spans = encoder.spans(messages)
    owners = iter(chat_formats.span_owners(spans))
    counts = [0] * len(messages)
    for run in chat_formats.span_runs(spans):
        for positions in _token_ranges(run, encoder.encode_run(run)):
            owner = next(owners)
            if owner is not None:
                counts[owner] += len(positions)
    return tuple(counts)


def _token_ranges(run: Sequence[Span], encoded: EncodedText) -> Iterator[range]:
    """Yield for each span of a run the range of tokens that start in it."""
    first = offset = 0
    for span in run:
        offset += len(span.text)
        end = _count_tokens_before(offset, encoded)
        yield range(first, end)
        first = end


def _count_tokens_before(offset: int, encoded: EncodedText) -> int:
    """Count the tokens that start before a character; all tokens of one character start with it."""
    if offset == 0:
        return 0
    reaching = bisect_left(encoded.end_offsets, offset) + 1
    return min(max(reaching, bisect_right(encoded.end_offsets, offset)), len(encoded.ids))
