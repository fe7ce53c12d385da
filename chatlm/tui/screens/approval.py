"""Cards of running tools: may this call run, and questions that a tool asks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, TypeVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from chatlm.text import escape_controls, one_line
from chatlm.tui.screens.card import Card
from chatlm.tui.screens.dialogs import PromptLine, PromptScreen
from chatlm.tui.tool_text import describe_arguments
from chatlm.types.events import Approval, ApprovalNeeded, ToolPreview, ToolQuestion

PAUSE_SECONDS = 0.6
"""The card takes keys only after nothing was pressed for so long, since it may open while the user
types a message."""

_MAX_PREVIEW = 20_000
"""Characters shown of a command, a diff or a text."""

_DIFF_COLOURS = {"+": "$text-success", "-": "$text-error", "@": "$text-accent"}


AnswerT = TypeVar("AnswerT")


class PatientCard(Card[AnswerT]):
    """A card that takes an answer only after the user has stopped typing."""

    def __init__(self) -> None:
        super().__init__()
        self._is_ready = False
        """Whether keys are meant for the card."""
        self._pause: Timer | None = None

    def on_mount(self) -> None:
        """Wait until the user does not type."""
        self._wait_for_pause()

    def on_key(self) -> None:
        """Wait again after a key that was meant for the message."""
        if not self._is_ready:
            self._wait_for_pause()

    def _wait_for_pause(self) -> None:
        if self._pause is not None:
            self._pause.stop()
        if self.app.is_headless:  # nobody types
            self._become_ready()
        else:
            self._pause = self.set_timer(PAUSE_SECONDS, self._become_ready)

    def _become_ready(self) -> None:
        self._is_ready = True
        self.refresh_bindings()


class ApprovalScreen(PatientCard[Approval | None]):
    """Asks whether a call may run; returns None to stop the reply.

    Args:
        event: the call.
        chat_title: the chat that it belongs to, if it is not the open one.
        is_replay: whether a reply is replayed, for which nothing is allowed in the chat.
    """

    DEFAULT_CSS = """
    ApprovalScreen {
        & > .card { width: 100; height: auto; max-height: 90%; padding: 0 2; border: round $accent;
            border-title-color: $text-accent; }
        & #about { height: auto; color: $text-muted; }
        & #call { height: auto; max-height: 16; margin: 1 0; padding: 0 1; background: $panel; }
        & #call > Static { height: auto; }
        & #warnings { height: auto; color: $text-warning; margin: 0 0 1 0; }
        &.-low #call { margin: 0; max-height: 6; }
        &.-low #warnings { margin: 0; }
    }
    """

    CARD_TITLE = "Allow this call?"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "allow(False)", "allow once"),
        Binding("c", "allow(True)", "allow in this chat"),
        Binding("d", "deny", "deny"),
        Binding("escape", "stop", "stop the reply"),
        Binding("up", "scroll(-1)", "scroll up", show=False),
        Binding("down", "scroll(1)", "scroll down", show=False),
    ]

    def __init__(
        self, event: ApprovalNeeded, chat_title: str = "", *, is_replay: bool = False
    ) -> None:
        super().__init__()
        self._is_replay = is_replay
        self.event = event
        self._chat_title = chat_title

    def body(self) -> Iterable[Widget]:
        """Yield what would be called, with what, and why that may be unwanted."""
        event = self.event
        what = one_line(event.description.split("\n")[0], 200)
        where = f"in the chat {one_line(self._chat_title, 60)}" if self._chat_title else ""
        where = "again, in a replay" if self._is_replay else where
        lines = [
            Content.assemble((one_line(event.call.name, 64), "bold $text-accent"), f"  {where}"),
            Content(what),
        ]
        yield Static(Content("\n").join(lines), id="about")
        with VerticalScroll(id="call", can_focus=False):
            yield Static(self._call())
        if warnings := self._warnings():
            yield Static(Content("\n").join(warnings), id="warnings")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Take keys after a pause, and offer what would be followed."""
        asks_again = bool(self.event.copied) or self.event.always or self._is_replay
        if action in ("allow", "deny") and not self._is_ready:
            return False
        return not (action == "allow" and parameters == (True,) and asks_again)

    def action_allow(self, for_chat: bool) -> None:
        """Let it run."""
        self.dismiss(Approval(True, for_chat=for_chat))

    def action_deny(self) -> None:
        """Ask why not, and deny it."""
        hint = "The model reads it and can do something else. Empty for no reason."
        self.app.push_screen(PromptScreen("Why not?", hint=hint), self._deny)

    def action_stop(self) -> None:
        """Stop the reply; the call stays unanswered and is asked about again later."""
        self.dismiss(None)

    def action_scroll(self, lines: int) -> None:
        """Scroll the arguments."""
        self.query_one("#call", VerticalScroll).scroll_relative(y=lines, animate=False)

    def _deny(self, reason: str | None) -> None:
        if reason is not None:
            self.dismiss(Approval(False, reason))

    def _call(self) -> Content:
        preview = self.event.preview
        if preview is None:
            return Content(describe_arguments(self.event.call.arguments) or "no arguments")
        return show_preview(preview)

    def _warnings(self) -> list[Content]:
        lines = []
        for copied in self.event.copied:
            lines.append(Content(f"{copied}: “{one_line(copied.text, 120)}”"))
        if lines:
            lines.append(Content("Somebody else wrote that. Did you want this call?"))
        if self.event.interrupted:
            lines.append(Content("It ran before, and the program ended meanwhile."))
        return lines


def show_preview(preview: ToolPreview) -> Content:
    """Return a command, diff or text as it is drawn."""
    text = preview.text
    if len(text) > _MAX_PREVIEW:
        text = f"{text[:_MAX_PREVIEW]}\n… {len(text) - _MAX_PREVIEW:,} more characters"
    lines = escape_controls(text).removesuffix("\n").split("\n")
    match preview.kind:
        case "command":
            first, *rest = lines
            return Content("\n").join(
                [Content.assemble(("$ ", "bold"), first), *map(Content, rest)]
            )
        case "diff":
            return Content("\n").join(
                Content.styled(line, _DIFF_COLOURS.get(line[:1], "")) for line in lines
            )
    return Content("\n").join(map(Content, lines))


class QuestionScreen(PatientCard[str | None]):
    """Asks the question of a running tool; returns None to stop the reply.

    Args:
        event: the question.
    """

    DEFAULT_CSS = """
    QuestionScreen {
        & > .card { width: 80; height: auto; max-height: 90%; padding: 1 2; border: round $accent;
            border-title-color: $text-accent; }
        & #question { height: auto; margin: 0 0 1 0; }
        & OptionList {
            height: auto;
            max-height: 12;
            border: none;
            padding: 0;
            background: $surface;
            &:focus { border: none; background-tint: $foreground 0%; }
            &:focus > .option-list--option-highlighted {
                background: $primary 18%; color: $foreground; text-style: none;
            }
        }
        & Hints { margin: 1 0 0 0; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "accept", "answer"),
        Binding("escape", "leave", "stop the reply"),
    ]

    def __init__(self, event: ToolQuestion) -> None:
        super().__init__()
        self.event = event
        self.CARD_TITLE = f"{one_line(event.call.name, 64)} asks"

    def body(self) -> Iterable[Widget]:
        """Yield the question and what it takes."""
        yield Static(Content(escape_controls(self.event.question)), id="question")
        if self.event.choices:
            yield OptionList(
                *(Option(Content(one_line(choice, 70))) for choice in self.event.choices)
            )
        else:
            yield PromptLine("", "")

    @on(OptionList.OptionSelected)
    def _choose(self, message: OptionList.OptionSelected) -> None:
        message.stop()
        if self._is_ready:
            self.dismiss(self.event.choices[message.option_index])
        else:  # Enter was meant for the message
            self._wait_for_pause()

    def action_accept(self) -> None:
        """Return the line."""
        if not self._is_ready:
            self._wait_for_pause()
            return
        for line in self.query(PromptLine):
            self.dismiss(line.value)

    def action_suggest(self) -> None:
        """Do nothing: there is no suggestion."""

    def action_leave(self) -> None:
        """Return None."""
        self.dismiss(None)
