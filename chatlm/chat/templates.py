"""Templates and setups that plugins offer for starting a chat."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

from chatlm.errors import ChatlmError, UsageError
from chatlm.types.conversations import Conversation, PluginData
from chatlm.types.setups import OfferedTemplate, RenderedTemplate, Setup, TemplateRenderer

if TYPE_CHECKING:  # slow to load, and not needed before a template is used
    from chatlm.plugin_host.host import PluginHost


@dataclass(frozen=True)
class ChatStart:
    """The start of a chat from a template."""

    rendered: RenderedTemplate
    plugin_data: PluginData = field(default_factory=dict)
    """What the template's plugin stores with the chat."""

    @property
    def first_message(self) -> str:
        """The input to send; the plugin may still rewrite it."""
        return self.rendered.raw_input or self.rendered.user


def available_templates(plugins: PluginHost) -> dict[str, OfferedTemplate]:
    """Return the templates of all plugins by name; of two, that of the plugin called first."""
    found: dict[str, OfferedTemplate] = {}
    for plugin, (name, render) in plugins.collect("register_templates"):
        first = found.setdefault(name, OfferedTemplate(name, plugin, render))
        if first.plugin != plugin:
            found[name] = dataclasses.replace(first, overridden=(*first.overridden, plugin))
    return found


def available_setups(plugins: PluginHost) -> dict[str, Setup]:
    """Return the setups of all plugins by name, as `SideChats.available_setups` says."""
    found: list[tuple[str, str, Setup]] = [
        (plugin, name, setup) for plugin, (name, setup) in plugins.collect("register_setups")
    ]
    found += [
        (template.plugin, name, Setup(template=name))
        for name, template in available_templates(plugins).items()
        if _needs_no_values(template.render)
    ]
    times = Counter(name for _, name, _ in found)
    return {
        name if times[name] == 1 else f"{plugin}.{name}": setup for plugin, name, setup in found
    }


def _needs_no_values(render: TemplateRenderer) -> bool:
    """Whether a template needs nothing but the user's input."""
    try:
        render({}, "Hello.", dict)
    except Exception:  # a plugin may fail in any way
        return False
    return True


def render_chat_start(
    template: str,
    values: Mapping[str, str],
    raw_input: str,
    plugins: PluginHost,
    *,
    takes_images: bool = False,
) -> ChatStart:
    """Render a template.

    Args:
        template: its name; empty for none, so that the input is the message.
        values: values of its variables by name.
        raw_input: what the user typed or piped in.
        plugins: the plugins that offer templates.
        takes_images: whether the caller attaches `RenderedTemplate.images`.

    Raises:
        UsageError: the template was not found, a value is missing or invalid, or it has images
            though none are taken.
    """
    if not template:
        return ChatStart(RenderedTemplate(user=raw_input))
    there = available_templates(plugins)
    if template not in there:
        near = get_close_matches(template, there, 1)
        raise UsageError(
            f"There is no template {template!r}.",
            hint=f"Did you mean {near[0]}?" if near else "List them: chatlm templates list",
        )
    offered = there[template]
    asked: dict[str, Any] = {"conversation": Conversation(0), "text": raw_input}
    facts = partial(plugins.call_hook, "describe_text", **asked)
    try:
        rendered = offered.render(values, raw_input, facts)
    except ChatlmError:
        raise
    except Exception as error:  # a plugin may fail in any way
        raise UsageError(
            f"The template {template} failed: {type(error).__name__}: {error}",
            hint="`chatlm logs` may have more.",
        ) from error
    if rendered.images and not takes_images:
        raise UsageError(
            f"The template {template} has images, which cannot be attached here",
            hint="Use it in a chat or with chatlm ask.",
        )
    plugin_data = {offered.plugin: rendered.plugin_state} if rendered.plugin_state else {}
    return ChatStart(rendered, plugin_data)
