"""Projects and tags on the screen: nothing is followed unseen, and everything shows where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatlm.chat import projects
from chatlm.store.store import Store
from chatlm.tui.chat.header import Header
from chatlm.tui.screens.project import ConfirmInstructions, ProjectScreen
from chatlm.types.projects import Project
from chatlm.types.sampling import Sampling
from chatlm.types.setups import Setup
from tests.tui.cards import CardApp, SnapCompare, both_sizes
from tests.tui.support import (
    StillEngine,
    chat_of,
    chats_of,
    idle,
    make_app,
    plain,
    run,
    say,
    until,
)

TEXT = "Answer as a harbour master.\nNever give a depth without its unit."


@pytest.fixture
def folder(home: Path, tmp_path: Path) -> Path:
    """A folder with instructions that nobody confirmed."""
    path = tmp_path / "harbour"
    path.mkdir()
    (path / "AGENTS.md").write_text(TEXT, encoding="utf-8")
    return path


async def test_instructions_are_shown_before_the_model_follows_them(folder: Path) -> None:
    with Store(None) as store:
        engine = StillEngine("Aye")
        app = make_app(engine, store)
        async with app.run_test(size=(120, 36)) as pilot:
            await run(pilot, "project", str(folder))
            await until(pilot, lambda: isinstance(app.screen, ConfirmInstructions))
            assert TEXT.splitlines()[1] in plain(app.screen)
            assert chat_of(pilot).conversation.project is None
            await pilot.press("enter")
            await until(pilot, lambda: chat_of(pilot).conversation.project is not None)
            assert "harbour › New chat" in plain(app.chat_screen.query_one(Header))
            await say(pilot, "How deep is it?")
            await idle(pilot)
            assert TEXT in engine.requests[-1].messages[0].text
            assert engine.requests[-1].messages[0].role == "system"
            await until(pilot, lambda: "harbour" in plain(chats_of(pilot)))
            await run(pilot, "project", str(folder))
            await pilot.pause()
            assert not isinstance(app.screen, ConfirmInstructions), "it was confirmed"


@pytest.mark.parametrize(("key", "opened"), [("n", True), ("escape", False)])
async def test_instructions_can_be_left_out(folder: Path, key: str, opened: bool) -> None:
    app = make_app(StillEngine("Aye"), Store(None))
    async with app.run_test() as pilot:
        await run(pilot, "project", str(folder))
        await until(pilot, lambda: isinstance(app.screen, ConfirmInstructions))
        await pilot.press(key)
        await until(pilot, lambda: app.screen is app.chat_screen)
        await pilot.pause()
        project = chat_of(pilot).conversation.project
        assert project == (Project(str(folder.resolve())) if opened else None)
        assert chat_of(pilot).conversation.messages() == ()
    assert projects.find_project(str(folder)).status == "new"


async def test_new_chats_begin_with_what_was_saved(folder: Path) -> None:
    projects.remember_use(projects.find_project(str(folder)), confirmed=True)
    with Store(None) as store:
        app = make_app(StillEngine("Aye"), store)
        async with app.run_test() as pilot:
            chat = chat_of(pilot)
            await run(pilot, "project", str(folder))
            await until(pilot, lambda: chat.conversation.project)
            chat.edits.set_sampling(Sampling(temperature=0.2))
            chat.edits.set_plugin_data("rag", {"index": "charts"})
            await run(pilot, "project", "save")
            saved = Setup(
                app.engine_state.model,
                sampling=Sampling(temperature=0.2),
                plugin_data={"rag": {"index": "charts"}},
            )
            await until(pilot, lambda: projects.find_project(str(folder)).setup == saved)
            await run(pilot, "new")
            assert chat.conversation.project == Project(str(folder.resolve()), TEXT)
            assert chat.conversation.sampling == Sampling(temperature=0.2)
            assert chat.conversation.plugin_data == {"rag": {"index": "charts"}}
            await run(pilot, "project", "off")
            assert chat.conversation.project is None
        again = make_app(StillEngine("Aye"), store, project=str(folder))
        async with again.run_test() as pilot:
            await until(pilot, lambda: chat_of(pilot).conversation.plugin_data)
            assert chat_of(pilot).conversation.sampling == Sampling(temperature=0.2)


async def test_a_chat_keeps_what_was_confirmed_and_tells_of_a_change(folder: Path) -> None:
    with Store(None) as store:
        store.add_turn(store.create_conversation(project=Project(str(folder), "Old.")).id, "Hi")
        app = make_app(StillEngine("Aye"), store)
        async with app.run_test(notifications=True) as pilot:
            assert await chat_of(pilot).switch.open_chat(1)
            await until(pilot, lambda: any("has changed" in n.message for n in app._notifications))
            assert chat_of(pilot).conversation.project == Project(str(folder), "Old.")


async def test_tags(home: Path) -> None:
    with Store(None) as store:
        app = make_app(StillEngine("Aye"), store)
        async with app.run_test(size=(120, 36)) as pilot:
            await say(pilot, "Hello")
            await idle(pilot)
            await run(pilot, "tag", "Work #boats")
            await until(pilot, lambda: store.conversation(1).tags == ("boats", "work"))
            await until(pilot, lambda: "#boats #work" in plain(chats_of(pilot)))
            await run(pilot, "tag", "-work two words!")
            assert store.conversation(1).tags == ("boats", "work"), "all or nothing"
            await run(pilot, "tag", "-work")
            await until(pilot, lambda: store.conversation(1).tags == ("boats",))


@both_sizes
def test_picture_of_projects(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    """The chat's project, and the others."""
    setup = Setup("qwen3:4b", plugin_data={"rag": {"index": "charts"}})
    card = ProjectScreen(Project("/home/ada/harbour", TEXT), setup, ["/home/ada/garden"])
    assert snap_compare(CardApp(card), terminal_size=size)


@both_sizes
def test_picture_without_projects(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    """What a project is, before there is one."""
    assert snap_compare(CardApp(ProjectScreen(None, Setup(), [])), terminal_size=size)


@both_sizes
def test_picture_of_instructions(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    """Instructions that nobody confirmed, with a character that would hide."""
    found = projects.FoundProject(
        Path("/home/ada/harbour"), TEXT + "\nA \u202etrick\u202c.", "new", Setup()
    )
    assert snap_compare(CardApp(ConfirmInstructions(found, 21)), terminal_size=size)
