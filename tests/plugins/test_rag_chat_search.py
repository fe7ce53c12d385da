"""Chats are searched by meaning with the plugin's embedder, in the shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chatlm import ChatlmError, UsageError
from chatlm.cli.main import cli
from chatlm.config import paths
from chatlm.store.store import Store
from tests import models


def search(*words: str) -> Result:
    return CliRunner().invoke(cli, ["chats", "search", "--meaning", *words])


@pytest.fixture
def chats(home: Path) -> None:
    """Two chats."""
    with Store(paths.database_file()) as store:
        for message in (
            "My landlord wants to keep the money that I paid when I moved in.",
            "Which spices go into a lentil soup?",
        ):
            store.add_turn(store.create_conversation().id, message)


@pytest.mark.usefixtures("chats")
def test_other_words_for_the_same_find_a_message(home: Path) -> None:
    models.lend(home, models.embedder_model())
    result = search("security", "deposit", "for", "a", "flat")
    assert result.exit_code == 0, result.output
    assert "user: My landlord wants to keep the money" in result.output
    assert "soup" not in result.output
    (hit,) = json.loads(search("how to season food", "--json").output)
    assert hit["conversation_id"] == 2
    result = search("galaxies far away")
    assert "Nothing found similar to: galaxies far away" in result.output


@pytest.mark.usefixtures("chats")
def test_a_missing_embedder_is_named_with_what_to_do() -> None:
    result = search("deposit")
    assert isinstance(result.exception, ChatlmError)
    assert "all-minilm-l6-v2" in str(result.exception)
    assert "chatlm models pull" in str(result.exception)


def test_kinds_of_search_are_not_mixed(home: Path) -> None:
    result = search("deposit", "--reasoning")
    assert isinstance(result.exception, UsageError)
    assert "--meaning searches messages and replies" in str(result.exception)
