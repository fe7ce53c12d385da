"""How a chat begins by what plugins offer, templates and other set-ups; stores nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any

from chatlm.errors import ChatlmError, UsageError
from chatlm.plugin_host.host import PluginHost
from chatlm.types.messages import Conversation, PluginData
from chatlm.types.setups import RenderedTemplate, Setup, TemplateRenderer


@dataclass(frozen=True)
class ChatStart:
    """How a question begins."""

    rendered: RenderedTemplate
    plugin_data: PluginData = field(default_factory=dict)
    """What the plugin that offers the template keeps with the chat."""

    @property
    def first_message(self) -> str:
        """What is sent; the plugin makes the message of it where it has a part in it."""
        return self.rendered.raw_input or self.rendered.user


def available_templates(plugins: PluginHost) -> dict[str, tuple[str, TemplateRenderer]]:
    """The templates of all plugins by name, each with its plugin."""
    return {
        name: (plugin, render) for plugin, (name, render) in plugins.collect("register_templates")
    }


def available_setups(plugins: PluginHost) -> dict[str, Setup]:
    """The set-ups of all plugins by name, templates too; see `SideChats.offered`."""
    found: list[tuple[str, str, Setup]] = [
        (plugin, name, setup) for plugin, (name, setup) in plugins.collect("register_setups")
    ]
    found += [
        (plugin, name, Setup(template=name))
        for name, (plugin, render) in available_templates(plugins).items()
        if _needs_no_values(render)
    ]
    times = Counter(name for _, name, _ in found)
    return {
        name if times[name] == 1 else f"{plugin}.{name}": setup for plugin, name, setup in found
    }


def _needs_no_values(render: TemplateRenderer) -> bool:
    """Whether a template makes a message of a person's words alone."""
    try:
        render({}, "Hello.", dict)
    except Exception:  # a plugin may fail in any way
        return False
    return True


def render_chat_start(
    template: str, values: Mapping[str, str], raw_input: str, plugins: PluginHost
) -> ChatStart:
    """What the template makes.

    Args:
        template: its name; empty for none, so that what was typed is the message.
        values: texts of its variables, by name.
        raw_input: what the person typed or piped in.
        plugins: offer templates.

    Raises:
        UsageError: there is no such template, or the values do not fit it.
    """
    if not template:
        return ChatStart(RenderedTemplate(user=raw_input))
    there = available_templates(plugins)
    if template not in there:
        near = get_close_matches(template, there, 1)
        raise UsageError(
            f"There is no template {template!r}.",
            hint=f"Did you mean {near[0]}?" if near else "See them: chatlm templates list",
        )
    plugin, render = there[template]
    asked: dict[str, Any] = {"conversation": Conversation(0), "text": raw_input}
    facts = partial(plugins.call_hook, "describe_text", **asked)
    try:
        rendered = render(values, raw_input, facts)
    except ChatlmError:
        raise
    except Exception as error:  # a plugin may fail in any way
        raise UsageError(
            f"The template {template} failed: {type(error).__name__}: {error}",
            hint="`chatlm logs` may have more.",
        ) from error
    return ChatStart(rendered, {plugin: rendered.plugin_state} if rendered.plugin_state else {})
