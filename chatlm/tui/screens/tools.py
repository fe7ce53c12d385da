"""Card of the tools in a chat: which are offered, and what happens when the model calls them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import ClassVar

from rich.cells import set_cell_size
from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from chatlm.chat.tool_set import OfferedTool, ToolOptions, ToolSet, with_chat_tools
from chatlm.text import escape_controls, one_line
from chatlm.tui.formatting import count
from chatlm.tui.screens.card import Card
from chatlm.tui.widgets.column_titles import ColumnTitles
from chatlm.tui.widgets.hints import with_commands
from chatlm.tui.workers import single_value
from chatlm.types.conversations import ConversationHeader
from chatlm.types.requests import ToolDefinition
from chatlm.types.tool_rules import ChatTools, Permission

_NEXT: Mapping[Permission, Permission] = {"ask": "allow", "allow": "deny", "deny": "ask"}

_COLOURS: Mapping[Permission, str] = {
    "ask": "$text-accent",
    "allow": "$text-success",
    "deny": "$text-error",
}

_MUTED = "$text-muted"

_NAME_WIDTH, _PERMISSION_WIDTH = 24, 8


class ToolsScreen(Card[None]):
    """Lists the tools; changes what the user decided about them in this chat.

    Args:
        read: returns the tools, in a thread.
        options: of the settings.
        chat: the open chat.
        set_tools: stores what the user decided about tools in it.
        count_tokens: counts what describing tools takes, in a thread; None if that is not known.
        note: what the model cannot do with tools; empty for nothing.
    """

    DEFAULT_CSS = """
    ToolsScreen {
        & #state { height: auto; margin: 0 0 1 0; }
        & > .card { width: 110; height: 30; }
        & OptionList {
            height: 1fr;
            text-wrap: nowrap;
            text-overflow: ellipsis;
        }
        & #about { height: auto; max-height: 50%; margin: 1 0; }
        &.-low #about { max-height: 30%; margin: 0; }
        &.-low #state { margin: 0; }
    }
    """

    CARD_TITLE = "Tools"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "toggle_all", "tools on or off in this chat"),
        Binding("space", "offer", "offer or not"),
        Binding("p", "permission", "ask, allow or deny"),
        Binding("r", "reset", "as in the settings"),
        Binding("escape,q", "dismiss", "close"),
    ]

    def __init__(
        self,
        read: Callable[[], Mapping[str, OfferedTool]],
        options: ToolOptions,
        chat: ConversationHeader,
        set_tools: Callable[[ChatTools], None],
        count_tokens: Callable[[tuple[ToolDefinition, ...]], int] | None = None,
        note: str = "",
    ) -> None:
        super().__init__()
        self._read = read
        self._options = options
        self._chat = chat
        self._store = set_tools
        self._note = note
        self._count_tokens = count_tokens
        self._tokens: int | None = None
        """What describing the offered tools takes; None while it is not known."""
        self._tools: Mapping[str, OfferedTool] = {}

    def body(self) -> Iterable[Widget]:
        """Yield the state, the list and the description."""
        yield Static(id="state")
        yield ColumnTitles(
            (("  tool", _NAME_WIDTH + 2), ("calls", _PERMISSION_WIDTH), ("what it does", 12))
        )
        yield OptionList(Option("Loading …", disabled=True), markup=False)
        yield Static(id="about")

    def on_mount(self) -> None:
        """Ask the plugins for their tools."""
        self.start_work(lambda: single_value(self._read))

    def handle_value(self, value: object) -> None:
        """Show the tools."""
        if isinstance(value, dict):
            self._tools = value
            self._update()
        elif isinstance(value, int):
            self._tokens = value
            self._show_state()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide actions that are not available."""
        if action == "reset":
            return self._chat.tools != ChatTools()
        return action in ("toggle_all", "dismiss") or self._highlighted is not None

    def action_toggle_all(self) -> None:
        """Switch tools on or off in this chat."""
        is_on = self._options.is_on(self._chat.tools)
        self._change(ChatTools(**{**vars(self._chat.tools), "enabled": not is_on}))

    def action_offer(self) -> None:
        """Offer the tool in this chat, or do not."""
        if one := self._highlighted:
            offered = self._set.offers(one)
            self._change(self._chat.tools.with_offer(one.tool.name, not offered))

    def action_permission(self) -> None:
        """Change what happens when the model calls the tool in this chat."""
        if one := self._highlighted:
            now = self._set.permission(one)
            self._change(self._chat.tools.with_permission(one.tool.name, _NEXT[now]))

    def action_reset(self) -> None:
        """Forget what was decided in this chat."""
        self._change(ChatTools())

    @on(OptionList.OptionSelected)
    def _select(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.action_offer()

    @on(OptionList.OptionHighlighted)
    def _highlight(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self._update_description()

    @property
    def _set(self) -> ToolSet:
        return ToolSet(self._tools, self._options, self._chat)

    @property
    def _highlighted(self) -> OfferedTool | None:
        option = self.query_one(OptionList).highlighted_option if self.is_mounted else None
        return None if option is None or option.id is None else self._tools.get(option.id)

    def _change(self, tools: ChatTools) -> None:
        self._chat = with_chat_tools(self._chat, tools)
        self._store(tools)
        self._update()

    def _update(self) -> None:
        is_on = self._options.is_on(self._chat.tools)
        tools, shown = self._set, self.query_one(OptionList)
        if self._count_tokens is not None:
            marked = (each for each in self._tools.values() if tools.offers(each))
            definitions = tuple(each.tool.definition for each in marked)
            self.start_work(partial(single_value, partial(self._count_tokens, definitions)))
        self._show_state()
        at = shown.highlighted or 0
        rows = [Option(_row(one, tools, is_on=is_on), id=name) for name, one in self._tools.items()]
        shown.set_options(rows or [Option("No plugin offers tools.", disabled=True)])
        shown.highlighted = at if rows else None
        self._update_description()

    def _show_state(self) -> None:
        is_on = self._options.is_on(self._chat.tools)
        taken = "" if self._tokens is None else count(self._tokens, "token")
        if is_on:
            cost = f", which take {taken} of each prompt" if taken else ""
            words = f"On in this chat: the model may call the marked tools{cost}."
        else:
            cost = f" The marked ones would take {taken} of each prompt." if taken else ""
            words = f"Off in this chat: the model sees no tools. `t` turns them on.{cost}"
        state = Content.assemble(
            ("● ", "$text-success" if is_on else "$foreground 30%"),
            with_commands(words),
            (f"\n{self._note}" if self._note else "", "$text-warning"),
        )
        self.query_one("#state", Static).update(state)

    def _update_description(self) -> None:
        about = self.query_one("#about", Static)
        one = self._highlighted
        about.update(_describe(one, self._set) if one else "")
        self.call_after_refresh(self.query_one(OptionList).scroll_to_highlight)
        self.refresh_bindings()


def _row(one: OfferedTool, tools: ToolSet, *, is_on: bool) -> Content:
    offered, permission = tools.offers(one), tools.permission(one)
    name = one_line(one.tool.name, _NAME_WIDTH - 2)
    about = one_line(one.tool.description.split("\n")[0], 200)
    return Content.assemble(
        ("✓ " if offered else "  ", "$text-success" if is_on else _MUTED),
        (set_cell_size(name, _NAME_WIDTH), "" if offered and is_on else _MUTED),
        (set_cell_size(permission, _PERMISSION_WIDTH), _COLOURS[permission]),
        (about, _MUTED),
    )


def _unwrapped(text: str) -> str:
    """Join the lines of each paragraph, which were broken for source code; lists stay."""
    return re.sub(r"(?<!\n)\n(?![\n\s*-])", " ", text)


def _describe(one: OfferedTool, tools: ToolSet) -> Content:
    tool = one.tool
    facts = [
        f"group {one.group}",
        "changes nothing" if tool.read_only else "",
        "results are text from outside" if tool.untrusted_output else "",
        "" if tool.timeout is None else f"at most {tool.timeout:g} s",
        "a process of its own" if tool.own_process else "",
    ]
    lines = [
        Content.assemble(
            (one_line(tool.name, 64), "bold"), ("  " + " · ".join(filter(None, facts)), _MUTED)
        ),
        Content(escape_controls(_unwrapped(tool.description))),
    ]
    if rules := tools.rules_about(one):
        lines.append(Content.styled("\n".join(rules), _MUTED))
    return Content("\n").join(lines)
