"""Actions that change settings: sampling, system prompt, model, plugins, theme."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from functools import partial

from chatlm.chat.context_usage import builtin_system_tokens, count_tool_tokens
from chatlm.chat.model_list import (
    PluginModels,
    check_fits,
    list_plugin_models,
    look_up_model,
)
from chatlm.chat.output_schema import read_schema
from chatlm.chat.tool_set import ToolOptions, find_tools
from chatlm.config import config
from chatlm.engines.open import is_available
from chatlm.errors import ModelError, UsageError
from chatlm.hub import installed
from chatlm.hub.catalogue import find_entry
from chatlm.plugin_host.turn_plugins import TurnPlugins
from chatlm.text import one_line
from chatlm.tui.chat.controller import ChatController
from chatlm.tui.commands import CommandHandler
from chatlm.tui.engine_loader import Ready
from chatlm.tui.screens.models import ModelScreen
from chatlm.tui.screens.plugins import PluginsScreen, plugin_entries
from chatlm.tui.screens.settings import CONFIG_LAYER, Section, SettingsScreen, ThemePicker
from chatlm.tui.screens.tools import ToolsScreen
from chatlm.tui.services import Services
from chatlm.tui.widgets.download_line import DownloadLine
from chatlm.types.engine import thinking_problem
from chatlm.types.messages import Message
from chatlm.types.sampling import DEFAULT_SAMPLING, THINKING_LEVELS, Sampling, Thinking
from chatlm.types.schemas import schema_text


class SettingsActions:
    """Commands that change settings; `apply` takes the messages of the settings screen.

    Args:
        services: shared services.
        chat: the open chat.
    """

    def __init__(self, services: Services, chat: ChatController) -> None:
        self._services = services
        self._chat = chat

    def handlers(self) -> dict[str, CommandHandler]:
        """Return the method of each command by the command's name."""
        return {
            "settings": self.do_settings,
            "system": self.do_system,
            "theme": self.do_theme,
            "plugins": self.do_plugins,
            "tools": self.do_tools,
            "model": self.do_model,
            "thinking": self.do_thinking,
            "schema": self.do_schema,
        }

    def do_settings(self, _: str) -> None:
        """Open the settings."""
        self._show_settings("sampling")

    def do_tools(self, argument: str) -> None:
        """Show the tools of the chat, or switch them on or off.

        Raises:
            UsageError: the argument is neither.
        """
        chat, services = self._chat.conversation, self._services
        match argument.strip().lower():
            case "":
                pass
            case "on" | "off" as word:
                tools = dataclasses.replace(chat.tools, enabled=word == "on")
                self._chat.edits.set_tools(tools)
                note = self._note_on_tools() if word == "on" else ""
                text = f"Tools are {word} in this chat. {note}".rstrip()
                self._chat.view.notify(text, markup=False)
                return
            case other:
                raise UsageError(
                    f"/tools takes on or off, not {one_line(other, 40)!r}",
                    hint="/tools alone lists them.",
                )
        plugins = TurnPlugins(services.plugins, chat.disabled_plugins)
        engine, count_tokens = services.engine.engine, None
        if engine is not None and "tool_call" in engine.info.accepts:
            count_tokens = partial(count_tool_tokens, engine)
        self._chat.view.app.push_screen(
            ToolsScreen(
                lambda: find_tools(plugins),
                ToolOptions(services.config.tools),
                chat,
                self._chat.edits.set_tools,
                count_tokens,
                self._note_on_tools(),
            )
        )

    def _note_on_tools(self) -> str:
        """Return what the loaded model cannot do with tools; empty for nothing."""
        state = self._services.engine_state
        if not isinstance(state, Ready):
            return ""
        model = one_line(state.info.model, 60)
        if "tool_call" not in state.info.accepts:
            return f"{model} cannot call tools."
        if state.info.tools_in_system_prompt:
            return f"{model} was not trained to call tools; an adapter can be: /lora"
        return ""

    def do_system(self, _: str) -> None:
        """Edit the system prompt."""
        self._show_settings("system")

    def do_theme(self, name: str) -> None:
        """Change the theme and save it."""
        if name.strip():
            self._set_theme(name.strip())
        else:
            self._show_settings("look")

    def do_plugins(self, _: str) -> None:
        """Open the plugins screen."""
        running, host = self._services.config, self._services.plugins
        self._chat.view.app.push_screen(
            PluginsScreen(
                partial(plugin_entries, host, running),
                self._chat.conversation.disabled_plugins,
                self._chat.edits.set_disabled_plugins,
                safe_mode=running.safe_mode,
            )
        )

    def do_thinking(self, level: str) -> None:
        """Set how much the model thinks in this chat; without a level, take the next one."""
        levels = self._thinking_levels()
        wanted = level.strip().lower()
        if not wanted:
            now = self._chat.thinking
            wanted = levels[(levels.index(now) + 1) % len(levels)] if now in levels else "auto"
        chosen = next((each for each in THINKING_LEVELS if each == wanted), None)
        if chosen is None:
            raise UsageError(
                f"Thinking cannot be {one_line(level, 40)}",
                hint=f"Choose {', '.join(levels)}.",
            )
        state = self._services.engine_state
        problem = thinking_problem(chosen, state.info) if isinstance(state, Ready) else None
        if problem is not None:
            raise problem
        sampling = dataclasses.replace(self._chat.conversation.sampling, thinking=chosen)
        self._chat.edits.set_sampling(sampling)
        self._chat.view.notify(f"Thinking: {chosen}", markup=False)

    def do_schema(self, text: str) -> None:
        """Make the replies of this chat fit a schema; without one, tell which is set."""
        sampling, text = self._chat.conversation.sampling, text.strip()
        if not text:
            set_now = sampling.schema or "none; try /schema name str, age int"
            self._chat.view.notify(f"Schema: {set_now}", markup=False)
            return
        schema = None if text == "off" else schema_text(read_schema(text))
        self._chat.edits.set_sampling(dataclasses.replace(sampling, schema=schema, grammar=None))
        self._chat.view.notify(
            "Replies are free again." if schema is None else "Replies will fit the schema.",
            markup=False,
        )

    def _thinking_levels(self) -> list[Thinking]:
        """Return the levels that the model follows.

        Raises:
            UsageError: it follows none.
        """
        state = self._services.engine_state
        if not isinstance(state, Ready):
            return list(THINKING_LEVELS)
        levels = [each for each in THINKING_LEVELS if not thinking_problem(each, state.info)]
        if state.info.thinks is False:
            raise UsageError(
                f"{one_line(state.info.model, 60)} does not think before it answers",
                hint="/model lists other models.",
            )
        if levels == ["auto"]:
            raise UsageError(
                f"{one_line(state.info.model, 60)} cannot change how much it thinks",
                hint="thinking_budget in the settings limits its thoughts.",
            )
        return levels

    def do_model(self, name: str) -> None:
        """Switch to another model for all chats; ask before it is downloaded."""
        self._chat.require_idle()
        name = name.strip()
        if name and is_available(name, self._services.plugins):
            self._switch_model(name)
            return
        current = self._services.engine_state.model
        config, plugins = self._services.config, self._services.plugins
        look_up = partial(look_up_model, config=config, plugins=plugins)
        known = installed.list_known_models()

        def ask_plugins() -> PluginModels:
            fits = check_fits(known, config, plugins)
            return dataclasses.replace(list_plugin_models(plugins), fits=fits)

        entry = find_entry(name)
        wanted = entry[0].name if entry and not entry[1] else name  # an alias is not in the list
        screen = ModelScreen(known, current, look_up, ask_plugins, wanted)
        self._chat.view.app.push_screen(screen, self._use_or_download)

    def apply(self, message: object) -> None:
        """Apply a change made on the settings screen.

        Raises:
            ChatlmError: the change cannot be saved.
        """
        match message:
            case SettingsScreen.SamplingChanged(sampling=sampling):
                self._chat.edits.set_sampling(sampling)
            case SettingsScreen.SystemChanged(system=system):
                self._chat.edits.set_system(system)
            case SettingsScreen.DefaultSamplingSaved(sampling=sampling):
                self._services.config = dataclasses.replace(
                    self._services.config, sampling=sampling
                )
                self._chat.notify_changed()
            case SettingsScreen.DefaultSystemSaved(system=system):
                self._services.config = dataclasses.replace(self._services.config, system=system)
            case SettingsScreen.ModelRequested():
                self.do_model("")
            case ThemePicker.ThemeChosen(theme=theme):
                self._set_theme(theme)
            case ThemePicker.MotionChosen(reduced=reduced):
                self.set_reduced_motion(reduced=reduced)
                config.set_value("reduced_motion", str(reduced).lower())

    def set_theme(self, name: str) -> None:
        """Change the theme.

        Raises:
            UsageError: the theme is unknown.
        """
        app = self._chat.view.app
        if name not in app.available_themes:
            known = ", ".join(sorted(app.available_themes))
            raise UsageError(f"Unknown theme {name!r}", hint=f"Available themes: {known}.")
        app.theme = name

    def set_reduced_motion(self, *, reduced: bool) -> None:
        """Turn blinking and smooth scrolling off or on."""
        self._chat.view.app.animation_level = "none" if reduced else "full"
        self._chat.composer.cursor_blink = not reduced

    def _show_settings(self, section: Section) -> None:
        chat, state = self._chat.conversation, self._services.engine_state
        engine = self._services.engine.engine
        info = state.info if isinstance(state, Ready) else None
        below = [
            (CONFIG_LAYER, self._services.config.sampling),
            ("model", info.recommended_sampling if info else Sampling()),
            ("default", info.default_sampling if info else DEFAULT_SAMPLING),
        ]

        def count_tokens(text: str) -> int:
            if engine is None:
                return 0
            return (
                engine.count_tokens([Message("system", text)])
                if text
                else builtin_system_tokens(engine)
            )

        self._chat.view.app.push_screen(
            SettingsScreen(
                chat.sampling,
                below,
                chat.system,
                info=info,
                count_tokens=count_tokens if engine else None,
                reduced_motion=self._chat.view.app.animation_level == "none",
                section=section,
            )
        )

    def _set_theme(self, name: str) -> None:
        self.set_theme(name)
        config.set_value("theme", name)

    def _use_or_download(self, name: str | None) -> None:
        """Switch to a model; one that is not here is downloaded while the current one answers."""
        here = True
        if name and isinstance(self._services.engine_state, Ready):
            with suppress(ModelError):  # loading it says what is wrong
                here = is_available(name, self._services.plugins)
        if name and not here:
            self._chat.view.screen.query_one(DownloadLine).start(name)
            self._chat.view.focus_composer()
        else:
            self._switch_model(name)

    def _switch_model(self, name: str | None) -> None:
        if name and name != self._services.engine_state.model:
            self._chat.turns.stop()
            self._services.load_engine(name)
            self._chat.view.focus_composer()
