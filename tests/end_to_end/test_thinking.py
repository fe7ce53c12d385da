"""A model that was trained to think, through the command line, sessions, the server and a client.

Its thoughts are kept apart from its answers everywhere, and no later request contains them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatlm import Engine, EngineEvent, Request
from chatlm.chat.session import ChatSession
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from chatlm.types.parts import Reasoning, Text
from chatlm.types.replies import StopReason
from chatlm.types.sampling import Sampling
from chatlm_openai.engine import open_engine
from tests.models import lend_kernels
from tests.plugins.serve import serving
from tests.plugins.test_serve_api import ask as ask_server
from tests.plugins.test_serve_api import client_of
from tests.program import run_chatlm
from tests.thinker import NAME, answer, question, thought


@pytest.fixture
def ask(home: Path, thinking_model: Path) -> Callable[..., Any]:
    """Run `chatlm ask` with the model."""
    lend_kernels(home)

    def run(*arguments: str) -> Any:
        done = run_chatlm("ask", "--model", str(thinking_model), "--temperature", "0", *arguments)
        assert done.returncode == 0, done.stderr
        return done

    return run


def test_only_the_answer_is_on_stdout(ask: Callable[..., Any]) -> None:
    done = ask(question(3, 4))
    assert done.stdout == f"{answer(3, 4)}\n"
    assert thought(3, 4) not in done.stderr
    shown = ask("--show-thinking", question(3, 4))
    assert shown.stdout == f"{answer(3, 4)}\n"
    assert thought(3, 4) in shown.stderr


def test_json_has_the_thought_and_the_switch_works(ask: Callable[..., Any], home: Path) -> None:
    values = json.loads(ask("--json", question(3, 4)).stdout)
    assert (values["text"], values["reasoning"]) == (answer(3, 4), thought(3, 4))
    assert 0 < values["usage"]["reasoning_tokens"] < values["usage"]["completion_tokens"]
    with Store(home / "chats.db") as store:
        reply = store.conversation(values["chat"]).turns[0].reply
    assert reply is not None
    assert [type(part) for part in reply.parts] == [Reasoning, Text]
    off = json.loads(ask("--json", "--think", "off", question(3, 4)).stdout)
    assert (off["text"], off["reasoning"]) == (answer(3, 4), None)
    high = json.loads(ask("--json", "--think", "high", question(3, 4)).stdout)
    assert (high["text"], high["reasoning"]) == (answer(3, 4), thought(3, 4, "high"))


class Observed(ScriptedEngine):
    """An engine that remembers its requests and prompts."""

    def __init__(self, engine: LocalEngine) -> None:
        super().__init__()
        self._engine = engine
        self.info = engine.info
        self.prompts: list[str] = []

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        self.requests.append(request)
        ids = [token.id for token in self._engine.preview(request).tokens]
        self.prompts.append(self._engine.prompt_encoder.decode(ids))
        yield from self._engine.stream(request)


@pytest.fixture
def observed(thinking_engine: LocalEngine) -> Observed:
    return Observed(thinking_engine)


def two_turns(engine: Engine) -> list[tuple[type, str]]:
    """Ask for two sums in one chat; return type and text of each part of the replies."""
    with Store(None) as store:
        session = ChatSession(store, lambda: engine, sampling=Sampling(temperature=0.0))
        for numbers in ((3, 4), (5, 2)):
            with closing(session.send(question(*numbers))) as events:
                list(events)
        replies = [turn.reply for turn in store.conversation(1).turns]
    assert all(reply is not None and reply.stop_reason is StopReason.END for reply in replies)
    return [
        (type(part), part.text)
        for reply in replies
        if reply is not None
        for part in reply.parts
        if isinstance(part, Reasoning | Text)
    ]


EXPECTED = [
    (Reasoning, thought(3, 4)),
    (Text, answer(3, 4)),
    (Reasoning, thought(5, 2)),
    (Text, answer(5, 2)),
]


def test_the_second_turn_of_a_chat_reads_no_thought(observed: Observed) -> None:
    assert two_turns(observed) == EXPECTED
    assert answer(3, 4) in observed.prompts[1]
    assert thought(3, 4) not in observed.prompts[1]


def test_the_server_streams_thoughts_as_reasoning_content(observed: Observed) -> None:
    with serving(observed) as address:
        client = client_of(address)
        pieces = [
            piece.choices[0].delta
            for piece in ask_server(client, question(3, 4), NAME, stream=True, temperature=0)
        ]
        reasoning = "".join(getattr(piece, "reasoning_content", None) or "" for piece in pieces)
        assert (reasoning, "".join(piece.content or "" for piece in pieces)) == (
            thought(3, 4),
            answer(3, 4),
        )
        off = ask_server(client, question(3, 4), NAME, temperature=0, reasoning_effort="none")
        assert off.choices[0].message.content == answer(3, 4)
        assert not getattr(off.choices[0].message, "reasoning_content", None)


@pytest.fixture
def remote(observed: Observed, home: Path) -> Iterator[Engine]:
    """The model behind the server, through the openai plugin."""
    del home
    with serving(observed) as address, closing(open_engine(f"{NAME}@{address}/v1")) as engine:
        yield engine


def test_a_client_of_the_server_stores_thoughts_and_sends_none_back(
    observed: Observed, remote: Engine
) -> None:
    assert two_turns(remote) == EXPECTED
    request = observed.requests[1]
    assert [message.text for message in request.messages] == [
        question(3, 4),
        answer(3, 4),
        question(5, 2),
    ]
    assert not any(
        isinstance(part, Reasoning) for message in request.messages for part in message.parts
    )
    assert thought(3, 4) not in observed.prompts[1]


def test_a_client_passes_the_switch_on(observed: Observed, remote: Engine) -> None:
    with Store(None) as store:
        sampling = Sampling(temperature=0.0, thinking="off")
        session = ChatSession(store, lambda: remote, sampling=sampling)
        with closing(session.send(question(3, 4))) as events:
            list(events)
        reply = store.conversation(1).turns[0].reply
    assert reply is not None
    assert (reply.reasoning, reply.text) == ("", answer(3, 4))
    assert observed.requests[0].sampling.thinking == "off"
