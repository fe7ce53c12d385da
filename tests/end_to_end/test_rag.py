"""`chatlm rag …` for users and scripts, also killed and interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import models
from tests.program import ProgramAside, run_chatlm
from tests.waiting import wait_until


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """So many short documents that they are embedded in several goes."""
    path = tmp_path / "corpus.jsonl"
    rows = ({"_id": f"d{number}", "text": f"Fact number {number}."} for number in range(800))
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def rag(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return run_chatlm("rag", *arguments, stdin=stdin)


def start(command: str, name: str, path: Path, home: Path) -> ProgramAside:
    """A build or an update that has made its first vectors."""
    program = ProgramAside("rag", command, name, str(path))
    partial = home / "indices" / name / "partial"
    wait_until(lambda: program.has_ended or list(partial.glob("*.npy")))
    assert not program.has_ended
    return program


def test_a_killed_build_is_continued(rag_home: Path, corpus: Path) -> None:
    start("build", "facts", corpus, rag_home).end_by(signal.SIGKILL)
    listed = rag("list")
    assert "not finished; continue: chatlm rag update facts" in listed.stdout
    done = rag("update", "facts", "--json")
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert table["passages"] == 800
    assert 0 < table["embedded"] <= 800 - 128
    assert not (rag_home / "indices" / "facts" / "partial").exists()


def test_a_killed_update_leaves_the_old_index(rag_home: Path, corpus: Path) -> None:
    small = corpus.with_name("small.txt")
    small.write_text("Small.")
    assert rag("build", "facts", str(small)).returncode == 0
    start("add", "facts", corpus, rag_home).end_by(signal.SIGKILL)
    shown = rag("show", "facts")
    assert "1 passage from 1 file" in shown.stdout
    assert "an update was stopped" in shown.stdout
    assert json.loads(rag("update", "facts", "--json").stdout)["passages"] == 801


def test_ctrl_c_says_how_to_continue(rag_home: Path, corpus: Path) -> None:
    stopped = start("build", "facts", corpus, rag_home).end_by(signal.SIGINT)
    assert stopped.returncode == 130
    assert stopped.stderr.endswith(
        "Error: Stopped; the vectors computed so far are saved.\n"
        "Continue: chatlm rag update facts\n"
    )


def test_from_build_to_remove(rag_home: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("# Cats\n\nThey sleep.\n")
    (docs / "b\x1b[1m.bin").write_bytes(bytes(100))
    done = rag("build", "pets", str(docs))
    assert done.returncode == 0
    assert done.stdout == ("pets: 1 passage from 1 file. Read 2 files; embedded 1 passage.\n")
    assert "0 %" in done.stderr
    assert "Not indexed: 1\n  is binary: docs/b␛[1m.bin\n" in done.stderr
    again = rag("build", "pets", str(docs))
    assert again.returncode == 2
    assert "The index pets already exists.\nUpdate it: chatlm rag update" in again.stderr
    _, row = json.loads(rag("list", "--json").stdout)  # the manual comes first
    assert (row["name"], row["passages"], row["finished"], row["own"]) == ("pets", 1, True, True)
    table = json.loads(rag("show", "pets", "--json").stdout)
    assert table["chunking"] == {"tokens": 200, "overlap": 40}
    assert table["problems"][0]["reason"] == "is binary"
    shown = rag("show", "pets").stdout
    assert f"Source    {docs}" in shown
    assert "all-minilm-l6-v2, 384 dimensions" in shown
    wrong = rag("update", "pets", "--tokens", "100")
    assert "Add --rebuild." in wrong.stderr
    anew = rag("update", "pets", "--rebuild", "--tokens", "100")
    assert "embedded 1 passage." in anew.stdout
    complete = {"_CHATLM_COMPLETE": "bash_complete", "COMP_CWORD": "3"}
    words = subprocess.run(
        ["chatlm"],
        executable=Path(sys.executable).with_name("chatlm"),
        env={**os.environ, **complete, "COMP_WORDS": "chatlm rag show p"},
        capture_output=True,
        text=True,
    )
    assert words.stdout == "plain,pets\n"
    refused = rag("remove", "pets", stdin="n\n")
    assert "Nothing was changed." in refused.stderr
    removed = rag("remove", "pets", "--yes")
    assert removed.stdout.startswith("Removed pets; ")
    assert list((rag_home / "indices").glob("[!.]*")) == []
    assert rag("show", "pets").returncode == 2
    assert rag("list").stdout.startswith("manual ")
    assert "pets" not in rag("list").stdout


def test_without_the_embedder_an_update_says_so(rag_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Once.")
    assert rag("build", "one", str(path)).returncode == 0
    (rag_home / "models" / models.EMBEDDER).unlink()
    assert rag("update", "one").returncode == 0
    path.write_text("Twice.")
    done = rag("update", "one")
    assert done.returncode == 1
    assert f"chatlm models pull {models.EMBEDDER}" in done.stderr


def test_looking_for_changes_opens_no_document_and_imports_nothing_heavy(
    rag_home: Path, tmp_path: Path
) -> None:
    root = tmp_path / "many"
    for number in range(200):
        path = root / f"{number % 20}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Of {number % 10}.")
        os.utime(path, (1_600_000_000, 1_600_000_000))
    assert rag("build", "many", str(root)).returncode == 0
    rag("list")  # the first start after an install stores the list of commands
    code = (
        "import sys; from chatlm.cli.main import main; opened = [];"
        "sys.addaudithook(lambda event, it: event == 'open' and opened.append(str(it[0])));"
        "main(['rag', 'update', 'many']);"
        f"print([path for path in opened if path.startswith({str(root)!r}) and '.txt' in path]);"
        "print(sorted({'torch', 'numpy', 'faiss', 'transformers', 'textual'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "nothing changed, 200 passages from 200 files" in done.stdout
    assert done.stdout.endswith("[]\n[]\n"), "no document was opened, nothing heavy imported"
