"""The servers' prompts as templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from chatlm import RenderedTemplate, TemplateRenderer, TextFacts, UsageError, one_line
from chatlm_mcp.listing import ListedPrompt
from chatlm_mcp.results import block_text
from chatlm_mcp.server import Server
from chatlm_mcp.servers import Servers

if TYPE_CHECKING:
    from mcp_types import PromptMessage


def make_templates(servers: Servers) -> dict[str, TemplateRenderer]:
    """Return a template `server:prompt` for each prompt that is known; starts no server."""
    return {
        f"{server.config.name}:{prompt.name}": _make_renderer(server, prompt)
        for server, listing in servers.known_listings()
        for prompt in listing.prompts
    }


def fill_in(server: Server, prompt: ListedPrompt, values: Mapping[str, str], typed: str) -> str:
    """Return a prompt's text.

    Args:
        server: offers it.
        prompt: the prompt.
        values: values of its arguments by name.
        typed: becomes the first argument that has no value, else it follows the text.

    Raises:
        UsageError: an argument is missing or not known.
        McpServerError: the server failed.
    """
    arguments = dict(values)
    for name in arguments:
        if name not in prompt.arguments:
            raise UsageError(
                f"The prompt {one_line(prompt.name, 60)} has no argument {one_line(name, 60)}.",
                hint=f"It has: {', '.join(map(_show, prompt.arguments)) or 'none'}",
            )
    free = [name for name in (*prompt.required, *prompt.arguments) if name not in arguments]
    if typed.strip() and free:
        arguments[free[0]] = typed
        typed = ""
    missing = [name for name in prompt.required if name not in arguments]
    if missing:
        raise UsageError(
            f"The prompt {one_line(prompt.name, 60)} needs: {', '.join(map(_show, missing))}",
            hint="With ask: -v NAME=TEXT. In a chat: /prompt SERVER:PROMPT NAME=TEXT",
        )
    result = server.get_prompt(prompt.name, arguments)
    text = _messages_text(result.messages)
    return f"{text}\n\n{typed}".strip()


def _make_renderer(server: Server, prompt: ListedPrompt) -> TemplateRenderer:
    def render(values: Mapping[str, str], raw_input: str, facts: TextFacts) -> RenderedTemplate:
        return RenderedTemplate(user=fill_in(server, prompt, values, raw_input))

    about = one_line(prompt.description, 80) or "A prompt"
    render.__doc__ = f"{about} (MCP server {server.config.name})"
    return render


def _messages_text(messages: list[PromptMessage]) -> str:
    """Return the messages of a prompt as one; who speaks is named if both do."""
    texts = [(message.role, block_text(message.content)) for message in messages]
    if all(role == "user" for role, _ in texts):
        return "\n\n".join(text for _, text in texts)
    return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in texts)


def _show(name: str) -> str:
    return one_line(name, 40)
