"""Give models tools: calculator, files, Python, the web."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chatlm import PluginScreen, SlashCommand, escape_controls, hookimpl
from chatlm_tools.settings import Settings

if TYPE_CHECKING:
    from chatlm import Commands, PluginContext, Tool, Ui

__all__ = ["Settings"]

_MEMORY_SCREEN, _OUTPUT_SCREEN = "memory", "program"


@hookimpl
def startup(context: PluginContext) -> None:
    """Remember where services of other plugins are found."""
    from chatlm_tools import documents

    documents.use_services_of(context)


@hookimpl
def register_tools(register: Callable[[Tool], None]) -> None:
    """Offer the tools."""
    from chatlm_tools import calculator, clock, documents, memory, programs
    from chatlm_tools.files.tools import FILE_TOOLS
    from chatlm_tools.web import tools as web

    for each in (
        calculator.calculator,
        clock.clock,
        programs.python,
        *FILE_TOOLS,
        documents.documents_list,
        documents.documents_search,
        memory.memory_list,
        memory.memory_save,
        memory.memory_delete,
        programs.shell,
        web.web_search,
        web.fetch,
    ):
        register(each)


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm memory` and `chatlm sandbox`."""
    cli.add_lazy(
        "memory",
        "chatlm_tools.commands:memory",
        "List, add, edit and delete facts that models may remember across chats.",
    )
    cli.add_lazy(
        "sandbox",
        "chatlm_tools.commands:sandbox",
        "Show which sandbox this machine has for programs that models run.",
    )


@hookimpl
def register_slash_commands(register: Callable[[SlashCommand], None]) -> None:
    """Add `/memory` and `/run`."""
    register(
        SlashCommand(
            "memory",
            "facts that models may remember across chats",
            _show_memory,
            "[add TEXT|edit NUMBER TEXT|delete NUMBER]",
        )
    )
    register(
        SlashCommand(
            "run",
            "run the reply's Python code in the sandbox",
            _run_code,
            "[NUMBER]",
            key="f12",
        )
    )


@hookimpl
def register_screens(register: Callable[[PluginScreen], None]) -> None:
    """Add the list of facts, and what a program wrote."""
    register(PluginScreen(_MEMORY_SCREEN, _open_memory))
    register(PluginScreen(_OUTPUT_SCREEN, _open_output))


def _show_memory(ui: Ui, argument: str) -> None:
    """List the facts, or change one.

    Raises:
        UsageError: the argument cannot be understood, or there is no such fact.
    """
    from chatlm_tools.actions import change_memory

    if argument.strip():
        ui.notify(change_memory(argument))
    else:
        ui.open_screen(_MEMORY_SCREEN)


def _run_code(ui: Ui, argument: str) -> None:
    """Run a block of the selected reply's code, and show what it wrote and drew.

    Raises:
        UsageError: there is no such block.
        SandboxUnavailable: nothing on this machine can contain it.
    """
    from chatlm_tools.actions import run_code

    text, images = run_code(ui, argument)
    if text:
        ui.open_screen(_OUTPUT_SCREEN, text)
    ui.show_images(images)  # over what it wrote


def _open_output(ui: Ui, argument: str) -> Any:
    from chatlm.plugin_kit.screens import TextCard

    return TextCard("What the program wrote", argument)


def _open_memory(ui: Ui, argument: str) -> Any:
    from textual.content import Content

    from chatlm.plugin_kit.screens import TextCard, with_commands
    from chatlm_tools.memory import describe, user_memory

    facts = describe(user_memory().facts())
    nothing = (
        "Nothing is remembered yet.\n\nWith tools on (`/tools`), a model can ask to remember a "
        "fact about you across chats; you can also add one yourself."
    )
    keys = "`/memory add TEXT`\n`/memory edit NUMBER TEXT`\n`/memory delete NUMBER`"
    text = Content(escape_controls(facts)) if facts else with_commands(nothing)
    return TextCard("What models may remember", text + with_commands(f"\n\n{keys}"))
