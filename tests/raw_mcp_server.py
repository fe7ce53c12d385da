"""A server of the Model Context Protocol that breaks it, written by hand.

`python tests/raw_mcp_server.py MODE`
"""

import json
import sys
import time
from typing import Any

MODE = sys.argv[1]
TOOL = {"name": "go", "description": "Go.", "inputSchema": {"type": "object"}}


def write(data: bytes) -> None:
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def answer(number: Any, result: Any) -> None:
    write(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}).encode())


def list_tools(number: Any, cursor: str | None) -> None:
    if MODE == "endless":
        place = int(cursor or 0)
        tool = {**TOOL, "name": f"go{place}"}
        answer(number, {"tools": [tool], "nextCursor": str(place + 1)})
    elif MODE == "odd tools":
        deep: dict[str, Any] = {}
        for _ in range(40):
            deep = {"type": "object", "properties": {"x": deep}}
        schemas = [
            ("deep", {"type": "object", "properties": {"x": deep}}),
            ("large", {"type": "object", "description": "x" * 200_000}),
            ("wrong", {"type": "object", "properties": {"x": {"type": "nothing"}}}),
        ]
        odd = [{**TOOL, "name": name, "inputSchema": schema} for name, schema in schemas]
        shown = {**TOOL, "name": "a b/ü", "description": "\x1b[2J" + "long " * 2000}
        answer(number, {"tools": [TOOL, TOOL, *odd, shown]})
    else:
        answer(number, {"tools": [TOOL]})


def call_tool(number: Any) -> None:
    good = {"content": [{"type": "text", "text": "gone"}]}
    if MODE == "garbage":
        write(b"Server ready!")
        write(b"\xff\xfe\x00 not text")
        answer(number, good)
    elif MODE == "wrong ids":
        answer(99_999, {"content": [{"type": "text", "text": "forged"}]})
        answer("no such id", {"content": [{"type": "text", "text": "forged"}]})
        answer(number, good)
    elif MODE == "invalid UTF-8":
        text = (
            b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"a\xff\xc3b"}]}}'
        )
        write(text % number)
    elif MODE == "deep":
        nested = b"[" * 100_000 + b"]" * 100_000
        write(b'{"jsonrpc":"2.0","id":%d,"result":{"x":%s}}' % (number, nested))
    elif MODE == "surrogate":
        write(
            b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"\\ud800"}]}}'
            % number
        )
    elif MODE == "no line end":
        for _ in range(400):
            sys.stdout.buffer.write(b"x" * 100_000)
            sys.stdout.buffer.flush()
    elif MODE == "hang":
        return
    elif MODE == "wrong result":
        answer(number, {"content": "not a list"})
    elif MODE == "loud":
        for _ in range(200):
            sys.stderr.buffer.write(b"\x1b[31mnoise\xff " * 2000 + b"\n")
        sys.stderr.flush()
        answer(number, good)
    else:
        answer(number, good)


if MODE == "silent":
    time.sleep(600)
if MODE == "deaf":  # it also ignores that its input was closed, and SIGTERM
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)

for line in sys.stdin:
    message = json.loads(line)
    number = message.get("id")
    match message.get("method"):
        case "initialize":
            version = message["params"]["protocolVersion"]
            answer(
                number,
                {
                    "protocolVersion": version,
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "raw", "version": "1"},
                },
            )
        case "tools/list":
            list_tools(number, (message.get("params") or {}).get("cursor"))
        case "tools/call":
            call_tool(number)
        case _ if number is not None:
            error = {"code": -32601, "message": "Method not found"}
            write(json.dumps({"jsonrpc": "2.0", "id": number, "error": error}).encode())
while MODE == "deaf":
    time.sleep(1)
