"""`chatlm ask --batch` with the real default model: ended from outside at any moment."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from chatlm.cli.main import main
from tests.program import ProgramAside, run_chatlm
from tests.waiting import wait_until

COUNT = 16


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]


def test_no_answer_is_lost_or_doubled_whatever_ends_it(chat_home: Path, tmp_path: Path) -> None:
    requests, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    requests.write_text(
        "".join(
            json.dumps({"id": f"n{n}", "prompt": f"Count up from {n}.", "max_tokens": 12}) + "\n"
            for n in range(COUNT)
        )
        + '{"id": "s", "prompt": "Describe a cat.", "schema": "name str, age int"}\n'
    )
    command = ("ask", "--batch", str(requests), "-o", str(output), "--at-once", "2")
    for number in (signal.SIGKILL, signal.SIGINT):
        before = len(lines(output)) if output.exists() else 0
        program = ProgramAside(*command)
        wait_until(
            lambda: program.has_ended or (output.exists() and len(lines(output)) >= before + 3)  # noqa: B023
        )
        ended = program.end_by(number)
        if number == signal.SIGINT and ended.returncode:
            assert ended.returncode == 130, ended.stderr
            assert f"Go on: chatlm {' '.join(command)}" in ended.stderr
    done = run_chatlm(*command)
    assert done.returncode == 0, done.stderr
    assert "are answered already" in done.stderr
    answers = {each["id"]: each for each in lines(output)}
    assert len(answers) == len(lines(output)) == COUNT + 1
    assert all(each["error"] is None and each["text"] for each in answers.values())
    assert answers["s"]["parsed"].keys() == {"name", "age"}


def test_options_that_do_not_go_together(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, problem in (
        (("--batch", "x"), "requires a file for the answers"),
        (("-o", "x", "hi"), "-o requires --batch"),
        (("--batch", "x", "-o", "y", "hi"), "A question and --batch cannot be combined"),
        (("--batch", "no-such-file", "-o", "y"), "no-such-file cannot be read"),
    ):
        assert main(["ask", *arguments]) == 2
        assert problem in capsys.readouterr().err
