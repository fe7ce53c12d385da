"""Constrained decoding: only tokens that keep the answer within a JSON schema or a grammar.

llguidance computes which tokens may come next; what is chosen among them is up to the sampler.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark
from torch import Tensor

from chatlm.engines.prompt_encoder import PromptEncoder
from chatlm.errors import EngineError, UsageError
from chatlm.text import one_line
from chatlm.types.requests import Request
from chatlm.types.schemas import Grammar, Schema

JSON_OPTIONS: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is written: on one line, as Python does, so that a weak model cannot fill the reply with
white space."""

MAX_STRING, MAX_ITEMS, MAX_PROPERTIES = 1000, 32, 16
"""Limits in characters, items and keys where a schema has none: a weak model may find no end."""

MAX_INTEGER = 2**53 - 1
"""Likewise, the largest integer that all programs read from JSON."""

MAX_FORCED = 256
"""Tokens that are taken at once where the grammar leaves no choice."""

_CACHED_GRAMMARS = 32


class Constraint:
    """What one answer may still be; begins once the model has ended its thoughts.

    Args:
        matcher: at the start of the grammar, or after the text that is continued.
        is_begun: whether the answer continues a text.
    """

    def __init__(self, matcher: LLMatcher, is_begun: bool) -> None:
        self._matcher = matcher
        self._is_begun = is_begun
        self._openings: list[tuple[int, ...]] = []
        """Token sequences of which one may come before the answer."""
        self._needs_opening = False
        self._opened: tuple[int, ...] = ()
        """Tokens of an opening so far."""
        self._mask = np.zeros(0, dtype=np.int32)

    def expect(self, openings: Iterable[Sequence[int]], is_required: bool) -> None:
        """Let a marker come before the answer, such as one that begins a thought.

        Args:
            openings: ids of each marker.
            is_required: whether one of them must come.
        """
        if not self._is_begun:
            self._openings = [tuple(opening) for opening in openings]
            self._needs_opening = is_required and bool(self._openings)

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole and cannot go on."""
        return bool(self._matcher.is_stopped())

    def apply(self, logits: Tensor) -> Tensor:
        """Set the logits of all tokens that may not come next to -inf.

        Args:
            logits: (vocab_size,)

        Raises:
            EngineError: the grammar has become too complex.
        """
        forbidden = torch.from_numpy(self._forbidden(len(logits)))
        return logits.masked_fill(forbidden.to(logits.device), -torch.inf)

    def accept(self, token: int) -> None:
        """Take the chosen token; call it for tokens outside thoughts only.

        Raises:
            EngineError: the grammar does not allow it.
        """
        opened = (*self._opened, token)
        if any(opening[: len(opened)] == opened for opening in self._openings):
            self._opened = opened
            if opened in self._openings:
                self._begin()
            return
        self._begin()
        if not self._matcher.consume_token(token):
            raise EngineError(f"The reply left its grammar: {self._matcher.get_error()[:300]}")

    def forced_tokens(self) -> list[int]:
        """Return the tokens that come next because there is no choice; often none."""
        if self._openings or self.is_complete:
            return []
        return list(self._matcher.compute_ff_tokens()[:MAX_FORCED])

    def _begin(self) -> None:
        """Go on to the answer itself."""
        self._openings, self._opened, self._needs_opening = [], (), False

    def _forbidden(self, vocab_size: int) -> Any:
        """Return which tokens may not come next: (vocab_size,), bool."""
        place = len(self._opened)
        opening = {each[place] for each in self._openings if each[:place] == self._opened}
        if place or self._needs_opening:
            forbidden = np.ones(vocab_size, dtype=bool)
        else:
            words = (vocab_size + 31) // 32
            if len(self._mask) != words:
                self._mask = np.zeros(words, dtype=np.int32)
            self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
            if self._matcher.is_error():
                raise EngineError(f"The grammar is too complex: {self._matcher.get_error()[:300]}")
            bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little")
            forbidden = bits[:vocab_size] == 0
        forbidden[list(opening)] = False
        return forbidden


class ConstraintCompiler:
    """Compiles schemas and grammars for one tokenizer; takes a second the first time.

    Args:
        encoder: of the model's prompts.
        end_ids: of tokens that end a reply.
    """

    def __init__(self, encoder: PromptEncoder, end_ids: Iterable[int]) -> None:
        self._encoder = encoder
        self._end_ids = sorted(set(end_ids))
        self._tokenizer: LLTokenizer | None = None
        self._compiled: dict[str, LLMatcher] = {}
        """Matchers at their start, by their grammar; the newest last."""

    def compile(self, request: Request) -> Constraint | None:
        """Return the constraint of a request's answer; None if it has none.

        Args:
            request: if its last message is the assistant's, the answer continues it.

        Raises:
            UsageError: the schema or grammar is invalid, cannot be followed, or does not allow the
                beginning of the reply.
        """
        grammar = self._grammar(request)
        if grammar is None:
            return None
        if request.tools:
            raise UsageError(
                "A schema or grammar cannot be combined with tools", hint="Use one of them."
            )
        matcher = self._matcher(grammar)
        last = request.messages[-1] if request.messages else None
        begun = last.text if last is not None and last.role == "assistant" else ""
        if begun and self._tokenizer is not None:
            ids = self._tokenizer.tokenize_bytes(begun.encode())
            if matcher.try_consume_tokens(ids) < len(ids):
                raise UsageError(
                    "The beginning of the reply does not fit the schema or grammar",
                    hint="Continue it without one, or regenerate the reply.",
                )
        return Constraint(matcher, bool(begun))

    def _grammar(self, request: Request) -> str | None:
        if request.schema is not None:
            return compile_schema(request.schema)
        return None if request.grammar is None else compile_grammar(request.grammar)

    def _matcher(self, grammar: str) -> LLMatcher:
        if self._tokenizer is None:
            if not self._end_ids:
                raise UsageError(
                    "This model has no token that ends a reply, so it cannot follow a schema",
                    hint="Choose another model.",
                )
            vocabulary: Any = _Vocabulary(self._encoder, self._end_ids)
            self._tokenizer = LLTokenizer(
                vocabulary, n_vocab=len(vocabulary.tokens), eos_token=self._end_ids
            )
        matcher = self._compiled.pop(grammar, None)
        if matcher is None:
            matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LLParserLimits())
            if matcher.is_error():
                raise _unsupported(matcher.get_error())
        self._compiled[grammar] = matcher
        if len(self._compiled) > _CACHED_GRAMMARS:
            del self._compiled[next(iter(self._compiled))]
        return matcher.deep_copy()


def _unsupported(message: str) -> UsageError:
    return UsageError(
        f"This schema or grammar cannot be followed: {one_line(message, 300)}",
        hint="Leave out what is named, or check the reply yourself.",
    )


class _Vocabulary:
    """A tokenizer in the form that llguidance reads.

    Args:
        encoder: of the model's prompts.
        ends: ids of tokens that end a reply.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, encoder: PromptEncoder, ends: Sequence[int]) -> None:
        self.eos_token_id = ends[0]
        self.special_token_ids = sorted({*encoder.control_tokens.values(), *ends})
        self.tokens = [encoder.token_bytes(number) for number in range(encoder.vocab_size)]
        self._encode = encoder.encode_text

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode())


def compile_schema(schema: Schema) -> str:
    """Return a schema as llguidance reads it, with limits where the schema has none.

    Raises:
        UsageError: it cannot be followed; the message names the keyword.
    """
    try:
        return str(
            LLMatcher.grammar_from_json_schema(json.dumps(bounded(schema)), overrides=JSON_OPTIONS)
        )
    except ValueError as error:
        raise _unsupported(str(error)) from None


def compile_grammar(grammar: Grammar) -> str:
    """Return a grammar as llguidance reads it.

    Raises:
        UsageError: it is not valid GBNF.
    """
    if grammar.kind == "regex":
        return str(LLMatcher.grammar_from_regex(grammar.text))
    text = grammar.text
    if grammar.kind == "gbnf":
        try:
            text = gbnf_to_lark(text)
        except Exception as error:  # a parser written for well-formed grammars
            raise _unsupported(f"{type(error).__name__}: {error}") from None
    return str(LLMatcher.grammar_from_lark(text))


def bounded(schema: Schema) -> dict[str, Any]:
    """Return a stricter schema, whose strings, arrays, objects and integers are bounded.

    Objects that name their properties get no others, unless the schema says so. What fits the
    result fits the schema too.
    """
    return dict(_bound(schema, frozenset()))


_SCHEMA_KEYWORDS = (
    "items", "additionalProperties", "additionalItems", "contains", "propertyNames",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_FIXED = ("enum", "const", "$ref", "anyOf", "oneOf", "allOf", "not", "if")
"""Keywords beside which a `type` alone says little."""


def _bound(schema: Any, siblings: frozenset[str]) -> Any:
    """Bound a schema and those inside it.

    Args:
        schema: a schema, or true or false.
        siblings: properties that `allOf` adds from elsewhere, so that the object stays open.
    """
    if not isinstance(schema, Mapping):
        return schema
    out = dict(schema)
    open_object = siblings or "allOf" in schema or "$ref" in schema
    for key in _SCHEMA_MAPS:
        if isinstance(schema.get(key), Mapping):
            out[key] = {name: _bound(each, frozenset()) for name, each in schema[key].items()}
    for key in _SCHEMA_LISTS:
        if isinstance(schema.get(key), list):
            inner = frozenset({"allOf"}) if key == "allOf" or "properties" in schema else siblings
            out[key] = [
                _bound(each, inner if key in ("anyOf", "oneOf", "allOf") else frozenset())
                for each in schema[key]
            ]
    for key in _SCHEMA_KEYWORDS:
        if isinstance(schema.get(key), Mapping):
            out[key] = _bound(schema[key], frozenset())
    if any(key in schema for key in _FIXED):
        return out
    types = _types(schema)
    if "string" in types and not {"maxLength", "pattern", "format"} & schema.keys():
        out["maxLength"] = max(MAX_STRING, schema.get("minLength", 0))
    if "array" in types and "maxItems" not in schema:
        out["maxItems"] = max(MAX_ITEMS, schema.get("minItems", 0))
    if "integer" in types and not {"maximum", "exclusiveMaximum", "multipleOf"} & schema.keys():
        out["maximum"] = max(MAX_INTEGER, schema.get("minimum", 0))
    if "integer" in types and not {"minimum", "exclusiveMinimum", "multipleOf"} & schema.keys():
        out["minimum"] = min(-MAX_INTEGER, schema.get("maximum", 0))
    if "object" in types and "patternProperties" not in schema and not open_object:
        if schema.get("properties") and "unevaluatedProperties" not in schema:
            out.setdefault("additionalProperties", False)
        elif "maxProperties" not in schema and "properties" not in schema:
            out["maxProperties"] = max(
                MAX_PROPERTIES, schema.get("minProperties", 0), len(schema.get("required", ()))
            )
    return out


def _types(schema: Schema) -> frozenset[str]:
    """Return the types that a schema names, or that its keywords are about."""
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(named) - {"integer"}
    if "properties" in schema:
        return frozenset({"object"})
    return frozenset({"array"}) if "items" in schema else frozenset()
