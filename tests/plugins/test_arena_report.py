"""The report page: whole, safe, and drawn by a real browser without a network."""

from __future__ import annotations

import html
import re
import subprocess
from pathlib import Path

from chatlm_arena.leaderboard import build_leaderboard
from chatlm_arena.report import html_page
from chatlm_arena.store import store as store_module
from chatlm_arena.votes import Verdict, votes_from_rows
from tests.end_to_end.browser import chromium
from tests.plugins.arena import chatlm, played, two
from tests.waiting import PATIENCE

L, R = Verdict.LEFT, Verdict.RIGHT
HOSTILE = "<script>alert(1)</script>\x1b[31m"


def board(*names: str) -> str:
    one, other = names
    votes = votes_from_rows([(one, other, L), (one, other, R), (one, other, L)] * 20)
    return html_page(build_leaderboard(votes), ["Said."], [("Run", [{"name": one, "rouge1": 0.5}])])


def test_the_page_needs_nothing_else() -> None:
    text = board("hot", "cold")
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text
    for tag in ("<script", "<link", "<img", "<iframe", "@import", "url("):
        assert tag not in text
    assert text.count("<svg") == 2
    assert text.count("<table") == 3
    assert "0.50" in text


def test_hostile_names_are_only_drawn() -> None:
    text = board(HOSTILE, '"><img src=x onerror=y>')
    assert "<script" not in text
    assert "<img" not in text
    assert "\x1b" not in text
    assert html.escape("<script>alert(1)</script>") in text


def test_an_empty_arena_has_a_page_too() -> None:
    text = html_page(build_leaderboard(votes_from_rows([])), [], [])
    assert "0 votes, 0 contestants" in text
    assert "<svg" not in text


def test_on_the_command_line(home: Path, tmp_path: Path) -> None:
    with store_module.open_arena_store() as store:
        hot, cold = two(store)
        for number in range(30):
            played(store, hot, cold, L if number % 3 else R)
    path = tmp_path / "out.html"
    done = chatlm("arena", "report", "--to", str(path))
    assert (done.returncode, done.stdout) == (0, f"Wrote {path}.\n")
    assert "30 votes, 2 contestants" in path.read_text()
    assert "cannot be written" in chatlm("arena", "report", "--to", "/nowhere/x.html").stderr


def test_a_real_browser_draws_it(tmp_path: Path) -> None:
    command = chromium(tmp_path / "profile", 900, 1200)
    path, picture = tmp_path / "arena.html", tmp_path / "arena.png"
    path.write_text(board("hot", "cold"))
    shown = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=PATIENCE
    )
    assert re.search(r"<h2>Elo over time</h2>", shown.stdout)
    assert shown.stdout.count("<svg") == 2
    assert shown.stdout.count("<circle") == 2
    subprocess.run(
        [*command, f"--screenshot={picture}", path.as_uri()], capture_output=True, timeout=PATIENCE
    )
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 20_000  # a blank page of this size has far less
