"""The command `chatlm ask`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chatlm.chat.attached import Attached
from chatlm.chat.output_schema import read_grammar, read_schema
from chatlm.chat.templates import ChatStart, render_chat_start
from chatlm.chat.web_images import named_hosts
from chatlm.cli.answer_printer import AnswerPrinter, print_answer
from chatlm.cli.ask_files import read_files
from chatlm.cli.ask_options import AskCommand, command_words, setup_from_options
from chatlm.cli.completers import complete_chat, complete_model, complete_template
from chatlm.cli.options import apply_plugin_options, plugin_options
from chatlm.config import config, paths
from chatlm.errors import ChatlmError, UsageError
from chatlm.plugin_kit.progress import pull_progress
from chatlm.text import dump_json, escape_controls
from chatlm.types.events import (
    MAX_TOP_LOGPROBS,
)
from chatlm.types.messages import Message
from chatlm.types.parts import Image
from chatlm.types.replies import StopReason
from chatlm.types.requests import Request
from chatlm.types.sampling import NUMERIC_SAMPLING, THINKING_LEVELS, Sampling, parse_logit_bias
from chatlm.types.tool_rules import ChatTools, ToolSettings, parse_rules

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
        values = parse_variables(pairs)
        return render_chat_start(template or "", values, raw_input, plugins, takes_images=True)
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
    help="Add this file to the question: a text, an image, or pages of a PDF file as images with "
    "FILE#pages=1-3; or a folder's files, an image's web address, or a resource such as "
    "@SERVER:NAME; repeatable.",
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
    tool_options = parse_tool_options(
        settings.tools, tools, allow, deny, tool_choice, has_template=template is not None
    )
    from chatlm.chat.deletion import open_memory_store
    from chatlm.chat.session import ChatSession
    from chatlm.plugin_host.lifecycle import loaded_plugins
    from chatlm.store.store import Store

    saved = not no_save and (chat_id is not None or not dry_run)
    with loaded_plugins(settings) as plugins:
        plugins.on_hang = _print_hang
        if batch is not None and output is not None:
            from chatlm.chat.batch_answers import CommonSettings
            from chatlm.cli.ask_batch import answer_file, check_no_method

            check_no_method(wanted, setup.sampling, settings.sampling)
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
        attached, indexed = read_files(
            files,
            plugins,
            named_hosts(settings),
            may_index=chat_id is None,
            chosen=setup.plugin_data,
        )
        typed = "\n\n".join(filter(None, (typed, *attached.blocks)))
        opening = chat_start_from_options(template, pairs, typed, plugins)
        attached += _read_template_images(opening, plugins, named_hosts(settings))
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
                plugin_data={**opening.plugin_data, **indexed, **setup.plugin_data},
                conversation_id=chat_id,
                label_seconds=LABEL_SECONDS,
                source="ask",
                tools=tool_options,
                chat_tools=ChatTools().with_offers(
                    opening.rendered.tools, were_on=tool_options.is_on(ChatTools())
                ),
            )
            _require_plugins_in_use(session, settings)
            if dry_run:
                _print_request(session.draft(opening.first_message, attached.images), as_json)
            else:
                printer = AnswerPrinter(
                    echo=not as_json,
                    asks=not as_json and sys.stdin.isatty() and sys.stderr.isatty(),
                    show_thoughts=show_thinking,
                    outlives_output=saved,
                )
                try:
                    message = opening.first_message
                    print_answer(session, message, printer, saved, as_json, attached.images)
                finally:
                    if saved and chat_id is None:
                        _forget_unanswered(session)


def _read_template_images(
    opening: ChatStart, plugins: PluginHost, web_hosts: Sequence[str]
) -> Attached:
    """Return the images that the values of a template's variables name.

    Raises:
        UsageError: one is no image, or cannot be read.
    """
    found, _ = read_files(opening.rendered.images, plugins, web_hosts)
    if found.blocks:
        raise UsageError(
            "A variable of the template takes an image, and was given a text",
            hint="Give it the path of an image, and attach the text with -a.",
        )
    return found


def parse_tool_options(
    settings: ToolSettings,
    names: str | None,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    choice: str | None,
    *,
    has_template: bool = False,
) -> ToolOptions:
    """Return what the options say about tools; a template may offer some, too.

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
    if (allow or deny or choice) and not (names or settings.enabled or has_template):
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
    text = f"Waiting for the plugin {call.plugin} ({call.hook}); Ctrl-C stops."
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


def _read_question(arguments: tuple[str, ...]) -> str:
    """Return the question from the command line, then the text from a pipe."""
    parts = [" ".join(arguments)]
    if sys.stdin is not None and not sys.stdin.isatty():
        parts.append(sys.stdin.buffer.read().decode("utf-8", errors="replace").strip())
    return "\n\n".join(part for part in parts if part.strip())


def _print_request(request: Request, as_json: bool) -> None:
    if as_json:
        messages = [
            {"role": m.role, "content": m.text}
            | ({"images": [each.to_dict() for each in images]} if (images := _images_of(m)) else {})
            for m in request.messages
        ]
        values = {"messages": messages, "sampling": request.sampling.to_dict()}
        if request.tools:
            values["tools"] = [tool.to_dict() for tool in request.tools]
        click.echo(dump_json(values))
        return
    if request.tools:
        click.echo(f"[tools]\n{', '.join(tool.name for tool in request.tools)}\n")
    for message in request.messages:
        click.echo(f"[{message.role}]")
        for image in _images_of(message):
            name = escape_controls(image.name or image.media_type)
            click.echo(f"[Image: {name}, {image.width}×{image.height}]")
        click.echo(f"{escape_controls(message.text)}\n")


def _images_of(message: Message) -> list[Image]:
    return [part for part in message.parts if isinstance(part, Image)]


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
