"""Templates with a variable for an image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import chatlm_templates.plugin
from chatlm.chat.templates import render_chat_start
from chatlm.errors import UsageError
from chatlm.plugin_host.host import PluginHost
from chatlm_templates import actions
from chatlm_templates.library import load_template
from tests import image_files
from tests.plugins.ui import RememberingUi
from tests.program import run_chatlm

TEMPLATE = """\
variables:
  photo: {type: image}
  what: {type: text, default: colour}
user: |
  What {{ what }} has the cat in {{ photo }}?
"""


@pytest.fixture
def look(home: Path) -> Path:
    """A template `look`, and the image that it is used with."""
    (home / "prompts").mkdir(parents=True)
    (home / "prompts" / "look.yaml").write_text(TEMPLATE)
    image = home / "my cat.png"
    image.write_bytes(image_files.png())
    return image


def test_the_text_has_the_name_and_the_message_the_image(look: Path) -> None:
    plugins = PluginHost()
    plugins.register("templates", chatlm_templates.plugin)
    start = render_chat_start("look", {"photo": str(look)}, "", plugins, takes_images=True)
    assert start.rendered.images == (str(look),)
    assert start.first_message == "What colour has the cat in my cat.png?"
    with pytest.raises(UsageError, match="images, which cannot be attached here"):
        render_chat_start("look", {"photo": str(look)}, "", plugins)


def test_in_a_chat_the_composer_mentions_it(look: Path) -> None:
    ui = RememberingUi("templates")
    actions.use_template(ui, load_template("look"), {"photo": str(look)}, in_new_chat=True)
    (inserted,) = ui.called("insert_text")
    assert inserted["text"] == f"What colour has the cat in my cat.png? @{json.dumps(str(look))}"


def test_ask_attaches_it_and_refuses_a_text(look: Path) -> None:
    arguments = ("ask", "-t", "look", "--dry-run", "--no-save")
    done = run_chatlm(*arguments, "-v", f"photo={look}")
    assert done.returncode == 0, done.stderr
    assert "[Image: my cat.png, 40×20]" in done.stdout
    (look.parent / "a.txt").write_text("text")
    refused = run_chatlm(*arguments, "-v", f"photo={look.parent / 'a.txt'}")
    assert refused.returncode == 2
    assert "takes an image" in refused.stderr
