"""The server takes images in each of its protocols, and refuses what is no image."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from chatlm import EngineEvent, Image, Request, Text, ToolResult, read_image
from chatlm.engines.scripted import ScriptedEngine
from chatlm_serve.errors import ApiError
from chatlm_serve.images import MAX_IMAGES, check_images, count_other_bytes
from tests import image_files, shapes
from tests.plugins.serve import MODEL, send, serving

PICTURE = shapes.picture(1).content
OTHER = shapes.picture(2).content
DATA = base64.b64encode(PICTURE).decode()
URL = f"data:image/png;base64,{DATA}"
IMAGE_BLOCK = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": DATA},
}
OTHER_URL = f"data:image/png;base64,{base64.b64encode(OTHER).decode()}"


class Seer(ScriptedEngine):
    """Describes what it was sent."""

    def __init__(self) -> None:
        super().__init__(images=True)

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        self.queue("Seen.")
        for message in request.messages:
            for part in message.parts:
                if isinstance(part, Image):
                    content = request.image_bytes(part)
                    assert hashlib.sha256(content).hexdigest() == part.sha256
        yield from super().stream(request)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Seer]]:
    engine = Seer()
    with serving(engine) as address:
        yield address, engine


@pytest.fixture
def server(served: tuple[str, Seer]) -> str:
    return served[0]


@pytest.fixture
def engine(served: tuple[str, Seer]) -> Seer:
    served[1].requests.clear()
    return served[1]


def post(address: str, path: str, body: Any) -> tuple[int, Any]:
    answer = send(
        address,
        path,
        json.dumps(body).encode(),
        method="POST",
        headers={"Content-Type": "application/json"},
    )
    return answer.status, answer.json


def shown(engine: ScriptedEngine) -> list[list[str]]:
    """The types or texts of the parts of each message of the last request."""
    return [
        [part.text if isinstance(part, Text) else part.type for part in message.parts]
        for message in engine.requests[-1].messages
    ]


def chat(*content: dict[str, Any]) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": list(content)}]}


def url_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat completions": (
        "/v1/chat/completions",
        chat(url_part(URL), {"type": "text", "text": "What is it?"}),
    ),
    "responses": (
        "/v1/responses",
        {
            "model": MODEL,
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_image", "image_url": URL},
                        {"type": "input_text", "text": "What is it?"},
                    ],
                }
            ],
        },
    ),
    "messages": (
        "/v1/messages",
        {
            "model": MODEL,
            "max_tokens": 20,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        IMAGE_BLOCK,
                        {"type": "text", "text": "What is it?"},
                    ],
                }
            ],
        },
    ),
    "ollama chat": (
        "/api/chat",
        {
            "model": MODEL,
            "stream": False,
            "messages": [{"role": "user", "content": "What is it?", "images": [DATA]}],
        },
    ),
    "ollama generate": (
        "/api/generate",
        {"model": MODEL, "stream": False, "prompt": "What is it?", "images": [DATA]},
    ),
}


@pytest.mark.parametrize("protocol", BODIES)
def test_an_image_reaches_the_model(server: str, engine: Seer, protocol: str) -> None:
    path, body = BODIES[protocol]
    status, reply = post(server, path, body)
    assert status == 200, reply
    assert "Seen." in str(reply)
    assert shown(engine) == [["image", "What is it?"]]


CALL = {"name": "plot", "arguments": "{}"}
RESULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat completions": (
        "/v1/chat/completions",
        {
            "model": MODEL,
            "messages": [
                {"role": "user", "content": "Plot it."},
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "c1", "type": "function", "function": CALL}],
                },
                {
                    "role": "tool",
                    "tool_call_id": "c1",
                    "content": [{"type": "text", "text": "Done."}, url_part(URL)],
                },
            ],
        },
    ),
    "responses": (
        "/v1/responses",
        {
            "model": MODEL,
            "input": [
                {"role": "user", "content": "Plot it."},
                {"type": "function_call", "call_id": "c1", **CALL},
                {
                    "type": "function_call_output",
                    "call_id": "c1",
                    "output": [
                        {"type": "input_text", "text": "Done."},
                        {"type": "input_image", "image_url": URL, "detail": "auto"},
                    ],
                },
            ],
        },
    ),
    "messages": (
        "/v1/messages",
        {
            "model": MODEL,
            "max_tokens": 20,
            "messages": [
                {"role": "user", "content": "Plot it."},
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "c1", "name": "plot", "input": {}}],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "c1",
                            "content": [{"type": "text", "text": "Done."}, IMAGE_BLOCK],
                        }
                    ],
                },
            ],
        },
    ),
    "ollama chat": (
        "/api/chat",
        {
            "model": MODEL,
            "stream": False,
            "messages": [
                {"role": "user", "content": "Plot it."},
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "plot", "arguments": {}}}],
                },
                {"role": "tool", "tool_name": "plot", "content": "Done.", "images": [DATA]},
            ],
        },
    ),
}


@pytest.mark.parametrize("protocol", RESULTS)
def test_an_image_in_the_result_of_a_tool_reaches_the_model(
    server: str, engine: Seer, protocol: str
) -> None:
    path, body = RESULTS[protocol]
    status, reply = post(server, path, body)
    assert status == 200, reply
    assert shown(engine) == [["Plot it."], ["tool_call"], ["tool_result", "image"]]
    (result, image) = engine.requests[-1].messages[-1].parts
    assert isinstance(result, ToolResult)
    assert isinstance(image, Image)
    assert (result.text, result.name) == ("Done.", "plot")
    assert engine.requests[-1].image_bytes(image)

    blind = ScriptedEngine("No.")
    with serving(blind) as other:
        status, reply = post(other, path, body)
    assert (status, blind.requests) == (400, [])
    assert "cannot read images" in str(reply)


@pytest.mark.parametrize("protocol", RESULTS)
def test_a_later_turn_still_has_the_image_of_a_result(
    server: str, engine: Seer, protocol: str
) -> None:
    path, body = RESULTS[protocol]
    name = "input" if "input" in body else "messages"
    more = [{"role": "assistant", "content": "Red."}, {"role": "user", "content": "Really?"}]
    status, reply = post(server, path, {**body, name: [*body[name], *more]})
    assert status == 200, reply
    assert shown(engine)[2:] == [["tool_result", "image"], ["Red."], ["Really?"]]


def test_images_stay_between_the_texts_of_a_message(server: str, engine: Seer) -> None:
    texts = [{"type": "text", "text": text} for text in ("Compare ", " with ", ".")]
    body = chat(texts[0], url_part(URL), texts[1], url_part(OTHER_URL), texts[2])
    body["messages"] += [
        {"role": "assistant", "content": "They differ."},
        {"role": "user", "content": "How?"},
    ]
    status, reply = post(server, "/v1/chat/completions", body)
    assert status == 200, reply
    assert shown(engine)[0] == ["Compare ", "image", " with ", "image", "."]
    assert len({*engine.requests[-1].images}) == 2


def test_an_image_without_a_text_is_a_message(server: str, engine: Seer) -> None:
    status, reply = post(server, "/v1/chat/completions", chat(url_part(URL)))
    assert status == 200, reply
    assert shown(engine)[0][0] == "image"


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (url_part("http://127.0.0.1:1/x.png"), "fetches no addresses"),
        (url_part("https://example.org/x.png"), "fetches no addresses"),
        (url_part("file:///etc/passwd"), "fetches no addresses"),
        (url_part("data:text/html;base64,AAAA"), "data URL"),
        (url_part("data:image/png;base64,%%%"), "not base64"),
        (url_part("data:image/png;base64,AAAA"), "not an image"),
        (url_part(URL[:-40]), "base64|damaged"),
        ({"type": "image_url"}, "image_url"),
        ({"type": "image_url", "image_url": {"url": 1}}, "url"),
    ],
)
def test_what_is_no_image_is_refused_by_name(
    server: str, engine: Seer, part: dict[str, Any], words: str
) -> None:
    status, reply = post(server, "/v1/chat/completions", chat(part, {"type": "text", "text": "x"}))
    assert status == 400
    assert reply["error"]["param"].startswith("messages[0].content[0]")
    assert re.search(words, reply["error"]["message"])
    assert engine.requests == []


def test_each_hostile_file_is_refused(server: str, engine: Seer) -> None:
    for name, (content, piece) in image_files.hostile_files().items():
        url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        status, reply = post(server, "/v1/chat/completions", chat(url_part(url)))
        assert status == 400, name
        assert reply["error"]["param"] == "messages[0].content[0].image_url.url"
        assert piece in reply["error"]["message"].replace("The image", name)
    assert engine.requests == []


def test_a_model_without_vision_is_refused_before_anything_is_sent(home: object) -> None:
    engine = ScriptedEngine("No.")
    with serving(engine) as server:
        for path, body in BODIES.values():
            status, reply = post(server, path, body)
            assert status == 400
            assert "cannot read images" in str(reply)
    assert engine.requests == []


def test_models_here_that_have_vision_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [
        SimpleNamespace(name="sees", installed=True, abilities=("images",)),
        SimpleNamespace(name="elsewhere", installed=False, abilities=("images",)),
        SimpleNamespace(name="blind", installed=True, abilities=()),
    ]
    monkeypatch.setattr("chatlm_serve.images.list_installed_models", lambda: models)
    info = dataclasses.replace(ScriptedEngine().info, part_hints={"image": "Set it up."})
    image = read_image(image_files.png(), "cat.png")
    with pytest.raises(ApiError) as refused:
        check_images([image], info)
    assert str(refused.value).endswith("cannot read images. Set it up. Models here that can: sees.")


def test_there_are_limits(server: str, engine: Seer) -> None:
    many = [url_part(URL)] * (MAX_IMAGES + 1)
    status, reply = post(server, "/v1/chat/completions", chat(*many))
    assert status == 400
    assert "at most" in reply["error"]["message"]
    text = "x" * (2**20 + 10)
    status, _ = post(server, "/v1/chat/completions", chat({"type": "text", "text": text}))
    assert status == 413


def test_only_images_are_not_counted_as_the_body() -> None:
    image = b'{"url": "data:image/png;base64,' + b"A" * 4000 + b'"}'
    assert count_other_bytes(image, 2**20) < 100
    assert (
        count_other_bytes(b'{"images": ["' + b"A" * 4000 + b'", "' + b"B" * 4000 + b'"]}', 2**20)
        < 100
    )
    text = b'{"content": "' + b"A" * 4000 + b'"}'
    assert count_other_bytes(text, 2**20) == len(text)


def test_ollama_says_which_models_have_vision(server: str) -> None:
    status, shown = post(server, "/api/show", {"model": MODEL})
    assert status == 200
    assert "vision" in shown["capabilities"]
