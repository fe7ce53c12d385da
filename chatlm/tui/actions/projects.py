"""Commands that put the open chat into a project, and tag it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from chatlm.chat import projects
from chatlm.chat.projects import FoundProject
from chatlm.errors import ChatlmError, UsageError
from chatlm.text import escape_controls, one_line
from chatlm.tui.chat.controller import ChatController
from chatlm.tui.commands import CommandHandler
from chatlm.tui.screens.project import ConfirmInstructions, ProjectScreen
from chatlm.tui.services import Services
from chatlm.types.projects import INSTRUCTIONS_FILE, Project
from chatlm.types.setups import Setup

_TAG = re.compile(r"[^\W_][\w-]{0,39}")


class ProjectActions:
    """Commands about projects and tags; each takes the text typed after its name.

    Args:
        services: shared services.
        chat: the open chat.
        switch_model: switches to a model that is here.
    """

    def __init__(
        self, services: Services, chat: ChatController, switch_model: Callable[[str], object]
    ) -> None:
        self._services = services
        self._chat = chat
        self._switch_model = switch_model
        self._told: set[tuple[str, str]] = set()
        """Folders with the instructions whose change was told."""

    def handlers(self) -> dict[str, CommandHandler]:
        """Return the method of each command by the command's name."""
        return {"project": self.do_project, "tag": self.do_tag}

    def do_project(self, argument: str) -> None:
        """Open a project for this chat; without a folder, show the project and the known ones."""
        match argument.strip():
            case "":
                self._chat.read_then(projects.known_projects, self._show, "reading projects")
            case "off":
                self._leave()
            case "save":
                self._save()
            case path:
                self._open(path)

    def do_tag(self, words: str) -> None:
        """Add tags to the chat, remove those with a minus, or tell which it has."""
        if self._chat.conversation_id is None:
            raise UsageError("This chat has no message yet", hint="Type one first.")
        tags = set(self._chat.conversation.tags)
        for word in words.split():
            tag = word.lstrip("-#").lower()
            if not _TAG.fullmatch(tag):
                raise UsageError(
                    f"{one_line(word, 40)} is no tag",
                    hint="A tag is one word of letters, digits and hyphens: /tag travel",
                )
            (tags.discard if word.startswith("-") else tags.add)(tag)
        if words.strip():
            self._chat.edits.set_tags(tuple(sorted(tags)))
        shown = " ".join(f"#{tag}" for tag in sorted(tags)) or "none; /tag travel adds one"
        self._chat.view.notify(f"Tags: {escape_controls(shown)}", markup=False)

    def refresh(self) -> None:
        """Read the open chat's project again, in a thread; tell if its instructions changed."""
        project = self._chat.conversation.project
        if project is not None:
            self._chat.read_then(
                partial(_find_quietly, project.folder), partial(self._note, project), "a project"
            )

    def _note(self, project: Project, found: FoundProject | None) -> None:
        if found is None:
            return
        self._chat.switch.project_setups[project.folder] = found.setup
        key = (project.folder, found.instructions)
        if project.instructions not in ("", found.instructions) and key not in self._told:
            self._told.add(key)
            self._chat.view.notify(
                f"{INSTRUCTIONS_FILE} of {one_line(project.name, 40)} has changed; this chat keeps "
                f"what you confirmed. /project {one_line(project.folder, 60)} reads it again.",
                severity="warning",
                markup=False,
            )

    def _open(self, path: str) -> None:
        def read() -> tuple[FoundProject, int | None]:
            found = projects.find_project(path)
            return found, self._services.engine.count_tokens(found.instructions)

        self._chat.read_then(read, lambda read: self._ask_about(*read), "opening a project")

    def _ask_about(self, found: FoundProject, tokens: int | None) -> None:
        """Show instructions that the user has not confirmed as they are."""
        if found.status not in ("new", "changed"):
            self._enter(found, confirmed=found.status == "confirmed")
            return

        def decide(confirmed: bool | None) -> None:
            if confirmed is not None:
                self._enter(found, confirmed=confirmed)

        self._chat.view.app.push_screen(ConfirmInstructions(found, tokens), decide)

    def _enter(self, found: FoundProject, *, confirmed: bool) -> None:
        """Put the chat into the project; a new one begins with what was saved for it."""
        chat, setup = self._chat, found.setup
        project = found.project(with_instructions=confirmed)
        chat.switch.project_setups[project.folder] = setup
        chat.edits.set_project(project)
        if chat.conversation_id is None:
            if setup.system:
                chat.edits.set_system(setup.system)
            chat.edits.set_sampling(setup.sampling)
            for plugin, values in setup.plugin_data.items():
                chat.edits.set_plugin_data(plugin, values)
            if setup.model and setup.model != self._services.engine_state.model:
                self._use_model(setup.model)
        what = "with its instructions" if project.instructions else "without instructions"
        self._chat.read_then(
            partial(projects.remember_use, found, confirmed=confirmed and bool(found.instructions)),
            lambda _: chat.view.notify(
                f"Project {one_line(project.name, 40)}, {what}.", markup=False
            ),
            "remembering a project",
        )
        chat.view.focus_composer()

    def _use_model(self, model: str) -> None:
        try:
            self._switch_model(model)
        except ChatlmError as error:
            self._chat.view.toast(error)

    def _project(self) -> Project:
        project = self._chat.conversation.project
        if project is None:
            raise UsageError("This chat belongs to no project", hint="/project PATH opens one.")
        return project

    def _leave(self) -> None:
        name = one_line(self._project().name, 40)
        self._chat.edits.set_project(None)
        self._chat.view.notify(
            f"The chat has left the project {name}; earlier replies stay.", markup=False
        )

    def _save(self) -> None:
        """Let new chats of the project begin like this one."""
        folder, chat = self._project().folder, self._chat.conversation
        setup = Setup(
            model=self._services.engine_state.model,
            system=chat.system,
            sampling=chat.sampling,
            plugin_data=chat.plugin_data,
        )
        self._chat.switch.project_setups[folder] = setup
        self._chat.read_then(
            partial(projects.save_setup, folder, setup),
            lambda _: self._chat.view.notify(
                "New chats of this project begin with this chat's model, documents, adapter, "
                "template, system prompt and sampling.",
                markup=False,
            ),
            "saving a project",
        )

    def _show(self, known: list[str]) -> None:
        def run(chosen: str | None) -> None:
            if chosen is not None:
                self._chat.view.run_worker(
                    self._chat.view.run_reporting_errors(
                        partial(self.do_project, chosen), "command project"
                    ),
                    exit_on_error=False,
                )

        project = self._chat.conversation.project
        setup = (
            self._chat.switch.project_setups.get(project.folder, Setup()) if project else Setup()
        )
        self._chat.view.app.push_screen(ProjectScreen(project, setup, known), run)


def _find_quietly(folder: str) -> FoundProject | None:
    """Return a project; None if its folder is gone or cannot be read, which changes no chat."""
    try:
        return projects.find_project(folder)
    except UsageError:
        return None
