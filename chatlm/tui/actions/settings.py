"""The commands that change how the chat is answered and looks; draws nothing itself."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

from chatlm.chat.context_usage import builtin_system_tokens
from chatlm.config import config
from chatlm.engines.open import is_available
from chatlm.hub import installed
from chatlm.tui.engine_loader import Ready
from chatlm.tui.screens.models import ModelScreen
from chatlm.tui.screens.plugins import PluginsScreen, plugin_entries
from chatlm.tui.screens.settings import CONFIG_LAYER, Section, SettingsScreen, ThemePicker
from chatlm.types.messages import Message
from chatlm.types.sampling import DEFAULT_SAMPLING, Sampling

if TYPE_CHECKING:
    from chatlm.tui.chat_screen import ChatScreen


class SettingsActions:
    """Each `do_NAME` is the command of that name; `took` is told what the settings screen posts.

    Args:
        screen: whose chat it is.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self._screen = screen
        self._chat = screen.chat
        self._owner = screen.owner

    def do_settings(self, _: str) -> None:
        """Sampling, system prompt, look."""
        self._show("sampling")

    def do_system(self, _: str) -> None:
        """Edit the system prompt."""
        self._show("system")

    def do_theme(self, name: str) -> None:
        """Change the colours, now and from now on."""
        if name.strip():
            self._use_theme(name.strip())
        else:
            self._show("look")

    def do_plugins(self, _: str) -> None:
        """Switch plugins, change their settings."""
        running, host = self._owner.config, self._owner.plugins
        self._owner.push_screen(
            PluginsScreen(
                partial(plugin_entries, host, running),
                self._chat.conversation.without,
                self._chat.set_without,
                safe_mode=running.safe_mode,
            )
        )

    def do_model(self, name: str) -> None:
        """Talk to another model; the chat goes on with it."""
        self._chat.refuse_while_busy()
        if name.strip():
            self._owner.check_model(name.strip())
            self._use_model(name.strip())
        else:
            current = self._owner.engine_state.model
            here = partial(is_available, plugins=self._owner.plugins)
            screen = ModelScreen(installed.list_known_models(), current, here)
            self._owner.push_screen(screen, self._use_model)

    def took(self, message: object) -> None:
        """Let what the person set hold from now on.

        Raises:
            ChatlmError: it could not be stored.
        """
        match message:
            case SettingsScreen.SamplingChanged(sampling=sampling):
                self._chat.set_sampling(sampling)
            case SettingsScreen.SystemChanged(system=system):
                self._chat.set_system(system)
            case SettingsScreen.SamplingKept(sampling=sampling):
                self._owner.config = dataclasses.replace(self._owner.config, sampling=sampling)
            case SettingsScreen.SystemKept(system=system):
                self._owner.config = dataclasses.replace(self._owner.config, system=system)
            case SettingsScreen.ModelWanted():
                self.do_model("")
            case ThemePicker.ThemeChosen(theme=theme):
                self._use_theme(theme)
            case ThemePicker.MotionChosen(reduced=reduced):
                self._owner.use_motion(reduced=reduced)
                config.set_value("reduced_motion", str(reduced).lower())

    def _show(self, section: Section) -> None:
        chat, state = self._chat.conversation, self._owner.engine_state
        engine = self._owner.engine.engine
        info = state.info if isinstance(state, Ready) else None
        below = [
            (CONFIG_LAYER, self._owner.config.sampling),
            ("model", info.suggested if info else Sampling()),
            ("default", info.defaults if info else DEFAULT_SAMPLING),
        ]

        def count_tokens(text: str) -> int:
            if engine is None:
                return 0
            return (
                engine.count_tokens([Message("system", text)])
                if text
                else builtin_system_tokens(engine)
            )

        self._owner.push_screen(
            SettingsScreen(
                chat.sampling,
                below,
                chat.system,
                info=info,
                count_tokens=count_tokens if engine else None,
                reduced_motion=self._owner.reduced_motion,
                section=section,
            )
        )

    def _use_theme(self, name: str) -> None:
        self._owner.use_theme(name)
        config.set_value("theme", name)

    def _use_model(self, name: str | None) -> None:
        if name and name != self._owner.engine_state.model:
            self._chat.stop()
            self._owner.load_engine(name)
            self._screen.set_focus(self._chat.composer)
