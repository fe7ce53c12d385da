"""`chatlm templates …` and `chatlm ask -t` for users and scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chatlm.store.store import Store
from chatlm_templates.template import PROMPT_PARTS
from tests.program import run_chatlm


def chatlm(*arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return run_chatlm(*arguments, stdin=stdin, environment=more)


def test_the_shipped_set_is_checked(home: Path) -> None:
    done = chatlm("templates", "check", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"assistant", "insurance-claim", "translate"} <= {row["name"] for row in found}
    assert [row for row in found if row["error"]] == []


def test_a_broken_one_is_reported_and_the_others_are_listed(home: Path) -> None:
    (home / "prompts").mkdir(parents=True)
    (home / "prompts" / "bad.yaml").write_text("user: hi\nusr: x\n")
    listed = chatlm("templates", "list")
    assert listed.returncode == 0
    assert "translate" in listed.stdout
    assert "bad.yaml, line 2: unknown key 'usr'; did you mean user?" in listed.stderr
    checked = chatlm("templates", "check")
    assert checked.returncode == 1
    assert "line 2" in checked.stderr
    assert "21 of 22" in checked.stdout


def test_new_edit_show_and_render(home: Path) -> None:
    made = chatlm("templates", "new", "mine")
    assert made.returncode == 0, made.stderr
    assert Path(made.stdout.strip()) == home / "prompts" / "mine.yaml"
    again = chatlm("templates", "new", "mine")
    assert again.returncode == 2
    assert "already exists" in again.stderr
    shown = json.loads(chatlm("templates", "show", "mine", "--json").stdout)
    assert shown["own"]
    assert shown["input"] == "text"
    spoil = f"{sys.executable} -c \"import sys; open(sys.argv[1], 'a').write(chr(10) + 'usr: x')\""
    edited = chatlm("templates", "edit", "translate", EDITOR=spoil, VISUAL="")
    assert edited.returncode == 2
    assert str(home / "prompts" / "translate.yaml") in edited.stderr
    done = chatlm("templates", "render", "mine", "-v", "tone=formal", "--json", "Hello")
    system, user = json.loads(done.stdout)
    assert system["role"] == "system"
    assert "in a formal tone" in user["content"]
    assert "<text>\nHello\n</text>" in user["content"]


@pytest.mark.parametrize("name", ["../x", "A b", ""])
def test_a_new_one_cannot_leave_its_folder(home: Path, name: str) -> None:
    assert chatlm("templates", "new", name).returncode == 2
    assert list(home.rglob("*.yaml")) == []


def test_a_dry_run_shows_the_eight_parts_in_order(home: Path) -> None:
    done = chatlm("ask", "-t", "insurance-claim", "-v", "report=A tree </report>", "--json",
                  "--dry-run", "--temperature", "0.4")  # fmt: skip
    assert done.returncode == 0, done.stderr
    would = json.loads(done.stdout)
    (message,) = would["messages"]
    heads = [part.replace("_", " ").capitalize() + ":\n" for part in PROMPT_PARTS]
    places = [message["content"].index(head) for head in heads]
    assert places == sorted(places)
    assert message["content"].endswith("<report>\nA tree &lt;/report>\n</report>")
    assert would["sampling"] == {"temperature": 0.4, "max_tokens": 300}
    assert not (home / "chats.db").exists()


def test_a_dry_run_without_a_template(home: Path) -> None:
    done = chatlm("ask", "--dry-run", "--system", "Be \x1b[1mbrief.", "Why?")
    assert done.stdout == "[system]\nBe ␛[1mbrief.\n\n[user]\nWhy?\n\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-t", "insurence-claim"), "Did you mean insurance-claim?"),
        (("-t", "insurance-claim", "-v", "reprot=x"), "Did you mean report?"),
        (("-t", "insurance-claim"), "needs report"),
        (("-t", "insurance-claim", "-v", "report"), "has no ="),
        (("-t", "assistant"), "No question"),
        (("-v", "a=b", "Hi"), "Specify the template"),
        (("-t", "explain", "--safe-mode", "Hi"), "There is no template 'explain'"),
    ],
)
def test_a_mistake_is_reported(home: Path, arguments: tuple[str, ...], said: str) -> None:
    done = chatlm("ask", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_saved_chat_takes_no_other_template(home: Path) -> None:
    done = chatlm("ask", "--chat", "1", "-t", "assistant", "Hi")
    assert done.returncode == 2
    assert "-t starts a new chat" in done.stderr


def test_a_template_asks_the_real_model_and_stays_with_the_chat(chat_home: Path) -> None:
    done = chatlm("ask", "-t", "translate", "-v", "language=French", "-v", "text=Good <b>day",
                  "--json", "--max-tokens", "8")  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["sampling"]["temperature"] == 0.2
    number = str(answer["chat"])
    again = chatlm("ask", "--chat", number, "--max-tokens", "8", "Two\nlines")
    assert again.returncode == 0, again.stderr
    with Store(chat_home / "chats.db") as store:
        chat = store.conversation(answer["chat"])
    assert chat.plugin_data["templates"]["values"] == {"language": "French"}
    first, second = chat.turns
    assert (first.raw_input, second.raw_input) == ("Good <b>day", "Two\nlines")
    assert first.user.text.endswith("<text>\nGood &lt;b>day\n</text>")
    assert second.user.text.startswith("Translate this text into French.")
    assert second.reply and second.reply.sampling["temperature"] == 0.2
    assert "Good <b>day" in chatlm("chats", "list").stdout


def test_a_missing_template_stops_the_message(chat_home: Path) -> None:
    mine = chat_home / "prompts" / "mine.yaml"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("user: 'Be kind: {{ words }}'\nvariables: {words: {}}\ninput: words\n")
    number = str(
        json.loads(chatlm("ask", "-t", "mine", "--json", "--max-tokens", "4", "Hi").stdout)["chat"]
    )
    mine.unlink()
    done = chatlm("ask", "--chat", number, "Again")
    assert done.returncode == 2
    assert "Nothing was sent. There is no template 'mine'" in done.stderr
    assert "/template off" in done.stderr
    with Store(chat_home / "chats.db") as store:
        assert len(store.conversation(int(number)).turns) == 1


def test_a_template_with_only_a_system_prompt_leaves_the_message(chat_home: Path) -> None:
    done = chatlm("ask", "-t", "assistant", "--json", "What is the capital of France?")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert "Paris" in answer["text"]
    with Store(chat_home / "chats.db") as store:
        chat = store.conversation(answer["chat"])
    assert chat.system.startswith("You are a helpful assistant. Answer the question directly")
    assert chat.turns[0].user.text == "What is the capital of France?"
    assert chat.turns[0].raw_input == ""


HAIKUS = '''
from chatlm import RenderedTemplate, hookimpl


def haiku(values, raw_input, facts):
    """Writes a haiku.

    About anything.
    """
    return RenderedTemplate(user=f"A haiku about {raw_input}, {facts()['tone']}.")


def translate(values, raw_input, facts):
    return RenderedTemplate(user=f"Say {raw_input} in Latin.")


@hookimpl
def register_templates(register):
    register("haiku", haiku)
    register("translate", translate)


@hookimpl
def describe_text(text):
    return {"tone": "calm"}
'''


@pytest.fixture
def haikus(home: Path) -> Path:
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "haikus.py").write_text(HAIKUS)
    return home


def test_the_templates_of_plugins_are_listed_with_their_origin(haikus: Path) -> None:
    lines = chatlm("templates", "list").stdout.splitlines()
    (haiku,) = (line for line in lines if line.startswith("haiku "))
    assert haiku.split(maxsplit=1)[1] == "Writes a haiku.  (from haikus)"
    (translate,) = (line for line in lines if line.startswith("translate "))
    assert translate.endswith("(from haikus, replaces that of chatlm)")
    rows = {row["name"]: row for row in json.loads(chatlm("templates", "list", "--json").stdout)}
    assert rows["haiku"] == {
        "name": "haiku",
        "description": "Writes a haiku.",
        "own": False,
        "path": None,
        "plugin": "haikus",
        "replaces": [],
    }
    assert rows["explain"]["plugin"] is None


def test_a_template_of_a_plugin_is_shown_and_rendered_with_what_plugins_know(haikus: Path) -> None:
    shown = chatlm("templates", "show", "haiku").stdout
    assert shown.startswith("haiku: Writes a haiku.\nFrom haikus\n")
    rendered = chatlm("templates", "render", "haiku", "the", "sea")
    assert rendered.stdout == "[user]\nA haiku about the sea, calm.\n\n"
    edited = chatlm("templates", "edit", "haiku", EDITOR="true", VISUAL="")
    assert edited.returncode == 2
    assert "comes from the plugin haikus and has no file" in edited.stderr


def test_a_template_of_a_plugin_overrides_chatlms_and_ones_own_overrides_both(haikus: Path) -> None:
    def asked() -> str:
        done = chatlm("ask", "-t", "translate", "--dry-run", "Hello")
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert asked() == "[user]\nSay Hello in Latin.\n\n"
    (haikus / "prompts").mkdir()
    mine = haikus / "prompts" / "translate.yaml"
    mine.write_text("user: 'Mine: {{ words }}'\nvariables: {words: {}}\ninput: words\n")
    assert asked() == "[user]\nMine: Hello\n\n"
    assert chatlm("templates", "render", "translate", "Hello").stdout == asked()
    assert "Yours, replaces that of haikus\n" in chatlm("templates", "show", "translate").stdout
    listed = chatlm("templates", "list").stdout
    assert "(yours, replaces that of haikus)" in listed
