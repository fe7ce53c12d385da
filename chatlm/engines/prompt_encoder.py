"""Encode messages as prompt tokens, with control tokens inserted by id only."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import jinja2

from chatlm.engines import chat_formats, generic_tools
from chatlm.engines.chat_formats import CallForm, MessageGroup, Span
from chatlm.engines.chat_template import ChatTemplate
from chatlm.engines.chat_tokenizer import ChatTokenizer, without_prefix_space
from chatlm.engines.detokenizer import Detokenizer, make_token_bytes
from chatlm.engines.fill_in_middle import find_gap_format
from chatlm.engines.image_spans import ImagesNotShown, ImageSpans
from chatlm.engines.model import ImageReader
from chatlm.engines.model_families import (
    GENERIC_CALLS,
    ModelFamily,
    ToolCallFormat,
    find_family,
    thinking_levels,
    thinking_variables,
)
from chatlm.engines.reply_parser import ReplyParser
from chatlm.engines.tracked_text import TEMPLATE, TrackedText, own_ending
from chatlm.errors import ContinuationUnsupported, ModelError
from chatlm.types.messages import Message
from chatlm.types.parts import Image, Reasoning, Text, ToolCall, ToolResult, reasoning_of
from chatlm.types.requests import PromptToken, ToolDefinition
from chatlm.types.sampling import Thinking

PROMPT_FORMATS = ("auto", "template", "chatml", "alpaca", "vicuna", "raw")


MAX_CACHED_TEXTS = 2048
"""Texts whose tokens are cached: a chat's messages are encoded again in every turn."""


MAX_CACHED_TEXT_LENGTH = 8_000
"""Limit of a cached text in characters."""


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
        images: of a model that reads images.

    Raises:
        ModelError: the model cannot be used with the format.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        prompt_format: str,
        eos_token_ids: Iterable[int],
        images: ImageReader | None = None,
    ) -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                "This model's tokenizer has no tokenizer.json",
                hint="Save it with AutoTokenizer.save_pretrained of transformers, then try again.",
            )
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._own_template = images.chat_template if images else None
        self._wants_lists = False
        self.notes: list[str] = []
        self._variables: dict[str, Any] = {}
        self._tools: tuple[ToolDefinition, ...] = ()
        added = self._backend.get_added_tokens_decoder().values()
        self._added_token_ids: dict[str, int] = {
            token.content: self._backend.token_to_id(token.content) for token in added
        }
        self._model_templates = self._compile_model_templates()
        self.family = find_family(
            (
                text
                for template in self._model_templates.values()
                for text in (*template.literals, *template.variables)
            ),
            self._added_token_ids,
        )
        """How the model marks its thoughts and writes tool calls."""
        self.format = self._resolve_format(prompt_format)
        self._template = self._choose_template()
        # a newline is text even as an added token
        possible = {text for text in self._added_token_ids if len(text.strip()) > 1}
        self._token_pattern = _any_of(possible)
        self._images: ImageSpans | None = None
        if images is not None and self.format == "template":
            self._images = ImageSpans(images, self._token_pattern, self._added_token_ids)
            self._wants_lists = not self._takes_texts()
        self._tool_template = self._choose_tool_template()
        if self._tool_template is None and self.format != "raw":
            self.family = replace(self.family, tool_calls=GENERIC_CALLS)
        self.call_form = self._find_call_form()
        """How the template wants the calls of earlier turns."""
        self._takes_left = frozenset(token.content for token in added if token.lstrip)
        self._takes_right = frozenset(token.content for token in added if token.rstrip)
        ends = {
            text for text, number in self._added_token_ids.items() if number in set(eos_token_ids)
        }
        specials = {token.content for token in added if token.special}
        self.control_tokens: dict[str, int] = {}
        """Ids of control tokens by text; no content is ever encoded to these ids."""
        written = self._find_written_tokens()
        if self._images is not None:
            written |= self._images.written_tokens()
        self._guard((specials | ends | written) & possible)
        self.thinking_levels = thinking_levels(self._template.inputs)
        """The values of `Sampling.thinking` that the template follows."""
        self._note_unknown_reasoning()
        self._text_prefix_ids = self._find_text_prefix_ids()
        self.prefix_ids = [] if self.format == "template" else self._text_prefix_ids
        """Ids before the format's own text; a template has its own."""
        self.gap_format = find_gap_format(self._added_token_ids)
        """How the model is asked to fill a gap in a text; None if it cannot."""
        self._is_raw = False
        self._raw: PromptEncoder | None = None
        # set once, since a tokenizer in use by other threads cannot be changed
        self._backend.encode_special_tokens = True
        self._backend.post_processor = None  # it may trim spaces from the offsets
        self._middle_backend = without_prefix_space(self._backend)
        self.token_bytes = make_token_bytes(self._backend)
        """Returns the bytes of a token by its id."""
        self._message_overhead = self._find_message_overhead()

    @property
    def thinks(self) -> bool:
        """Whether anything shows that the model thinks before it answers."""
        return self.family.reasoning is not None or bool(self.thinking_levels)

    def _note_unknown_reasoning(self) -> None:
        """Note that the template knows thoughts, but not in a way that chatlm knows."""
        keeps_thoughts = "reasoning_content" in self._template.source
        if self.family.reasoning is None and (self.thinking_levels or keeps_thoughts):
            self.notes.append(
                "This model seems to think before it answers, but marks its thoughts in a way that "
                "chatlm does not know: they are shown as part of the answer. Please report it."
            )

    def with_options(
        self, thinking: Thinking, tools: Sequence[ToolDefinition] = ()
    ) -> PromptEncoder:
        """Return an encoder that tells the template how much to think, and of the tools.

        Args:
            thinking: how much the model shall think.
            tools: what the model may call; only for a model that `calls_tools`.
        """
        changed = copy.copy(self)
        changed._variables = thinking_variables(thinking)
        changed._tools = tuple(tools)
        if tools and self._tool_template is not None:
            changed._template = self._tool_template
            changed._variables |= self._tool_variables(tools)
        return changed

    def as_raw(self) -> PromptEncoder:
        """Return an encoder of texts without a chat format, see `Request.raw`."""
        if self._raw is None:
            self._raw = changed = copy.copy(self)
            changed._is_raw = True
            changed._images = None
            changed.format = "raw"
            changed.family = ModelFamily("")
            changed.prefix_ids = self._text_prefix_ids
            form = self.gap_format
            tokens = (*form.tokens, *form.ends) if form else ()
            changed._guard(text for text in tokens if text in self._added_token_ids)
        return self._raw

    def _tool_variables(self, tools: Sequence[ToolDefinition]) -> dict[str, Any]:
        """Return the variables that tell a template of tools."""
        form = self.family.tool_calls
        return {form.tools_variable: [tool.to_dict() for tool in tools]} if form else {}

    @property
    def calls_tools(self) -> bool:
        """Whether tools can be described to the model, and its calls can be read."""
        return self.family.tool_calls is not None and self.format != "raw"

    @property
    def knows_tools(self) -> bool:
        """Whether the chat template describes tools to the model, so that it was trained to."""
        return self._tool_template is not None

    @property
    def call_format(self) -> ToolCallFormat:
        """How the model writes tool calls; only for a model that `calls_tools`."""
        if self.family.tool_calls is None:
            raise ValueError("this model calls no tools")
        return self.family.tool_calls

    def end_of_thought(self) -> list[int]:
        """Return the ids that end a thought and begin the answer; none if it does not think."""
        reasoning = self.family.reasoning
        return [] if reasoning is None else self.encode_markers(reasoning.ending)

    def answer_openings(self) -> tuple[list[list[int]], bool]:
        """Return the ids of each marker that may come before the answer, and if one must."""
        reasoning = self.family.reasoning
        if reasoning is None:
            return [], False
        headers = [text for text in reasoning.ignored if reasoning.ending.endswith(text)]
        starts = [text for text in reasoning.starts if text == text.lstrip()]
        openings = [
            text
            for text in (*starts, *headers)
            if not any(other != text and text.endswith(other) for other in reasoning.starts)
        ]
        return [self.encode_markers(text) for text in openings], reasoning.is_sectioned

    def lark_text(self, text: str) -> str:
        """Return a text of the format as a Lark expression, its control tokens by id."""
        return " ".join(
            f"<[{self.control_tokens[span.token]}]>" if span.control else json.dumps(span.text)
            for span in chat_formats.split_control_tokens(text, self._control_pattern)
        )

    def encode_markers(self, text: str) -> list[int]:
        """Return the ids of a text of the format, which may have control tokens."""
        return [
            number
            for span in chat_formats.split_control_tokens(text, self._token_pattern)
            for number in (
                [self._added_token_ids[span.token]] if span.control else self.encode_text(span.text)
            )
        ]

    def _compile_model_templates(self) -> dict[str, ChatTemplate]:
        sources = self._own_template or self._tokenizer.chat_template or {}
        if isinstance(sources, str):
            sources = {"default": sources}
        return {name: self._compile(source) for name, source in sources.items()}

    def _compile(self, source: str) -> ChatTemplate:
        specials = self._tokenizer.special_tokens_map.items()
        return ChatTemplate(source, {name: str(t) for name, t in specials if isinstance(t, str)})

    def _resolve_format(self, requested: str) -> str:
        has_template = bool(self._model_templates)
        has_chatml = "<|im_start|>" in self._added_token_ids
        if requested == "auto":
            if has_template:
                return "template"
            if has_chatml:
                self.notes.append(
                    "This model has no chat template; prompts are in ChatML, since it has its "
                    "tokens. `chatlm config set prompt_format` changes it."
                )
                return "chatml"
            self.notes.append(
                "This is a base model: it has no chat template, so it continues your text instead "
                "of answering. `chatlm config set prompt_format chatml` (or alpaca, or vicuna) "
                "formats messages as a chat."
            )
            return "raw"
        if requested == "template" and not has_template:
            raise ModelError(
                "This model has no chat template of its own",
                hint="Use `chatlm config set prompt_format chatml` (or alpaca, vicuna or raw).",
            )
        if requested == "chatml" and not has_chatml:
            self.notes.append("This model has no ChatML control tokens; they are sent as text.")
        return requested

    def _choose_template(self) -> ChatTemplate:
        if self.format != "template":
            return self._compile(chat_formats.TEMPLATES[self.format])
        templates = self._model_templates
        if "default" in templates or len(templates) == 1:
            return templates.get("default") or next(iter(templates.values()))
        raise ModelError(
            f"This model has several chat templates and no default: {', '.join(sorted(templates))}",
            hint="Use `chatlm config set prompt_format chatml` (or alpaca, vicuna or raw).",
        )

    def _choose_tool_template(self) -> ChatTemplate | None:
        """Return the template for requests with tools, as transformers chooses it."""
        form = self.family.tool_calls
        if self.format != "template" or form is None:
            return None
        template = self._model_templates.get("tool_use", self._template)
        return template if form.tools_variable in template.variables else None

    def _find_call_form(self) -> CallForm:
        """Return how the template wants the calls of earlier turns."""
        form = self.family.tool_calls
        if self._tool_template is None or form is None:
            return "content"
        if form.write is not None and "tool_calls" not in self._tool_template.source:
            return "content"
        groups = chat_formats.group_by_role(_PROBE_CALL)
        chat = self._template_messages(_PROBE_CALL, groups)
        try:
            text = self._tool_template.render(chat, **self._tool_variables([_PROBE_TOOL]))
        except (jinja2.TemplateError, ModelError):
            return "text"
        return "text" if "{'k': 'v'}" in text else "object"  # as Python writes an object

    @property
    def placeholder_id(self) -> int:
        """The id of the tokens in whose place the model reads an image; -1 if it reads none."""
        return -1 if self._images is None else self._images.placeholder_id

    @property
    def reads_images(self) -> bool:
        """Whether prompts may have images."""
        return self._images is not None

    def _takes_texts(self) -> bool:
        """Whether the template takes contents that are texts, not lists of texts and images."""
        messages = [
            Message("system", "first text"),
            Message("user", "second text"),
            Message("assistant", "third text"),
        ]
        for chosen in (messages, messages[1:]):
            chat = chat_formats.template_messages(chosen, chat_formats.group_by_role(chosen))
            with suppress(jinja2.TemplateError, ModelError):
                shown = self._template.render(chat)
                return all(message.text in shown for message in chosen)
        return False

    def _template_messages(
        self,
        messages: Sequence[Message],
        groups: Sequence[MessageGroup],
        call_form: CallForm = "object",
    ) -> list[dict[str, Any]]:
        """Return the messages as the template wants them, without tools that it does not know."""
        return self._as_lists(
            chat_formats.template_messages(messages, groups, self.family.tool_calls, call_form)
        )

    def _as_lists(self, chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not self.reads_images:
            return chat
        return chat_formats.with_content_lists(chat, only_with_images=not self._wants_lists)

    def image_tokens(self, width: int, height: int) -> int:
        """Count the tokens of an image.

        Args:
            width: in pixels.
            height: in pixels.
        """
        spans = self._images.of_size(width, height) if self._images else ()
        runs = chat_formats.span_runs(spans)
        return sum(len(self.encode_run(run).ids) for run in runs)

    def _find_written_tokens(self) -> set[str]:
        """Return the added tokens that a template writes, whole or built from pieces."""
        found: set[str] = set()
        lost = False
        for template in {*self._model_templates.values(), self._template}:
            found.update(self._token_pattern.findall("\0".join(template.literals)))
            for messages in _PROBES:
                with suppress(jinja2.TemplateError, ModelError):
                    groups = chat_formats.group_by_role(messages)
                    chat = self._template_messages(messages, groups)
                    text = template.render(chat, **self._tool_variables([_PROBE_TOOL]))
                    spans = chat_formats.to_spans(text, self._token_pattern)
                    found |= {span.token for span in spans}
                    lost |= any(
                        self._token_pattern.search(span.text)
                        for span in spans
                        if not span.control and span.message_index is None
                    )
        if lost:
            self.notes.append(
                "This model's chat template changes its control tokens in a way that chatlm cannot "
                "follow, so some are sent as plain text and replies may be poor. Please report it."
            )
        return found - {""}

    def _guard(self, texts: Iterable[str]) -> None:
        """Treat these added tokens as control tokens from now on."""
        new = {text: self._added_token_ids[text] for text in texts}
        self.control_tokens = {**self.control_tokens, **new}
        self._control_pattern = _any_of(self.control_tokens)
        self._cached_encode = lru_cache(MAX_CACHED_TEXTS)(self._encode_with_offsets)
        self._long_text_tokens: dict[bytes, int] = {}

    def _find_text_prefix_ids(self) -> list[int]:
        """Return the ids that the tokenizer puts before a text."""
        return [i for i in self._tokenizer.encode("") if i != self._tokenizer.eos_token_id]

    @property
    def eos_token_id(self) -> int | None:
        """Id of the tokenizer's end-of-sequence token."""
        return self._tokenizer.eos_token_id

    @property
    def vocab_size(self) -> int:
        """The tokenizer's largest id + 1; a model may have logits for more."""
        return int(max(self._backend.get_vocab().values())) + 1

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
        form = self.family.tool_calls
        if self.format == "template" and form is not None:
            texts = (text for text in form.end_tokens if text in self._added_token_ids)
            return [[self._added_token_ids[text]] for text in texts]
        if self._is_raw and self.gap_format is not None:
            texts = (text for text in self.gap_format.ends if text in self._added_token_ids)
            return [[self._added_token_ids[text]] for text in texts]
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
        """Render the messages as spans of control tokens, format text and content.

        Raises:
            ModelError: the template refuses the messages.
        """
        if self._is_raw:
            return self._raw_spans(messages)
        spans = self._render_accepted(messages)
        unguarded = {span.token for span in spans if span.control} - self.control_tokens.keys()
        if unguarded:
            self._guard(unguarded)
        return chat_formats.absorb_white_space(spans, self._takes_left, self._takes_right)

    def _raw_spans(self, messages: Sequence[Message]) -> list[Span]:
        """Return the texts, with the control tokens that tell of a gap between two."""
        texts = [Span(each.text, message_index=at) for at, each in enumerate(messages)]
        form = self.gap_format
        if len(texts) < 2 or form is None:
            return texts
        marked = [[self._control(form.before), texts[0]], [self._control(form.after), texts[1]]]
        if form.after_first:
            marked.reverse()
        spans = [*marked[0], *marked[1], self._control(form.middle)]
        return [span for span in spans if span.token or not span.control]

    def _control(self, token: str) -> Span:
        return Span(token, control=True, token=token)

    def _render_accepted(self, messages: Sequence[Message]) -> list[Span]:
        """Render the messages, in another arrangement where the template refuses them or leaves
        images out."""
        groups = chat_formats.group_by_role(messages)
        refusal: jinja2.TemplateError | ImagesNotShown | None = None
        for chat, grouped, has_system, images_apart in (
            (messages, groups, True, False),
            # gpt-oss takes a thought or a text before a tool call, not both
            (chat_formats.without_thoughts_before_calls(messages), groups, True, False),
            # some templates refuse a system role
            (messages, chat_formats.merge_system_into_user(groups, messages), False, False),
            # most show images of users alone, not those of tools
            *([(messages, groups, True, True)] if self.reads_images else []),
        ):
            try:
                text = self._render(chat, grouped, has_system, images_apart)
                spans = chat_formats.to_spans(text, self._token_pattern)
                return self._images.insert(spans, messages) if self._images else spans
            except (jinja2.TemplateError, ImagesNotShown) as error:
                refusal = error
        raise ModelError(
            f"The model's chat template refuses this conversation: {refusal}",
            hint="Try `chatlm config set prompt_format chatml`.",
        ) from refusal

    def _render(
        self,
        messages: Sequence[Message],
        groups: Sequence[MessageGroup],
        has_system: bool,
        images_apart: bool,
    ) -> TrackedText:
        last = messages[-1] if messages else None
        continued = ""
        if last is not None and last.role == "assistant":
            is_thinking = reasoning_of(last.parts) and not last.text
            continued = "reasoning_content" if is_thinking else "content"
        chat = chat_formats.template_messages(
            messages,
            groups,
            self.family.tool_calls,
            self.call_form,
            images_apart=images_apart,
        )
        if self._tool_template is None:
            chat = generic_tools.describe(chat, self._tools, has_system)
        chat = self._as_lists(chat)
        try:
            return self._template.render(chat, continued_field=continued, **self._variables)
        except (ContinuationUnsupported, ModelError):
            if continued != "reasoning_content" or self.family.reasoning is None:
                raise
        # the template leaves thoughts out, this one too
        begun = self._template.render(chat[:-1], **self._variables)
        if not self._is_thought_open(own_ending(begun)):
            form = self.family.reasoning
            begun += TrackedText(form.starts[0].strip() + form.before_end, TEMPLATE)
        thought: TrackedText = chat[-1]["reasoning_content"]
        return begun + thought

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the prompt; control ids occur only where the format has them."""
        ids = list(self.prefix_ids)
        for index, run in enumerate(chat_formats.span_runs(self.spans(messages))):
            ids += self.encode_run(run, is_first=index == 0).ids
        return ids

    def estimate_message_tokens(self, messages: Sequence[Message]) -> list[int]:
        """Estimate the tokens of each message from its content, without rendering the chat."""
        return [
            self._content_tokens(_content_text(message))
            + sum(
                self.image_tokens(part.width, part.height)
                for part in message.parts
                if isinstance(part, Image)
            )
            + self._message_overhead
            for message in messages
        ]

    def _find_message_overhead(self) -> int:
        """Return the tokens that the format puts around a message, on average of a turn."""
        turn = [Message("user", "x"), Message("assistant", "x"), Message("user", "x")]
        with suppress(ModelError):
            added = len(self.encode(turn)) - len(self.encode(turn[:1]))
            return max((added + 1) // 2 - 1, 0)
        return 0

    def _content_tokens(self, text: str) -> int:
        """Count the tokens of a text; each text is encoded only once."""
        if len(text) <= MAX_CACHED_TEXT_LENGTH:
            return len(self._cached_encode(text, False).ids)
        key = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
        if key not in self._long_text_tokens:
            if len(self._long_text_tokens) >= MAX_CACHED_TEXTS:
                self._long_text_tokens.clear()
            self._long_text_tokens[key] = len(self.encode_with_offsets(text).ids)
        return self._long_text_tokens[key]

    def encode_run(self, run: Sequence[Span], is_first: bool = False) -> EncodedText:
        """Encode one run of `chat_formats.span_runs`.

        Args:
            run: a control span, or plain ones.
            is_first: whether the prompt's text starts with it.
        """
        text = "".join(span.text for span in run)
        if run[0].control:
            number = run[0].number
            token = self._added_token_ids[run[0].token] if number is None else number
            return EncodedText(array("I", [token]), array("I", [len(text)]))
        return self.encode_with_offsets(text, is_first)

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of plain text, which never contain a control token."""
        return list(self.encode_with_offsets(text).ids)

    def encode_with_offsets(self, text: str, is_first: bool = False) -> EncodedText:
        """Encode plain text, see `encode_text`, with the end of each token.

        Args:
            text: the characters.
            is_first: whether a prompt starts with them; some tokenizers put a blank before it.
        """
        if len(text) > MAX_CACHED_TEXT_LENGTH:
            return self._encode_with_offsets(text, is_first)
        return self._cached_encode(text, is_first)

    def _encode_with_offsets(self, text: str, is_first: bool) -> EncodedText:
        forbidden = set(self.control_tokens.values())
        backend = self._backend if is_first else self._middle_backend
        text = text.encode("utf-8", "replace").decode()  # tokenizers refuse lone surrogates
        encoding = _encode_plain(backend, text)
        if forbidden.isdisjoint(encoding.ids):
            ends = (end for _, end in encoding.offsets)
            return _to_encoded_text(zip(encoding.ids, ends, strict=True))
        tokens, start = [], 0
        for part in self._split_control_tokens(text):  # added tokens that are not marked special
            tokens += [(number, start + end) for number, end in self._encode_safely(backend, part)]
            start += len(part)
            backend = self._middle_backend
        return _to_encoded_text(tokens)

    def _encode_safely(self, backend: Any, text: str) -> list[tuple[int, int]]:
        """Return ids, none of a control token, and their ends.

        A normalizer may still make a control token of a text that only resembles it; such a text
        is taken apart.
        """
        encoding = _encode_plain(backend, text)
        forbidden = set(self.control_tokens.values())
        tokens = [
            (number, end) for number, (_, end) in zip(encoding.ids, encoding.offsets, strict=True)
        ]
        if forbidden.isdisjoint(encoding.ids):
            return tokens
        if len(text) < 2:
            return [token for token in tokens if token[0] not in forbidden]
        places = [
            start + 1
            for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if number in forbidden and end - start > 1
        ]
        out: list[tuple[int, int]] = []
        for start, end in pairwise([0, *(places or [len(text) // 2]), len(text)]):
            pieces = self._encode_safely(backend, text[start:end])
            out += [(number, start + place) for number, place in pieces]
            backend = self._middle_backend
        return out

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
        """Return a new streaming decoder; `context` are the ids before its first.

        Control tokens give no text, except for those that mark thoughts and tool calls.
        """
        markers = self.family.reasoning.markers if self.family.reasoning else ()
        if self._tools and self.family.tool_calls is not None:
            markers += self.family.tool_calls.markers
        written = "\0".join(markers)
        named = {
            number: text for text, number in self.control_tokens.items() if text and text in written
        }
        return Detokenizer(self._backend, list(context), named)

    def reply_parser(self, messages: Sequence[Message]) -> ReplyParser:
        """Return the parser of a reply to these messages."""
        last = messages[-1] if messages else None
        return ReplyParser(
            self.family,
            {tool.name: tool.parameters for tool in self._tools},
            is_open=self._opens_thought(messages),
            continues=last is not None and last.role == "assistant",
        )

    def _opens_thought(self, messages: Sequence[Message]) -> bool:
        """Return whether the prompt ends inside a thought."""
        if self.family.reasoning is None:
            return False
        written = ""
        for span in reversed(self.spans(messages)):
            index = span.message_index
            if index is not None and messages[index].role != "assistant":
                break
            written = (span.text if index is None else "") + written
        return self._is_thought_open(written)

    def _is_thought_open(self, text: str) -> bool:
        """Return whether a text of the format begins a thought and does not end it."""
        form = self.family.reasoning
        starts, ends = (form.starts, form.ends) if form else ((), ())
        opened = max((text.rfind(marker.strip()) for marker in starts), default=-1)
        return opened > max((text.rfind(marker.strip()) for marker in ends), default=-1)


_PROBE_TOOL = ToolDefinition("x", "x", {"type": "object", "properties": {}})

_PROBE_CALL = [
    Message("user", "x"),
    Message("assistant", (ToolCall("x", "x", '{"k": "v"}'),)),
    Message("tool", (ToolResult("x", "x", "x"),)),
]

_PROBES = [
    [Message("system", "x"), Message("user", "x")],
    [
        Message("user", "x"),
        Message("assistant", (Reasoning("x"), Text("x"))),
        Message("user", "x"),
    ],
    [Message("user", "x"), Message("assistant", "x"), Message("tool", "x")],
    _PROBE_CALL,
]
"""Chats that show which role tokens a template builds from pieces."""


def _content_text(message: Message) -> str:
    """Return what a prompt says of a message, except thoughts, which few templates repeat."""
    texts = [message.text]
    for part in message.parts:
        if isinstance(part, ToolCall):
            texts += [part.name, part.arguments]
        elif isinstance(part, ToolResult):
            texts.append(part.text)
    return "".join(texts)


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern of any of the texts, the longest first; of nothing if there are none."""
    patterns = [re.escape(text) for text in sorted(texts, key=len, reverse=True)]
    return re.compile("|".join(patterns) or r"(?!)")


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
    runs = chat_formats.span_runs(encoder.spans([messages[index] for index in included]))
    for number, run in enumerate(runs):
        encoded = encoder.encode_run(run, is_first=number == 0)
        text = "".join(span.text for span in run)
        start = 0
        for span, positions in zip(run, _token_ranges(run, encoded), strict=True):
            message = None if span.message_index is None else included[span.message_index]
            for index in positions:
                end = len(text) if index == len(encoded.ids) - 1 else encoded.end_offsets[index]
                token = encoded.ids[index]
                if span.number is not None:
                    token = encoder.placeholder_id
                is_control = token in controls
                yield PromptToken(token, text[start:end], is_control, message, span.part)
                start = end


def _encode_plain(backend: Any, text: str) -> Any:
    if len(text) > MAX_CACHED_TEXT_LENGTH:  # only `encode_batch` lets other threads run meanwhile
        return backend.encode_batch([text], add_special_tokens=False)[0]
    return backend.encode(text, add_special_tokens=False)


def count_message_tokens(encoder: PromptEncoder, messages: Sequence[Message]) -> tuple[int, ...]:
    """Count the tokens of each message, with the format's tokens around it."""
    spans = encoder.spans(messages)
    owners = iter(chat_formats.span_owners(spans))
    counts = [0] * len(messages)
    for number, run in enumerate(chat_formats.span_runs(spans)):
        encoded = encoder.encode_run(run, is_first=number == 0)
        for positions in _token_ranges(run, encoded):
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
