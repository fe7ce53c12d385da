"""Fifty clients of three protocols at once, on two models, one of which is loaded meanwhile."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.models import DEFAULT
from tests.plugins.serve import MODEL, Echo, send, serving
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow

CLIENTS, ROUNDS = 50, 4


def body_of(path: str, model: str, text: str) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": False}
    return body | ({} if path == "/api/chat" else {"max_tokens": 99})


def text_of(path: str, answer: Any) -> str:
    match path:
        case "/api/chat":
            return str(answer["message"]["content"])
        case "/v1/messages":
            return str(answer["content"][0]["text"])
    return str(answer["choices"][0]["message"]["content"])


def test_no_reply_is_lost_or_mixed(chat_home: Path) -> None:
    paths = ("/api/chat", "/v1/messages", "/v1/chat/completions")
    wrong: list[object] = []
    turned_away = 0

    def ask(number: int) -> None:
        nonlocal turned_away
        path, model = paths[number % 3], (MODEL, DEFAULT)[number % 2]
        for turn in range(ROUNDS):
            text = f"client {number} asks for the {turn}th time"
            content = json.dumps(body_of(path, model, text)).encode()
            headers = {"Content-Type": "application/json"}
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                answer = send(address, path, content, method="POST", headers=headers)
                if answer.status != 429:
                    break
                assert answer.headers["retry-after"] == "1"
                turned_away += 1
                time.sleep(0.05)
            if answer.status != 200 or text_of(path, answer.json) != text.upper():
                wrong.append((number, turn, answer))

    with serving(Echo(delay=0.002), queue=8, at_once=4) as address:
        clients = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert not wrong, wrong[:3]
        assert turned_away > 0
        assert len(send(address, "/api/ps").json["models"]) >= 1
