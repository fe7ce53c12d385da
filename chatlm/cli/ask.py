"""The command `chatlm ask`."""

from __future__ import annotations

import dataclasses
import errno
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chatlm.chat.attachments import AttachmentReader, read_blocks
from chatlm.chat.output_schema import read_grammar, read_schema
from chatlm.chat.resources import Resources
from chatlm.chat.templates import ChatStart, render_chat_start
from chatlm.cli.ask_options import AskCommand, command_words, setup_from_options
from chatlm.cli.ask_tools import ask_about_call, ask_for_tool, print_tool_event
from chatlm.cli.completers import complete_chat, complete_model, complete_template
from chatlm.cli.options import apply_plugin_options, plugin_options
from chatlm.config import config, paths
from chatlm.errors import ChatlmError, UsageError
from chatlm.plugin_kit.progress import pull_progress
from chatlm.text import dump_json, escape_controls, one_line
from chatlm.types.events import (
    MAX_TOP_LOGPROBS,
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
from chatlm.types.messages import Reply, StopReason, Turn
from chatlm.types.parts import ToolCall, ToolResult
from chatlm.types.requests import Request
from chatlm.types.sampling import NUMERIC_SAMPLING, THINKING_LEVELS, Sampling, parse_logit_bias
from chatlm.types.schemas import SchemaMismatch, parse_reply, parse_schema
from chatlm.types.tool_rules import ToolSettings, parse_rules

if TYPE_CHECKING:
    from chatlm.chat.session import ChatSession
    from chatlm.chat.tool_set import ToolOptions
    from chatlm.plugin_host.hook_threads import HookCall
    from chatlm.plugin_host.host import PluginHost


F = TypeVar("F", bound=Callable[..., Any])


def template_options(command: F) -> F:
    """Give a command both options, as `template: str | None` and `pairs: tuple[str, ...]`."""
    command = click.option(
        "-v",
        "--variable",
        "pairs",
        multiple=True,
        metavar="NAME=TEXT",
        help="Set a template variable; repeatable.",
    )(command)
    return click.option(
        "-t",
        "--template",
        metavar="NAME",
        shell_complete=complete_template,
        help="Use this template; list them: chatlm templates list",
    )(command)


def chat_start_from_options(
    template: str | None, pairs: Sequence[str], raw_input: str, plugins: PluginHost
) -> ChatStart:
    """Apply the template options to the input.

    Args:
        template: the template's name; None for none.
        pairs: `NAME=TEXT` for its variables.
        raw_input: what the user typed or piped in.
        plugins: provide templates.

    Raises:
        UsageError: there is no such template, or the variables do not match it.
    """
    if template is None and pairs:
        raise UsageError("-v sets a variable of a template.", hint="Specify the template: -t NAME")
    try:
        return render_chat_start(template or "", parse_variables(pairs), raw_input, plugins)
    except UsageError:
        for fault in plugins.take_faults():
            click.echo(escape_controls(str(fault)), err=True)
        raise


def parse_variables(pairs: Sequence[str]) -> dict[str, str]:
    """Parse `NAME=TEXT` pairs; raises UsageError for one without `=`."""
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"-v {pair!r} has no =.", hint="Use -v NAME=TEXT.")
        values[name.strip()] = text
    return values


EXIT_INTERRUPTED = 130

BATCH_AT_ONCE = 8
"""Requests of a file that are answered at once, unless --at-once says otherwise."""


LABEL_SECONDS = 1.0
"""Seconds to wait for plugins after the answer is printed, such as for its labels."""


def _sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each numeric sampling setting, with its range in the help."""
    for name, spec in reversed(NUMERIC_SAMPLING.items()):
        kind = int if spec.is_integer else float
        span = f" [{spec.minimum:g} to {spec.maximum:g}]" if spec.maximum < 1e6 else ""
        option = "--" + name.replace("_", "-")
        command = click.option(
            option, type=kind, help=spec.help[:1].upper() + spec.help[1:] + "." + span
        )(command)
    return command


@click.command(cls=AskCommand)
@click.argument("words", nargs=-1, metavar="QUESTION")
@click.option("--system", help="System prompt.")
@click.option(
    "-m", "--model", metavar="NAME", shell_complete=complete_model, help="Use this model."
)
@click.option(
    "--chat",
    "chat_id",
    type=int,
    metavar="ID",
    shell_complete=complete_chat,
    help="Continue this saved chat.",
)
@click.option("--adapter", metavar="NAME", help="Use this LoRA adapter; `off` for the base model.")
@template_options
@_sampling_options
@click.option(
    "--think",
    "thinking",
    type=click.Choice(THINKING_LEVELS),
    help="How much a reasoning model thinks before it answers.",
)
@click.option(
    "--logit-bias",
    multiple=True,
    metavar="TOKEN=BIAS",
    help="Add to the logit of a token, given by its id, or of all tokens of a text in double "
    "quotes: --logit-bias '\" cat\"=-100'; repeatable. [-100 to 100]",
)
@click.option(
    "--schema",
    metavar="SCHEMA",
    help="Make the answer JSON that fits a schema: a file, or fields such as 'name str, age int'.",
)
@click.option(
    "--grammar",
    metavar="GRAMMAR",
    help="Make the answer match a grammar: a .lark or .gbnf file, or such as 'regex:[0-9]+'.",
)
@click.option(
    "--method",
    metavar="METHOD",
    help="Make the reply in another way, such as consensus:9; list them: chatlm reason list",
)
@click.option(
    "--show-thinking", is_flag=True, help="Print the model's thoughts on stderr, before the answer."
)
@click.option(
    "--stop", multiple=True, metavar="TEXT", help="End the reply at this text; repeatable."
)
@click.option(
    "-a",
    "-f",
    "--attach",
    "--file",
    "files",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="Add the text of this file, of a folder's files or of a resource such as @SERVER:NAME to "
    "the question; repeatable.",
)
@click.option(
    "--tools",
    metavar="NAMES",
    help="Offer these tools and groups of tools to the model, with commas between; 'all' for all. "
    "List them: chatlm tools list",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="RULE",
    help="Let these calls run without asking: a tool, a group, or such as "
    "'files_read(path=~/notes/*)'; repeatable.",
)
@click.option(
    "--deny", multiple=True, metavar="RULE", help="Refuse these calls, as --allow; repeatable."
)
@click.option(
    "--tool-choice",
    metavar="CHOICE",
    help="Whether the model calls a tool at first: auto, none, required or a tool's name.",
)
@click.option("--no-save", is_flag=True, help="Do not save this chat.")
@click.option("--dry-run", is_flag=True, help="Print the prompt without generating a reply.")
@click.option(
    "--batch",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Answer a file of requests together, one JSON object a line; requires -o.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the answers of --batch here; what is answered there already is not asked again.",
)
@click.option(
    "--at-once",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Answer so many requests of --batch at once; each needs memory. Default: 8",
)
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.option(
    "--logprobs",
    type=click.IntRange(0, MAX_TOP_LOGPROBS),
    metavar="N",
    help="Include log-probabilities of each token and of the N most likely; requires --json.",
)
@click.pass_context
def ask(
    context: click.Context,
    /,
    words: tuple[str, ...],
    system: str | None,
    model: str | None,
    adapter: str | None,
    chat_id: int | None,
    stop: tuple[str, ...],
    logit_bias: tuple[str, ...],
    schema: str | None,
    grammar: str | None,
    method: str | None,
    files: tuple[str, ...],
    show_thinking: bool,
    tools: str | None,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    tool_choice: str | None,
    no_save: bool,
    dry_run: bool,
    as_json: bool,
    logprobs: int | None,
    batch: Path | None,
    output: Path | None,
    at_once: int | None,
    template: str | None,
    pairs: tuple[str, ...],
    safe_mode: bool,
    without: tuple[str, ...],
    **numbers: Any,
) -> None:
    """Ask one question and print the answer.

    Text from a pipe is added below the question. Ctrl-C stops generation and keeps
    the text generated so far.

    With --batch, the requests of a file are answered together. Their lines are such as
    {"id": 1, "prompt": "…", "max_tokens": 50} or have the form of OpenAI's batches.
    After an interruption, the same command goes on.

    Example: cat notes.txt | chatlm ask --temperature 0 "Summarise this."
    """
    setup = setup_from_options(context)
    if batch is None:
        for option, value in (("-o", output), ("--at-once", at_once)):
            if value is not None:
                raise UsageError(f"{option} requires --batch.", hint="Add --batch FILE.")
        typed = _read_question(words)
    else:
        _check_batch_options(
            output,
            {
                "A question": words,
                "--chat": chat_id is not None,
                "-a": files,
                "--dry-run": dry_run,
                "--show-thinking": show_thinking,
                "--tools": tools is not None,
            },
        )
        typed = ""
    if chat_id is not None and (setup.plugin_data or setup.system):
        raise UsageError(
            "A saved chat has its own system prompt and plugin settings.",
            hint="Omit --chat or the plugins' options.",
        )
    if chat_id is not None and no_save:
        raise UsageError("--chat and --no-save cannot be combined.")
    if chat_id is not None and system is not None:
        raise UsageError(
            "A saved chat has its own system prompt; --system cannot be combined with --chat."
        )
    if chat_id is not None and template is not None:
        raise UsageError(
            "-t starts a new chat and cannot be combined with --chat.",
            hint="Use one of them. In an open chat, /template changes its template.",
        )
    if logprobs is not None and not as_json and batch is None:
        raise UsageError("--logprobs requires --json.", hint="Add --json.")
    biases = [bias for text in logit_bias for bias in parse_logit_bias(text)]
    wanted = Sampling.from_dict(
        {
            **numbers,
            "stop": stop,
            "logit_bias": biases,
            "schema": None if schema is None else read_schema(schema),
            "grammar": None if grammar is None else str(read_grammar(grammar)),
            "method": method,
        }
    )
    settings = apply_plugin_options(config.load(model=model), safe_mode=safe_mode, without=without)
    tool_options = parse_tool_options(settings.tools, tools, allow, deny, tool_choice)
    from chatlm.chat.deletion import open_memory_store
    from chatlm.chat.session import ChatSession
    from chatlm.plugin_host.lifecycle import loaded_plugins
    from chatlm.store.store import Store

    saved = not no_save and (chat_id is not None or not dry_run)
    with loaded_plugins(settings) as plugins:
        plugins.on_hang = _print_hang
        if batch is not None and output is not None:
            from chatlm.chat.batch_answers import CommonSettings
            from chatlm.cli.ask_batch import answer_file

            common = CommonSettings(
                model=settings.model,
                model_fixed=model is not None,
                adapter="" if adapter == "off" else (adapter or setup.adapter or None),
                system=setup.system or None if system is None else system,
                default_system=settings.system,
                template=template or "",
                values=tuple(parse_variables(pairs).items()),
                sampling=wanted.with_fallback(setup.sampling),
                default_sampling=settings.sampling,
                plugin_data=setup.plugin_data,
                logprobs=logprobs,
            )
            answer_file(
                batch,
                output,
                common,
                settings,
                plugins,
                at_once=at_once or BATCH_AT_ONCE,
                command=command_words(context),
            )
            return
        blocks = _read_attachments(files, plugins)
        typed = "\n\n".join(filter(None, (typed, *blocks)))
        opening = chat_start_from_options(template, pairs, typed, plugins)
        if not opening.first_message.strip():
            raise UsageError("No question was given.", hint='For example: chatlm ask "…"')
        with Store(paths.database_file()) if saved else open_memory_store() as store:
            session = ChatSession(
                store,
                lambda: load_engine(settings, plugins),
                plugins=plugins,
                sampling=opening.rendered.sampling.with_fallback(settings.sampling),
                session_sampling=wanted.with_fallback(setup.sampling),
                system=_first_system_prompt(
                    system, setup.system, opening.rendered.system, settings.system
                ),
                adapter="" if adapter == "off" else (adapter or setup.adapter or None),
                logprobs=logprobs,
                plugin_data={**opening.plugin_data, **setup.plugin_data},
                conversation_id=chat_id,
                label_seconds=LABEL_SECONDS,
                source="ask",
                tools=tool_options,
            )
            _require_plugins_in_use(session, settings)
            if dry_run:
                _print_request(session.draft(opening.first_message), as_json)
            else:
                printer = _AnswerPrinter(
                    echo=not as_json,
                    asks=not as_json and sys.stdin.isatty() and sys.stderr.isatty(),
                    show_thoughts=show_thinking,
                    outlives_output=saved,
                )
                try:
                    _print_answer(session, opening.first_message, printer, saved, as_json)
                finally:
                    if saved and chat_id is None:
                        _forget_unanswered(session)


def _read_attachments(files: Sequence[str], plugins: PluginHost) -> list[str]:
    """Return the blocks of files, folders and resources.

    Raises:
        UsageError: one cannot be read.
    """
    read_file = AttachmentReader(plugins)
    resources = Resources.of_plugins(plugins) if files else Resources()
    blocks: list[str] = []
    for name in files:
        mention = name.removeprefix("@")
        if resources.includes(mention) and not Path(name).exists():
            blocks.append(resources.read_block(mention))
        else:
            blocks += read_blocks(Path(name), str(Path(name)), read_file)
    return blocks


def parse_tool_options(
    settings: ToolSettings,
    names: str | None,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    choice: str | None,
) -> ToolOptions:
    """Return what the options say about tools.

    Raises:
        UsageError: a rule is none, or rules are given but no tools.
    """
    from chatlm.chat.tool_set import ToolOptions

    parse_rules((*allow, *deny))
    chosen = None
    if names is not None:
        chosen = tuple(filter(None, (name.strip() for name in names.split(","))))
        chosen = tuple("*" if name == "all" else name for name in chosen)
    options = ToolOptions(settings, chosen, allow, deny, choice or "auto")
    if (allow or deny or choice) and not names and not settings.enabled:
        raise UsageError(
            "--allow, --deny and --tool-choice require tools.", hint="Add --tools NAMES."
        )
    return options


def _check_batch_options(output: Path | None, others: Mapping[str, object]) -> None:
    if output is None:
        raise UsageError("--batch requires a file for the answers.", hint="Add -o FILE.")
    for option, given in others.items():
        if given:
            raise UsageError(f"{option} and --batch cannot be combined.")


def _forget_unanswered(session: ChatSession) -> None:
    """Delete the new chat of a question that got no answer, nor a reason why not."""
    chat = session.conversation
    failed = (None, StopReason.ERROR, StopReason.CANCELLED)
    if chat is None or any(
        reply.parts or reply.stop_reason not in failed
        for turn in chat.turns
        for reply in turn.replies
    ):
        return
    from chatlm.chat.deletion import delete_chats

    delete_chats(session.store, [chat.id], session.plugins)


def _print_hang(call: HookCall) -> None:
    text = f"Waiting for the plugin {call.plugin} in {call.hook}. Ctrl-C ends chatlm."
    click.echo(escape_controls(text), err=True)


def _require_plugins_in_use(session: ChatSession, settings: config.Config) -> None:
    """Check that each plugin with data in the chat or settings in the config could be loaded.

    Without it the answer would differ silently, such as one that is not based on documents.

    Raises:
        ChatlmError: one could not be loaded.
    """
    chat = session.conversation
    data, unused = session.plugin_data, session.disabled_plugins
    if chat is not None:
        data, unused = chat.plugin_data, chat.disabled_plugins
    in_use = {
        name for source in (data, settings.plugins) for name, values in source.items() if values
    }
    for fault in session.plugins.all_faults:
        if fault.plugin in in_use - unused and session.plugins.is_unavailable(fault.plugin):
            raise ChatlmError(
                f"This chat uses the plugin {fault.plugin}, which failed in {fault.hook}: "
                f"{fault.error}.",
                hint=f"{fault.hint or 'More: chatlm logs.'} "
                f"Answer without it: --without {fault.plugin}",
            )


def _first_system_prompt(option: str | None, *others: str) -> str:
    """Return the value of `--system`, even if it is empty, else the first other one."""
    return next(filter(None, others), "") if option is None else option


def _print_answer(
    session: ChatSession, question: str, answer: _AnswerPrinter, saved: bool, as_json: bool
) -> None:
    """Ask, and print the answer as it comes or as JSON at the end."""
    try:
        with closing(session.send(question)) as events:
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


def _read_question(arguments: tuple[str, ...]) -> str:
    """Return the question from the command line, then the text from a pipe."""
    parts = [" ".join(arguments)]
    if sys.stdin is not None and not sys.stdin.isatty():
        parts.append(sys.stdin.buffer.read().decode("utf-8", errors="replace").strip())
    return "\n\n".join(part for part in parts if part.strip())


def _print_request(request: Request, as_json: bool) -> None:
    if as_json:
        messages = [{"role": m.role, "content": m.text} for m in request.messages]
        values = {"messages": messages, "sampling": request.sampling.to_dict()}
        if request.tools:
            values["tools"] = [tool.to_dict() for tool in request.tools]
        click.echo(dump_json(values))
        return
    if request.tools:
        click.echo(f"[tools]\n{', '.join(tool.name for tool in request.tools)}\n")
    for message in request.messages:
        click.echo(f"[{message.role}]\n{escape_controls(message.text)}\n")


def load_engine(settings: config.Config, plugins: Any) -> Any:
    """Open the configured engine; progress goes to stderr."""
    loading = f"Loading {settings.model} …"
    with _status_line(loading) as show, pull_progress() as progress:
        from chatlm.engines.open import open_engine

        engine = open_engine(
            settings, plugins, progress, report_fit=lambda fit: show(f"{loading} {fit}")
        )
    for note in engine.info.notes:
        click.echo(escape_controls(note), err=True)
    return engine


@contextmanager
def _status_line(text: str) -> Iterator[Callable[[str], None]]:
    """Show a status line during the block, on a terminal only.

    Yields:
        A function that shows another text instead.
    """
    if not sys.stderr.isatty():
        yield lambda text: None
        return

    def show(text: str) -> None:
        click.echo(f"\r\x1b[K{escape_controls(text)}", nl=False, err=True)

    show(text)
    try:
        yield show
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)


@dataclasses.dataclass
class _AnswerPrinter:
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


def _to_dict(turn: Turn, answer: _AnswerPrinter, session: Any, weights: str) -> dict[str, Any]:
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


def _print_stop_reason(reply: Reply | None, answer: _AnswerPrinter, session: Any) -> None:
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
