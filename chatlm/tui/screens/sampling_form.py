"""The form for a chat's sampling: each value, its source and its range."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.style import Style
from textual.widgets import Input, Static

from chatlm.errors import UsageError
from chatlm.text import dump_json, escape_controls, one_line
from chatlm.tui.widgets.hints import PlainLinks
from chatlm.tui.widgets.inputs import VisibleInput
from chatlm.types.sampling import (
    MAX_BIAS,
    NUMERIC_SAMPLING,
    THINKING_LEVELS,
    Sampling,
    effective_sampling,
    format_logit_bias,
    parse_logit_bias,
)
from chatlm.types.schemas import GRAMMAR_KINDS, parse_grammar, parse_schema, schema_text
from chatlm.types.settings import setting_specs

SPECS = setting_specs(Sampling)


THIS_CHAT = "this chat"


UNLIMITED_FROM = 1_000_000
"""Maximum from which a range is shown as unlimited."""


LIST_HELP = {
    "stop": 'stop strings; several as "###", "\\n\\n"',
    "logit_bias": 'added to logits, as 15043=-100, " cat"=5; a text means each of its tokens',
}
"""Help of the settings that are lists."""


UNSET_LABELS = {
    "seed": "random", "stop": "none", "logit_bias": "none", "schema": "none", "grammar": "none",
    "method": "none",
}  # fmt: skip
"""Built-in defaults; other settings default to the server's."""


Layers = Sequence[tuple[str, Sampling]]
"""`(source, sampling)`, highest precedence first."""


class _ResetLink(PlainLinks, Static):
    """Goes back to the inherited value on a click."""


class SettingRow(Horizontal):
    """A setting: name, field, source of the value, range and reset.

    Args:
        name: the setting's name.
        value: this chat's value; None or () for none.
    """

    DEFAULT_CSS = """
    SettingRow {
        height: 1;
        & > .name { width: 20; }
        & > Input { width: 16; background: $foreground 8%; }
        & > Input:focus { background: $primary 25%; }
        & > .source { width: 10; margin: 0 0 0 2; color: $text-muted; }
        & > .range { width: 1fr; min-width: 25; color: $text-muted; }
        & > .help {
            display: none;
            width: 3fr;
            margin: 0 2 0 0;
            color: $text-muted;
            text-wrap: nowrap;
            text-overflow: ellipsis;
        }
        & > .reset {
            width: 2;
            text-wrap: nowrap;
            visibility: hidden;
            color: $text-muted;
        }
        &.-set > .source { color: $text-primary; }
        &.-set > .reset { visibility: visible; }
        &.-wrong > .range, &.-wrong > Input { color: $text-error; }
    }
    """

    def __init__(self, name: str, value: Any) -> None:
        super().__init__(id=f"row-{name}")
        self.setting = name
        self.value_input = VisibleInput(format_value(name, value), compact=True, id=name)

    def compose(self) -> ComposeResult:
        """Yield the parts of the row."""
        yield Static(self.setting.replace("_", " "), classes="name")
        yield self.value_input
        yield Static(classes="source")
        yield Static(Content(format_range(self.setting)), classes="range")
        yield Static(Content(setting_help(self.setting)), classes="help")
        click = Style.from_meta({"@click": f"screen.reset({self.setting!r})"})
        yield _ResetLink(Content.styled("× reset", click), classes="reset")

    def show_source(self, inherited: Any, source: str, *, own: bool) -> None:
        """Show the inherited value and its source."""
        nothing = UNSET_LABELS.get(self.setting, "the server's")
        self.value_input.placeholder = (
            escape_controls(format_value(self.setting, inherited)) or nothing
        )
        self.set_class(own, "-set")
        self.query_one(".source", Static).update(Content(THIS_CHAT if own else source))

    def show_invalid(self, invalid: bool) -> None:
        """Mark an invalid value."""
        self.set_class(invalid, "-wrong")
        mark = "✗ " if invalid else ""
        self.query_one(".range", Static).update(Content(f"{mark}{format_range(self.setting)}"))


class SettingTitles(Horizontal):
    """The titles above the rows."""

    DEFAULT_CSS = """
    SettingTitles {
        height: 1;
        color: $text-muted;
        text-style: underline;
        & > Static { width: auto; }
        & > .name { width: 20; }
        & > .value { width: 16; }
        & > .source { width: 10; margin: 0 0 0 2; }
        & > .range { width: 1fr; min-width: 25; }
        & > .help { display: none; width: 3fr; margin: 0 2 0 0; }
        & > .reset { width: 3; }
    }
    """

    def compose(self) -> ComposeResult:
        """Yield a title for each column."""
        for name, title in TITLES.items():
            yield Static(title, classes=name)


TITLES = {
    "name": "setting",
    "value": "value",
    "source": "from",
    "range": "allowed",
    "help": "what it does",
    "reset": "",
}


def setting_help(name: str) -> str:
    """Return what a setting does, in one line."""
    return LIST_HELP.get(name, SPECS[name].help if name in SPECS else "")


class SamplingForm(VerticalScroll):
    """Applies a value as soon as it is valid; an empty field inherits from the layer below.

    Args:
        sampling: this chat's sampling.
        layers: the layers below it, highest precedence first.
    """

    DEFAULT_CSS = """
    SamplingForm { height: 1fr; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "app.focus_previous", "previous", show=False),
        Binding("down", "app.focus_next", "next", show=False),
    ]

    @dataclass
    class Changed(Message):
        """This chat's sampling has changed."""

        sampling: Sampling

    @dataclass
    class HelpChanged(Message):
        """Description of the focused field, or why its value is invalid."""

        text: str
        is_error: bool

    def __init__(self, sampling: Sampling, layers: Layers) -> None:
        super().__init__(can_focus=False)
        self.sampling = sampling
        self.lower_layers = layers

    def compose(self) -> ComposeResult:
        """Yield one row per setting."""
        for name in SPECS:
            yield SettingRow(name, getattr(self.sampling, name))

    def on_mount(self) -> None:
        """Show the value in effect."""
        self.refresh_sources()

    def refresh_sources(self) -> None:
        """Update the inherited values."""
        below = {each.name: each for each in effective_sampling(self.lower_layers)}
        for row in self.query(SettingRow):
            each = below[row.setting]
            own = getattr(self.sampling, row.setting) not in (None, ())
            row.show_source(each.value, each.source, own=own)

    def rejected_values(self) -> list[str]:
        """Return for each invalid field the value in effect and the reason."""
        problems = []
        for row in self.query(SettingRow):
            try:
                parse_value(row.setting, row.value_input.value)
            except UsageError as error:
                own = format_value(row.setting, getattr(self.sampling, row.setting))
                reason = error.message.removeprefix(f"{row.setting} ")
                problems.append(
                    f"{row.setting} stays {own or row.value_input.placeholder}; it {reason}"
                )
        return problems

    def reset(self, names: Iterable[str] = SPECS) -> None:
        """Clear these fields."""
        for name in names:
            self.query_one(f"#{name}", Input).value = ""

    @on(Input.Changed)
    def _apply_input(self, event: Input.Changed) -> None:
        event.stop()
        row = self.query_one(f"#row-{event.input.id}", SettingRow)
        try:
            value = parse_value(row.setting, event.value)
        except UsageError as error:
            row.show_invalid(True)
            self.post_message(self.HelpChanged(error.message, True))
            return
        row.show_invalid(False)
        self._post_help(row)
        if value != getattr(self.sampling, row.setting):
            self.sampling = dataclasses.replace(self.sampling, **{row.setting: value})
            self.refresh_sources()
            self.post_message(self.Changed(self.sampling))

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """Describe the focused field."""
        if isinstance(event.widget.parent, SettingRow):
            self._post_help(event.widget.parent)

    def _post_help(self, row: SettingRow) -> None:
        try:
            parse_value(row.setting, row.value_input.value)
        except UsageError as error:
            self.post_message(self.HelpChanged(error.message, True))
        else:
            meaning = setting_help(row.setting)
            self.post_message(self.HelpChanged(f"{row.setting}: {meaning}", False))


def parse_value(name: str, text: str) -> Any:
    """Parse a field's text; an empty one is None, or () for a list.

    Raises:
        UsageError: it is invalid or out of range; the message names the range.
    """
    text = text if name == "stop" else text.strip()
    value: Any = text
    if name == "stop":
        value = _parse_stop(text)
    elif name == "logit_bias":
        return parse_logit_bias(text)
    elif not text:
        return None
    elif name == "schema":
        return schema_text(parse_schema(text))
    elif name == "grammar":
        return str(parse_grammar(text))
    elif name in NUMERIC_SAMPLING:
        try:
            value = int(text) if SPECS[name].is_integer else float(text)
        except ValueError:
            value = one_line(text, 30)
    Sampling(**{name: value})
    return value


def format_value(name: str, value: Any) -> str:
    """Format a value as it is typed."""
    if value in (None, ()):
        return ""
    if name == "stop":
        return ", ".join(dump_json(text) for text in value)
    if name == "logit_bias":
        return format_logit_bias(value)
    if name not in NUMERIC_SAMPLING:
        return str(value)
    return f"{value:d}" if SPECS[name].is_integer else f"{value:g}"


def format_range(name: str) -> str:
    """Format a range."""
    if name == "stop":
        return "texts"
    if name == "logit_bias":
        return f"each {-MAX_BIAS:g} to {MAX_BIAS:g}"
    if name == "thinking":
        return "/".join(THINKING_LEVELS)
    if name == "schema":
        return "JSON"
    if name == "grammar":
        return f"{':, '.join(GRAMMAR_KINDS)}:"
    if name == "method":
        return "name:argument"
    low, high = SPECS[name].minimum, SPECS[name].maximum
    return f"{low:g} or more" if high >= UNLIMITED_FROM else f"{low:g} to {high:g}"


def _parse_stop(text: str) -> tuple[str, ...]:
    """Format one stop string as it is, or several as JSON strings."""
    if not text:
        return ()
    if not text.lstrip().startswith('"'):
        return (text,)
    try:
        texts = json.loads(f"[{text}]")
    except json.JSONDecodeError as error:
        raise UsageError(f'stop must be written as "one", "two": {error.msg}') from error
    return tuple(texts)
