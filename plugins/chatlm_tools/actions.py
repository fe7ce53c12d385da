"""What the slash commands of the plugin do: `/memory` with an argument, and `/run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatlm import ToolCancelled, UsageError, load_plugin_settings, read_image
from chatlm_tools import PLUGIN
from chatlm_tools.memory import user_memory
from chatlm_tools.programs import run_python
from chatlm_tools.settings import Settings

if TYPE_CHECKING:
    from chatlm import PreparedImage, Ui

_LANGUAGES = {"python", "python3", "py"}
_SENT_LINES = 30
"""Lines of a traceback that are offered to the model."""


def change_memory(argument: str) -> str:
    """Add, edit or delete a fact; return what was done.

    Args:
        argument: such as `add My sister is called Ada.` or `delete 3`.

    Raises:
        UsageError: it cannot be understood, or there is no such fact.
    """
    verb, _, rest = argument.strip().partition(" ")
    number, _, text = rest.strip().partition(" ")
    memory = user_memory()
    if verb == "add" and rest.strip():
        return f"Fact {memory.add(rest).id} is remembered."
    if verb == "edit" and number.isdecimal() and text.strip():
        return f"Fact {memory.edit(int(number), text).id} is changed."
    if verb == "delete" and number.isdecimal() and not text:
        memory.delete(int(number))
        return f"Fact {number} is deleted."
    raise UsageError(
        "This is not understood.",
        hint="/memory add TEXT, /memory edit NUMBER TEXT or /memory delete NUMBER",
    )


def python_blocks(markdown: str) -> list[str]:
    """Return the blocks of code that are marked as Python."""
    from markdown_it import MarkdownIt

    return [
        token.content
        for token in MarkdownIt("commonmark").parse(markdown)
        if token.type == "fence" and token.info.strip().lower().partition(" ")[0] in _LANGUAGES
    ]


def run_code(ui: Ui, argument: str) -> tuple[str, list[PreparedImage]]:
    """Run a block of the selected reply's code; offer a failure to the model.

    Args:
        ui: its `turn` has the reply.
        argument: the number of the block, from 1; empty for the last one.

    Returns:
        what the program wrote, empty if it was cancelled, and the pictures that it drew.

    Raises:
        UsageError: there is no such block.
        SandboxUnavailable: nothing on this machine can contain it.
    """
    turn = ui.turn
    blocks = python_blocks(turn.reply.text) if turn and turn.reply else []
    if not blocks:
        raise UsageError(
            "The selected reply has no Python code.",
            hint="Select a turn whose reply has a block that begins with ```python.",
        )
    number = argument.strip() or str(len(blocks))
    if not number.isdecimal() or not 1 <= int(number) <= len(blocks):
        raise UsageError(f"The reply has the blocks 1 to {len(blocks)}, not {number}.")
    settings = load_plugin_settings(PLUGIN, Settings)
    with ui.progress("Running the program") as progress:
        try:
            output = run_python(blocks[int(number) - 1], settings, lambda: progress.cancelled)
        except ToolCancelled:
            return "", []
    text = output.text
    images: list[PreparedImage] = []
    for content in output.images:
        try:
            images.append(read_image(content, f"figure {len(images) + 1}"))
        except UsageError as error:  # a program may name anything .png
            text += f"\n{error.message}; it is left out."
    if output.is_error:
        last = "\n".join(output.text.splitlines()[-_SENT_LINES:])
        ui.insert_text(f"The program failed. Please correct it.\n\n````\n{last}\n````\n")
    return text, images
