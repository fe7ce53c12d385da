"""Projects: what is read of a folder, what the user confirmed, and what the model is told."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from chatlm.chat import projects
from chatlm.errors import UsageError
from chatlm.store.export import conversation_to_dict
from chatlm.store.importing.chatlm_jsonl import parse_chatlm
from chatlm.store.store import Store
from chatlm.types.conversations import Conversation
from chatlm.types.messages import Message
from chatlm.types.projects import Project
from chatlm.types.sampling import Sampling
from chatlm.types.setups import Setup


@pytest.fixture
def folder(home: Path, tmp_path: Path) -> Path:
    """A folder with instructions."""
    path = tmp_path / "harbour"
    path.mkdir()
    (path / "AGENTS.md").write_text("Answer as a harbour master.\n", encoding="utf-8")
    return path


def test_instructions_are_new_then_confirmed_then_changed(folder: Path) -> None:
    found = projects.find_project(str(folder))
    assert (found.status, found.instructions) == ("new", "Answer as a harbour master.")
    projects.remember_use(found, confirmed=True)
    assert projects.find_project(str(folder)).status == "confirmed"
    (folder / "AGENTS.md").write_text("Answer as a pirate.", encoding="utf-8")
    assert projects.find_project(str(folder)).status == "changed"


def test_opening_without_the_instructions_confirms_nothing(folder: Path) -> None:
    projects.remember_use(projects.find_project(str(folder)), confirmed=False)
    assert projects.find_project(str(folder)).status == "new"
    assert projects.known_projects() == [str(folder.resolve())]


def test_a_folder_without_instructions_is_a_project_too(home: Path, tmp_path: Path) -> None:
    found = projects.find_project(str(tmp_path))
    assert found.status == "none"
    assert found.project().prompt == ""


def test_what_was_saved_for_a_project_is_kept_and_damage_is_no_trust(folder: Path) -> None:
    data = {"rag": {"index": "h"}}
    setup = Setup(model="qwen3:4b", sampling=Sampling(temperature=0.2), plugin_data=data)
    found = projects.find_project(str(folder))
    projects.remember_use(found, confirmed=True)
    projects.save_setup(str(found.folder), setup)
    again = projects.find_project(str(folder))
    assert (again.setup, again.status) == (setup, "confirmed")
    (projects._file()).write_text("{", encoding="utf-8")
    again = projects.find_project(str(folder))
    assert (again.setup, again.status) == (Setup(), "new")


def test_what_cannot_be_read_says_why(folder: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        projects.find_project(str(folder / "missing"))
    file = folder / "AGENTS.md"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        projects.find_project(str(folder))
    file.write_text("x" * (projects.MAX_INSTRUCTIONS + 1), encoding="utf-8")
    with pytest.raises(UsageError, match="longer than"):
        projects.find_project(str(folder))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UsageError, match="cannot be read"):
        projects.find_project(str(folder))


def test_the_system_prompt_names_the_source_of_the_instructions() -> None:
    chat = Conversation(1, system="Be brief.", project=Project("/x/harbour", "Say ahoy."))
    expected = (
        "Be brief.\n\nInstructions of the project harbour, from its file AGENTS.md:\n\nSay ahoy."
    )
    assert chat.messages() == (Message("system", expected),)
    assert replace(chat, project=Project("/x/harbour")).messages() == (
        Message("system", "Be brief."),
    )


def test_project_and_tags_are_stored_forked_exported_and_imported() -> None:
    project = Project("/x/harbour", "Say ahoy.")
    with Store(None) as store:
        chat = store.create_conversation(project=project)
        store.add_turn(chat.id, "Hello")
        store.set_tags(chat.id, ["work", "boats", "work"])
        stored = store.conversation(chat.id)
        assert (stored.project, stored.tags) == (project, ("boats", "work"))
        fork = store.fork(chat.id)
        assert (fork.project, fork.tags) == (project, ("boats", "work"))
        entry = store.list_conversations()[-1]
        assert (entry.project, entry.tags) == ("harbour", ("boats", "work"))
        copy = parse_chatlm(conversation_to_dict(stored)).conversation
        assert (copy.project, copy.tags) == (project, ("boats", "work"))
        store.set_project(chat.id, None)
        assert store.conversation(chat.id).project is None


def test_tags_and_projects_restrict_the_search() -> None:
    with Store(None) as store:
        for number, (project, tags) in enumerate(
            [(Project("/x/harbour"), ["work"]), (None, ["work", "trips"]), (None, [])]
        ):
            chat = store.create_conversation(f"Chat {number}", project=project)
            store.add_turn(chat.id, "A message about boats")
            store.set_tags(chat.id, tags)

        def found(query: str) -> list[tuple[str, bool]]:
            return [(hit.title, hit.turn_id is not None) for hit in store.search(query)]

        assert found("#work") == [("Chat 1", False), ("Chat 0", False)]
        assert found("tag:work boats") == [("Chat 1", True), ("Chat 0", True)]
        assert found("#work #trips") == [("Chat 1", False)]
        assert found("project:harbour boats") == [("Chat 0", True)]
        assert found("project:harbour #trips") == []
        assert len(found("#boats")) == 3, "no tag of this name: a word"
        untitled = store.create_conversation()
        store.add_turn(untitled.id, "Which tea?")
        store.set_tags(untitled.id, ["tea"])
        assert [hit.snippet for hit in store.search("#tea")] == ["Which tea?"]
