"""Compile what a request demands of its answer and its tool calls, for one tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark

from chatlm.engines.call_constraints import CallRules, ReplyConstraint
from chatlm.engines.constraints import AnswerConstraint, GrammarState, describe_problem
from chatlm.engines.prompt_encoder import PromptEncoder
from chatlm.engines.schema_bounds import bounded
from chatlm.engines.schema_rewrites import followable
from chatlm.engines.tool_call_grammars import GrammarWriter, UnwritableSchema
from chatlm.engines.vocabulary import Vocabulary
from chatlm.errors import UsageError
from chatlm.text import one_line
from chatlm.types.requests import Request, ToolDefinition
from chatlm.types.schemas import Grammar, Schema, check_schema

JSON_OPTIONS: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is written: on one line, as Python does, so that a weak model cannot fill the reply with
white space."""

MAX_ITEMS_IN_ROW = 20_000
"""How complex a grammar may be; llguidance's own limit is too low for schemas in use."""

_CACHED_GRAMMARS, _CACHED_SCHEMAS = 32, 512


class ConstraintCompiler:
    """Compiles schemas and grammars for one tokenizer; takes a second the first time.

    Args:
        encoder: of the model's prompts.
        end_ids: of tokens that end a reply.
    """

    def __init__(self, encoder: PromptEncoder, end_ids: Iterable[int]) -> None:
        self._encoder = encoder
        self._end_ids = sorted(set(end_ids))
        self._tokenizer: tuple[Vocabulary, LLTokenizer] | None = None
        self._compiled: dict[str, LLMatcher] = {}
        """Matchers at their start, by their grammar; the newest last."""
        self._valid_parameters: set[str] = set()
        """Schemas of tools that were checked."""

    def compile(self, request: Request) -> ReplyConstraint | None:
        """Return the constraint of a request's reply; None if it is free.

        Args:
            request: if its last message is the assistant's, the reply continues it.

        Raises:
            UsageError: the schema or grammar is invalid, cannot be followed, or does not allow the
                beginning of the reply; or a call is demanded that cannot be.
        """
        grammar = self._grammar(request)
        if grammar is None and not request.tools:
            return None
        last = request.messages[-1] if request.messages else None
        begun = last.text if last is not None and last.role == "assistant" else ""
        rules = self._call_rules(request, bool(begun)) if request.tools else None
        answer = None
        if grammar is not None:
            starts = rules.openings(bool(begun)) if rules and rules.choice == "auto" else ()
            answer = AnswerConstraint(self._started(grammar, begun), bool(begun), starts)
        return ReplyConstraint(answer, rules, bool(begun))

    def _started(self, grammar: str, begun: str) -> GrammarState:
        """Return the place in a grammar after the beginning of the reply."""
        matcher = self._matcher(grammar)
        if begun:
            _, tokenizer = self._tokens()
            ids = tokenizer.tokenize_bytes(begun.encode())
            if matcher.try_consume_tokens(ids) < len(ids):
                raise UsageError(
                    "The beginning of the reply does not fit the schema or grammar",
                    hint="Continue it without one, or regenerate the reply.",
                )
        return GrammarState(matcher)

    def _call_rules(self, request: Request, is_begun: bool) -> CallRules:
        form = self._encoder.call_format
        vocabulary, tokenizer = self._tokens()
        for tool in request.tools:
            self._check_parameters(tool)
        schemas: dict[str, Mapping[str, Any]] = {
            tool.name: tool.parameters
            for tool in request.tools
            if request.tool_choice in ("auto", "none", "required", tool.name)
        }
        end = self._encoder.lark_text(form.ends[0]) if form.ends else ""
        writer = GrammarWriter(self._encoder.lark_text, end, request.parallel_tool_calls)
        try:
            matcher = self._matcher(form.grammar(schemas, writer))
        except UnwritableSchema as error:
            raise UsageError(
                f"The schema of a tool cannot be written in the format of this model: {error}",
                hint="Leave out what is named, or choose another model.",
            ) from None
        choice = request.tool_choice
        demands = choice not in ("auto", "none")
        return CallRules(
            form=form,
            reasoning=self._encoder.family.reasoning,
            names=tuple(schemas),
            choice="required" if demands else "none" if choice == "none" else "auto",
            is_parallel=request.parallel_tool_calls,
            matcher=matcher,
            tokenizer=tokenizer,
            vocabulary=vocabulary,
            encode=self._encoder.encode_markers,
        )

    def _check_parameters(self, tool: ToolDefinition) -> None:
        """Refuse a tool whose parameters are no valid JSON schema."""
        text = repr(tool.parameters)
        if text in self._valid_parameters:
            return
        try:
            check_schema(tool.parameters)
        except UsageError as error:
            raise UsageError(
                f"The tool {one_line(tool.name, 60)} cannot be offered: {error.message}",
                hint=error.hint,
            ) from None
        if len(self._valid_parameters) >= _CACHED_SCHEMAS:
            self._valid_parameters.clear()
        self._valid_parameters.add(text)

    def _grammar(self, request: Request) -> str | None:
        if request.schema is not None:
            return compile_schema(request.schema)
        return None if request.grammar is None else compile_grammar(request.grammar)

    def _tokens(self) -> tuple[Vocabulary, LLTokenizer]:
        """Return the tokens; they are read the first time."""
        if self._tokenizer is None:
            if not self._end_ids:
                raise UsageError(
                    "This model has no token that ends a reply, so it cannot follow a schema",
                    hint="Choose another model.",
                )
            vocabulary: Any = Vocabulary(self._encoder, self._end_ids)
            tokenizer = LLTokenizer(
                vocabulary, n_vocab=len(vocabulary.tokens), eos_token=self._end_ids
            )
            self._tokenizer = vocabulary, tokenizer
        return self._tokenizer

    def _matcher(self, grammar: str) -> LLMatcher:
        _, tokenizer = self._tokens()
        matcher = self._compiled.pop(grammar, None)
        if matcher is None:
            limits = LLParserLimits(max_items_in_row=MAX_ITEMS_IN_ROW)
            matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
            if matcher.is_error():
                raise _unsupported(matcher.get_error())
            first = matcher.deep_copy()
            first.compute_bitmask()
            if first.is_error():  # too complex from the first token on
                raise _unsupported(first.get_error())
        self._compiled[grammar] = matcher
        if len(self._compiled) > _CACHED_GRAMMARS:
            del self._compiled[next(iter(self._compiled))]
        return matcher.deep_copy()


def _unsupported(message: str) -> UsageError:
    return UsageError(
        f"This schema or grammar cannot be followed: {describe_problem(message)}",
        hint="Leave out what is named, or check the reply yourself.",
    )


def compile_schema(schema: Schema) -> str:
    """Return a schema as llguidance reads it, with limits where the schema has none.

    Raises:
        UsageError: it cannot be followed; the message names the keyword.
    """
    try:
        return str(
            LLMatcher.grammar_from_json_schema(
                json.dumps(bounded(followable(schema))), overrides=JSON_OPTIONS
            )
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
