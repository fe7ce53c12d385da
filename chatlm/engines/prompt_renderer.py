"""Render messages with a chat template, as spans of control tokens, format text and content."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import jinja2

from chatlm.engines import chat_formats, generic_tools
from chatlm.engines.chat_formats import CallForm, MessageGroup, Span
from chatlm.engines.chat_template import ChatTemplate
from chatlm.engines.chat_tokenizer import ChatTokenizer
from chatlm.engines.image_spans import ImagesNotShown, ImageSpans
from chatlm.engines.model import ImageReader
from chatlm.engines.model_families import (
    GENERIC_CALLS,
    find_family,
    thinking_levels,
    thinking_variables,
)
from chatlm.engines.text_encoder import any_of
from chatlm.engines.tracked_text import TEMPLATE, TrackedText, own_ending
from chatlm.errors import ContinuationUnsupported, ModelError
from chatlm.types.messages import Message
from chatlm.types.parts import Reasoning, Text, ToolCall, ToolResult, reasoning_of
from chatlm.types.requests import ToolDefinition
from chatlm.types.sampling import Thinking

PROMPT_FORMATS = ("auto", "template", "chatml", "alpaca", "vicuna", "raw")


class PromptRenderer:
    """The chat format of a model: its own template, or one of `chat_formats.TEMPLATES`.

    Args:
        tokenizer: of the model.
        prompt_format: one of `PROMPT_FORMATS`; auto takes the model's template, or else ChatML.
        token_ids: ids of the tokenizer's added tokens by text.
        images: of a model that reads images.

    Raises:
        ModelError: the model cannot be used with the format.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        prompt_format: str,
        token_ids: Mapping[str, int],
        images: ImageReader | None = None,
    ) -> None:
        self.notes: list[str] = []
        specials = tokenizer.special_tokens_map.items()
        self._special_tokens = {name: str(t) for name, t in specials if isinstance(t, str)}
        sources = (images.chat_template if images else None) or tokenizer.chat_template or {}
        if isinstance(sources, str):
            sources = {"default": sources}
        self._model_templates = {name: self._compile(source) for name, source in sources.items()}
        self.family = find_family(
            (
                text
                for template in self._model_templates.values()
                for text in (*template.literals, *template.variables)
            ),
            token_ids,
        )
        """How the model marks its thoughts and writes tool calls."""
        self.format = self._resolve_format(prompt_format, token_ids)
        """One of `PROMPT_FORMATS`, but not auto."""
        self._template = self._choose_template()
        # a newline is text even as an added token
        self.possible_tokens = frozenset(text for text in token_ids if len(text.strip()) > 1)
        """Texts of the tokens that are control tokens where the template writes them."""
        self.token_pattern = any_of(self.possible_tokens)
        """Matches the text of any of them."""
        self.images: ImageSpans | None = None
        """What stands for images in prompts; None if the model reads none."""
        self._wants_lists = False
        if self.format == "template":
            self._wants_lists = not self._shows_texts(as_lists=False) and (
                images is not None or self._shows_texts(as_lists=True)
            )
        if images is not None and self.format == "template":
            self.images = ImageSpans(images, self.token_pattern, token_ids)
        self._variables: dict[str, Any] = {}
        self._tools: tuple[ToolDefinition, ...] = ()
        self._tool_template = self._choose_tool_template()
        if self._tool_template is None and self.format != "raw":
            self.family = replace(self.family, tool_calls=GENERIC_CALLS)
        self.call_form = self._find_call_form()
        """How the template wants the calls of earlier turns."""
        self.thinking_levels = thinking_levels(self._template.inputs)
        """The values of `Sampling.thinking` that the template follows."""

    @property
    def knows_tools(self) -> bool:
        """Whether the chat template describes tools to the model, so that it was trained to."""
        return self._tool_template is not None

    @property
    def keeps_thoughts(self) -> bool:
        """Whether the template reads the thoughts of earlier turns."""
        return "reasoning_content" in self._template.source

    def with_options(
        self, thinking: Thinking, tools: Sequence[ToolDefinition] = ()
    ) -> PromptRenderer:
        """Return a renderer that tells the template how much to think, and of the tools.

        Args:
            thinking: how much the model shall think.
            tools: what the model may call.
        """
        changed = copy.copy(self)
        changed._variables = thinking_variables(thinking)
        changed._tools = tuple(tools)
        if tools and self._tool_template is not None:
            changed._template = self._tool_template
            changed._variables |= self._tool_variables(tools)
        return changed

    def _tool_variables(self, tools: Sequence[ToolDefinition]) -> dict[str, Any]:
        """Return the variables that tell a template of tools."""
        form = self.family.tool_calls
        return {form.tools_variable: [tool.to_dict() for tool in tools]} if form else {}

    def _compile(self, source: str) -> ChatTemplate:
        return ChatTemplate(source, self._special_tokens)

    def _resolve_format(self, requested: str, token_ids: Mapping[str, int]) -> str:
        has_template = bool(self._model_templates)
        has_chatml = "<|im_start|>" in token_ids
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

    def _shows_texts(self, *, as_lists: bool) -> bool:
        """Whether the template shows contents that are texts, or lists of texts and images."""
        messages = [
            Message("system", "first text"),
            Message("user", "second text"),
            Message("assistant", "third text"),
        ]
        for chosen in (messages, messages[1:]):
            chat = chat_formats.template_messages(chosen, chat_formats.group_by_role(chosen))
            if as_lists:
                chat = chat_formats.with_content_lists(chat, only_with_images=False)
            with suppress(jinja2.TemplateError, ModelError):
                shown = self._template.render(chat)
                return all(message.text in shown for message in chosen)
        return False

    def _template_messages(
        self, messages: Sequence[Message], groups: Sequence[MessageGroup]
    ) -> list[dict[str, Any]]:
        """Return the messages as the template wants them, without tools that it does not know."""
        return self._as_lists(
            chat_formats.template_messages(messages, groups, self.family.tool_calls)
        )

    def _as_lists(self, chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.images is None and not self._wants_lists:
            return chat
        return chat_formats.with_content_lists(chat, only_with_images=not self._wants_lists)

    def find_written_tokens(self) -> set[str]:
        """Return the added tokens that a template writes, whole or built from pieces."""
        found: set[str] = set()
        lost = False
        for template in {*self._model_templates.values(), self._template}:
            found.update(self.token_pattern.findall("\0".join(template.literals)))
            for messages in _PROBES:
                with suppress(jinja2.TemplateError, ModelError):
                    groups = chat_formats.group_by_role(messages)
                    chat = self._template_messages(messages, groups)
                    text = template.render(chat, **self._tool_variables([_PROBE_TOOL]))
                    spans = chat_formats.to_spans(text, self.token_pattern)
                    found |= {span.token for span in spans}
                    lost |= any(
                        self.token_pattern.search(span.text)
                        for span in spans
                        if not span.control and span.message_index is None
                    )
        if lost:
            self.notes.append(
                "This model's chat template changes its control tokens in a way that chatlm cannot "
                "follow, so some are sent as plain text and replies may be poor. Please report it."
            )
        if self.images is not None:
            found |= self.images.written_tokens()
        return found - {""}

    def render(self, messages: Sequence[Message]) -> list[Span]:
        """Render the messages, in another arrangement where the template refuses them or leaves
        images out.

        Raises:
            ModelError: the template refuses all of them.
        """
        groups = chat_formats.group_by_role(messages)
        refusal: jinja2.TemplateError | ImagesNotShown | None = None
        for chat, grouped, has_system, images_apart in (
            (messages, groups, True, False),
            # gpt-oss takes a thought or a text before a tool call, not both
            (chat_formats.without_thoughts_before_calls(messages), groups, True, False),
            # some templates refuse a system role
            (messages, chat_formats.merge_system_into_user(groups, messages), False, False),
            # most show images of users alone, not those of tools
            *([(messages, groups, True, True)] if self.images is not None else []),
        ):
            try:
                text = self._render(chat, grouped, has_system, images_apart)
                spans = chat_formats.to_spans(text, self.token_pattern)
                return self.images.insert(spans, messages) if self.images else spans
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
            form = self.family.reasoning
            if continued != "reasoning_content" or form is None:
                raise
        # the template leaves thoughts out, this one too
        begun = self._template.render(chat[:-1], **self._variables)
        if not form.is_open_after(own_ending(begun)):
            begun += TrackedText(form.starts[0].strip() + form.before_end, TEMPLATE)
        thought: TrackedText = chat[-1]["reasoning_content"]
        return begun + thought


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
