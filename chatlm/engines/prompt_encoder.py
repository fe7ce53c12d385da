"""Encode messages as prompt tokens, with control tokens inserted by id only."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress

from chatlm.engines import chat_formats
from chatlm.engines.chat_formats import Span
from chatlm.engines.chat_tokenizer import ChatTokenizer
from chatlm.engines.detokenizer import Detokenizer, make_token_bytes
from chatlm.engines.fill_in_middle import find_gap_format
from chatlm.engines.image_spans import ImageSpans
from chatlm.engines.model import ImageReader
from chatlm.engines.model_families import ModelFamily, ToolCallFormat
from chatlm.engines.prompt_renderer import PromptRenderer
from chatlm.engines.reply_parser import ReplyParser
from chatlm.engines.text_encoder import EncodedText, TextEncoder
from chatlm.errors import ModelError
from chatlm.types.messages import Message
from chatlm.types.parts import Image, ToolCall, ToolResult
from chatlm.types.requests import ToolDefinition
from chatlm.types.sampling import Thinking


class PromptEncoder:
    """An encoder under which no message content can become a control token.

    Args:
        tokenizer: a fast tokenizer.
        prompt_format: one of `chatlm.engines.prompt_renderer.PROMPT_FORMATS`; auto takes the
            model's template, or else ChatML.
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
        added = self._backend.get_added_tokens_decoder().values()
        self._added_token_ids: dict[str, int] = {
            token.content: self._backend.token_to_id(token.content) for token in added
        }
        self._renderer = PromptRenderer(tokenizer, prompt_format, self._added_token_ids, images)
        self.family = self._renderer.family
        """How the model marks its thoughts and writes tool calls."""
        self.format = self._renderer.format
        self.call_form = self._renderer.call_form
        """How the template wants the calls of earlier turns."""
        self.thinking_levels = self._renderer.thinking_levels
        """The values of `Sampling.thinking` that the template follows."""
        self._tools: tuple[ToolDefinition, ...] = ()
        self._takes_left = frozenset(token.content for token in added if token.lstrip)
        self._takes_right = frozenset(token.content for token in added if token.rstrip)
        ends = {
            text for text, number in self._added_token_ids.items() if number in set(eos_token_ids)
        }
        specials = {token.content for token in added if token.special}
        guarded = specials | ends | self._renderer.find_written_tokens()
        self.notes = self._renderer.notes + self._notes_of_reasoning()
        self._text_prefix_ids = self._find_text_prefix_ids()
        self.prefix_ids = [] if self.format == "template" else self._text_prefix_ids
        """Ids before the format's own text; a template has its own."""
        self.gap_format = find_gap_format(self._added_token_ids)
        """How the model is asked to fill a gap in a text; None if it cannot."""
        self._is_raw = False
        self._raw: PromptEncoder | None = None
        self._texts = TextEncoder(
            self._backend, self._added_token_ids, guarded & self._renderer.possible_tokens
        )
        self.token_bytes = make_token_bytes(self._backend)
        """Returns the bytes of a token by its id."""
        self._message_overhead = self._find_message_overhead()

    @property
    def thinks(self) -> bool:
        """Whether anything shows that the model thinks before it answers."""
        return self.family.reasoning is not None or bool(self.thinking_levels)

    def _notes_of_reasoning(self) -> list[str]:
        """Note that the template knows thoughts, but not in a way that chatlm knows."""
        if self.family.reasoning is not None:
            return []
        if not self.thinking_levels and not self._renderer.keeps_thoughts:
            return []
        return [
            "This model seems to think before it answers, but marks its thoughts in a way that "
            "chatlm does not know: they are shown as part of the answer. Please report it."
        ]

    def with_options(
        self, thinking: Thinking, tools: Sequence[ToolDefinition] = ()
    ) -> PromptEncoder:
        """Return an encoder that tells the template how much to think, and of the tools.

        Args:
            thinking: how much the model shall think.
            tools: what the model may call; only for a model that `calls_tools`.
        """
        changed = copy.copy(self)
        changed._renderer = self._renderer.with_options(thinking, tools)
        changed._tools = tuple(tools)
        return changed

    def as_raw(self) -> PromptEncoder:
        """Return an encoder of texts without a chat format, see `Request.raw`."""
        if self._raw is None:
            self._raw = changed = copy.copy(self)
            changed._is_raw = True
            changed.format = "raw"
            changed.family = ModelFamily("")
            changed.prefix_ids = self._text_prefix_ids
            form = self.gap_format
            tokens = (*form.tokens, *form.ends) if form else ()
            changed._texts = self._texts.guarding(
                text for text in tokens if text in self._added_token_ids
            )
        return self._raw

    @property
    def control_tokens(self) -> dict[str, int]:
        """Ids of control tokens by text; no content is ever encoded to these ids."""
        return self._texts.control_tokens

    @property
    def calls_tools(self) -> bool:
        """Whether tools can be described to the model, and its calls can be read."""
        return self.family.tool_calls is not None and self.format != "raw"

    @property
    def knows_tools(self) -> bool:
        """Whether the chat template describes tools to the model, so that it was trained to."""
        return self._renderer.knows_tools

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
            for span in chat_formats.split_control_tokens(text, self._texts.control_pattern)
        )

    def encode_markers(self, text: str) -> list[int]:
        """Return the ids of a text of the format, which may have control tokens."""
        return [
            number
            for span in chat_formats.split_control_tokens(text, self._renderer.token_pattern)
            for number in (
                [self._added_token_ids[span.token]] if span.control else self.encode_text(span.text)
            )
        ]

    @property
    def placeholder_id(self) -> int:
        """The id of the tokens in whose place the model reads an image; -1 if it reads none."""
        return self._images.placeholder_id if self._images else -1

    @property
    def reads_images(self) -> bool:
        """Whether prompts may have images."""
        return self._images is not None

    @property
    def _images(self) -> ImageSpans | None:
        return None if self._is_raw else self._renderer.images

    def image_tokens(self, width: int, height: int) -> int:
        """Count the tokens of an image.

        Args:
            width: in pixels.
            height: in pixels.
        """
        spans = self._images.of_size(width, height) if self._images else ()
        runs = chat_formats.span_runs(spans)
        return sum(len(self.encode_run(run).ids) for run in runs)

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
        spans = self._renderer.render(messages)
        unguarded = {span.token for span in spans if span.control} - self.control_tokens.keys()
        if unguarded:
            self._texts = self._texts.guarding(unguarded)
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

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the prompt; control ids occur only where the format has them."""
        ids = list(self.prefix_ids)
        for index, run in enumerate(chat_formats.span_runs(self.spans(messages))):
            ids += self.encode_run(run, is_first=index == 0).ids
        return ids

    def estimate_message_tokens(self, messages: Sequence[Message]) -> list[int]:
        """Estimate the tokens of each message from its content, without rendering the chat."""
        return [
            self._texts.count_tokens(_content_text(message))
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

    def encode_run(self, run: Sequence[Span], is_first: bool = False) -> EncodedText:
        """Encode one run of `chat_formats.span_runs`, see `TextEncoder.encode_run`."""
        return self._texts.encode_run(run, is_first)

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of plain text, which never contain a control token."""
        return list(self._texts.encode_with_offsets(text).ids)

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
        form = self.family.reasoning
        if form is None:
            return False
        written = ""
        for span in reversed(self.spans(messages)):
            index = span.message_index
            if index is not None and messages[index].role != "assistant":
                break
            written = (span.text if index is None else "") + written
        return form.is_open_after(written)


def _content_text(message: Message) -> str:
    """Return what a prompt says of a message, except thoughts, which few templates repeat."""
    texts = [message.text]
    for part in message.parts:
        if isinstance(part, ToolCall):
            texts += [part.name, part.arguments]
        elif isinstance(part, ToolResult):
            texts.append(part.text)
    return "".join(texts)
