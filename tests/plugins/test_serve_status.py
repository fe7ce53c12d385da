"""The page that shows the state of `chatlm serve`."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from chatlm import UsageError
from chatlm_serve.listener import bind_socket
from tests.plugins.serve import MODEL, Echo, send, serving


def test_models_errors_and_memory_are_shown(home: Path) -> None:
    with serving(Echo()) as address:
        body = {"model": "<b>nobody</b>", "messages": [{"role": "user", "content": "hi"}]}
        headers = {"Content-Type": "application/json"}
        content = json.dumps(body).encode()
        send(address, "/api/chat", content, method="POST", headers=headers)
        page = send(address, "/")
        text = page.body.decode()
        assert page.headers["content-type"].startswith("text/html")
        assert MODEL in text
        assert "are available" in text
        assert "/api/chat" in text
        assert "&lt;b&gt;nobody&lt;/b&gt;" in text
        assert "<b>" not in text
        assert "src=" not in text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert send(address, "/", method="HEAD").status == 200


def test_the_page_has_the_access_rules_of_the_api(home: Path) -> None:
    with serving(Echo(), token="secret") as address:
        refused = send(address, "/")
        assert refused.status == 401
        assert refused.headers["www-authenticate"] == 'Basic realm="chatlm"'
        for password, status in (("wrong", 401), ("secret", 200)):
            credentials = base64.b64encode(f"me:{password}".encode()).decode()
            headers = {"Authorization": f"Basic {credentials}"}
            assert send(address, "/", headers=headers).status == status
            assert send(address, "/v1/models", headers=headers).status == 401
        assert send(address, "/", headers={"Authorization": "Bearer secret"}).status == 200
        assert send(address, "/", headers={"Authorization": "Basic ??"}).status == 401
        assert send(address, "/", headers={"Host": "evil.example"}).status == 403


def test_a_taken_port_of_ollama_says_what_to_do() -> None:
    with bind_socket("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="Address already in use") as caught:
            bind_socket("127.0.0.1", port, "Stop Ollama.")
    assert caught.value.hint == "Stop Ollama."
