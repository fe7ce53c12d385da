"""Tools that models may call: `Tool`, the decorator `tool`, and what a running tool is given."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any, Protocol, TypeVar, overload

from chatlm.errors import EXIT_INTERRUPTED, ChatlmError, UsageError
from chatlm.text import one_line
from chatlm.types.events import ToolPreview
from chatlm.types.messages import Passage
from chatlm.types.requests import ToolDefinition
from chatlm.types.schemas import check_schema
from chatlm.types.tool_rules import PERMISSIONS, Permission

DEFAULT_TIMEOUT = 30.0
"""Seconds that a tool may run unless it says otherwise."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ToolCancelled(ChatlmError):
    """The user stopped the reply while a tool ran, or did not answer its question."""

    exit_code = EXIT_INTERRUPTED


@dataclass(frozen=True)
class ToolOutput:
    """What a tool returned."""

    text: str
    """What the model reads; cut at the setting `tools.max_output`."""
    is_error: bool = False
    untrusted: bool = False
    """Whether the text comes from outside, such as a web page: data, never instructions."""
    source: str = ""
    """Where it came from, for the user: a file, an address."""
    images: tuple[bytes, ...] = ()
    """Picture files (PNG, JPEG, GIF or WebP), which are shown to the user."""
    passages: tuple[Passage, ...] = ()
    """Pieces of documents, which the model gets numbered after the text and the reply can cite."""


class ToolContext(Protocol):
    """What a running tool knows and may do. Its methods may be called from the tool's thread."""

    @property
    def conversation_id(self) -> int:
        """The chat; see the plugin guide for ids of side chats."""
        ...

    @property
    def incognito(self) -> bool:
        """Whether nothing about this chat may be written to disk."""
        ...

    @property
    def data_folder(self) -> Path:
        """Where the tool's plugin keeps its data; it need not exist yet."""
        ...

    @property
    def workspace_folders(self) -> tuple[Path, ...]:
        """Folders that the user lets tools use: of the settings, and the chat's project."""
        ...

    @property
    def settings(self) -> Any:
        """The object of the plugin's class `Settings`; None if it has none."""
        ...

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the result any longer; a tool that sees it returns soon."""
        ...

    def check_cancelled(self) -> None:
        """Raise `ToolCancelled` if nobody waits for the result any longer."""
        ...

    def progress(self, text: str, fraction: float | None = None) -> None:
        """Show what the tool does.

        Args:
            text: a few words.
            fraction: how much of it is done, 0 to 1; None where that is not known.
        """
        ...

    def ask(self, question: str, choices: Sequence[str] = ()) -> str:
        """Ask the user and wait for the answer.

        Args:
            question: one or a few sentences.
            choices: the possible answers; none for any text.

        Raises:
            ToolCancelled: the user did not answer, or nobody is there to ask.
        """
        ...


RunTool = Callable[[Mapping[str, Any], ToolContext], "ToolOutput | str"]
"""`(arguments, context) -> output`; what it raises becomes a result that the model reads."""

Preview = Callable[[Mapping[str, Any]], "ToolPreview | None"]
"""What the user sees of a call; None shows the arguments."""


@dataclass(frozen=True)
class Tool:
    """A tool that a plugin offers. The decorator `tool` makes one of a function.

    Raises:
        ValueError: a field is not valid; the message says which.
    """

    name: str
    """1 to 64 ASCII letters, digits, `_` and `-`, as models can write it."""
    description: str
    """What it does and when to use it, for the model."""
    parameters: Mapping[str, Any]
    """JSON schema of its arguments, an object."""
    run: RunTool
    """Called in a thread of its own with arguments that fit `parameters`."""
    permission: Permission = "ask"
    """What happens without a rule of the user's."""
    always_ask: bool = False
    """Whether the user is asked about each call, whatever a rule allows; a rule can still deny."""
    timeout: float | None = DEFAULT_TIMEOUT
    """Seconds after which it is stopped and the model is told so; None for never."""
    own_process: bool = False
    """Whether it runs in a process of its own, which is killed when it is stopped. Its function
    must be importable by name, and arguments and output pass as JSON."""
    preview: Preview | None = None
    read_only: bool = False
    """Whether a call changes nothing, so that calls may run at the same time."""
    untrusted_output: bool = False
    """Whether all its results are text from outside."""
    enabled_by_default: bool = True
    """Whether it is offered wherever tools are on; others must be named."""
    group: str = ""
    """Stands for several tools in settings and `--tools`; the plugin's name where it is empty."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(
                f"a tool's name must have 1 to 64 letters, digits, _ and -, not {self.name!r}"
            )
        if not isinstance(self.description, str) or not self.description.strip():
            raise ValueError(f"the tool {self.name} needs a description, such as a docstring")
        if self.permission not in PERMISSIONS:
            raise ValueError(f"permission must be ask, allow or deny, not {self.permission!r}")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout must be seconds above 0 or None, not {self.timeout!r}")
        if self.group and not _NAME.fullmatch(self.group):
            raise ValueError(f"a group's name must be like a tool's, not {self.group!r}")
        if not callable(self.run):
            raise ValueError(f"run must be a function, not {self.run!r}")

    @property
    def definition(self) -> ToolDefinition:
        """The tool as it is described to the model."""
        return ToolDefinition(self.name, self.description, dict(self.parameters))

    def check(self) -> None:
        """Check the schema of the arguments.

        Raises:
            ValueError: it is not a JSON schema of an object.
        """
        try:
            check_schema(dict(self.parameters))
        except UsageError as error:
            raise ValueError(f"the tool {self.name}: {error.message}") from None
        if self.parameters.get("type") != "object":
            raise ValueError(f"the tool {self.name}: its parameters must have the type object")

    def problem(self, arguments: Mapping[str, Any]) -> str:
        """Return what is wrong with arguments, such as `argument value: must be …`.

        Returns:
            the problem, for the model to read; empty for none.
        """
        if isinstance(self.run, _FunctionRunner):
            return self.run.problem(arguments)
        from jsonschema import exceptions, validators  # takes 60 ms

        kind = validators.validator_for(self.parameters, default=validators.Draft202012Validator)
        try:
            found = exceptions.best_match(kind(dict(self.parameters)).iter_errors(dict(arguments)))
        except Exception as error:  # such as a reference that leads nowhere, or to a server
            return f"the arguments cannot be checked: {one_line(str(error), 200)}"
        if found is None:
            return ""
        place = ".".join(map(str, found.absolute_path))
        return f"argument {place}: " * bool(place) + one_line(found.message, 200)

    def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Run it in this thread, without asking anybody; errors become the output.

        Raises:
            ToolCancelled: the user stopped it.
        """
        if wrong := self.problem(arguments):
            return ToolOutput(wrong, is_error=True)
        try:
            output = self.run(arguments, context)
        except ToolCancelled:
            raise
        except ChatlmError as error:
            return ToolOutput(str(error), is_error=True)
        except Exception as error:  # a tool of others may raise anything
            return ToolOutput(one_line(f"{type(error).__name__}: {error}", 2000), is_error=True)
        if isinstance(output, str):
            output = ToolOutput(output)
        if not isinstance(output, ToolOutput):
            kind = type(output).__name__
            return ToolOutput(f"{self.name} returned {kind}, not a text", is_error=True)
        if self.untrusted_output:
            output = dataclasses.replace(output, untrusted=True)
        return output


FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    name: str = "",
    permission: Permission = "ask",
    always_ask: bool = False,
    timeout: float | None = DEFAULT_TIMEOUT,
    own_process: bool = False,
    preview: Preview | None = None,
    read_only: bool = False,
    untrusted_output: bool = False,
    enabled_by_default: bool = True,
    group: str = "",
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None, /, *, name: str = "", **options: Any
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of a function with type hints and a docstring.

    The function's name and the docstring are what the model reads; a section `Args:` describes the
    arguments. Pydantic makes the schema of the hints when it is needed, and converts the arguments.
    A parameter named `context` gets the `ToolContext`. The function returns a text, a
    `ToolOutput`, or a value that is given to the model as JSON.

    Args:
        function: what to decorate.
        name: the tool's name; empty for the function's.
        options: as the fields of `Tool`: `permission`, `always_ask`, `timeout`, `own_process`,
            `preview`, `read_only`, `untrusted_output`, `enabled_by_default`, `group`.

    Raises:
        ValueError: a field is not valid, or the function has no docstring.
    """

    def decorate(function: Callable[..., Any]) -> Tool:
        about, described = _read_docstring(inspect.getdoc(function) or "")
        runner = _FunctionRunner(function, described)
        return Tool(name or function.__name__, about, _LazySchema(runner), runner, **options)

    return decorate if function is None else decorate(function)


class _FunctionRunner:
    """Calls a function with arguments that pydantic checked and converted."""

    def __init__(self, function: Callable[..., Any], described: Mapping[str, str]) -> None:
        self.function = function
        self._described = described
        self.takes_context = "context" in inspect.signature(function).parameters

    def __call__(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | str:
        model = self.model.model_validate(dict(arguments))
        values = {name: getattr(model, name) for name in self.model.model_fields}
        if self.takes_context:
            values["context"] = context
        result = self.function(**values)
        if isinstance(result, str | ToolOutput):
            return result
        from pydantic import TypeAdapter

        return TypeAdapter(Any).dump_json(result).decode()

    @cached_property
    def model(self) -> Any:
        """The pydantic model of the arguments."""
        from pydantic import ConfigDict, Field, create_model  # 100 ms, so not when it is decorated

        hints = self._type_hints()
        fields: dict[str, Any] = {}
        for name, parameter in inspect.signature(self.function).parameters.items():
            if name == "context":
                continue
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise ValueError(f"{self.function.__name__} cannot be a tool: it takes *{name}")
            if name not in hints:
                raise ValueError(
                    f"{self.function.__name__} cannot be a tool: {name} has no type hint"
                )
            default = ... if parameter.default is parameter.empty else parameter.default
            about = Field(default, description=self._described.get(name))
            fields[name] = (hints[name], about)
        config = ConfigDict(extra="forbid", arbitrary_types_allowed=False)
        return create_model(self.function.__name__, __config__=config, **fields)

    def _type_hints(self) -> dict[str, Any]:
        """Return the types of the parameters, without `context`, whose type may not be imported."""
        function: Any = inspect.unwrap(self.function)
        names = [name for name in function.__annotations__ if name not in ("context", "return")]

        def parameters() -> None:
            """Has the annotations."""

        bare = FunctionType(parameters.__code__, getattr(function, "__globals__", {}))
        bare.__annotations__ = {name: function.__annotations__[name] for name in names}
        try:
            return inspect.get_annotations(bare, eval_str=True)
        except NameError as error:
            raise ValueError(
                f"{function.__name__} cannot be a tool: a type hint has an unknown name: {error}"
            ) from error

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""
        schema: dict[str, Any] = _without_titles(self.model.model_json_schema())
        schema.setdefault("properties", {})
        return schema

    def problem(self, arguments: Mapping[str, Any]) -> str:
        """As `Tool.problem`."""
        from pydantic import ValidationError

        try:
            self.model.model_validate(dict(arguments))
        except ValidationError as error:
            found = [
                f"argument {'.'.join(map(str, each['loc'])) or '?'}: {each['msg']}"
                for each in error.errors(include_url=False, include_context=False)[:5]
            ]
            return one_line("; ".join(found), 500)
        return ""


class _LazySchema(Mapping[str, Any]):
    """The schema of a function's arguments, made when it is first read."""

    def __init__(self, runner: _FunctionRunner) -> None:
        self._runner = runner

    def __getitem__(self, key: str) -> Any:
        return self._runner.schema[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._runner.schema)

    def __len__(self) -> int:
        return len(self._runner.schema)


def function_of(tool: Tool) -> Callable[..., Any] | None:
    """Return the function that the decorator `tool` was given; None for another tool."""
    return tool.run.function if isinstance(tool.run, _FunctionRunner) else None


def parse_arguments(text: str) -> Mapping[str, Any]:
    """Parse the arguments of a call, a JSON object; nothing stands for none.

    Raises:
        UsageError: they are something else; the message is for the model.
    """
    try:
        values = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the arguments are not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UsageError("the arguments must be a JSON object")
    return values


_SECTION = re.compile(r"(?:Args|Arguments|Returns|Raises|Yields|Examples?|Notes?):\s*")
_ARGUMENT = re.compile(r"\s*\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Return a docstring's description and what its section `Args:` says of each argument."""
    about: list[str] = []
    described: dict[str, str] = {}
    section = name = ""
    indent: int | None = None
    for line in text.splitlines():
        if _SECTION.fullmatch(line):
            section, name, indent = line.strip().rstrip(":"), "", None
        elif section not in ("Args", "Arguments"):
            if not section:
                about.append(line)
        elif line.strip():
            depth = len(line) - len(line.lstrip())
            indent = depth if indent is None else indent
            match = _ARGUMENT.fullmatch(line) if depth <= indent else None
            if match is not None:
                name = match[1]
                described[name] = match[2].strip()
            elif name:
                described[name] = f"{described[name]} {line.strip()}".strip()
    return "\n".join(about).strip(), described


def _without_titles(value: Any) -> Any:
    """Return a schema without pydantic's titles and without defaults of None."""
    if isinstance(value, list):
        return [_without_titles(each) for each in value]
    if not isinstance(value, dict):
        return value
    short = {}
    for key, each in value.items():
        if key in ("properties", "$defs"):  # whose keys are names
            short[key] = {name: _without_titles(schema) for name, schema in each.items()}
        elif key != "title" and not (key == "default" and each is None):
            short[key] = each if key in ("default", "enum", "const") else _without_titles(each)
    return short
