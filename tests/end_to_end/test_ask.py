"""`chatlm ask` for users and scripts, with the real default model."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chatlm.store.store import Store
from chatlm.types.replies import StopReason
from tests.endless import text_on_disk
from tests.plugins.rag_files import pdf
from tests.program import run_chatlm
from tests.waiting import PATIENCE, wait_until

STORY = "Write a long story about a lighthouse."


def ask(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return run_chatlm("ask", *arguments, stdin=stdin, environment=environment)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "chatlm", "ask", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_json_answer(chat_home: Path) -> None:
    done = ask("--json", "What is the capital of France?")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert "Paris" in answer["text"]
    assert answer["stop_reason"] == "end"
    assert answer["usage"]["completion_tokens"] > 3
    assert isinstance(answer["seed"], int)
    with Store(chat_home / "chats.db") as store:
        reply = store.conversation(answer["chat"]).turns[0].reply
    assert reply is not None
    assert reply.text == answer["text"]


def test_a_seed_gives_the_same_text_in_another_process(chat_home: Path) -> None:
    arguments = ("--json", "--no-save", "--temperature", "1", "--max-tokens", "25", "--seed")
    texts = [json.loads(ask(*arguments, seed, STORY).stdout)["text"] for seed in ("3", "3", "4")]
    assert texts[0] == texts[1] != texts[2]
    assert not (chat_home / "chats.db").exists()


def test_an_answer_fits_its_schema_and_comes_parsed(chat_home: Path, tmp_path: Path) -> None:
    fields = ("--schema", "city str, in_france bool", "--seed", "2", "Where is the Eiffel Tower?")
    plain = ask(*fields)
    assert plain.returncode == 0, plain.stderr
    answer = json.loads(ask("--json", *fields).stdout)
    assert json.loads(plain.stdout) == answer["parsed"] == json.loads(answer["text"])
    assert list(answer["parsed"]) == ["city", "in_france"]
    cut = ask("--json", "--max-tokens", "4", *fields)
    assert json.loads(cut.stdout)["parsed"] is None
    assert cut.returncode != 0
    file = tmp_path / "one.gbnf"
    file.write_text('root ::= "yes" | "no"')
    assert ask("--grammar", str(file), "Is water wet?").stdout.strip() in ("yes", "no")


def test_json_has_logprobs_and_perplexity(chat_home: Path) -> None:
    arguments = ("--json", "--temperature", "0", "What is the capital of France?")
    answer, bare = (
        json.loads(ask(*extra, *arguments).stdout) for extra in (("--logprobs", "2"), ())
    )
    assert (bare["text"], bare["logprobs"]) == (answer["text"], None)
    logprobs = answer["logprobs"]
    tokens = logprobs["tokens"]
    assert "".join(token["token"] for token in tokens) == answer["text"]
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)
    mean = sum(token["logprob"] for token in tokens) / len(tokens)
    assert logprobs["mean"] == pytest.approx(mean)
    assert logprobs["perplexity"] == pytest.approx(math.exp(-mean))
    assert logprobs["weights"]
    assert answer["notices"] == []


def test_question_and_pipe_and_saved_chat(chat_home: Path) -> None:
    first = ask("--max-tokens", "5", "Repeat this:", stdin="The cat sat.\n")
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip()
    assert "length limit" in first.stderr
    second = ask("--max-tokens", "5", "--chat", "1", "And again.")
    assert second.returncode == 0, second.stderr
    with Store(chat_home / "chats.db") as store:
        turns = store.conversation(1).turns
    assert [turn.user.text for turn in turns] == ["Repeat this:\n\nThe cat sat.", "And again."]


def test_files_stand_below_the_question(chat_home: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("Buy milk.")
    book = pdf(tmp_path / "book.pdf", "Call me Ishmael.")
    done = ask("--dry-run", "--json", "-f", str(notes), "-f", str(book), "What is this?")
    assert done.returncode == 0, done.stderr
    text = json.loads(done.stdout)["messages"][-1]["content"]
    assert text.startswith(f"What is this?\n\n{notes}\n```\nBuy milk.\n```\n\n{book}\n```\n")
    assert "Call me Ishmael." in text
    gone = ask("-f", str(tmp_path / "gone.txt"), "What is this?")
    assert gone.returncode == 2
    assert "gone.txt does not exist" in gone.stderr


def test_stop_string_and_system_prompt(chat_home: Path) -> None:
    done = ask(
        "--json", "--stop", "Paris", "--system", "Be brief.", "What is the capital of France?"
    )
    answer = json.loads(done.stdout)
    assert answer["stop_reason"] == "stop_string"
    assert answer["stop"] == "Paris"
    assert "Paris" not in answer["text"]
    with Store(chat_home / "chats.db") as store:
        assert store.conversation(1).system == "Be brief."


def test_newer_samplers_and_a_logit_bias(chat_home: Path) -> None:
    question = "What is the capital of France?"
    options = (
        "--json", "--max-tokens", "12", "--dry-multiplier", "0.8", "--top-n-sigma", "1.5",
        "--xtc-probability", "0.5", "--logit-bias", '" Paris"=-100', "--logit-bias", "7=-1.5",
    )  # fmt: skip
    answer = json.loads(ask(*options, question).stdout)
    assert " Paris" in json.loads(ask("--json", "--max-tokens", "12", question).stdout)["text"]
    assert " Paris" not in answer["text"]
    assert answer["sampling"]["logit_bias"] == [[" Paris", -100.0], [7, -1.5]]
    assert answer["sampling"]["xtc_probability"] == 0.5
    unknown = ask("--logit-bias", "999999999=1", question)
    assert unknown.returncode == 2
    assert "token id 999,999,999, but the ids of this model are 0 to" in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "No question"),
        (("--temperature", "9", "Hi"), "temperature must be a number from 0 to 5"),
        (("--top-p", "2", "Hi"), "top_p must be"),
        (("--max-tokens", "0", "Hi"), "max_tokens must be a whole number from 1"),
        (("--xtc-probability", "2", "Hi"), "xtc_probability must be a number from 0 to 1"),
        (("--logit-bias", "5=101", "Hi"), "bias from -100 to 100"),
        (("--logit-bias", "cat=5", "Hi"), 'must be written as 15043=-100, " cat"=5'),
        (("--logprobs", "2", "Hi"), "Add --json"),
        (("--schema", "age integer", "Hi"), "unknown type"),
        (("--schema", "missing.json", "Hi"), "No such file"),
        (("--schema", '{"type": 5}', "Hi"), "invalid at type"),
        (("--schema", "a", "--grammar", "regex:a", "Hi"), "cannot be combined"),
        (("--grammar", "[0-9]", "Hi"), "must begin with its kind"),
        (("--json", "--logprobs", "21", "Hi"), "0<=x<=20"),
        (("--chat", "77", "Hi"), "77"),
        (("--chat", "1", "--no-save", "Hi"), "--no-save"),
        (("--model", "smollm2-135m-instrukt", "Hi"), "smollm2-135m-instruct"),
    ],
)
def test_a_mistake_is_reported_without_a_traceback(
    home: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = ask(*arguments)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_ctrl_c_keeps_the_partial_reply(endless_home: Path) -> None:
    process = start(STORY)
    assert process.stdout is not None
    said = process.stdout.read(40)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "saved in chat 1" in errors
    assert "Traceback" not in errors
    with Store(endless_home / "chats.db") as store:
        reply = store.conversation(1).turns[0].reply
    assert reply is not None
    assert reply.stop_reason is StopReason.CANCELLED
    assert reply.text.startswith((said + rest).strip())


def test_a_closed_pipe_ends_it_quietly(endless_home: Path) -> None:
    process = start(STORY)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    errors = process.stderr.read()
    process.wait(timeout=PATIENCE)
    assert "Traceback" not in errors
    with Store(endless_home / "chats.db") as store:
        reply = store.conversation(1).turns[0].reply
    assert reply is not None
    assert reply.text


def test_kill_loses_at_most_the_last_second(endless_home: Path) -> None:
    process = start(STORY)
    assert process.stdout is not None
    said = process.stdout.read(60)
    database = endless_home / "chats.db"
    wait_until(lambda: text_on_disk(database, 1).startswith(said))
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    with Store(database) as store:
        turn = store.conversation(1).turns[0]
        assert turn.user.text == STORY
        reply = turn.reply
        assert reply is not None
        assert reply.stop_reason is None
        assert reply.can_continue
        assert reply.text.startswith(said)


OFFLINE = """
import socket, sys
def forbid(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        sys.stderr.write(f"NETWORK {event} {arguments}\\n")
        raise OSError("no network in this test")
sys.addaudithook(forbid)
from chatlm.cli.main import main
sys.exit(main(["ask", "--json", "What is the capital of France?"]))
"""


def test_a_local_model_needs_no_network(chat_home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr
    assert "Paris" in json.loads(done.stdout)["text"]


def test_hostile_output_is_shown_never_executed(chat_home: Path) -> None:
    done = ask("--max-tokens", "8", "--no-save", "Say \x1b]52;c;cHduZWQ=\x07 and \x9b31m now")
    assert done.returncode == 0
    assert not set(done.stdout + done.stderr) & {"\x1b", "\x07", "\x9b"}
