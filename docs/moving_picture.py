"""Record docs/images/chatlm.svg, a moving picture of the real program with the default model.

Run `python docs/moving_picture.py`; the model must be installed. The program runs in a pseudo
terminal, and each state of its screen becomes a frame. Keys are given a typist's speed and replies
a reader's, so that the picture does not depend on the machine.
"""

from __future__ import annotations

import html
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pexpect

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.end_to_end.terminal import ENTER, ESCAPE, KEYBOARD_MODES, Terminal  # noqa: E402
from tests.models import default_model, lend  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "chatlm.svg"
COLUMNS, LINES = 96, 26
CELL_WIDTH, CELL_HEIGHT = 8.43, 18
PADDING = 12
KEY_SECONDS, STREAM_SECONDS = 0.06, 0.12
STREAM_FRAMES = 14
"""Of a reply, at most."""

COLOURS = {
    "default": "#e6e6e6", "black": "#1b1b1b", "red": "#e06c75", "green": "#98c379",
    "brown": "#e5c07b", "blue": "#61afef", "magenta": "#c678dd", "cyan": "#56b6c2",
    "white": "#dcdfe4",
}  # fmt: skip
"""Of pyte's names; Textual's own colours are exact."""
BACKGROUND = "#121212"

Line = tuple[tuple[str, str, str, str], ...]
"""Runs of text: the text, its colour, its background, and its style."""


@dataclass
class Recording:
    """Frames of a program's screen, and for how long each is shown."""

    terminal: Terminal
    frames: list[list[Line]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def show(self, seconds: float) -> None:
        """Show the present screen for some seconds."""
        frame = read_screen(self.terminal.screen)
        if self.frames and self.frames[-1] == frame:
            self.seconds[-1] += seconds
        else:
            self.frames.append(frame)
            self.seconds.append(seconds)

    def settle(self, seconds: float = 0.6) -> None:
        """Read what the program draws until its text has not changed for some seconds."""
        text, last = self.terminal.shown(), time.monotonic()
        while time.monotonic() - last < seconds:  # a blinking cursor is drawn without end
            if self._read() and self.terminal.shown() != text:
                text, last = self.terminal.shown(), time.monotonic()

    def type(self, text: str) -> None:
        """Type a text, a key at a time."""
        for key in text:
            self.terminal.type(key)
            self.settle(0.15)
            self.show(KEY_SECONDS)
        self.show(0.5)

    def press(self, key: str, condition: Callable[[str], object], seconds: float) -> None:
        """Press a key, wait for what it shows, and show that for some seconds."""
        self.terminal.type(key)
        self.terminal.wait_for(condition)
        self.settle()
        self.show(seconds)

    def stream(self, started: Callable[[str], object], seconds: float) -> None:
        """Press Enter, and show how the reply grows until it has ended."""
        self.terminal.type(ENTER)
        self.terminal.wait_for(started)
        grown: list[list[Line]] = []
        while "writing · " in self.terminal.shown():
            if self._read():
                grown.append(read_screen(self.terminal.screen))
        for frame in grown[:: max(1, len(grown) // STREAM_FRAMES)]:
            self.frames.append(frame)
            self.seconds.append(STREAM_SECONDS)
        self.settle()
        self.show(seconds)

    def _read(self) -> bool:
        try:
            drawn = self.terminal.process.read_nonblocking(65536, timeout=0.05)
        except pexpect.TIMEOUT:
            return False
        self.terminal._stream.feed(KEYBOARD_MODES.sub(b"", drawn))
        return True


def main() -> None:
    """Record the chat and write the picture."""
    os.environ["COLORTERM"] = "truecolor"
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "home"
        lend(home, default_model())
        (home / "config.toml").write_text("[sampling]\nseed = 7\nmax_tokens = 90\n")
        terminal = Terminal(home, columns=COLUMNS, lines=LINES, folder=Path(temporary))
        try:
            recording = Recording(terminal)
            play(recording)
            terminal.type(ESCAPE + "\x11")
            terminal.wait_to_end()
        finally:
            terminal.process.close(force=True)
    text = draw(recording)
    PICTURE.write_text(text, encoding="utf-8")
    frames, seconds = len(recording.frames), sum(recording.seconds)
    size = f"{len(text) >> 10} KB"
    sys.stdout.write(f"{PICTURE.relative_to(ROOT)}: {frames} frames, {seconds:.0f} s, {size}\n")


def play(recording: Recording) -> None:
    """Ask, look at the exact prompt, switch to an adapter, ask again."""
    terminal = recording.terminal
    terminal.wait_for(lambda shown: "smollm2" in shown and "loading" not in shown.lower())
    recording.settle(1.5)
    recording.show(2.0)
    recording.type("What is the capital of France?")
    recording.stream(lambda shown: "writing · " in shown, 2.0)
    recording.type("/xray")
    recording.press(ENTER, lambda shown: "<|im_start|>" in shown, 3.5)
    recording.press(ESCAPE, lambda shown: "<|im_start|>" not in shown, 0.8)
    recording.type("/lora pirate")
    recording.press(ENTER, lambda shown: "/lora" not in shown, 1.2)
    recording.type("How do I make tea?")
    recording.stream(lambda shown: "writing · " in shown, 4.0)


def read_screen(screen: Any) -> list[Line]:
    """Return the lines of a pyte screen as runs of text of the same look."""
    lines: list[Line] = []
    for number in range(screen.lines):
        runs: list[list[str]] = []
        for column in range(screen.columns):
            cell = screen.buffer[number][column]
            if not cell.data:
                continue  # the right half of a wide character
            colour, background = colour_of(cell.fg, "default"), colour_of(cell.bg, BACKGROUND)
            if cell.reverse:
                colour, background = background, colour
            style = ("b" if cell.bold else "") + ("i" if cell.italics else "")
            style += "u" if cell.underscore else ""
            if runs and runs[-1][1:] == [colour, background, style]:
                runs[-1][0] += cell.data
            else:
                runs.append([cell.data, colour, background, style])
        lines.append(tuple((run[0], run[1], run[2], run[3]) for run in runs))
    return lines


def colour_of(name: str, default: str) -> str:
    """Return a colour of pyte as CSS writes it."""
    if name == "default":
        return COLOURS.get(default, default)
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    return COLOURS.get(name.removeprefix("bright"), COLOURS["default"])


def draw(recording: Recording) -> str:
    """Return the frames as an SVG that repeats itself; equal lines are stored once."""
    total = sum(recording.seconds)
    known: dict[Line, str] = {}
    definitions, frames, rules = [], [], []
    start = 0.0
    for number, (frame, seconds) in enumerate(
        zip(recording.frames, recording.seconds, strict=True)
    ):
        uses = []
        for row, line in enumerate(frame):
            if line not in known:
                known[line] = f"l{len(known)}"
                definitions.append(f'<g id="{known[line]}">{draw_line(line)}</g>')
            y = round(PADDING + row * CELL_HEIGHT, 1)
            uses.append(f'<use href="#{known[line]}" y="{y}"/>')
        first, last = 100 * start / total, 100 * (start + seconds) / total
        before = f"0%,{first - 0.001:.3f}%{{visibility:hidden}}" if number else ""
        after = f"{last:.3f}%,100%{{visibility:hidden}}" if last < 99.99 else ""
        shown = f"{first:.3f}%,{last - 0.001:.3f}%{{visibility:visible}}"
        rules.append(
            f"@keyframes k{number}{{{before}{shown}{after}}}"
            f"#f{number}{{animation:k{number} {total:.2f}s step-end infinite}}"
        )
        frames.append(f'<g class="f" id="f{number}">{"".join(uses)}</g>')
        start += seconds
    width = round(COLUMNS * CELL_WIDTH + 2 * PADDING)
    height = LINES * CELL_HEIGHT + 2 * PADDING
    style = (
        ".f{visibility:hidden}text{font:14px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',"
        "monospace;white-space:pre;dominant-baseline:middle}" + "".join(rules)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}"><title>A chat in chatlm</title><style>{style}</style>'
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>'
        f"<defs>{''.join(definitions)}</defs>{''.join(frames)}</svg>\n"
    )


def draw_line(line: Line) -> str:
    """Return a line's backgrounds and texts, at the top of the picture."""
    parts, column = [], 0
    for text, _, background, _ in line:
        if background != BACKGROUND:
            parts.append(
                f'<rect x="{place(column)}" width="{round(len(text) * CELL_WIDTH + 0.3, 2)}" '
                f'height="{CELL_HEIGHT}" fill="{background}"/>'
            )
        column += len(text)
    column = 0
    for text, colour, _, style in line:
        if text.strip():
            bare = text.rstrip()
            lead = len(bare) - len(bare.lstrip())
            looks = "".join(
                look
                for key, look in (
                    ("b", ' font-weight="bold"'),
                    ("i", ' font-style="italic"'),
                    ("u", ' text-decoration="underline"'),
                )
                if key in style
            )
            bare = bare.lstrip()
            parts.append(
                f'<text x="{place(column + lead)}" y="{CELL_HEIGHT / 2}" fill="{colour}"'
                f' textLength="{round(len(bare) * CELL_WIDTH, 2)}"{looks}>'
                f"{html.escape(bare)}</text>"
            )
        column += len(text)
    return "".join(parts)


def place(column: int) -> float:
    """Return the horizontal position of a column."""
    return round(PADDING + column * CELL_WIDTH, 2)


if __name__ == "__main__":
    main()
