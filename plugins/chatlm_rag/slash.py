"""The commands that this plugin adds to the screen; they know no Textual."""

from __future__ import annotations

from collections.abc import Callable

from chatlm import SlashCommand, Ui, UsageError

PANEL, PICKER, SHEET = "sources", "indices", "sheet"
"""The names of the plugin's panel and screens."""

OFF, BUILD, WHY, TEST = "off", "build", "why", "test"


def rag(ui: Ui, argument: str) -> None:
    """Choose, make, leave or look into the index that the chat is about.

    Raises:
        ChatlmError: it cannot be done.
    """
    word, _, rest = argument.strip().partition(" ")
    if not word:
        ui.open_screen(PICKER)
    elif word == OFF:
        from chatlm_rag import using

        using.end(ui)
    elif word == BUILD:
        from chatlm_rag import using

        using.build(ui, rest)
    elif word == WHY:
        from chatlm_rag import why

        ui.open_screen(SHEET, why.told(ui))
    elif word == TEST:
        from chatlm_rag import self_test

        ui.open_screen(SHEET, self_test.run(ui))
    else:
        from chatlm_rag import using

        using.choose(ui, word)


def source(ui: Ui, argument: str) -> None:
    """Go to a passage in the panel of sources.

    Raises:
        UsageError: the turn has no such passage.
    """
    from chatlm_rag import jumping

    count = len(ui.passages)
    number = argument.strip().strip("[]")
    if not count:
        raise UsageError("Nothing was found for this turn", hint="/rag chooses an index to ask.")
    if not number.isdecimal() or not 1 <= int(number) <= count:
        raise UsageError(f"This turn has the sources 1 to {count}", hint="For example: /source 1")
    jumping.jump(ui, int(number))


def register(add: Callable[[SlashCommand], None]) -> None:
    """Offer both."""
    what = f"[NAME|{OFF}|{BUILD} PATH|{WHY}|{TEST}]"
    add(SlashCommand("rag", "answer from your own documents", rag, what))
    add(SlashCommand("source", "go to a source of the reply", source, "N"))
