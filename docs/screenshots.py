"""Makes docs/images/*.svg from the real program with the real default model.

Run `python docs/screenshots.py`; the model is pulled first if it is not there yet.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

from textual.pilot import Pilot

from chatlm import config
from chatlm.generation import Engine
from chatlm.models.progress import silent
from chatlm.plugins import PluginHost
from chatlm.sampling import Sampling
from chatlm.store import Store
from chatlm.tui.app import ChatApp
from chatlm.tui.live_chat import LiveChat

IMAGES = Path(__file__).parent / "images"
SIZES = ((80, 24), (160, 48))
QUESTIONS = ("What is the capital of France?", "Give me three reasons to visit it, as a list.")
LONG_QUESTION = "Write a long story about a lighthouse."


async def picture(pilot: Pilot[None], name: str) -> None:
    """Write the screen to `docs/images/NAME-WIDTHxHEIGHT.svg`."""
    await pilot.pause()
    size = pilot.app.size
    svg = re.sub(r"terminal-\d+-", "terminal-", pilot.app.export_screenshot(title="chatlm"))
    (IMAGES / f"{name}-{size.width}x{size.height}.svg").write_text(svg, encoding="utf-8")


async def take(engine: Engine, size: tuple[int, int]) -> None:
    """All pictures of one size."""
    settings = replace(config.Config(), sampling=Sampling(seed=7, max_tokens=200))
    app = ChatApp(Store(None), lambda model, report: engine, config=settings)
    async with app.run_test(size=size) as pilot:
        chat = app.chat_screen.chat
        chat.composer.cursor_blink = False

        async def ask(question: str) -> None:
            await pilot.press(*question, "enter")
            await until_idle(pilot, chat)

        await pilot.pause(0.5)
        await picture(pilot, "empty")
        for question in QUESTIONS:
            await ask(question)
        await picture(pilot, "chat")
        await pilot.press("ctrl+n", *LONG_QUESTION, "enter")
        while (chat.status.used or 0) < 100:
            await asyncio.sleep(0.02)
        await pilot.press("escape")
        await until_idle(pilot, chat)
        await picture(pilot, "stopped")


async def until_idle(pilot: Pilot[None], chat: LiveChat) -> None:
    """Wait for the reply to end."""
    await pilot.pause(0.1)
    while chat.busy:
        await asyncio.sleep(0.1)


def main() -> None:
    """Make every picture, of chats in memory, with the model that is already here or is pulled."""
    from chatlm.engines.opening import open_engine

    IMAGES.mkdir(exist_ok=True)
    engine = open_engine(config.Config(), PluginHost(), silent)
    try:
        for size in SIZES:
            asyncio.run(take(engine, size))
    finally:
        engine.close()


if __name__ == "__main__":
    main()
