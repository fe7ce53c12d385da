"""Between messages and token ids for one model: its tokenizer and its prompt format."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2

from chatlm import chatml
from chatlm.chatml import Span
from chatlm.engines.detokenize import Detokenizer, bytes_of
from chatlm.errors import ModelError
from chatlm.messages import Message

FORMATS = ("auto", "template", "chatml", "alpaca", "vicuna")

MOST_REMEMBERED = 2048
"""Texts whose tokens are kept; a chat's messages are encoded again and again."""

LONGEST_REMEMBERED = 8_000
"""Characters of such a text."""


@dataclass(frozen=True)
class Encoded:
    """The tokens of a plain text."""

    ids: array[int]
    ends: array[int]
    """Up to where the text is covered, in characters, once each token is there; never falls."""


class PromptTokenizer:
    """Encodes messages so that no content becomes a control token.

    Args:
        tokenizer: a fast tokenizer of transformers.
        prompt_format: one of `FORMATS`; auto takes the model's own template, else ChatML.
        end_ids: ids that end a reply, from the generation config.

    Raises:
        ModelError: the model cannot be used with that format.
    """

    def __init__(self, tokenizer: Any, prompt_format: str, end_ids: Iterable[int]) -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                "This model's tokenizer has no tokenizer.json",
                hint="Save it with AutoTokenizer.save_pretrained of transformers, then try again.",
            )
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self.notes: list[str] = []
        added = self._backend.get_added_tokens_decoder()
        self._ids: dict[str, int] = {token.content: number for number, token in added.items()}
        self.format = self._resolve(prompt_format)
        own = tokenizer.chat_template or "" if self.format == "template" else ""
        specials = {token.content for token in added.values() if token.special}
        written = {text for text in self._ids if text in own}
        end_texts = {text for text, number in self._ids.items() if number in set(end_ids)}
        self.controls: dict[str, int] = {
            text: self._ids[text]
            for text in specials | written | end_texts
            if len(text.strip()) > 1  # a line end, say, is text even where it is an added token
        }
        """Every control token's text and id; ids that no content is ever encoded to."""
        self._guarded = re.compile(
            "|".join(re.escape(text) for text in sorted(self.controls, key=len, reverse=True))
            or r"(?!)"
        )
        self._render = self._renderer()
        self.begin = self._beginning()
        """Ids that stand before everything the format writes."""
        # set once: a tokenizer that other threads are using refuses to be changed
        self._backend.encode_special_tokens = True
        self._backend.post_processor = None  # it may take the blanks out of the tokens' offsets
        self._remembered = lru_cache(MOST_REMEMBERED)(self._encoded)
        self.token_bytes = bytes_of(self._backend)
        """What a token stands for, by its id."""

    def _resolve(self, wanted: str) -> str:
        has_template = bool(self._tokenizer.chat_template)
        if wanted == "auto":
            wanted = "template" if has_template else "chatml"
            if not has_template:
                self.notes.append(
                    "This model has no chat template; it is spoken to in ChatML, "
                    "which it may not have learned. `chatlm config set prompt_format` changes it."
                )
        if wanted == "template" and not has_template:
            raise ModelError(
                "This model has no chat template of its own",
                hint="Use `chatlm config set prompt_format chatml` (or alpaca, or vicuna).",
            )
        if wanted == "chatml" and "<|im_start|>" not in self._ids:
            self.notes.append("This model has no ChatML control tokens; they are sent as text.")
        return wanted

    def _renderer(self) -> chatml.Render:
        if self.format == "template":
            return chatml.template(self._apply, self.controls)
        if self.format == "vicuna":
            return chatml.vicuna(self._tokenizer.eos_token or "")
        return {"chatml": chatml.chatml, "alpaca": chatml.alpaca}[self.format]

    def _apply(self, messages: list[dict[str, str]], go_on: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=not go_on,
                continue_final_message=go_on,
            )
        )

    def _beginning(self) -> list[int]:
        """What the tokenizer puts before a text by itself; a template writes its own."""
        if self.format == "template":
            return []
        return [i for i in self._tokenizer.encode("") if i != self._tokenizer.eos_token_id]

    @property
    def end_id(self) -> int | None:
        """The tokenizer's own end-of-sequence token."""
        end: int | None = self._tokenizer.eos_token_id
        return end

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """What a model writes that goes on with the user's part, in a format of plain text."""
        heads = {"alpaca": (chatml.ALPACA_STOP,), "vicuna": (chatml.VICUNA_STOP,)}
        if self.format == "chatml" and "<|im_end|>" not in self._ids:
            return ("<|im_end|>", "<|im_start|>")
        return heads.get(self.format, ())

    @property
    def end_sequences(self) -> list[list[int]]:
        """Token sequences by which the format ends a turn."""
        if self.format != "chatml":
            return []
        ends = ("<|im_end|>", "<|im_start|>")
        return [[self._ids[text]] if text in self._ids else self.encode_text(text) for text in ends]

    def spans(self, messages: Sequence[Message]) -> list[Span]:
        """The prompt, with what is control and what is whose content."""
        groups = chatml.grouped(messages)
        try:
            return chatml.write(self._render, messages, groups)
        except jinja2.TemplateError:
            try:  # some templates refuse a system role
                groups = chatml.without_system_role(groups, messages)
                return chatml.write(self._render, messages, groups)
            except jinja2.TemplateError as error:
                raise ModelError(
                    f"The model's chat template refuses this conversation: {error}",
                    hint="Try `chatlm config set prompt_format chatml`.",
                ) from error

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the whole prompt; control ids stand only where the format put them."""
        ids = list(self.begin)
        for run in chatml.runs(self.spans(messages)):
            ids += self.encode_run(run).ids
        return ids

    def encode_run(self, run: Sequence[Span]) -> Encoded:
        """Tokens of one of `chatml.runs`."""
        text = "".join(span.text for span in run)
        if self.is_control(run[0]):
            return Encoded(array("I", [self._ids[text]]), array("I", [len(text)]))
        return self.encoded(text)

    def is_control(self, span: Span) -> bool:
        """Whether the span is a control token, and the model has it."""
        return span.control and span.text in self._ids

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text, in which no control token can appear whatever the text says."""
        return list(self.encoded(text).ids)

    def encoded(self, text: str) -> Encoded:
        """Tokens of plain text, like `encode_text`."""
        if len(text) > LONGEST_REMEMBERED:
            return self._encoded(text)
        return self._remembered(text)

    def _encoded(self, text: str) -> Encoded:
        forbidden = set(self.controls.values())
        text = text.encode("utf-8", "replace").decode()  # no tokenizer takes lone surrogates
        whole = self._backend.encode(text, add_special_tokens=False)
        if forbidden.isdisjoint(whole.ids):
            return _covering(zip(whole.ids, (end for _, end in whole.offsets), strict=True))
        tokens, start = [], 0
        for part in self._broken(text):  # added tokens that are not marked special
            piece = self._backend.encode(part, add_special_tokens=False)
            tokens += [
                (number, start + end)
                for number, (_, end) in zip(piece.ids, piece.offsets, strict=True)
                if number not in forbidden
            ]
            start += len(part)
        return _covering(tokens)

    def _broken(self, text: str) -> Iterator[str]:
        """The text in pieces, cut inside every control token's name."""
        start = 0
        for match in self._guarded.finditer(text):
            yield text[start : match.start() + 1]
            start = match.start() + 1
        yield text[start:]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, control tokens included by their names."""
        return str(self._backend.decode(list(ids), skip_special_tokens=False))

    def detokenizer(self, context: Sequence[int] = ()) -> Detokenizer:
        """A fresh stream of text; `context` are ids that stand before."""
        return Detokenizer(self._backend, list(context))


def _covering(tokens: Iterable[tuple[int, int]]) -> Encoded:
    """From ids, each with where it ends."""
    ids, ends = array("I"), array("I")
    covered = 0
    for number, end in tokens:
        covered = max(covered, end)
        ids.append(number)
        ends.append(covered)
    return Encoded(ids, ends)
