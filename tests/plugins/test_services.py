"""Services that plugins offer are used by other plugins' commands and by `chatlm serve`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import openai
import pytest
from openai import OpenAI

import chatlm_arena.plugin
from chatlm import Adapters, Annotation, Classifier, Documents, Passage, UsageError, hookimpl
from chatlm import service as service_of
from chatlm.chat.side_chats import InMemorySideChats
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm_arena.commands.options import complete_adapter, complete_index
from chatlm_arena.labels import matches_with_label
from chatlm_arena.records import SIDES
from chatlm_arena.store import store as store_module
from chatlm_arena.votes import Verdict
from chatlm_lora.comparison import compare_with_base
from tests.plugins.arena import chatlm, reply_of, two
from tests.plugins.serve import MODEL, Echo, send, serving

TONE = """
from chatlm import Annotation, hookimpl


class Tone:
    def classify(self, text):
        return Annotation("tone", "tone", "question" if text.endswith("?") else "order")


@hookimpl
def register_services(register):
    register("classifier", Tone())
"""


VOTES = [("Why?", Verdict.LEFT), ("Who?", Verdict.LEFT), ("Go!", Verdict.RIGHT)]
"""The first message of a match between hot and cold, and the vote."""


class Library:
    """Two collections, one of which has something about turns."""

    def collections(self) -> Sequence[str]:
        return ["manual", "notes"]

    def search(self, collection: str, query: str) -> Sequence[Passage]:
        if collection != "manual":
            return []
        return [Passage(f"{query}: {n}.", f"guide.md, part {n}", 1.0 - n / 10) for n in range(3)]


class Offers:
    """Offers the documents."""

    @hookimpl
    def register_services(self, register: Callable[[str, Any], None]) -> None:
        register("documents", Library())


def completed(complete: Callable[..., list[Any]], typed: str) -> list[str]:
    command = click.Command("add")
    return [item.value for item in complete(click.Context(command), command, typed)]


def test_a_command_gets_a_service_of_another_plugin(home: Path) -> None:
    with service_of("adapters", Adapters) as adapters:
        assert "pirate" in adapters.names()


@pytest.mark.parametrize(("name", "protocol"), [("weather", Adapters), ("adapters", Documents)])
def test_a_service_that_is_not_there_is_an_error_with_a_next_step(
    home: Path, name: str, protocol: type
) -> None:
    with pytest.raises(UsageError) as caught, service_of(name, protocol):
        pass
    assert caught.value.message == f"No plugin offers the service {name}."
    assert "chatlm plugins list" in caught.value.hint


def test_the_arena_completes_adapters_and_indices(home: Path) -> None:
    assert completed(complete_adapter, "pi") == ["pirate"]
    assert completed(complete_index, "man") == ["manual"]
    done = chatlm("plugins", "disable", "lora")
    assert done.returncode == 0, done.stderr
    assert completed(complete_adapter, "pi") == []


def test_the_leaderboard_counts_only_messages_with_a_label(home: Path) -> None:
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "tone.py").write_text(TONE)
    with store_module.open_arena_store() as store:
        hot, cold = two(store)
        for prompt, verdict in VOTES:
            match = store.add_match(hot, cold)
            for side, contestant in zip(SIDES, (hot, cold), strict=True):
                store.add_reply(match, side, reply_of(contestant, "So.", prompt=prompt))
            store.add_vote(match, verdict)

    def board(*arguments: str) -> dict[str, dict[str, Any]]:
        done = chatlm("arena", "leaderboard", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return {row["name"]: row for row in json.loads(done.stdout)}

    assert {name: row["games"] for name, row in board().items()} == {"hot": 3, "cold": 3}
    asked = board("--label", "question")
    assert (asked["hot"]["games"], asked["hot"]["win_rate"]) == (2, 1.0)
    assert board("--label", "order")["cold"]["win_rate"] == 1.0
    wrong = chatlm("arena", "leaderboard", "--label", "joy")
    assert wrong.returncode == 2
    assert "No match has a message with the label 'joy'" in wrong.stderr
    assert "question (2), order (1)" in wrong.stderr


def test_each_text_is_labelled_once() -> None:
    class Counting:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def classify(self, text: str) -> Annotation:
            self.seen.append(text)
            return Annotation("tone", "tone", "calm")

    one = Counting()
    assert isinstance(one, Classifier)
    found = matches_with_label({1: "Hi", 2: "Hi", 3: "Ho"}, "calm", one, lambda *_: None)
    assert (found, one.seen) == ([1, 2, 3], ["Hi", "Ho"])


def test_a_judge_of_the_arena_compares_an_adapter_with_its_base() -> None:
    engine = ScriptedEngine()
    for verdicts in (("B]]", "A]]"), ("A]]", "B]]"), ("A]]", "A]]"), ("C]]", "C]]")):
        engine.queue(*verdicts)
    engine.queue(*("?",) * 6, "B]]", "A]]")  # no verdict in any attempt, then one more
    answers = ScriptedEngine(*(f"answer {n}" for n in range(12)))
    host = PluginHost([("arena", chatlm_arena.plugin)])
    engines = {"base": answers, "judge": engine}
    with InMemorySideChats(Config(), host, lambda m, _: engines[m], lambda _: None) as chats:
        result = compare_with_base(chats, "pirate", "base", "judge", lambda *_: None)
    assert (result.adapter, result.base, result.tie, result.undecided) == (2, 1, 2, 1)
    assert [request.adapter for request in answers.requests] == [None, "pirate"] * 6
    assert "answer 0" in engine.requests[0].messages[-2].text
    assert "prefers the adapter's answer 2 times" in result.describe()


def test_without_the_arena_there_is_no_judge() -> None:
    chats = InMemorySideChats(Config(), PluginHost(), lambda m, _: ScriptedEngine(), print)
    with chats, pytest.raises(UsageError, match="No plugin offers the service judge"):
        compare_with_base(chats, "pirate", "base", "judge", lambda *_: None)


@pytest.fixture
def address() -> Iterator[str]:
    with serving(Echo(), plugins=PluginHost([("own", Offers())])) as address:
        yield address


def test_a_client_of_openai_searches_the_documents(address: str) -> None:
    client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    assert [store.id for store in client.vector_stores.list()] == ["manual", "notes"]
    page = client.vector_stores.search("manual", query="a turn", max_num_results=2)
    assert [(hit.filename, hit.score) for hit in page.data] == [
        ("guide.md, part 0", 1.0),
        ("guide.md, part 1", 0.9),
    ]
    assert page.data[0].content[0].text == "a turn: 0."
    assert list(client.vector_stores.search("notes", query="a turn")) == []
    with pytest.raises(openai.NotFoundError, match="Did you mean manual"):
        client.vector_stores.search("manul", query="a turn")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({}, "query: must be a string"),
        ({"query": " "}, "query: must be a string"),
        ({"query": "a", "max_num_results": 0}, "from 1 to 50"),
        ({"query": "a", "filters": {}}, "filters: is not supported"),
        ({"query": "a", "rewrite_query": True}, "rewrite_query: is not supported"),
    ],
)
def test_a_search_that_is_not_understood_is_refused(
    address: str, body: dict[str, Any], what: str
) -> None:
    answer = send(
        address,
        "/v1/vector_stores/manual/search",
        json.dumps(body).encode(),
        method="POST",
        headers={"Content-Type": "application/json"},
    )
    assert answer.status == 400
    assert what in answer.json["error"]["message"]


def test_without_documents_the_endpoint_says_so() -> None:
    with serving(Echo()) as address:
        assert MODEL in json.dumps(send(address, "/v1/models").json)
        answer = send(address, "/v1/vector_stores")
    assert answer.status == 400
    assert "No plugin offers the service documents" in answer.json["error"]["message"]
