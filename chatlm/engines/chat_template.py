"""Render a model's Jinja chat template like transformers, and track each character's message.

The template sees the real messages, so it can trim them or look for `</think>`. Its output is a
`TrackedText`: characters of the template's own text, of its constants and of the special tokens
have the origin `TEMPLATE`, those of a message the message's.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import BuiltinMethodType
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import meta, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from markupsafe import Markup

from chatlm.engines.template_limits import (
    Stopwatch,
    TemplateTooSlow,
    check_arguments,
    check_operands,
    format_pieces,
    limit_filters,
)
from chatlm.engines.tracked_text import TEMPLATE, UNKNOWN, TrackedText, concat, origins_of
from chatlm.errors import ContinuationUnsupported, ModelError

CONTINUATION = -3
"""Origin of the marker after a message that is to be continued."""


_CONTINUATION_MARKER = "\ue000CONTINUE\ue001 "
"""Ends with a blank, which tells whether the template trims messages."""


_ALIASES = {"reasoning_content": ["reasoning_content", "thinking"]}
"""Names under which templates read reasoning, as transformers passes it."""


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: the Jinja template.
        special_tokens: the tokenizer's special tokens by their names, such as `bos_token`.

    Raises:
        ModelError: it is not a valid template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self._special_tokens = {
            name: TrackedText(text, TEMPLATE) for name, text in special_tokens.items()
        }
        self._environment = _TrackingEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, jinja2.ext.loopcontrols],
            optimized=False,  # constant lists would become plain ones, whose texts have no origin
        )
        try:
            self._template = self._environment.from_string(source)
        except Exception as error:  # Python's compiler has limits, too
            line = (
                f" in line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
            )
            raise ModelError(
                f"The model's chat template, in chat_template.jinja or tokenizer_config.json, is "
                f"invalid{line}: {error}",
                hint="Copy or download the model again, or try "
                "`chatlm config set prompt_format chatml`.",
            ) from error

    @property
    def literals(self) -> list[str]:
        """The texts and string constants of the template."""
        tree = self._environment.parse(self.source)
        texts = [node.data for node in tree.find_all(nodes.TemplateData)]
        constants = [node.value for node in tree.find_all(nodes.Const)]
        return texts + [value for value in constants if isinstance(value, str)]

    @property
    def variables(self) -> set[str]:
        """The names that the template reads."""
        names = self._environment.parse(self.source).find_all(nodes.Name)
        return {node.name for node in names if node.ctx == "load"}

    @property
    def inputs(self) -> set[str]:
        """The names of the variables that may be given to it."""
        return meta.find_undeclared_variables(self._environment.parse(self.source))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        continued_field: str = "",
        **variables: Any,
    ) -> TrackedText:
        """Render a chat.

        Args:
            messages: with `role`, `content` and what else the template reads. Texts that are
                `TrackedText` keep their origins.
            continued_field: end the text after this text of the last message, `content` or
                `reasoning_content`, instead of starting a reply.
            variables: further variables of the template, such as `tools`.

        Raises:
            jinja2.TemplateError: the template refuses the chat.
            ContinuationUnsupported: it leaves out that message.
            ModelError: the template fails.
            TemplateTooSlow: it does not end in time.
        """
        chat = [dict(message) for message in messages]
        if continued_field:
            marker = TrackedText(_CONTINUATION_MARKER, CONTINUATION)
            text: Any = chat[-1][continued_field]
            if isinstance(text, list):
                *before, last = text
                text = [*before, {**last, "text": TrackedText("") + last["text"] + marker}]
            else:
                text = TrackedText("") + text + marker
            for name in _ALIASES.get(continued_field, [continued_field]):
                chat[-1][name] = text
        values = {
            "tools": None,
            "documents": None,
            "add_generation_prompt": not continued_field,
            **self._special_tokens,
            **variables,
            "messages": chat,
        }
        try:
            context = self._template.new_context(values)
            with self._environment.stopwatch.running():
                rendered = concat(self._template.root_render_func(context))
        except (jinja2.TemplateError, TemplateTooSlow):
            raise
        except Exception as error:  # a template is a program of someone else's
            raise ModelError(
                f"The model's chat template fails on this conversation: "
                f"{type(error).__name__}: {error}",
                hint="Try `chatlm config set prompt_format chatml`.",
            ) from error
        return _cut_at_marker(rendered) if continued_field else rendered


def _cut_at_marker(text: TrackedText) -> TrackedText:
    marker = _CONTINUATION_MARKER
    place = text.rfind(marker.rstrip())
    if place < 0 or origins_of(text)[place] != CONTINUATION:
        raise ContinuationUnsupported(
            "The model's chat template leaves out the reply that is to be continued",
            hint="Try `chatlm config set prompt_format chatml`, or ask again instead.",
        )
    trims = not text.startswith(marker, place)
    return text[:place].rstrip() if trims else text[:place]


_CHECK = nodes.ExprStmt(nodes.Call(nodes.EnvironmentAttribute("check_time"), [], [], None, None))
"""Statement that stops a render which takes too long."""


class _TrackingCodeGenerator(CodeGenerator):
    """Compiles constants and text of a template to `TrackedText`, and joins with origins."""

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        # the filter `safe` makes strings of a type of their own, which escape what is added to them
        if isinstance(node.value, str) and not isinstance(node.value, Markup):
            self.write(f"environment.literal({node.value!r})")
        else:
            super().visit_Const(node, frame)

    def visit_TemplateData(self, node: nodes.TemplateData, frame: Frame) -> None:
        self.write(f"environment.literal({node.data!r})")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat(map(str, (")
        for argument in node.nodes:
            self.visit(argument, frame)
            self.write(", ")
        self.write(")))")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        node.iter = nodes.Call(
            nodes.EnvironmentAttribute("loop_items"), [node.iter], [], None, None
        )
        if node.recursive:
            node.body.insert(0, _CHECK)
        super().visit_For(node, frame)

    def visit_Macro(self, node: nodes.Macro, frame: Frame) -> None:
        node.body.insert(0, _CHECK)
        super().visit_Macro(node, frame)

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return f"environment.literal({''.join(map(str, group))!r})"


class _TrackingEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox of transformers' chat templates, with origins."""

    code_generator_class = _TrackingCodeGenerator
    concat = staticmethod(concat)
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters["tojson"] = _to_json
        self.filters["join"] = _join
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self.globals["dict"] = _make_dict
        self.globals["namespace"] = _Namespace
        del self.globals["lipsum"]  # filler text of any length
        limit_filters(self.filters)
        self.stopwatch = Stopwatch()
        self.check_time = self.stopwatch.check

    def loop_items(self, values: Iterable[Any]) -> Iterator[Any]:
        """Iterate in a loop, which ends if it takes too long."""
        for value in values:
            self.stopwatch.check()
            yield value

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an operation whose result is not too large."""
        check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(*args: Any, **values: Any) -> Any:
        """Call something, a method of Python's only without huge numbers."""
        if isinstance(args[2], BuiltinMethodType):
            check_arguments((*args[3:], *values.values()))
        return ImmutableSandboxedEnvironment.call(*args, **values)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return a method `format` that keeps origins."""
        safe = super().wrap_str_format(value)
        if (
            safe is None
            or value.__name__ != "format"
            or not isinstance(value.__self__, TrackedText)
        ):
            return safe
        text: TrackedText = value.__self__
        own = set(origins_of(text))
        origin = own.pop() if len(own) == 1 else UNKNOWN

        def tracked_format(*values: Any, **named: Any) -> str:
            pieces = format_pieces(text, SandboxedFormatter(self), values, named)
            return concat(TrackedText(each, origin) if own_ else each for each, own_ in pieces)

        return tracked_format

    @staticmethod
    @lru_cache(maxsize=4096)
    def literal(text: str) -> TrackedText:
        """Return a text of the template's own."""
        return TrackedText(text, TEMPLATE)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's text for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  # as in the base class

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Return the statements between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """A namespace without underscored names, which could reach Python's internals."""

    def __init__(*args: Any, **values: Any) -> None:
        instance, *rest = args  # `namespace(self=…)` is valid
        attributes = dict(*rest, **values)
        for name in attributes:
            _refuse_underscore(name)
        jinja2.utils.Namespace.__init__(instance, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a chat template may not set {name!r}")


def _make_dict(*args: Any, **values: Any) -> dict[Any, Any]:
    return dict(*args, **values)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> TrackedText:
    text = json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
    # of the message whose values these are, never of the template
    return TrackedText(text, next((n for n in _message_origins(value) if n >= 0), UNKNOWN))


def _message_origins(value: Any) -> Iterator[int]:
    """Yield the origins of all texts within JSON values."""
    if isinstance(value, TrackedText):
        yield from origins_of(value)[:1]
    elif isinstance(value, Mapping):
        for each in (*value.keys(), *value.values()):
            yield from _message_origins(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _message_origins(each)


_read_attribute: Callable[..., Callable[[Any], Any]] = jinja2.filters.make_attrgetter


@jinja2.pass_environment
def _join(
    environment: jinja2.Environment, values: Iterable[Any], d: str = "", attribute: Any = None
) -> TrackedText:
    if attribute is not None:
        values = map(_read_attribute(environment, attribute), values)
    return TrackedText(d, origins_of(d)).join(map(str, values))
