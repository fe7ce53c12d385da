"""A server of the Model Context Protocol that asks its client, written with the SDK.

`python tests/asking_mcp_server.py FILE [--http PORT]`; the file gets what the server notices.
"""

import argparse
from pathlib import Path
from typing import Annotated, Literal

import anyio
from mcp.server import MCPServer
from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, ListRoots, Resolve, Sample
from mcp_types import CreateMessageResult, ListRootsResult, SamplingMessage, TextContent
from pydantic import BaseModel, Field

parser = argparse.ArgumentParser()
parser.add_argument("noticed", type=Path)
parser.add_argument("--http", type=int, default=0)
options = parser.parse_args()

server = MCPServer("asking server")


class Order(BaseModel):
    size: Literal["small", "large"] = Field(title="Size", description="How much?")
    number: int = Field(ge=1, le=9)
    note: str = Field(default="")


class Sure(BaseModel):
    really: bool


def ask_order() -> Elicit[Order]:
    return Elicit("What would you like?\x1b[2J", Order)


def ask_sure() -> Elicit[Sure]:
    return Elicit("Delete it?", Sure)


def ask_folders() -> ListRoots:
    return ListRoots()


def ask_model() -> Sample:
    content = TextContent(type="text", text="Say hello.")
    return Sample([SamplingMessage(role="user", content=content)], max_tokens=10)


@server.tool()
def order(order: Annotated[ElicitationResult[Order], Resolve(ask_order)]) -> str:
    """Order something."""
    data = getattr(order, "data", None)
    return f"{order.action} {data.model_dump_json() if data else ''}".strip()


@server.tool()
def delete(sure: Annotated[ElicitationResult[Sure], Resolve(ask_sure)]) -> str:
    """Delete something."""
    data = getattr(sure, "data", None)
    return f"{sure.action} {data.really if data else ''}".strip()


@server.tool()
def folders(found: Annotated[ListRootsResult, Resolve(ask_folders)]) -> str:
    """Return the client's folders."""
    return " ".join(str(root.uri) for root in found.roots) or "none"


@server.tool()
def think(thought: Annotated[CreateMessageResult, Resolve(ask_model)]) -> str:
    """Let the client's model say something."""
    return str(thought.content)


@server.tool()
async def wait(context: Context) -> str:
    """Wait until it is cancelled."""
    try:
        await context.report_progress(1, 2, "waiting")
        await anyio.sleep(600)
    except anyio.get_cancelled_exc_class():
        options.noticed.write_text("cancelled")
        raise
    return "waited"


@server.tool()
async def learn(context: Context) -> str:
    """Learn another tool."""

    def sing() -> str:
        """Sing."""
        return "la"

    server.add_tool(sing)
    await context.notify_tools_changed()
    await context.session.send_tool_list_changed()
    return "learned"


@server.resource("notes://{day}/{place}", name="notes", description="Notes of a day.")
def notes(day: str, place: str) -> str:
    return f"On {day} in {place}: buy bread."


if options.http:
    server.run("streamable-http", host="127.0.0.1", port=options.http)
else:
    server.run("stdio")
