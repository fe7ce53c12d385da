"""What a server offers, as plain values, and the file in which the newest lists are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from chatlm import (
    ChatlmError,
    ToolDefinition,
    UsageError,
    check_schema,
    data_dir,
    escape_controls,
    one_line,
    write_atomically,
)
from chatlm_mcp.limits import MAX_DESCRIPTION, MAX_SCHEMA_CHARACTERS
from chatlm_mcp.server_config import ServerConfig

if TYPE_CHECKING:
    from mcp_types import Prompt, Resource, ResourceTemplate, Tool

T = TypeVar("T")

_HINTS = ("read_only_hint", "destructive_hint", "idempotent_hint", "open_world_hint")

_store_lock = Lock()


@dataclass(frozen=True)
class ListedTool:
    """A tool of a server."""

    name: str
    """As the server calls it."""
    description: str
    """Without control characters, and cut if it is long."""
    parameters: Mapping[str, Any]
    """JSON schema of its arguments."""
    hints: tuple[str, ...] = ()
    """What the server says of it, such as `read-only`. Nothing relies on it."""
    fingerprint: str = ""
    """Hash of everything that the server says of it."""

    @classmethod
    def of(cls, tool: Tool) -> ListedTool:
        """Take over a tool of the SDK.

        Raises:
            ValueError: it cannot be used; the message says why.
        """
        whole = tool.model_dump(mode="json", by_alias=True, exclude={"icons", "meta"})
        written = json.dumps(whole, sort_keys=True)
        schema = json.dumps(tool.input_schema)
        if len(schema) > MAX_SCHEMA_CHARACTERS:
            raise ValueError(f"its schema has {len(schema):,} characters")
        try:
            check_schema(tool.input_schema)
            ToolDefinition(tool.name, "", tool.input_schema)
        except ChatlmError as error:
            raise ValueError(f"its schema is not valid: {error.message}") from error
        if tool.input_schema.get("type", "object") != "object":
            raise ValueError("its arguments are no JSON object")
        annotations = tool.annotations
        hints = tuple(
            hint.removesuffix("_hint").replace("_", "-")
            for hint in _HINTS
            if annotations is not None and getattr(annotations, hint)
        )
        title = tool.title or (annotations.title if annotations else None) or ""
        description = "\n".join(filter(None, (title, tool.description)))
        return cls(
            name=tool.name,
            description=_clean(description, MAX_DESCRIPTION),
            parameters=tool.input_schema,
            hints=hints,
            fingerprint=hashlib.sha256(written.encode("utf-8", "replace")).hexdigest(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
            "hints": list(self.hints),
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ListedTool:
        """Restore from `to_dict`. Raises KeyError or TypeError."""
        return cls(**{**values, "hints": tuple(values["hints"])})


@dataclass(frozen=True)
class ListedResource:
    """A resource of a server."""

    uri: str
    name: str
    description: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {"uri": self.uri, "name": self.name, "description": self.description}


@dataclass(frozen=True)
class ListedTemplate:
    """A template of resources: an address with arguments in it (RFC 6570)."""

    uri: str
    """Such as `notes://{day}`."""
    name: str
    description: str = ""
    arguments: tuple[str, ...] = ()

    @classmethod
    def of(cls, template: ResourceTemplate) -> ListedTemplate:
        """Take over a template of the SDK.

        Raises:
            ValueError: it is not valid, or has expressions that are not supported.
        """
        from mcp.shared.uri_template import UriTemplate

        arguments = UriTemplate.parse(template.uri_template).variable_names
        return cls(
            template.uri_template,
            one_line(template.name, 100),
            _clean(template.description or "", 300),
            tuple(dict.fromkeys(arguments)),
        )

    def fill_in(self, values: Mapping[str, str]) -> str:
        """Return the address with values in the place of its arguments, encoded.

        Raises:
            UsageError: an argument has no value, or a value no argument.
        """
        from mcp.shared.uri_template import UriTemplate

        hint = f"Write {one_line(self.example, 200)}"
        for name in self.arguments:
            if name not in values:
                raise UsageError(
                    f"{one_line(self.name, 60)} needs the argument {one_line(name, 40)}", hint
                )
        for name in values:
            if name not in self.arguments:
                raise UsageError(
                    f"{one_line(self.name, 60)} has no argument {one_line(name, 40)}", hint
                )
        return UriTemplate.parse(self.uri).expand(values)

    @property
    def example(self) -> str:
        """How it is written with arguments, such as `notes?day=`."""
        return f"{self.name}?{'&'.join(f'{name}=' for name in self.arguments)}"

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "uri": self.uri,
            "name": self.name,
            "description": self.description,
            "arguments": list(self.arguments),
        }


@dataclass(frozen=True)
class ListedPrompt:
    """A prompt of a server, a template with text arguments."""

    name: str
    description: str = ""
    arguments: tuple[str, ...] = ()
    required: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "name": self.name,
            "description": self.description,
            "arguments": list(self.arguments),
            "required": list(self.required),
        }


@dataclass(frozen=True)
class Listing:
    """Everything a server offers."""

    tools: tuple[ListedTool, ...] = ()
    resources: tuple[ListedResource, ...] = ()
    prompts: tuple[ListedPrompt, ...] = ()
    templates: tuple[ListedTemplate, ...] = ()
    """Of resources."""
    left_out: tuple[str, ...] = ()
    """Tools and templates that cannot be used, each with the reason."""
    version: str = ""
    """What the server says that it is."""

    @classmethod
    def of(
        cls,
        tools: Iterable[Tool],
        resources: Iterable[Resource],
        prompts: Iterable[Prompt],
        templates: Iterable[ResourceTemplate] = (),
        version: str = "",
    ) -> Listing:
        """Take over the lists of the SDK; what cannot be used is left out."""
        usable: dict[str, ListedTool] = {}
        left_out = []
        for tool in tools:
            try:
                listed = ListedTool.of(tool)
                if tool.name in usable:
                    raise ValueError("the server lists two of this name")
                usable[tool.name] = listed
            except ValueError as error:
                left_out.append(f"{one_line(tool.name, 60)}: {one_line(str(error), 160)}")
        found = []
        for template in templates:
            try:
                found.append(ListedTemplate.of(template))
            except ValueError as error:
                left_out.append(f"{one_line(template.name, 60)}: {one_line(str(error), 160)}")
        return cls(
            tools=tuple(usable.values()),
            templates=tuple(found),
            resources=tuple(
                ListedResource(
                    str(each.uri), one_line(each.name, 100), _clean(each.description or "", 300)
                )
                for each in resources
            ),
            prompts=tuple(
                ListedPrompt(
                    each.name,
                    _clean(each.description or each.title or "", 300),
                    tuple(argument.name for argument in each.arguments or ()),
                    tuple(argument.name for argument in each.arguments or () if argument.required),
                )
                for each in prompts
            ),
            left_out=tuple(left_out),
            version=version,
        )

    def counts(self) -> list[str]:
        """Return what there is of each kind, such as `3 tools`; nothing of what is not there."""
        kinds = ("tools", "resources", "templates", "prompts")
        found = [(kind, len(getattr(self, kind))) for kind in kinds]
        return [f"{count} {kind if count > 1 else kind[:-1]}" for kind, count in found if count]

    def tool(self, name: str) -> ListedTool | None:
        """Return the tool of this name; None if there is none."""
        return next((tool for tool in self.tools if tool.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "tools": [tool.to_dict() for tool in self.tools],
            "resources": [resource.to_dict() for resource in self.resources],
            "prompts": [prompt.to_dict() for prompt in self.prompts],
            "templates": [template.to_dict() for template in self.templates],
            "left_out": list(self.left_out),
            "version": self.version,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Listing:
        """Restore from `to_dict`. Raises KeyError or TypeError."""
        return cls(
            tools=tuple(map(ListedTool.from_dict, values["tools"])),
            resources=tuple(ListedResource(**each) for each in values["resources"]),
            prompts=tuple(
                ListedPrompt(
                    each["name"],
                    each["description"],
                    tuple(each["arguments"]),
                    tuple(each["required"]),
                )
                for each in values["prompts"]
            ),
            templates=tuple(
                ListedTemplate(**{**each, "arguments": tuple(each["arguments"])})
                for each in values["templates"]
            ),
            left_out=tuple(values["left_out"]),
            version=values["version"],
        )


class KnownServer:
    """What chatlm remembers of a server: its newest lists, and which tools were used as they were.

    The lists make it possible to offer tools without starting the server. Thread-safe.

    Args:
        config: the server; if its program or address changes, nothing is remembered of it.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config

    @property
    def listing(self) -> Listing | None:
        """The newest lists; None if there are none."""
        try:
            return Listing.from_dict(self._values()["listing"])
        except (KeyError, TypeError, AttributeError):
            return None

    def remember(self, listing: Listing) -> None:
        """Store the newest lists."""
        self._update(lambda values: values.__setitem__("listing", listing.to_dict()))

    def used_fingerprint(self, tool: str) -> str:
        """Return the fingerprint of the tool when the user last let it run; empty for never."""
        used = self._values().get("used")
        fingerprint = used.get(tool) if isinstance(used, dict) else None
        return fingerprint if isinstance(fingerprint, str) else ""

    def remember_use(self, tool: str, fingerprint: str) -> None:
        """Store that the user lets the tool run as it is."""
        if self.used_fingerprint(tool) != fingerprint:
            self._update(
                lambda values: values.setdefault("used", {}).__setitem__(tool, fingerprint)
            )

    def forget(self) -> None:
        """Delete everything about the server."""
        with _store_lock:
            everything = _read_store()
            if everything.pop(self._config.name, None) is not None:
                _write_store(everything)

    def _values(self) -> dict[str, Any]:
        values = _read_store().get(self._config.name)
        if not isinstance(values, dict) or values.get("identity") != self._config.identity:
            return {}
        return values

    def _update(self, change: Callable[[dict[str, Any]], None]) -> None:
        with _store_lock:
            values = self._values()
            values["identity"] = self._config.identity
            change(values)
            _write_store(_read_store() | {self._config.name: values})


def _store_path() -> Path:
    return data_dir() / "mcp" / "servers.json"


def _read_store() -> dict[str, Any]:
    try:
        values = json.loads(_store_path().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _write_store(values: Mapping[str, Any]) -> None:
    path = _store_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [json.dumps(values)])
    except OSError as error:
        raise ChatlmError(f"{path} cannot be written: {error.strerror or error}.") from error


def _clean(text: str, width: int) -> str:
    """Return text that is safe to show and to send to a model, cut to so many characters."""
    text = escape_controls(text).strip()
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def unique(names: Sequence[str]) -> list[str]:
    """Return names of letters, digits, `_` and `-`, 64 at most, each different from all others."""
    found: list[str] = []
    for name in names:
        plain = "".join(
            each if (each.isascii() and each.isalnum()) or each in "_-" else "_" for each in name
        )
        if plain != name or len(plain) > 64 or plain in found:
            digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:6]
            shortened = f"{plain[:57]}_{digest}" if len(plain) > 64 else plain
            plain = shortened if shortened not in found else f"{shortened[:57]}_{digest}"
        while plain in found:  # two different names with the same beginning and hash
            plain = f"{plain[:60]}_{len(found)}"[:64]
        found.append(plain)
    return found
