"""The servers in mcp.json, in the form of `mcpServers` that other programs use as well."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from chatlm import ChatlmError, UsageError, config_dir, one_line, write_atomically

Transport = Literal["stdio", "http"]

_SECTIONS = (("mcpServers",), ("servers",), ("mcp", "servers"), ("mcp", "mcpServers"))
"""Where the servers are: Claude Desktop and most others, VS Code, and within settings files."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,58}[A-Za-z0-9_-])?")

_VARIABLE = re.compile(r"\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
"""`${VAR}` and `${VAR:-default}`, and VS Code's `${env:VAR}`."""

_PLACEHOLDER = re.compile(r"\$\{(input:[^}]*|workspaceFolder[^}]*|command:[^}]*)\}")
"""What only VS Code can fill in."""

_TYPES: Mapping[str, Transport] = {
    "stdio": "stdio",
    "local": "stdio",
    "http": "http",
    "streamable-http": "http",
    "streamableHttp": "http",
    "streamable_http": "http",
    "remote": "http",
}

_COMMENTS = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TRAILING_COMMAS = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])')

MAX_FILE_BYTES = 1_000_000


@dataclass(frozen=True)
class ServerConfig:
    """How one server is reached."""

    name: str
    command: str = ""
    """The program, for a server that chatlm runs; empty for one that is reached by its URL."""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to a few variables such as PATH and HOME; a server gets no others."""
    cwd: str = ""
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    disabled: bool = False
    problem: str = ""
    """Why the entry cannot be used; empty if it can."""
    in_file: bool = True
    """Whether it is in mcp.json; else it lasts for one session, and is taken literally."""

    @property
    def transport(self) -> Transport:
        """How messages travel."""
        return "http" if self.url else "stdio"

    @property
    def target(self) -> str:
        """The command line or URL as it is written, on one line; without any value of `env`."""
        words = [self.url] if self.url else [self.command, *self.args]
        return one_line(" ".join(words), 200)

    @property
    def identity(self) -> str:
        """What makes it the same server: a changed program or address is another one."""
        return json.dumps([self.command, *self.args] if not self.url else [self.url])

    def expanded(self, environment: Mapping[str, str] | None = None) -> ServerConfig:
        """Return it with `${VAR}` replaced in command, arguments, env, cwd, URL and headers.

        One that is not in mcp.json stays as it is.

        Args:
            environment: the variables; None for those of the process.

        Raises:
            UsageError: a variable is not set and has no default.
        """
        if not self.in_file:
            return self
        variables = os.environ if environment is None else environment

        def expand(text: str) -> str:
            return _VARIABLE.sub(replace, text)

        def replace(match: re.Match[str]) -> str:
            variable, default = match.groups()
            value = variables.get(variable) or default
            if value is None:
                raise UsageError(
                    f"The environment variable {variable}, which the MCP server {self.name} "
                    "needs, is not set.",
                    hint=f"Set it before chatlm starts, or change the entry in {config_path()}",
                )
            return value

        return ServerConfig(
            name=self.name,
            command=str(Path(expand(self.command)).expanduser()) if self.command else "",
            args=tuple(map(expand, self.args)),
            env={key: expand(value) for key, value in self.env.items()},
            cwd=str(Path(expand(self.cwd)).expanduser()) if self.cwd else "",
            url=expand(self.url),
            headers={key: expand(value) for key, value in self.headers.items()},
            disabled=self.disabled,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as it stands in mcp.json."""
        if self.url:
            values: dict[str, Any] = {"type": "http", "url": self.url}
            values |= {"headers": dict(self.headers)} if self.headers else {}
        else:
            values = {"command": self.command, "args": list(self.args)}
            values |= {"env": dict(self.env)} if self.env else {}
            values |= {"cwd": self.cwd} if self.cwd else {}
        return values | ({"disabled": True} if self.disabled else {})


def config_path() -> Path:
    """Return the path of mcp.json, beside config.toml."""
    return config_dir() / "mcp.json"


def load_servers() -> list[ServerConfig]:
    """Return the servers of mcp.json in its order; entries that are wrong have a `problem`.

    Raises:
        ChatlmError: the file cannot be read or is not JSON.
    """
    path = config_path()
    return parse_servers(_read(path, missing_ok=True), str(path))


def find_server(name: str) -> ServerConfig:
    """Return a server of mcp.json.

    Raises:
        UsageError: there is none of this name, or its entry is wrong.
        ChatlmError: as `load_servers`.
    """
    servers = {server.name: server for server in load_servers()}
    if name not in servers:
        raise UsageError(
            f"There is no MCP server {one_line(name, 60)}.", hint="List them: chatlm mcp list"
        )
    if problem := servers[name].problem:
        raise UsageError(
            f"The MCP server {name} {problem}.", hint=f"Change its entry in {config_path()}"
        )
    return servers[name]


def save_server(server: ServerConfig) -> None:
    """Add a server to mcp.json, or replace the one of its name; all else in the file stays.

    Raises:
        ChatlmError: the file cannot be read or written.
    """
    document = _read(config_path(), missing_ok=True)
    section = _find_section(document)
    if not section:
        section = document.setdefault("mcpServers", {})
    section[server.name] = server.to_dict()
    _write(document)


def remove_server(name: str) -> None:
    """Remove a server from mcp.json.

    Raises:
        UsageError: there is none of this name.
        ChatlmError: the file cannot be read or written.
    """
    document = _read(config_path(), missing_ok=True)
    section = _find_section(document)
    if name not in section:
        raise UsageError(
            f"There is no MCP server {one_line(name, 60)}.", hint="List them: chatlm mcp list"
        )
    del section[name]
    _write(document)


def read_servers_of(path: Path) -> list[ServerConfig]:
    """Return the servers of another program's file, such as Claude Desktop's or VS Code's.

    Raises:
        UsageError: it has none, or is not JSON.
    """
    servers = parse_servers(_read(path, missing_ok=False), str(path))
    if not servers:
        raise UsageError(
            f"{one_line(str(path), 200)} has no MCP servers.",
            hint="They stand under mcpServers, or servers in VS Code's mcp.json.",
        )
    return servers


def parse_servers(document: Mapping[str, Any], source: str) -> list[ServerConfig]:
    """Read the servers of a file's content.

    Args:
        document: the content.
        source: the file, for messages.

    Raises:
        UsageError: the servers are no JSON object.
    """
    section = _find_section(document)
    if not isinstance(section, dict):
        raise UsageError(f"The servers in {source} are not a JSON object of entries by name.")
    return [parse_server(str(name), values) for name, values in section.items()]


def parse_server(name: str, values: Any) -> ServerConfig:
    """Read one entry; what is wrong with it is its `problem`."""
    try:
        return _parse_server(name, values)
    except ValueError as error:
        return ServerConfig(one_line(name, 60), problem=str(error))


def _parse_server(name: str, values: Any) -> ServerConfig:
    if not _NAME.fullmatch(name):
        raise ValueError("needs a name of letters, digits, blanks, '.', '_' and '-', 60 at most")
    if not isinstance(values, dict):
        raise ValueError("is not a JSON object")
    given = values.get("type", values.get("transport"))
    if given == "sse":
        raise ValueError("uses the transport sse, which MCP has replaced; give its http address")
    if given is not None and given not in _TYPES:
        raise ValueError(f"has the type {one_line(str(given), 30)!r}, not stdio or http")
    command = _text(values, "command")
    url = _text(values, "url") or _text(values, "serverUrl") or _text(values, "httpUrl")
    if bool(command) == bool(url):
        raise ValueError("needs either a command or a url")
    if given is not None and (_TYPES[given] == "http") != bool(url):
        raise ValueError(f"has the type {given}, but " + ("a command" if command else "a url"))
    if url and (urlsplit(url).scheme not in ("http", "https") and "${" not in url):
        raise ValueError("has a url that does not begin with http:// or https://")
    server = ServerConfig(
        name=name,
        command=command,
        args=_texts(values, "args"),
        env=_mapping(values, "env"),
        cwd=_text(values, "cwd"),
        url=url,
        headers=_mapping(values, "headers"),
        disabled=values.get("disabled") is True or values.get("enabled") is False,
    )
    written = json.dumps(server.to_dict())
    if match := _PLACEHOLDER.search(written):
        raise ValueError(
            f"has the placeholder ${{{one_line(match[1], 40)}}}, which only VS Code fills in; "
            "use ${VARIABLE}"
        )
    if "\\u0000" in written:
        raise ValueError("has a NUL character in it")
    return server


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"has a {key} that is not a text")
    return value


def _texts(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = values.get(key) or []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"has {key} that are not a list of texts")
    return tuple(value)


def _mapping(values: Mapping[str, Any], key: str) -> dict[str, str]:
    value = values.get(key) or {}
    plain = (str, int, float)
    if not isinstance(value, dict) or not all(isinstance(each, plain) for each in value.values()):
        raise ValueError(f"has {key} that is not a JSON object of texts")
    return {name: str(each) for name, each in value.items()}


def _find_section(document: Mapping[str, Any]) -> Any:
    for keys in _SECTIONS:
        section: Any = document
        for key in keys:
            section = section.get(key) if isinstance(section, dict) else None
        if section is not None:
            return section
    return {}


def _read(path: Path, *, missing_ok: bool) -> dict[str, Any]:
    shown = one_line(str(path), 200)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if missing_ok:
            return {}
        raise UsageError(f"{shown} does not exist.", hint="Check the path.") from None
    except OSError as error:
        raise ChatlmError(f"{shown} cannot be read: {error.strerror or error}.") from error
    if len(data) > MAX_FILE_BYTES:
        raise ChatlmError(f"{shown} is larger than 1 MB.", hint="Is it the right file?")
    try:
        text = data.decode("utf-8-sig")
        text = _COMMENTS.sub(lambda match: match[1] or " ", text)  # VS Code's files have comments
        document = json.loads(_TRAILING_COMMAS.sub(lambda match: match[1] or "", text) or "{}")
    except (ValueError, RecursionError) as error:
        raise ChatlmError(f"{shown} is not JSON: {error}.", hint="Correct the file.") from error
    if not isinstance(document, dict):
        raise ChatlmError(f"{shown} is not a JSON object.", hint='Begin it with {"mcpServers": …}')
    return document


def _write(document: Mapping[str, Any]) -> None:
    path = config_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [json.dumps(document, ensure_ascii=False, indent=2), "\n"])
    except OSError as error:
        raise ChatlmError(f"{path} cannot be written: {error.strerror or error}.") from error
