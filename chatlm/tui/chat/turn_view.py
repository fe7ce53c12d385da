"""One turn: the user's message, the reply and a status line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.style import Style
from textual.widgets import Static

from chatlm.text import escape_controls
from chatlm.tui import clipboard, commands, formatting
from chatlm.tui.chat.image_block import ImageBlock
from chatlm.tui.chat.json_text import as_markdown
from chatlm.tui.chat.markdown import code_blocks
from chatlm.tui.chat.message_fold import fold_message
from chatlm.tui.chat.reply_view import ReplyView
from chatlm.tui.chat.thought_block import ThoughtBlock
from chatlm.tui.chat.tool_block import ToolBlock
from chatlm.tui.widgets.hints import HINT_GAP, PlainLinks, command_hint, hint
from chatlm.types.conversations import ContextPolicy, Turn
from chatlm.types.messages import Annotation
from chatlm.types.parts import Image, Part, Reasoning, Text
from chatlm.types.replies import Reply, StreamedPart

KEY_HINTS = (
    (("copy",), "copy"),
    (("edit",), "edit"),
    (("previous-version", "next-version"), "versions"),
    (("thoughts",), "thoughts"),
    (("images",), "images"),
    (("message",), "whole message"),
    (("details",), "details"),
    (("xray",), "prompt"),
    (("fork",), "fork"),
    (("turn-help",), "all keys"),
)
"""Commands hinted for the selected turn, with short labels."""


MUTED_STYLE = "$text-muted"


class TurnLine(PlainLinks, Static):
    """The line below a turn: what goes on, or its version, how it ended and what it took."""


class TurnView(Vertical, can_focus=True):
    """A stored turn, whose reply streams between `begin_reply` and `show_turn`.

    The keys of a turn run commands of the screen, which asks the transcript for the selected turn.

    Args:
        turn: the turn as stored.
        newest: whether it is the last of its chat, whose reply can be continued or regenerated.
        thoughts_open: whether the text of its thoughts is shown.
        message_open: whether all of a long message is shown.
    """

    DEFAULT_CSS = """
    TurnView {
        height: auto;
        margin: 0 0 1 0;
        border-left: blank;

        & > .user {
            height: auto;
            max-width: 100;
            padding: 0 1;
            border-left: outer $primary;
            background: $primary 10%;
            color: $foreground;
        }
        & > .author {
            height: 1;
            margin: 1 0 0 0;
            padding: 0 1 0 2;
            color: $text-success;
            text-style: bold;
            text-wrap: nowrap;
            text-overflow: ellipsis;
        }
        & > .line {
            height: auto;
            margin: 1 0 0 0;
            padding: 0 1 0 2;
            color: $text-muted;
        }
        & > .summary {
            height: auto;
            margin: 1 1 1 2;
            padding: 0 1;
            border-left: outer $foreground 30%;
        }
        &:focus {
            border-left: outer $accent;
            background: $foreground 4%;
        }
        &.-outside > .user, &.-outside > ImageBlock, &.-outside > ReplyView { opacity: 60%; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [*commands.bindings(commands.TURN)]

    def __init__(
        self,
        turn: Turn,
        *,
        newest: bool = False,
        thoughts_open: bool = False,
        message_open: bool = False,
    ) -> None:
        super().__init__()
        self.turn = turn
        self.message_open = message_open
        """Whether all of a long message is shown."""
        self.thoughts_open = thoughts_open
        """Whether the text of the thoughts is shown."""
        self.reply_text = _joined_text(turn.reply)
        """The reply's text so far, without its other parts."""
        self._is_newest = newest
        self._omitted = False
        self._activity: str | None = None
        """Current activity of the reply; None when idle."""
        self._copied_block = -1
        """Index of the code block that was copied last."""

    def compose(self) -> ComposeResult:
        """Yield the message, the reply and the status line."""
        yield Static(self._message_content(), classes="user")
        for image in self._message_images:
            yield ImageBlock(image, by_user=True)
        for image in self._passage_images:
            yield ImageBlock(image)
        author = Static(self._author_content(self.turn.reply), classes="author")
        author.display = self.turn.reply is not None
        yield author
        if self.turn.reply and self.turn.reply.parts:
            yield self._reply_view(self.turn.reply.parts)
        if self._active_summary:
            yield self._summary_block()
        yield TurnLine(self._footer_content(), classes="line")
        self._update_context_state()

    def watch_has_focus(self, has_focus: bool) -> None:
        """Update the key hints when the focus changes."""
        super().watch_has_focus(has_focus)
        self._update_footer()

    def show_rewritten(self, turn: Turn) -> None:
        """Show the user's message of `turn`, which a plugin rewrote."""
        self.turn = dataclasses.replace(self.turn, user=turn.user, raw_input=turn.raw_input)
        self._update_message()

    def show_annotations(self, labels: Iterable[Annotation]) -> None:
        """Show labels of the user's message."""
        annotations = tuple((None, label) for label in labels)
        self.turn = dataclasses.replace(self.turn, annotations=annotations)
        self._update_message()

    async def show_passage_images(self, images: tuple[Image, ...]) -> None:
        """Show the pictures of passages that were just retrieved."""
        shown = self._passage_images
        self.turn = dataclasses.replace(self.turn, passage_images=images)
        new = [ImageBlock(image) for image in self._passage_images if image not in shown]
        await self.mount(*new, before=self.query_exactly_one(".author"))

    async def begin_reply(self, reply: Reply) -> None:
        """Show a reply that is about to stream."""
        self._activity = ""
        self.reply_text = _joined_text(reply)
        self._update_author(reply)
        await self._remove_reply()
        await self.mount(self._reply_view(reply.parts), before=self.query_one(".line"))

    async def append_text(
        self, text: str, part: StreamedPart = "text", thought: Reasoning | None = None
    ) -> None:
        """Append streamed text to a part of the reply; see `ReplyView.append_text`."""
        if part == "text":
            self.reply_text += text
        for view in self.query(ReplyView):
            await view.append_text(text, part, thought)

    @property
    def is_streaming(self) -> bool:
        """Whether its reply is being written."""
        return self._activity is not None

    @property
    def has_thoughts(self) -> bool:
        """Whether thoughts of its reply are drawn."""
        return bool(self.query(ThoughtBlock))

    @property
    def has_folds(self) -> bool:
        """Whether thoughts or calls of its reply are drawn, which open and close."""
        return self.has_thoughts or bool(self.query(ToolBlock))

    async def show_reply(self, reply: Reply) -> None:
        """Show a reply that goes on after the results of tools."""
        self.reply_text = _joined_text(reply)
        for view in self.query(ReplyView):
            await view.show_parts(reply.parts, streamed=True, live=True)

    def show_tool_state(self, call_id: str, state: str) -> None:
        """Show what happens to a call that has no result yet."""
        for view in self.query(ReplyView):
            view.show_tool_state(call_id, state)

    async def open_thoughts(self, is_open: bool) -> None:
        """Show or hide the text of the thoughts."""
        self.thoughts_open = is_open
        for view in self.query(ReplyView):
            await view.open_thoughts(is_open)

    @property
    def has_long_message(self) -> bool:
        """Whether a part of the message is left out as long as it is folded."""
        text = self.turn.display_text
        return fold_message(text) != text

    def open_message(self, is_open: bool) -> None:
        """Show all of a long message, or fold it."""
        self.message_open = is_open
        self._update_message()

    async def show_turn(self, turn: Turn) -> None:
        """Show the turn as stored."""
        streamed, self._activity = self._activity is not None, None
        self.reply_text = _joined_text(turn.reply)
        self.turn = turn
        parts = turn.reply.parts if turn.reply else ()
        views = self.query(ReplyView)
        if not parts:
            await self._remove_reply()
        elif not views:
            await self.mount(self._reply_view(parts), before=self.query_one(".line"))
        else:
            await views.first().show_parts(parts, streamed=streamed)
        await self.query(".summary").remove()
        if self._active_summary:
            await self.mount(self._summary_block(), before=self.query_one(".line"))
        self._update_message()
        self._update_author(turn.reply)
        self._update_context_state()

    async def stop_streaming(self) -> None:
        """Stop drawing a streaming reply when its chat leaves the screen."""
        for view in self.query(ReplyView):
            await view.end_stream()

    def show_activity(self, activity: str) -> None:
        """Show the activity in the status line."""
        self._activity = activity
        self._update_footer()

    def set_newest(self, is_newest: bool) -> None:
        """Show or hide the hint to continue the reply."""
        self._is_newest = is_newest
        self._update_footer()

    def set_omitted(self, omitted: bool) -> None:
        """Mark whether the turn no longer fits the context."""
        if omitted != self._omitted:
            self._omitted = omitted
            self._update_context_state()

    def adjacent_version(self, step: int) -> Reply | None:
        """Return the previous (-1) or next (1) version; None at the ends."""
        replies = self.turn.replies
        if self._activity is not None or self.turn.reply is None:
            return None
        at = replies.index(self.turn.reply) + step
        return replies[at] if 0 <= at < len(replies) else None

    def code_blocks(self) -> list[str]:
        """The code blocks of the reply."""
        return code_blocks(as_markdown(self.reply_text))

    def copy_thoughts(self) -> None:
        """Copy the thoughts of the reply."""
        thoughts = [block.thought.text for block in self.query(ThoughtBlock)]
        if thoughts:
            clipboard.copy(self.app, "\n\n".join(thoughts), "the thoughts")
        else:
            self.notify("This reply has no thoughts.", severity="warning", markup=False)

    def copy_reply(self) -> None:
        """Copy the reply."""
        if self.reply_text:
            clipboard.copy(self.app, self.reply_text, "the reply")
        else:
            self.notify("There is no reply to copy.", severity="warning", markup=False)

    def copy_code(self) -> None:
        """Copy the next code block of the reply, cyclically."""
        blocks = self.code_blocks()
        if not blocks:
            self.notify("There is no code block to copy.", severity="warning", markup=False)
            return
        self._copied_block = (self._copied_block + 1) % len(blocks)
        which = f" {self._copied_block + 1} of {len(blocks)}" if len(blocks) > 1 else ""
        clipboard.copy(self.app, blocks[self._copied_block], f"code block{which}")

    @property
    def _active_summary(self) -> str:
        """The summary that replaces the turn; empty for none."""
        return self.turn.summary if self.turn.context_policy is ContextPolicy.SUMMARISED else ""

    @property
    def _message_images(self) -> list[Image]:
        return [part for part in self.turn.user.parts if isinstance(part, Image)]

    @property
    def _passage_images(self) -> list[Image]:
        """Pictures of passages, each once, without those that the user attached."""
        images = dict.fromkeys(self.turn.passage_images)
        return [image for image in images if image not in self._message_images]

    def _message_content(self) -> Content:
        """The user's text, attached parts, a note if a plugin rewrote it, and labels."""
        text = self.turn.display_text
        folded = text if self.message_open else fold_message(text)
        lines = [Content(escape_controls(folded))]
        if folded != text:
            lines.append(_command_link("▸ show the whole message", "message"))
        for part in self.turn.user.parts:
            if not isinstance(part, Text | Image):
                shown = formatting.describe_part(part)
                lines.append(Content.assemble((shown.label, "bold"), f"  {shown.title}"))
        if self.turn.is_rewritten:
            how = f"rewritten by a plugin · {commands.key_of('xray')} shows the full prompt"
            lines.append(Content.styled(how, MUTED_STYLE))
        if badges := self._annotation_badges(None):
            lines.append(Content.styled(badges, MUTED_STYLE))
        return Content("\n").join(lines)

    def _update_message(self) -> None:
        for message in self.query(".user").results(Static):
            message.update(self._message_content())

    def _author_content(self, reply: Reply | None) -> Content:
        """What wrote the reply; empty while there is none."""
        if reply is None:
            return Content()
        model, adapter = formatting.reply_author(reply)
        return Content.assemble(model, (f" · {adapter}", "not bold") if adapter else "")

    def _update_author(self, reply: Reply | None) -> None:
        for author in self.query(".author").results(Static):
            author.update(self._author_content(reply))
            author.display = reply is not None

    def _annotation_badges(self, reply_id: int | None) -> str:
        """The labels of a reply, None for the user's message."""
        return formatting.annotation_badges(
            label for on, label in self.turn.annotations if on == reply_id
        )

    def _summary_block(self) -> Static:
        words = Content.assemble(("Summary  ", "bold"), escape_controls(self._active_summary))
        return Static(words, classes="summary")

    def _update_context_state(self) -> None:
        dropped = self.turn.context_policy is ContextPolicy.DROPPED
        self.set_class(self._omitted or dropped or bool(self._active_summary), "-outside")
        self._update_footer()

    def _update_footer(self) -> None:
        below = self._footer_content()
        for line in self.query(".line").results(Static):
            width, height = line.content_size
            line.update(below, layout=not width or len(below.wrap(width)) != height)

    def _footer_content(self) -> Content:
        if self._activity is None:
            return self._idle_footer()
        parts = (Content(escape_controls(self._activity)), command_hint("stop", "stop"))
        return HINT_GAP.join(parts) if self._activity else Content()

    def _idle_footer(self) -> Content:
        reply = self.turn.reply
        parts = [
            self._version_switcher(),
            Content(formatting.context_status(self.turn, omitted=self._omitted)),
            Content(formatting.stop_text(reply)),
            self._continue_hint(),
            Content(formatting.reply_cost(reply)),
        ]
        lines = [Content(" · ").join(part for part in parts if part)]
        if reply is not None and (badges := self._annotation_badges(reply.id)):
            lines.insert(0, Content(badges))
        if reply is not None and reply.error:
            lines.append(Content.styled(escape_controls(reply.error), "$text-error"))
        return Content("\n").join(line for line in lines if line)

    def _continue_hint(self) -> Content:
        """The hint to continue or regenerate, if possible."""
        reply = self.turn.reply
        if not self._is_newest or (reply is not None and not reply.can_continue):
            return Content()
        if reply is None:
            return command_hint("regenerate", "answer")
        return command_hint("continue", "continue")

    def _version_switcher(self) -> Content:
        reply, versions = self.turn.reply, len(self.turn.replies)
        if reply is None or versions < 2:
            return Content()
        text = f"{reply.version}/{versions}"
        before = (
            _version_link("‹", "previous-version") if self.adjacent_version(-1) else Content("‹")
        )
        after = _version_link("›", "next-version") if self.adjacent_version(1) else Content("›")
        return Content.assemble(before, " ", (text, "bold $text"), " ", after)

    @property
    def hints(self) -> list[Content]:
        """The key hints of the selected turn."""
        hints = []
        for names, word in KEY_HINTS:
            if word == "versions" and len(self.turn.replies) < 2:
                continue
            if word == "thoughts" and not self.has_folds:
                continue
            if word == "images" and not self.query(ImageBlock):
                continue
            if word == "whole message" and (self.message_open or not self.has_long_message):
                continue
            label = "calls" if word == "thoughts" and not self.has_thoughts else word
            hints.append(hint("".join(commands.key_of(name) for name in names), label))
        return hints

    def _reply_view(self, parts: Iterable[Part]) -> ReplyView:
        return ReplyView(parts, thoughts_open=self.thoughts_open)

    async def _remove_reply(self) -> None:
        for view in self.query(ReplyView):
            await view.end_stream()
            await view.remove()


def _joined_text(reply: Reply | None) -> str:
    """Return the texts of a reply's steps as paragraphs."""
    return "\n\n".join(step.text for step in reply.steps if step.text) if reply else ""


def _version_link(text: str, command: str) -> Content:
    return _command_link(text, command).stylize("bold $text-primary")


def _command_link(text: str, command: str) -> Content:
    return Content.styled(text, Style.from_meta({"@click": f"screen.command('{command}')"}))
