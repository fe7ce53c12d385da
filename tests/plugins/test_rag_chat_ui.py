"""The list of indices, the panel of sources and the sheet, on a screen."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from textual.app import App, ComposeResult
from textual.content import Content
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

import chatlm_rag.plugin
from chatlm import Annotation, Conversation, UsageError
from chatlm.config.config import Config
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_kit.artifacts import CURRENT_FILE
from chatlm.plugin_kit.screens import TextCard
from chatlm.store.store import Store
from chatlm.tui.app import ChatApp
from chatlm_rag import actions, formatting
from chatlm_rag.documents.files import Source
from chatlm_rag.index import bm25, builder
from chatlm_rag.index.folder import find_index
from chatlm_rag.screens import sources
from chatlm_rag.screens.picker import RagPicker
from chatlm_rag.screens.sources import RagSources
from tests.plugins.rag_chats import CATS, NAME, answered, house, passage
from tests.plugins.ui import RememberingUi, RememberingWork
from tests.tui.cards import CardApp, SnapCompare, both_sizes, everything_visible, still
from tests.tui.support import (
    StillEngine,
    app_of,
    chat_of,
    hostile_texts,
    idle,
    newest,
    opens,
    plain,
    say,
    until,
)

REPLY = "Cats are allowed in the flat [1]. Parrots sing loudly [2]."
PETS = passage(
    "## Pets\n\nCats are allowed in the flat. Dogs need the owner's consent.",
    "documents/house.md",
    "House > Pets",
)
BREAD = passage("Bread is baked at 240 degrees with steam.", "documents/bread.txt")
LABELS = (
    (None, Annotation("rag", "passages", "2 from house", 0.81)),
    (7, Annotation("rag", "[1]", "house.md, Pets: supported", 1.0)),
    (7, Annotation("rag", "[2]", "bread.txt: not supported", 0.0)),
)


class PanelApp(App[None]):
    """Shows the panel alone."""

    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = ""
    CSS: ClassVar[str] = "RagSources { padding: 0 1; }"

    def __init__(self, ui: RememberingUi, theme: str = "textual-dark") -> None:
        super().__init__()
        self.ui = ui
        self.wanted_theme = theme
        self.panel = RagSources(ui)

    def compose(self) -> ComposeResult:
        yield self.panel

    def on_mount(self) -> None:
        self.theme = self.wanted_theme
        self.call_after_refresh(self.panel.show, self.ui)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with house(tmp_path_factory.mktemp("rag") / "home") as folder:
        yield folder


def remembering(conversation: Conversation | None = None) -> RememberingUi:
    ui = RememberingUi("rag", conversation or answered(CATS, REPLY, annotations=LABELS))
    if conversation is None:
        ui.passages = [PETS, BREAD]
    return ui


def rows(pilot: Pilot[None]) -> list[str]:
    return [str(option.prompt) for option in pilot.app.screen.query_one(OptionList).options]


def marked(pilot: Pilot[None]) -> int | None:
    return pilot.app.screen.query_one(OptionList).highlighted


# --- the panel -----------------------------------------------------------------------------------


async def test_the_panel_shows_each_passage_and_the_marked_one_in_full() -> None:
    async with PanelApp(remembering()).run_test(size=(60, 40)) as pilot:
        await until(pilot, lambda: rows(pilot))
        assert "2 passages from house for “Are cats allowed in the flat?”" in everything_visible(
            pilot
        )
        first, second = rows(pilot)
        assert first.split("\n")[:3] == [
            "[1] documents/house.md:3  0.90",
            "supported",
            "House > Pets",
        ]
        assert "Dogs need the owner's consent." in first
        assert second.split("\n")[:2] == ["[2] documents/bread.txt:3  0.90", "not supported"]
        pilot.app.screen.query_one(OptionList).focus()
        await pilot.press("down")
        await pilot.pause()
        first, second = rows(pilot)
        assert "consent" in first, "one line of it"
        assert "\n\n" not in first.rstrip()


async def test_the_words_of_the_question_are_marked() -> None:
    text = "The CAT sat. Cats sit, dogs allow flats."
    found = [text[begin:end] for begin, end in bm25.matching_spans(text, CATS)]
    assert found == ["CAT", "Cats", "allow", "flats"]
    assert list(bm25.matching_spans(text, "the of")) == []
    async with PanelApp(remembering()).run_test(size=(60, 40)) as pilot:
        await until(pilot, lambda: rows(pilot))
        prompt = pilot.app.screen.query_one(OptionList).options[0].prompt
        assert isinstance(prompt, Content)
        lines = [span for span in prompt.spans if "underline" in str(span.style)]
        spans = {prompt.plain[span.start : span.end] for span in lines}
        assert spans == {"Cats", "allowed", "flat"}


async def test_a_number_jumps_to_its_passage_also_before_the_panel_is_shown() -> None:
    ui = remembering()
    actions.show_passage(ui, 2)
    assert ui.called("open_panel") == [{"name": "sources"}]
    async with PanelApp(ui).run_test(size=(60, 40)) as pilot:
        await until(pilot, lambda: marked(pilot) == 1)
        actions.show_passage(ui, 1)
        await until(pilot, lambda: marked(pilot) == 0)
        assert pilot.app.screen.query_one(OptionList).has_focus
        assert len(ui.called("open_panel")) == 1
    actions.show_passage(ui, 1)
    assert len(ui.called("open_panel")) == 2, "it has left the screen"
    actions._pending_jumps.clear()


async def test_what_is_marked_stays_marked_when_the_chat_changes() -> None:
    ui = remembering()
    async with PanelApp(ui).run_test(size=(60, 40)) as pilot:
        await until(pilot, lambda: rows(pilot))
        pilot.app.screen.query_one(OptionList).highlighted = 1
        await pilot.pause()
        panel = pilot.app.screen.query_one(RagSources)
        panel.show(ui)
        await pilot.pause()
        assert marked(pilot) == 1
        assert not pilot.app.screen.query_one(OptionList).has_focus, "nobody asked for it"


@pytest.mark.parametrize(
    ("conversation", "says"),
    [
        (Conversation(1), "Indices: house, manual. /rag NAME uses one."),
        (Conversation(1), "/rag build PATH builds an index of a file or folder."),
        (
            Conversation(1, plugin_data={"rag": {"index": NAME}}),
            "This chat uses the index house. Send a question.",
        ),
        (answered("Moon?", "Far."), "No passages from house were used for this message."),
    ],
)
@pytest.mark.usefixtures("documents")
async def test_an_empty_panel_says_what_to_do(conversation: Conversation, says: str) -> None:
    async with PanelApp(remembering(conversation)).run_test(size=(60, 20)) as pilot:
        await until(pilot, lambda: says in plain(pilot.app.screen.query_one(".head", Static)))


async def test_hostile_passages_are_only_drawn(shared_data: Path) -> None:
    texts = hostile_texts(shared_data)[::25]
    hostile = [passage(text, text, text) for text in texts]
    hostile += [dataclasses.replace(PETS, details={"index": 5, "line": "x", "also": 3, "path": []})]
    ui = remembering()
    ui.passages = hostile
    async with PanelApp(ui).run_test(size=(60, 40)) as pilot:
        await until(pilot, lambda: rows(pilot))
        listed = pilot.app.screen.query_one(OptionList)
        for number in range(len(hostile)):
            listed.highlighted = number
            await pilot.pause()
            drawn = everything_visible(pilot)
            assert all(sign.isprintable() or sign == "\n" for sign in drawn)


@both_sizes
@pytest.mark.parametrize("theme", ["textual-dark", "textual-light"])
def test_picture_of_the_panel(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: rows(pilot))
        pilot.app.screen.query_one(OptionList).focus()

    assert snap_compare(PanelApp(remembering(), theme), terminal_size=size, run_before=still(steps))


# --- the editor ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("editor", "expected"),
    [
        ("vim", ["vim", "+7", "{}"]),
        ("/usr/bin/nano -w", ["/usr/bin/nano", "-w", "+7", "{}"]),
        ("code --wait", ["code", "--wait", "--goto", "{}:7"]),
        ("hx", ["hx", "{}:7"]),
        ("ed", ["ed", "{}"]),
    ],
)
def test_an_editor_gets_the_line_in_its_own_syntax(
    editor: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a $(touch x) 'b'.md"
    file.write_text("x")
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", editor)
    argv = sources.editor_command(str(file), 7)
    assert argv == [part.replace("{}", str(file)) for part in expected]
    assert sources.editor_command(str(file), 0)[-1] == str(file)


def test_visual_precedes_editor_and_only_text_files_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.md"
    file.write_text("x")
    monkeypatch.setenv("VISUAL", "one")
    monkeypatch.setenv("EDITOR", "two")
    assert sources.editor_command(str(file), 0)[0] == "one"
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(UsageError, match="is not a text file"):
        sources.editor_command(str(tmp_path / "a.pdf"), 0)
    with pytest.raises(UsageError, match="does not exist"):
        sources.editor_command(str(tmp_path / "b.md"), 0)
    monkeypatch.setenv("VISUAL", "'")
    monkeypatch.delenv("EDITOR")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="No editor was found"):
        sources.editor_command(str(file), 1)


async def test_enter_says_why_a_file_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    ui = remembering()
    gone = passage("x", "gone.md", path="/nowhere/gone.md")
    here = passage("x", "here.py", path=__file__)
    ui.passages = [gone, here, dataclasses.replace(PETS, details={})]
    monkeypatch.setenv("VISUAL", sys.executable)
    async with PanelApp(ui).run_test(size=(60, 40)) as pilot:
        await until(pilot, lambda: rows(pilot))
        pilot.app.screen.query_one(OptionList).focus()
        await pilot.press("enter", "down", "enter", "down", "enter")
        await pilot.pause()
    notices = [call["text"] for call in ui.called("notify")]
    assert notices[0].startswith("/nowhere/gone.md does not exist.")
    assert notices[1] == "This terminal cannot open an editor.", "a test has no terminal"
    assert notices[2] == "The file of this passage is unknown."


# --- the list of indices -------------------------------------------------------------------------


@pytest.mark.usefixtures("documents")
async def test_enter_selects_an_index_and_then_none() -> None:
    ui = remembering(Conversation(1))
    async with CardApp(RagPicker(ui)).run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: rows(pilot))
        assert rows(pilot)[0].startswith("house ")
        assert "4 passages from 3 files, built " in rows(pilot)[0]
        assert "comes with chatlm" in rows(pilot)[1]
        await pilot.press("enter")
        await pilot.pause()
        assert not isinstance(pilot.app.screen, RagPicker)
    assert ui.state == {"index": NAME}
    async with CardApp(RagPicker(ui)).run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: marked(pilot) == 1)
        assert "in use · " in rows(pilot)[1]
        await pilot.press("up", "enter")
        await pilot.pause()
    assert ui.state == {"index": ""}


async def test_damaged_and_unfinished_indices_say_so_and_are_not_selected(
    documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad", "half"):
        builder.build(name, (Source(str(documents)),), RememberingWork(cancelled=False))
    manifest = find_index("bad").path / "1" / "manifest.json"
    manifest.write_text('{"format": 1, "embedder": "\\u001b[2J[b]"}')
    half = find_index("half").path
    (half / "partial").mkdir()
    (half / CURRENT_FILE).unlink()
    evil = half.parent / "[b]evil[\x1b"
    evil.mkdir()
    ui = remembering(Conversation(1))
    async with CardApp(RagPicker(ui)).run_test(size=(110, 30)) as pilot:
        await until(pilot, lambda: rows(pilot))
        bad, unfinished, *others = rows(pilot)
        assert "The index bad cannot be read: manifest.json is damaged." in bad
        assert "not finished; Enter continues the build" in unfinished
        assert not any("evil" in other for other in others)
        await pilot.press("enter")
        assert "chatlm rag remove bad" in plain(pilot.app.screen.query_one("#problem", Static))
        assert isinstance(pilot.app.screen, RagPicker)
    assert ui.calls == []
    evil.rmdir()
    for name in ("bad", "half"):
        place = find_index(name)
        with place.lock():
            place.remove()


@both_sizes
@pytest.mark.parametrize("index", ["", "manual"], ids=["none", "manual"])
def test_picture_of_the_list(
    snap_compare: SnapCompare,
    size: tuple[int, int],
    index: str,
    documents: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        formatting, "summarize_index", lambda *_: "120 passages from 4 files, built 2026-01-02"
    )
    monkeypatch.setattr(formatting, "disk_usage", lambda _: 360_000)
    ui = remembering(Conversation(1, plugin_data={"rag": {"index": index}} if index else {}))

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: rows(pilot))

    assert snap_compare(CardApp(RagPicker(ui)), terminal_size=size, run_before=still(steps))


async def test_a_sheet_draws_hostile_text_and_closes() -> None:
    async with CardApp(TextCard("Your documents", "one\n\x1b[2J [b]two[/b]")).run_test(
        size=(80, 24)
    ) as pilot:
        await until(pilot, lambda: "␛[2J [b]two[/b]" in everything_visible(pilot))
        await pilot.press("escape")
        await pilot.pause()
        assert not isinstance(pilot.app.screen, TextCard)


# --- the whole screen ----------------------------------------------------------------------------


def whole(store: Store, *pieces: str) -> ChatApp:
    host = PluginHost([("rag", chatlm_rag.plugin)])
    engine = StillEngine(*pieces)
    return ChatApp(store, opens(engine), plugins=host, config=Config(), clock=lambda: 0.0)


@pytest.mark.usefixtures("documents")
async def test_a_chat_from_the_choice_of_an_index_to_a_checked_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Store(None) as store:
        app = whole(store, *REPLY.partition("]"))
        async with app.run_test(size=(140, 40), notifications=True) as pilot:
            assert "/rag manual answers questions" in everything_visible(pilot).replace("\n", " ")
            await say(pilot, f"/rag {NAME}")
            await until(
                pilot, lambda: chat_of(pilot).conversation.plugin_data == {"rag": {"index": NAME}}
            )
            await until(pilot, lambda: not app.chat_screen.plugin_actions.busy)
            await say(pilot, "How far away is the Andromeda galaxy?")
            await idle(pilot)
            assert chat_of(pilot).composer.text == ""
            shown = plain(newest(pilot))
            assert "Nothing relevant in house. The closest passages:" in shown
            assert "nothing relevant found" in shown
            await say(pilot, CATS)
            await idle(pilot)
            shown = plain(newest(pilot))
            assert "passages 3 from house (0." in shown
            assert "[1] house.md, Pets: supported (1.00)" in shown
            assert "[2] bread.txt: not supported" in shown or "[2] house.md" in shown
            await say(pilot, "/source 2")
            await until(pilot, lambda: app.screen.query(RagSources) and marked(pilot) == 1)
            await pilot.press("f4")
            await pilot.pause()
            assert not app.screen.query(RagSources)
            await say(pilot, "/rag why")
            await until(pilot, lambda: isinstance(app_of(pilot).screen, TextCard))
            await until(pilot, lambda: "confidence 0." in everything_visible(pilot))
        assert app.services.plugins.all_faults == []
