"""Between messages and token ids for one model: its tokenizer and its prompt format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jinja2

from chatlm import chatml
from chatlm.chatml import Span
from chatlm.engines.detokenize import Detokenizer
from chatlm.errors import ModelError
from chatlm.messages import Message

FORMATS = ("auto", "template", "chatml", "alpaca", "vicuna")


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
        self._begin = self._beginning()

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
        messages = chatml.joined(messages)
        try:
            return self._render(messages)
        except jinja2.TemplateError:
            try:  # some templates refuse a system role
                return self._render(chatml.without_system_role(messages))
            except jinja2.TemplateError as error:
                raise ModelError(
                    f"The model's chat template refuses this conversation: {error}",
                    hint="Try `chatlm config set prompt_format chatml`.",
                ) from error

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the whole prompt; control ids stand only where the format put them."""
        ids = list(self._begin)
        for run in chatml.runs(self.spans(messages)):
            if run.control and run.text in self._ids:
                ids.append(self._ids[run.text])
            else:
                ids.extend(self.encode_text(run.text))
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text, in which no control token can appear whatever the text says."""
        self._backend.encode_special_tokens = True
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        forbidden = self.controls.values()
        if not set(ids).isdisjoint(forbidden):  # added tokens that are not marked special
            ids = []
            for part in self._broken(text):
                ids += self._backend.encode(part, add_special_tokens=False).ids
            ids = [number for number in ids if number not in forbidden]
        return ids

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
