"""Headless Chromium, driven by its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.waiting import PATIENCE


def chromium(profile: Path, width: int, height: int) -> list[str]:
    """Return the command without an address; skip the test where there is no Chromium.

    Args:
        profile: an empty folder for what it keeps.
        width: of the window, in pixels, as its height.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium; on Debian: apt install chromium")
    return [
        program,
        "--headless=new",
        "--no-sandbox",
        "--no-first-run",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={profile}",
        f"--window-size={width},{height}",
    ]


class Page:
    """One page.

    Args:
        socket: of the page's DevTools.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.sockets: list[str] = []
        """The addresses of its own web sockets."""
        self.frames: list[bytes] = []
        """The data that the page received through them."""
        self.wrong: list[str] = []
        """Errors of its scripts, and what its security policy forbade."""

    async def listen(self) -> None:
        """Handle Chromium's messages until it ends."""
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Network.webSocketFrameReceived":
                frame = said["params"]["response"]
                if frame["opcode"] == 2:
                    self.frames.append(base64.b64decode(frame["payloadData"]))
            elif said["method"] == "Network.webSocketCreated":
                self.sockets.append(said["params"]["url"])
            elif said["method"] == "Runtime.exceptionThrown":
                self.wrong.append(str(said["params"]["exceptionDetails"]))
            elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.wrong.append(said["params"]["entry"]["text"])

    async def do(self, method: str, **params: Any) -> Any:
        """Let Chromium do something."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(PATIENCE):
            said = await answer
        assert "error" not in said, said
        return said["result"]

    async def press(self, key: str, text: str = "") -> None:
        """Press a key, which has a text if it is none like Escape."""
        about: dict[str, Any] = {"key": key, "text": text}
        if key == "Enter":
            about["windowsVirtualKeyCode"] = 13
        await self.do("Input.dispatchKeyEvent", type="keyDown", **about)
        await self.do("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def type(self, text: str) -> None:
        """Press a key for each letter."""
        for letter in text:
            await self.press(letter, letter)

    async def picture(self) -> bytes:
        """Return a screenshot as PNG."""
        shot = await self.do("Page.captureScreenshot")
        return base64.b64decode(shot["data"])


@asynccontextmanager
async def page(address: str, command: list[str]) -> AsyncIterator[Page]:
    """Open an address in a Chromium of its own.

    Args:
        address: to open.
        command: see `chromium`.
    """
    process = subprocess.Popen(
        [*command, "--remote-debugging-port=0", "about:blank"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        said = ""
        while not (found := re.search(r"ws://([^/\s]+)/devtools", said)):
            line = await asyncio.to_thread(process.stderr.readline)
            assert line, said
            said += line
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{found[1]}/json/list") as listed:
                pages = [each for each in await listed.json() if each["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as ws:
                shown = Page(ws)
                listening = asyncio.create_task(shown.listen())
                for domain in ("Page", "Network", "Runtime", "Log"):
                    await shown.do(f"{domain}.enable")
                await shown.do("Emulation.setFocusEmulationEnabled", enabled=True)
                await shown.do("Page.navigate", url=address)
                yield shown
                listening.cancel()
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)
