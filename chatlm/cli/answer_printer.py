"""Print the answer of `chatlm ask` as it comes, or as JSON at its end."""

from __future__ import annotations

import dataclasses
import errno
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from chatlm.cli.ask_tools import ask_about_call, ask_for_tool, print_tool_event
from chatlm.errors import EXIT_INTERRUPTED, ChatlmError
from chatlm.text import dump_json, escape_controls, one_line
from chatlm.types.conversations import Turn
from chatlm.types.events import (
    ApprovalNeeded,
    Delta,
    Finished,
    Notice,
    SessionEvent,
    TokenLogprob,
    ToolFinished,
    ToolQuestion,
    ToolStarted,
    TurnStarted,
    logprobs_to_dict,
)
from chatlm.types.parts import PreparedImage, ToolCall, ToolResult
from chatlm.types.replies import Reply, StopReason
from chatlm.types.schemas import SchemaMismatch, parse_reply, parse_schema

if TYPE_CHECKING:
    from chatlm.chat.session import ChatSession


@dataclasses.dataclass
class AnswerPrinter:
    """Prints a turn's events as they arrive and collects the values of the final output."""

    echo: bool
    show_thoughts: bool
    """Whether thoughts are printed on stderr."""
    outlives_output: bool
    """Whether the answer is of use if it cannot be printed."""
    output_error: OSError | None = None
    turn: Turn | None = None
    text: str = ""
    thoughts: str = ""
    stop_string: str | None = None
    stop_reason: StopReason = StopReason.CANCELLED
    interrupted: bool = False
    asks: bool = False
    """Whether somebody is there who can be asked."""
    tokens: list[TokenLogprob] = dataclasses.field(default_factory=list)
    notices: list[str] = dataclasses.field(default_factory=list)
    parsed: Any = None
    """The value of a whole answer that has a schema."""
    misfits: bool = False
    """Whether the answer does not fit its schema: it was cut, or a server did not follow it."""
    _line_open: bool = False
    _thought_open: bool = False
    """Whether a thought is being printed."""

    def on_event(self, event: SessionEvent) -> None:
        """Print what an event has, and keep it."""
        match event:
            case TurnStarted(turn=turn):
                self.turn = turn
            case Delta(text=text, logprobs=tokens, part="text"):
                self.text += text
                self.tokens += tokens
                if text:
                    self._end_thought()
                if self.echo and text:
                    self._print(text)
            case Delta(text=text, part="reasoning"):
                self.thoughts += text
                if self.show_thoughts and text:
                    self._print_thought(text)
            case Finished(matched_stop=stop, stop_reason=reason):
                self.stop_string, self.stop_reason = stop, reason
            case ApprovalNeeded():
                self.end_line()
                if self.asks:
                    ask_about_call(event)
            case ToolQuestion():
                self.end_line()
                if self.asks:
                    ask_for_tool(event)
            case ToolStarted() | ToolFinished():
                self.end_line()
                if self.echo:
                    print_tool_event(event)
            case Notice(text=text):
                self.notices.append(text)
                self.end_line()
                click.echo(escape_controls(text), err=True)

    def _print_thought(self, text: str) -> None:
        if self._line_open and not self._thought_open:
            click.echo(err=True)  # on stderr, so that stdout has the answer and nothing else
        self._thought_open = True
        click.secho(escape_controls(text), dim=True, nl=False, err=True)

    def _end_thought(self) -> None:
        """Leave an empty line between a thought and what follows."""
        if self._thought_open:
            click.echo("\n", err=True)
            self._thought_open = False

    def _print(self, text: str) -> None:
        self._line_open = not text.endswith("\n")
        try:
            click.echo(escape_controls(text), nl=False)
            sys.stdout.flush()
        except OSError as error:
            self.echo = self._line_open = False
            if not self.outlives_output or error.errno == errno.EPIPE:
                raise
            self.output_error = error

    def parse(self, reply: Reply | None) -> None:
        """Parse a whole answer that had a schema."""
        schema = (reply.sampling if reply else {}).get("schema")
        if reply is None or not schema:
            return
        if reply.stop_reason is not StopReason.END:
            self.misfits = True
            return
        try:
            self.parsed = parse_reply(parse_schema(schema), reply.text)
        except SchemaMismatch as error:
            self.misfits = True
            self.on_event(Notice(error.message))

    def end_line(self) -> None:
        """Leave the cursor at the beginning of a line."""
        self._end_thought()
        if self._line_open:
            click.echo()
            self._line_open = False


def _reply_weights(session: ChatSession, turn: Turn) -> str:
    """Return how the weights of the model were held that generated the reply; empty if none did."""
    provenance = session.store.provenance(turn.reply.id) if turn.reply else None
    return provenance.weights if provenance else ""


def _to_dict(turn: Turn, answer: AnswerPrinter, session: Any, weights: str) -> dict[str, Any]:
    reply = turn.reply
    sampling = reply.sampling if reply else {}
    usage = reply.usage.to_dict() if reply else {}
    if reply:
        usage["tokens_per_second"] = reply.usage.tokens_per_second
    return {
        "text": reply.text if reply and reply.stop_reason else answer.text,
        "reasoning": (reply.reasoning if reply and reply.stop_reason else answer.thoughts) or None,
        "reasoning_seconds": reply.thoughts.seconds if reply else None,
        "stop_reason": (reply and reply.stop_reason) or answer.stop_reason,
        "stop": answer.stop_string,
        "tool_calls": _parts_as_dicts(reply, ToolCall),
        "tool_results": _parts_as_dicts(reply, ToolResult),
        "seed": sampling.get("seed"),
        "model": reply.model if reply else None,
        "adapter": reply.adapter if reply else None,
        "sampling": sampling,
        "usage": usage,
        "parsed": answer.parsed,
        "logprobs": logprobs_to_dict(answer.tokens, weights),
        "chat": session.conversation_id if session else None,
        "notices": answer.notices,
    }


def _parts_as_dicts(
    reply: Reply | None, kind: type[ToolCall] | type[ToolResult]
) -> list[dict[str, Any]]:
    """Return all calls, or all results, of a reply."""
    parts = reply.parts if reply else ()
    return [part.to_dict() for part in parts if isinstance(part, kind)]


def _print_stop_reason(reply: Reply | None, answer: AnswerPrinter, session: Any) -> None:
    """Print why a reply ended, unless it ended as it should and there is one."""
    if reply is None or reply.stop_reason is None or _says_it_all(reply):
        return
    names = ", ".join(one_line(call.name, 60) for call in _tool_calls(reply))
    if reply.stop_reason is StopReason.CRITERION:
        names = one_line(answer.stop_string or "", 60)
    details = f": {names}" if names else ""
    where = f"; saved in chat {session.conversation_id}" if session else ""
    click.echo(f"[{reply.stop_reason.label}{details}{where}]", err=True)


def _says_it_all(reply: Reply) -> bool:
    ended = reply.stop_reason in (StopReason.END, StopReason.STOP_STRING)
    return ended and bool(reply.text.strip())


def _tool_calls(reply: Reply) -> list[ToolCall]:
    """Return the calls that ended the reply."""
    if reply.stop_reason is not StopReason.TOOL_CALLS:
        return []
    return [part for part in reply.steps[-1].parts if isinstance(part, ToolCall)]


def print_answer(
    session: ChatSession,
    question: str,
    answer: AnswerPrinter,
    saved: bool,
    as_json: bool,
    images: Sequence[PreparedImage] = (),
) -> None:
    """Ask, and print the answer as it comes or as JSON at the end."""
    try:
        with closing(session.send(question, images)) as events:
            for event in events:
                answer.on_event(event)
    except KeyboardInterrupt:
        answer.interrupted = True
    finally:
        answer.end_line()
    if answer.output_error is not None:
        raise ChatlmError(
            f"The answer cannot be written to the output: {answer.output_error.strerror}.",
            hint=f"It is saved: chatlm chats show {session.conversation_id}",
        )
    if session.logprobs is not None and not answer.tokens:
        answer.on_event(Notice("The engine did not return log-probabilities."))
    turn = session.store.turn(answer.turn.id) if answer.turn else None
    answer.parse(turn.reply if turn else None)
    if as_json and turn is not None:
        weights = _reply_weights(session, turn)
        click.echo(dump_json(_to_dict(turn, answer, session if saved else None, weights)))
    else:
        _print_stop_reason(turn.reply if turn else None, answer, session if saved else None)
    if answer.interrupted:
        sys.exit(EXIT_INTERRUPTED)
    if turn is None or turn.reply is None or turn.reply.stop_reason is None:
        sys.exit(1)  # the answer was given, but could not be saved
    if code := turn.reply.stop_reason.exit_code:
        sys.exit(code)
    if answer.misfits:
        sys.exit(1)
