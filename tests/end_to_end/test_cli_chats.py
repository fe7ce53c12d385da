"""`chatlm chats`, as a person runs it, with hostile titles and messages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pexpect
import pytest

from chatlm import paths
from chatlm.messages import StopReason, Usage
from chatlm.store import Store

pytestmark = pytest.mark.usefixtures("home")

ESCAPES = "\x1b]52;c;aGk=\x07 \x1b[2J \x9b31m \u202egpj.exe \r\x00 [bold]x[/bold]"


def chats(*arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "chatlm", "chats", *arguments],
        capture_output=True,
        input=answer.encode(),
        timeout=120,
    )
    # Decoded by hand: text mode would hide a carriage return.
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def on_a_terminal(*arguments: str) -> str:
    child = pexpect.spawn(
        sys.executable,
        ["-m", "chatlm", "chats", *arguments],
        encoding="utf-8",
        dimensions=(40, 100),
        env=os.environ | {"TERM": "xterm-256color"},
    )
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    return str(child.before)


def save(*messages: tuple[str, str], title: str = "", system: str = "") -> int:
    with Store(paths.database()) as store:
        chat = store.create_conversation(title, system)
        for question, answer in messages:
            turn = store.add_turn(chat.id, question)
            reply = store.start_reply(turn.id, model="smollm2", settings='{"seed": 1}')
            store.finish_reply(reply.id, text=answer, stop_reason=StopReason.END, usage=Usage())
        return chat.id


def obeyed(text: str) -> set[str]:
    """The characters in it that a terminal would obey."""
    controls = {c for c in text if unicodedata.category(c) == "Cc"} - {"\n", "\t"}
    return controls | (set(text) & {*"\u202e\u2066\u200f\u2028"})


def hostile_strings(shared_data: Path) -> list[str]:
    folder = shared_data / "security"
    lines = (folder / "special_tokens.jsonl").read_text(encoding="utf-8").splitlines()
    strings = [json.loads(line)["text"] for line in lines if line]
    return [*strings, *json.loads((folder / "blns.json").read_text(encoding="utf-8"))]


def test_an_empty_list_says_how_to_begin() -> None:
    done = chats("list")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "No chats are saved yet. Begin one: chatlm\n"
    assert json.loads(chats("list", "--json").stdout) == []


def test_list() -> None:
    first = save(("q", "a"), title="Named")
    second = save(("What is\nthis?", "That."), ("more", "no"))
    with Store(paths.database()) as store:
        store.add_turn(first, "unanswered")
    lines = chats("list").stdout.splitlines()
    assert lines[0].split() == ["ID", "CHANGED", "TURNS", "TITLE"]
    assert re.fullmatch(
        rf" *{first}  \d{{4}}-\d\d-\d\d \d\d:\d\d +2  Named  \[unfinished\]", lines[1]
    )
    assert re.fullmatch(rf" *{second}  .* 2  What is this\?", lines[2])
    assert len(chats("list", "--limit", "1").stdout.splitlines()) == 2
    listed = json.loads(chats("list", "--json").stdout)
    assert [chat["id"] for chat in listed] == [first, second]
    assert (listed[0]["turns"], listed[0]["unfinished"]) == (2, True)


def test_show_is_markdown_in_a_pipe_and_drawn_on_a_terminal() -> None:
    chat = save(
        ("Give code", "Here:\n\n```python\nx = 1\n```\n\n**bold** [l](http://x.y)"), title="T"
    )
    assert chats("show", str(chat)).stdout.startswith(
        "# T\n\n## You\n\nGive code\n\n## Assistant\n"
    )
    assert "*smollm2 · stopped: end*" in chats("show", str(chat)).stdout
    drawn = on_a_terminal("show", str(chat))
    assert "\x1b[" in drawn
    assert "**bold**" not in drawn
    assert "\x1b]8" not in drawn
    assert "http://x.y" in drawn
    everything = json.loads(chats("show", str(chat), "--json").stdout)
    assert everything["turns"][0]["replies"][0]["settings"] == {"seed": 1}


def test_search_shows_chat_role_and_hit() -> None:
    chat = save(("The capital of France?", "Paris is the capital."), title="Geo")
    save(("other", "thing"))
    done = chats("search", "CAPITAL")
    assert done.stdout == (
        f"{chat}  Geo\n    assistant: Paris is the capital.\n    user: The capital of France?\n"
    )
    drawn = on_a_terminal("search", "capital", "par")
    assert "\x1b[33m\x1b[1mParis\x1b[0m" in drawn
    (hit,) = json.loads(chats("search", "paris", "--json").stdout)
    assert (hit["conversation_id"], hit["role"], hit["spans"]) == (chat, "assistant", [[0, 5]])
    nothing = chats("search", "nowhere")
    assert (nothing.stdout, nothing.stderr) == ("", "Nothing holds all of: nowhere\n")
    for hostile in ('"', "*", "NEAR(", "a" * 10_000, ESCAPES.replace("\0", "")):
        assert chats("search", "--", hostile).returncode == 0


def test_delete_asks_and_deletes_all_or_none() -> None:
    ids = [str(save(("q", "a"), title=f"T{number}")) for number in range(3)]
    for answer in ("n\n", ""):
        refused = chats("delete", ids[0], ids[1], answer=answer)
        assert refused.returncode == 1
        assert "T0" in refused.stderr and "Delete 2 chats for good?" in refused.stderr
        assert "Nothing was changed." in refused.stderr
    assert chats("delete", ids[0], "99", "--yes").returncode == 1
    assert len(json.loads(chats("list", "--json").stdout)) == 3
    assert chats("delete", ids[0], ids[0], ids[1], "--yes").stderr == "2 chats deleted\n"
    assert [chat["title"] for chat in json.loads(chats("list", "--json").stdout)] == ["T2"]


def test_export_to_a_file_never_overwrites_unasked(tmp_path: Path) -> None:
    chat = str(save(("q", "first"), title="T"))
    save(("q", "second"), title="U")
    file = tmp_path / "out.md"
    assert chats("export", chat, "-o", str(file)).stderr == f"1 chat written to {file}\n"
    assert file.read_text() == chats("export", chat).stdout
    file.write_text("mine")
    refused = chats("export", chat, "-o", str(file))
    assert refused.returncode == 2
    assert "exists already" in refused.stderr and "--force" in refused.stderr
    assert file.read_text() == "mine"
    assert chats("export", "99", "-o", str(file), "--force").returncode == 1
    assert file.read_text() == "mine"
    assert list(tmp_path.glob(".out*")) == []
    assert chats("export", "--all", "-o", str(file), "--force").returncode == 0
    text = file.read_text()
    assert text.index("# U") < text.index("\n---\n") < text.index("# T")
    for wrong in (str(tmp_path), str(tmp_path / "none" / "x"), str(file / "x"), "/dev/null"):
        assert chats("export", chat, "-o", wrong, "--force").returncode == 2
    assert Path("/dev/null").is_char_device()


def test_export_needs_to_know_which_chats() -> None:
    for arguments in ((), ("--all", "1")):
        done = chats("export", *arguments)
        assert done.returncode == 2
        assert "Say which chats" in done.stderr


def test_export_of_messages() -> None:
    save(("q1", "a1"), ("q2", "a2"), system="s")
    lines = chats("export", "--all", "--format", "messages").stdout.splitlines()
    (exported,) = [json.loads(line)["messages"] for line in lines]
    assert [message["role"] for message in exported] == [
        *("system", "user", "assistant", "user", "assistant")
    ]


def test_escapes_are_shown_and_never_sent_to_the_terminal() -> None:
    chat = str(save((ESCAPES + " needle", ESCAPES), title=ESCAPES, system=ESCAPES))
    for arguments in (
        ("list",),
        ("list", "--json"),
        ("show", chat),
        ("show", chat, "--json"),
        ("search", "needle"),
        ("search", "needle", "--json"),
        ("export", chat),
        ("export", chat, "--format", "jsonl"),
        ("export", chat, "--format", "messages"),
        ("delete", chat),
    ):
        done = chats(*arguments)
        assert obeyed(done.stdout) == obeyed(done.stderr) == set(), arguments
        drawn = on_a_terminal(*arguments) if arguments[0] in ("list", "show", "search") else ""
        own = re.sub(r"\x1b\[[0-9;]*m", "", drawn).replace("\r\n", "\n")
        assert obeyed(own) == set(), arguments
        assert "\x1b[2J" not in drawn
    assert "[bold]x[/bold]" in on_a_terminal("show", chat)
    back = json.loads(chats("show", chat, "--json").stdout)
    assert (back["title"], back["turns"][0]["replies"][0]["text"]) == (ESCAPES, ESCAPES)


def test_hostile_strings_come_back_and_are_never_obeyed(shared_data: Path) -> None:
    strings = hostile_strings(shared_data)
    assert len(strings) > 550
    ids = [save((text, text), title=text, system=text) for text in strings]
    for arguments in (("list",), ("export", "--all"), ("search", "--limit", "500", "a")):
        assert obeyed(chats(*arguments).stdout) == set()
    lines = chats("export", "--all", "--format", "jsonl").stdout
    assert obeyed(lines) == set()
    exported = {chat["id"]: chat for chat in map(json.loads, lines.split("\n")[:-1])}
    assert list(exported) == ids[::-1]
    for chat_id, text in zip(ids, strings, strict=True):
        chat = exported[chat_id]
        (turn,) = chat["turns"]
        assert (chat["title"], chat["system"], turn["content"]) == (text, text, text)
        assert turn["replies"][0]["text"] == text


def test_a_broken_database_is_said_with_what_to_do(home: Path) -> None:
    home.mkdir()
    (home / "chats.db").write_bytes(b"not a database" * 100)
    done = chats("list")
    assert done.returncode == 1
    assert "damaged or not a chat database" in done.stderr
    assert ".recover" in done.stderr
