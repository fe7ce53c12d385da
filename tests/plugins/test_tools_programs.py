"""The tools `python` and `shell`, which run programs in the sandbox."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from chatlm import ToolCancelled
from chatlm.testing import ScriptedToolContext, run_tool, scripted_screen
from chatlm.tui.screens.image import ImageScreen
from chatlm_tools import plugin
from chatlm_tools.programs import python, shell
from chatlm_tools.sandbox.sandbox import available_tier
from chatlm_tools.settings import Settings
from tests import image_files

pytestmark = pytest.mark.skipif(
    available_tier()[0] is None, reason="nothing on this machine can contain a program"
)


def test_the_last_value_and_what_is_printed_are_shown() -> None:
    output = run_tool(python, {"code": "total = sum(range(101))\nprint('sum')\ntotal"})
    assert (output.text, output.is_error) == ("sum\n5050", False)
    assert run_tool(python, {"code": "x = 1"}).text == "It ended without output."


def test_an_error_is_shown_with_the_program_s_own_lines() -> None:
    output = run_tool(python, {"code": "def f():\n    return 1 / 0\n\nf()"})
    assert output.is_error
    assert output.text.splitlines()[:3] == [
        "Traceback (most recent call last):",
        '  File "main.py", line 4, in <module>',
        "    f()",
    ]
    assert "ZeroDivisionError: division by zero\nExit code 1" in output.text
    assert "runner" not in output.text
    syntax = run_tool(python, {"code": "if:"})
    assert syntax.is_error
    assert "SyntaxError" in syntax.text


def test_an_exit_code_is_told() -> None:
    assert run_tool(python, {"code": "import sys; sys.exit(3)"}).text == "Exit code 3"
    assert run_tool(python, {"code": "raise SystemExit('no')"}).text == "no\nExit code 1"
    assert "signal 6" in run_tool(python, {"code": "import os; os.abort()"}).text


def test_nothing_is_kept_between_programs() -> None:
    run_tool(python, {"code": "open('x', 'w').write('1')\nimport builtins\nbuiltins.y = 1"})
    output = run_tool(python, {"code": "import os\nprint(os.path.exists('x'), 'y' in dir())"})
    assert output.text == "False False"


def test_figures_are_pictures() -> None:
    code = """
import matplotlib.pyplot as plt
plt.plot([1, 2, 3])
plt.figure()
plt.bar(["a"], [1])
print("drawn")
"""
    context = ScriptedToolContext(settings=Settings(sandbox_seconds=300))
    output = run_tool(python, {"code": code}, context)
    assert not output.is_error, output.text
    assert len(output.images) == 2
    assert all(image.startswith(b"\x89PNG") for image in output.images)
    assert "The user sees 2 pictures." in output.text


def test_a_picture_that_is_a_link_or_no_picture_is_not_shown(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"\x89PNG\r\n\x1a\n secret")
    code = f"""
import os
os.symlink({str(secret)!r}, "a.png")
os.mkfifo("b.png")
os.mkdir("c.png")
open("d.png", "w").write("no picture")
with open("e.png", "wb") as file: file.write(b"\\x89PNG\\r\\n\\x1a\\n")
os.link("e.png", "f.png")
"""
    output = run_tool(python, {"code": code})
    assert output.images == ()
    assert "1 pictures are left out" in output.text


def test_limits_are_told_to_the_model() -> None:
    context = ScriptedToolContext(settings=Settings(sandbox_seconds=1))
    output = run_tool(python, {"code": "while True: pass"}, context)
    assert output.is_error
    assert output.text == "It was stopped: it took longer than 1 seconds."


def test_a_program_is_stopped_with_the_reply() -> None:
    context = ScriptedToolContext(cancel_after=0)
    with pytest.raises(ToolCancelled):
        run_tool(python, {"code": "import time; time.sleep(600)"}, context)


def test_the_shell_reads_the_users_folders_and_writes_only_its_own(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("alpha\nbeta\n")
    context = ScriptedToolContext(workspace_folders=[tmp_path])
    command = f"grep -c a {tmp_path}/notes.txt; echo x > here && cat here; echo y > {tmp_path}/new"
    output = run_tool(shell, {"command": command}, context)
    assert output.text.startswith("2\nx\n")
    assert output.is_error
    assert output.untrusted
    assert not (tmp_path / "new").exists()


REPLY = """Try this:

```python
print("first")
```

```sh
rm -rf /
```

```py
values = [1, 2]
values[5]
```
"""


async def test_the_user_runs_a_block_of_a_reply(home: Path) -> None:
    async with scripted_screen(plugin, replies=["No code.", REPLY]) as screen:
        await screen.submit("Hello.")
        await screen.submit("/run")
        assert "no Python code" in screen.text()
        await screen.submit("Write a program.")
        await screen.submit("/run 1")
        assert "What the program wrote" in screen.text()
        assert "first" in screen.text()
        await screen.press("escape")
        await screen.submit("/run 3")
        assert "blocks 1 to 2" in screen.text()
        await screen.press("f12")
        assert "IndexError" in screen.text()
        await screen.press("escape")
        composer = screen.app.chat_screen.chat.composer
        assert composer.text.startswith("The program failed. Please correct it.")
        assert "IndexError: list index out of range" in composer.text


PICTURE = base64.b64encode(image_files.save(image_files.picture())).decode()

DRAWING = f"""Here:

```python
import base64
with open("a.png", "wb") as file:
    file.write(base64.b64decode("{PICTURE}"))
with open("again.png", "wb") as file:
    file.write(base64.b64decode("{PICTURE}"))
with open("b.png", "wb") as file:
    file.write(bytes([137, 80, 78, 71, 13, 10, 26, 10]) + b"no picture")
print("drawn")
```
"""


async def test_the_figures_of_a_block_open_over_what_it_wrote(home: Path) -> None:
    async with scripted_screen(plugin, replies=[DRAWING]) as screen:
        await screen.submit("Draw.")
        await screen.submit("/run")
        card = screen.app.screen
        assert isinstance(card, ImageScreen)
        assert (card.image.name, card.image.width) == ("figure 1", 40)
        assert len(card._images) == 1  # a figure that was saved twice is one
        await screen.press("escape")
        assert "What the program wrote" in screen.text()
        assert "drawn" in screen.text()
        assert "figure 2" in screen.text() and "it is left out." in screen.text()


def test_the_shell_is_off_and_asks() -> None:
    assert not shell.enabled_by_default
    assert shell.permission == "ask"
    assert shell.always_ask
    assert python.permission == "ask"
    preview = shell.preview and shell.preview({"command": "ls -l"})
    assert preview is not None
    assert (preview.kind, preview.text) == ("command", "ls -l")
