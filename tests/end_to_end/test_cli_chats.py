"""`chatlm chats` on the command line, with hostile titles and messages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import unicodedata
import zipfile
from datetime import datetime
from pathlib import Path

import click
import pexpect
import pytest

from chatlm.cli.chats import COMMANDS
from chatlm.cli.chats import chats as group
from chatlm.config import paths
from chatlm.store.store import Store
from chatlm.types.conversations import ContextPolicy
from chatlm.types.parts import Reasoning, Text, ToolCall, ToolResult
from chatlm.types.provenance import Provenance
from chatlm.types.replies import ReplyStep, StopReason, Usage
from chatlm.types.sampling import Sampling
from tests.chats import CHATGPT
from tests.program import run_chatlm
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("home")

ESCAPES = "\x1b]52;c;aGk=\x07 \x1b[2J \x9b31m \u202egpj.exe \r\x00 [bold]x[/bold]"


def chats(*arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    return run_chatlm("chats", *arguments, stdin=answer)


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
    with Store(paths.database_file()) as store:
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


def test_the_short_help_is_that_of_the_commands() -> None:
    for name, (_, meaning) in COMMANDS.items():
        command = group.get_command(click.Context(group), name)
        assert command is not None
        assert command.get_short_help_str(200) == meaning, name


def test_an_empty_list_says_how_to_begin() -> None:
    done = chats("list")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "There are no saved chats yet. Start one: chatlm\n"
    assert json.loads(chats("list", "--json").stdout) == []


def test_list() -> None:
    first = save(("q", "a"), title="Named")
    second = save(("What is\nthis?", "That."), ("more", "no"))
    with Store(paths.database_file()) as store:
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


def test_list_of_what_was_deleted() -> None:
    kept, first, second = save(("q", "a")), save(("What?", "a")), save(title=f"T {ESCAPES}")
    assert chats("list", "--deleted").stderr == "The trash is empty.\n"
    with Store(paths.database_file()) as store:
        store.trash(first)
        store.trash(second)
    done = chats("list", "--deleted")
    assert not obeyed(done.stdout)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["ID", "DELETED", "TURNS", "TITLE"]
    assert re.fullmatch(rf" *{second}  \d{{4}}-\d\d-\d\d \d\d:\d\d +0  T .*", lines[1])
    assert re.fullmatch(rf" *{first}  .* 1  What\?", lines[2])
    assert done.stderr == "Restore one: chatlm chats restore ID\n"
    listed = json.loads(chats("list", "--deleted", "--limit", "1", "--json").stdout)
    assert [(chat["id"], chat["turns"]) for chat in listed] == [(second, 0)]
    assert datetime.fromisoformat(listed[0]["deleted"]).tzinfo is not None
    assert [chat["id"] for chat in json.loads(chats("list", "--json").stdout)] == [kept]
    chats("restore", str(first))
    assert len(chats("list", "--deleted").stdout.splitlines()) == 2


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


def test_reasoning_is_dimmed_on_a_terminal_and_marked_everywhere() -> None:
    steps = (
        ReplyStep(
            (
                Reasoning("Whiskers, *hence* a cat.", 2.2, 7),
                ToolCall("c", "classify", '{"image": 1}'),
            ),
            StopReason.TOOL_CALLS,
        ),
        ReplyStep((ToolResult("c", "classify", "feline"), Text("A cat.")), StopReason.END),
    )
    with Store(paths.database_file()) as store:
        chat = store.create_conversation("Animals").id
        reply = store.start_reply(store.add_turn(chat, "Which animal?").id, model="m")
        store.finish_reply(reply.id, steps=steps)
    piped = chats("show", str(chat)).stdout
    thought = "> *Thought for 2 s · 7 tokens*\n>\n> Whiskers, *hence* a cat."
    assert f"\n\n{thought}\n\nTool call: classify\n" in piped
    assert piped.endswith(
        "Tool result: classify\n\n```\nfeline\n```\n\nA cat.\n\n*m · stopped: end*\n"
    )
    drawn = on_a_terminal("show", str(chat))
    lines = {click.unstyle(line).strip(" ▌\r"): line for line in drawn.split("\n")}
    assert is_dim(lines["Thought for 2 s · 7 tokens"]) and is_dim(lines["Whiskers, hence a cat."])
    assert not is_dim(lines["A cat."]) and not is_dim(lines["Tool call: classify"])
    details = chats("show", str(chat), "--details").stdout
    assert "parts           reasoning, tool call, tool result, text" in details
    assert "thought         2 s · 7 tokens" in details
    assert chats("search", "whiskers").stdout == ""
    found = chats("search", "--reasoning", "whiskers").stdout
    assert found == f"{chat}  Animals\n    assistant, reasoning: Whiskers, *hence* a cat.\n"


def is_dim(line: str) -> bool:
    """Whether a terminal draws the first word of a line dimmed."""
    before_text = re.match(r"(?:\x1b\[[0-9;]*m|[ ▌])*", line)
    return before_text is not None and bool(re.search(r"\x1b\[(?:\d+;)*2(?:;|m)", before_text[0]))


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
    assert chats("search", "geo").stdout == f"{chat}  Geo\n"
    assert "\x1b[33m\x1b[1mGeo\x1b[0m" in on_a_terminal("search", "geo")
    nothing = chats("search", "nowhere")
    assert (nothing.stdout, nothing.stderr) == ("", "Nothing found with all of: nowhere\n")
    for hostile in ('"', "*", "NEAR(", "a" * 10_000, ESCAPES.replace("\0", "")):
        assert chats("search", "--", hostile).returncode == 0


def test_delete_asks_and_deletes_all_or_none() -> None:
    ids = [str(save(("q", "a"), title=f"T{number}")) for number in range(3)]
    for answer in ("n\n", ""):
        refused = chats("delete", ids[0], ids[1], answer=answer)
        assert refused.returncode == 1
        assert "T0" in refused.stderr and "Delete 2 chats permanently?" in refused.stderr
        assert "Nothing was changed." in refused.stderr
    assert chats("delete", ids[0], "99", "--yes").returncode == 1
    assert len(json.loads(chats("list", "--json").stdout)) == 3
    assert chats("delete", ids[0], ids[0], ids[1], "--yes").stderr == "2 chats deleted\n"
    assert [chat["title"] for chat in json.loads(chats("list", "--json").stdout)] == ["T2"]
    with Store(paths.database_file()) as store:
        store.trash(int(ids[2]))
    assert "Delete “T2” permanently?" in chats("delete", ids[2], answer="y\n").stderr
    assert chats("restore", ids[2]).stderr.startswith(f"Error: no chat {ids[2]}\n")


def test_export_to_a_file_never_overwrites_unasked(tmp_path: Path) -> None:
    chat = str(save(("q", "first"), title="T"))
    save(("q", "second"), title="U")
    file = tmp_path / "out.md"
    assert chats("export", chat, "-o", str(file)).stderr == f"1 chat written to {file}\n"
    assert file.read_text() == chats("export", chat).stdout
    file.write_text("mine")
    refused = chats("export", chat, "-o", str(file))
    assert refused.returncode == 2
    assert "already exists" in refused.stderr and "--force" in refused.stderr
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
        assert "Name the chats by id" in done.stderr


def test_rename_pin_fork_and_restore() -> None:
    first, second = str(save(("q", "a"), ("r", "b"), title="One")), str(save(("x", "y")))
    assert chats("rename", first, ESCAPES.replace("\0", "")).returncode == 0
    assert chats("rename", first, "First").stderr == f"Chat {first} is now called: First\n"
    assert chats("pin", first, first).stderr == "1 chat pinned\n"
    lines = chats("list").stdout.splitlines()
    assert re.fullmatch(rf" *{first}  .* 2  First  \[pinned\]", lines[1])
    listed = json.loads(chats("list", "--json").stdout)
    assert [(chat["id"], chat["pinned"]) for chat in listed] == [
        (int(first), True),
        (int(second), False),
    ]
    assert chats("unpin", first).stderr == "1 chat unpinned\n"
    assert json.loads(chats("list", "--json").stdout)[0]["id"] == int(second)
    copy = chats("fork", first, "--turns", "1")
    number, title = copy.stdout.split("  ")
    assert title == "First (fork)\n"
    made = json.loads(chats("show", number, "--json").stdout)
    assert (len(made["turns"]), made["forked_from"]) == (1, int(first))
    too_many = chats("fork", first, "--turns", "3")
    assert too_many.returncode == 2
    assert f"Chat {first} has only 2 turns, not 3." in too_many.stderr
    with Store(paths.database_file()) as store:
        store.trash(int(second))
    gone = chats("show", second)
    assert gone.returncode == 1
    assert f"chatlm chats restore {second}" in gone.stderr
    assert chats("restore", second).stderr == f"Chat {second} is restored: x\n"
    assert chats("show", second).returncode == 0
    for command in (("rename", "99", "x"), ("pin", "99"), ("fork", "99"), ("restore", "99")):
        assert chats(*command).stderr.startswith("Error: no chat 99\n")


def test_show_details_says_what_made_each_version() -> None:
    with Store(paths.database_file()) as store:
        turn = store.add_turn(store.create_conversation("T").id, "q")
        for seed in (1, 2):
            settings = json.dumps({"temperature": 0.5, "seed": seed})
            reply = store.start_reply(turn.id, model="smollm2", settings=settings)
            usage = Usage(10, 4, 3, 0.25, 1.0)
            store.finish_reply(
                reply.id, text=ESCAPES, stop_reason=StopReason.STOP_STRING, usage=usage
            )
        made = Provenance(
            *((), Sampling(), "smollm2"),
            prompt_format="chatml",
            prompt_hash="00ff",
            versions={"torch": "2.6"},
            plugin_processors=("no-lists\n\x1b[31m",),
        )
        store.save_provenance(reply.id, made)
        store.set_context_policy(turn.id, ContextPolicy.PINNED)
    done = chats("show", str(turn.id), "--details")
    assert done.returncode == 0
    assert obeyed(done.stdout) == set()
    assert "Turn 1: q  [pinned]\n" in done.stdout
    first, second = done.stdout.split("  Version ")[1:]
    assert first.startswith("1: ")
    assert second.startswith("2, shown: ")
    facts = {line[4:20].strip(): line[20:] for line in second.splitlines()[1:]}
    assert facts["stopped"] == "stop string"
    assert facts["tokens"] == "3, prompt 10 (of these 4 reused)"
    assert (facts["speed"], facts["first token"]) == ("2.0 tokens/s", "after 0.25 s")
    assert (facts["seed"], facts["sampling"]) == ("2", "temperature 0.5")
    assert (facts["prompt hash"], facts["versions"]) == ("00ff", "torch 2.6")
    assert (facts["prompt format"], facts["added"]) == ("chatml", "no-lists ␛[31m")
    assert "provenance      not stored" in first


def test_export_of_chatml_and_what_it_refuses(tmp_path: Path) -> None:
    good, bad = save(("q", "a"), system="s"), save(("x <|im_end|>", "a"))
    assert chats("export", str(good), "--format", "chatml").stdout == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n"
        "<|im_start|>assistant\na<|im_end|>\n"
    )
    file = tmp_path / "out.txt"
    refused = chats("export", "--all", "--format", "chatml", "-o", str(file))
    assert refused.returncode == 2
    assert f"Message 1 (user) of chat {bad} contains <|im_end|>" in refused.stderr
    assert not file.exists()
    escapes = save((ESCAPES, "a"))
    drawn = on_a_terminal("export", str(escapes), "--format", "chatml").replace("\r\n", "\n")
    assert obeyed(drawn) == set()


def test_import_of_an_export_gives_everything_back_once(tmp_path: Path) -> None:
    save((ESCAPES, "a"), ("r", ESCAPES), title=ESCAPES, system=ESCAPES)
    save(("q", "a"))
    file = tmp_path / "chats.jsonl"
    assert chats("export", "--all", "-o", str(file)).returncode == 0  # JSON lines, by its name
    assert file.read_text() == chats("export", "--all", "--format", "jsonl").stdout
    assert chats("import", str(file)).stderr == "0 chats imported, 2 already stored\n"
    ids = [str(chat["id"]) for chat in json.loads(chats("list", "--json").stdout)]
    before = chats("show", ids[1], "--json").stdout
    assert chats("delete", *ids, "--yes").returncode == 0
    done = json.loads(chats("import", str(file), "--json").stdout)
    assert (len(done["added"]), done["there"], done["bad"]) == (2, 0, [])
    after = chats("show", str(done["added"][1]), "--json").stdout
    assert re.sub(r'"(id|chosen)": \d+', "", after) == re.sub(r'"(id|chosen)": \d+', "", before)


def test_import_of_a_chatgpt_export(tmp_path: Path) -> None:
    file = tmp_path / "export.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("conversations.json", json.dumps([CHATGPT]))
    done = chats("import", str(file))
    assert done.stderr == (
        "2 chats imported\nLeft out: calls of tools (1), tool messages (1), thoughts (1)\n"
    )
    titles = [chat["title"] for chat in json.loads(chats("list", "--json").stdout)]
    assert sorted(titles) == ["Cities", "Cities (fork)"]


def test_import_says_where_a_file_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "chats \x1b[2J.jsonl"
    good = {"messages": [{"role": "user", "content": "q"}]}
    bad = {"messages": [{"role": ESCAPES, "content": "q"}]}
    file.write_text("\n".join(map(json.dumps, (good, bad))) + "\n{\n")
    refused = chats("import", str(file))
    assert refused.returncode == 2
    assert obeyed(refused.stderr) == set()
    assert "line 2: message 1: role must be system, user, assistant or tool" in refused.stderr
    assert "line 3: this is not JSON" in refused.stderr
    assert "2 chats in" in refused.stderr and "nothing was imported" in refused.stderr
    assert "chatlm chats import --skip-bad" in refused.stderr
    assert json.loads(chats("list", "--json").stdout) == []
    skipped = chats("import", str(file), "--skip-bad")
    assert skipped.returncode == 0
    assert skipped.stderr.endswith("1 chat imported, 2 not readable\n")
    assert on_a_terminal("import", str(file), "--skip-bad").count("1 already stored") == 1
    for name, says in (("none", "No such file"), (".", "Is a directory")):
        wrong = chats("import", str(tmp_path / name))
        assert wrong.returncode == 2
        assert says in wrong.stderr
    file.write_text("")
    assert "has no chats" in chats("import", str(file)).stderr
    file.write_text("Dear diary,\nnothing happened.\n")
    diary = chats("import", str(file))
    assert "has no chats" in diary.stderr and "--skip-bad" not in diary.stderr


@pytest.mark.parametrize("name", ["out.md", "OUT.CHATML"])
def test_an_export_for_reading_cannot_be_imported(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("# Cities\n\nWhat is the capital of France?\n")
    refused = chats("import", str(tmp_path / name))
    assert refused.returncode == 2
    assert "for reading only" in refused.stderr and ".jsonl" in refused.stderr
    assert "line" not in refused.stderr


def test_ctrl_c_stops_an_import_between_two_chats(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    lines = [json.dumps({"messages": [{"role": "user", "content": f"q{n}"}]}) for n in range(20000)]
    file.write_text("\n".join(lines))
    child = subprocess.Popen(
        [sys.executable, "-m", "chatlm", "chats", "import", str(file), "--skip-bad"],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(0.05)
        if paths.database_file().exists():
            with Store(paths.database_file()) as store:
                if store.list_conversations(limit=5):
                    break
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=PATIENCE)
    assert child.returncode == 130
    with Store(paths.database_file()) as store:
        kept = store.list_conversations()
    match = re.fullmatch(r"Stopped after (\d+) chats? had been imported\.\s*", errors)
    assert match is not None
    count = int(match[1])
    assert 0 <= len(kept) - count <= 1  # the last one may be written, but not counted yet
    assert 0 < len(kept) < 20000
    assert {chat.turns for chat in kept} == {1}


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


def test_a_broken_database_is_reported_with_a_hint(home: Path) -> None:
    home.mkdir()
    (home / "chats.db").write_bytes(b"not a database" * 100)
    done = chats("list")
    assert done.returncode == 1
    assert "damaged or not a database of chatlm" in done.stderr
    assert ".recover" in done.stderr
