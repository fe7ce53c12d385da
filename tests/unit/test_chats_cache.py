"""`chatlm chats cache` shows and deletes saved KV caches."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from chatlm.cli.main import cli
from chatlm.config import paths
from chatlm.store.store import Store


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["chats", "cache", *arguments], catch_exceptions=False)


def test_the_cache_is_shown_and_deleted_apart_from_the_chats(home: Path) -> None:
    home.mkdir()
    with Store(paths.database_file()) as store:
        folder = store.cache_folder(store.create_conversation("", "").id)
    assert folder is not None
    folder.mkdir(parents=True)
    (folder / "0-256.safetensors").write_bytes(bytes(1500))
    assert run().stdout.splitlines() == [
        f"1.5 kB of 1 chat in {home / 'caches'}",
        "limit 2.0 GB: chatlm config set chat_cache MB",
    ]
    shown = json.loads(run("--json").stdout)
    assert shown == {
        "folder": str(home / "caches"),
        "chats": 1,
        "bytes": 1500,
        "limit": 2_000_000_000,
        "deleted": False,
    }
    assert run("--delete").stderr == "1.5 kB of 1 chat deleted\n"
    assert not (home / "caches").exists()
    assert run().stdout.startswith("0 B of 0 chats")
