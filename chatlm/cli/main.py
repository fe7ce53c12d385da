"""The command `chatlm`: opens the UI or runs a subcommand, which is imported on use."""

from __future__ import annotations

import atexit
import io
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress

import click

from chatlm.cli.command_groups import RootGroup
from chatlm.cli.completers import complete_chat
from chatlm.cli.options import apply_plugin_options, plugin_options
from chatlm.errors import EXIT_INTERRUPTED, ChatlmError, UsageError
from chatlm.text import escape_controls

COMMANDS = {
    "ask": ("chatlm.cli.ask:ask", "Ask one question and print the answer."),
    "chats": ("chatlm.cli.chats:chats", "List, search, edit, export and import saved chats."),
    "models": ("chatlm.cli.models:models_group", "List, pull, check and remove models."),
    "pull": ("chatlm.cli.ollama_names:pull", "Download a model."),
    "run": ("chatlm.cli.ollama_names:run", "Chat with a model, downloading it first."),
    "list": ("chatlm.cli.ollama_names:list_installed", "List the models on this machine."),
    "config": ("chatlm.cli.config:config_group", "Show and change the settings."),
    "acp": ("chatlm.cli.acp:acp", "Run as an agent for editors (Agent Client Protocol)."),
    "tools": ("chatlm.cli.tools:tools", "List the tools that models may call."),
    "plugins": ("chatlm.cli.plugins:plugins", "List, enable, disable, check and create plugins."),
    "logs": ("chatlm.cli.logs:logs", "Show the log: failures and where they happened."),
    "completion": ("chatlm.cli.completion:completion", "Print a shell completion script."),
}
"""Name -> import path of the command, and its help in one line."""


log = logging.getLogger(__name__)


def _print_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        import chatlm

        click.echo(f"chatlm {chatlm.__version__}")
        context.exit()


@click.group(
    cls=RootGroup,
    lazy=COMMANDS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--incognito", is_flag=True, help="Do not save this chat.")
@click.option(
    "--chat",
    "chat_id",
    type=int,
    metavar="ID",
    help="Open this saved chat.",
    shell_complete=complete_chat,
)
@click.option("-m", "--model", metavar="NAME", help="Use this model.")
@click.option(
    "--project",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Open this folder as a project: its AGENTS.md and what you saved for it.",
)
@plugin_options
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
@click.pass_context
def cli(
    context: click.Context,
    incognito: bool,
    chat_id: int | None,
    model: str | None,
    project: str | None,
    safe_mode: bool,
    without: tuple[str, ...],
) -> None:
    """Chat with a language model on your own machine.

    Without a command, opens the chat UI in the terminal.

    Example: chatlm --model smollm2-135m-instruct
    """
    from chatlm.config import logs

    logs.setup_logging()
    given = {"--incognito": incognito, "--chat": chat_id is not None, "--model": model is not None}
    given |= {"--project": project is not None}
    given |= {"--safe-mode": safe_mode, "--without": bool(without)}
    if context.invoked_subcommand is not None:
        for option in (name for name, used in given.items() if used):
            raise UsageError(
                f"{option} applies only to the chat UI, not to "
                f"`chatlm {context.invoked_subcommand}`.",
                hint=f"Options of {context.invoked_subcommand}: "
                f"chatlm {context.invoked_subcommand} --help",
            )
        return
    if incognito and chat_id is not None:
        raise UsageError(
            "A saved chat cannot be opened incognito.", hint="Use either --chat or --incognito."
        )
    if project is not None:
        if chat_id is not None:
            raise UsageError(
                "A saved chat keeps its project.",
                hint="Use --project without --chat, for a new one.",
            )
        from chatlm.chat.projects import find_project

        find_project(project)  # an error belongs into the shell
    _require_terminal()
    from chatlm import tui
    from chatlm.config import config

    settings = apply_plugin_options(config.load(model=model), safe_mode=safe_mode, without=without)
    tui.run(settings, incognito=incognito, conversation_id=chat_id, project=project or "")


def _require_terminal() -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "The chat UI needs a terminal.",
            hint='In a pipe or script, ask one question: chatlm ask "…"',
        )


EXIT_SECONDS = 1.0
"""Seconds after the end of a command in which threads that plugins left behind may still end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; print errors as a message and a hint.

    Args:
        arguments: without the program's name; None for sys.argv, in which case the process ends
            soon after, whatever threads are still running in it.
    """
    if arguments is not None:
        return _run(arguments)
    try:
        code = _run(None)
    except SystemExit as ending:  # of a command with an exit code of its own
        if isinstance(ending.code, str):
            _print_to_stderr(ending.code)
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    _end_process_soon(code)
    return code


def _end_process_soon(code: int) -> None:
    """Make sure that no plugin thread keeps the process alive and Ctrl-C prints no traceback.

    The interpreter waits for all threads but daemons, and may crash if one runs while it ends; so
    with daemons left it does not end in its own way.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def end_now() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        logging.shutdown()
        os._exit(code)

    def end_later() -> None:
        time.sleep(EXIT_SECONDS)
        end_now()

    hook_threads = sys.modules.get("chatlm.plugin_host.hook_threads")  # not loaded for this
    if hook_threads is not None and hook_threads.hooks_running():
        end_now()
    others = [each for each in threading.enumerate() if each is not threading.current_thread()]
    threading.Thread(target=end_later, name="chatlm-exit", daemon=True).start()
    if any(thread.daemon for thread in others):
        for thread in others:
            if not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        end_now()


def _run(arguments: Sequence[str] | None) -> int:
    from chatlm.config.privacy import restrict_files

    _configure_streams()
    restrict_files()
    try:
        _ask_about_crashed_plugins()
        code = cli.main(arguments, prog_name="chatlm", standalone_mode=False)
    except ChatlmError as error:
        _print_to_stderr(f"Error: {error.message}", error.hint)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            return EXIT_INTERRUPTED
        _print_to_stderr("Nothing was changed.")
        return 1
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and _is_output_error(error):
            _print_to_stderr(
                f"Error: the output cannot be written: {error.strerror}.",
                "Check the free space and the permissions where it goes.",
            )
            return 1
        return _report_unexpected_error(error)
    finally:
        _drop_unwritable_output()
    return code if isinstance(code, int) else 0


def _ask_about_crashed_plugins() -> None:
    """Ask on a terminal whether to disable a plugin of chatlm's own that crashes when loaded."""
    if "_CHATLM_COMPLETE" in os.environ or not (sys.stdin and sys.stdin.isatty()):
        return
    from chatlm.config import paths

    if not (paths.data_dir() / "loading").is_dir():
        return
    from chatlm.plugin_host import lifecycle

    for name, crashes in lifecycle.crashing_shipped_plugins().items():
        question = (
            f"chatlm crashed {len(crashes)} times in a row while it loaded its plugin {name} "
            f"({crashes[-1]}). Disable the plugin?"
        )
        if click.confirm(escape_controls(question), err=True):
            lifecycle.disable(name)
            click.echo(
                f"{name} is disabled. Enable it again: chatlm plugins enable {name}", err=True
            )


def _is_output_error(error: OSError) -> bool:
    """Return whether an error was raised while something was printed."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == click.echo.__module__ for frame, _ in frames)


def _drop_unwritable_output() -> None:
    """Drop output that cannot be written; Python would complain about it when it ends."""
    if sys.stdout is None or sys.stdout.closed:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_unexpected_error(error: Exception) -> int:
    from chatlm.config import logs, paths

    logs.setup_logging()
    log.error("unexpected error", exc_info=error)
    if os.environ.get("CHATLM_DEBUG"):
        traceback.print_exception(error)
    _print_to_stderr(
        f"Error: chatlm failed ({type(error).__name__}); the details are in {paths.log_file()}.",
        "Read them: chatlm logs",
    )
    return 1


def _print_to_stderr(*lines: str) -> None:
    with suppress(OSError):  # nobody can be told that this fails
        for line in filter(None, lines):
            click.echo(escape_controls(line), err=True)


def _configure_streams() -> None:
    """Make all output printable: UTF-8 into pipes and files, `?` where a terminal lacks one."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                encoding=None if stream.isatty() else "utf-8",
                errors="replace",
            )
