"""The description of the API is complete, and its page loads nothing."""

from __future__ import annotations

import re

from click.testing import CliRunner
from starlette.routing import Route

from chatlm.chat.side_chats import InMemorySideChats
from chatlm.config.config import Config
from chatlm.plugin_host.host import PluginHost
from chatlm_serve.api import Api
from chatlm_serve.commands import serve
from chatlm_serve.endpoints import ENDPOINTS
from tests.plugins.serve import Echo, send, serving


def test_the_table_has_every_endpoint() -> None:
    with InMemorySideChats(Config(), PluginHost(), lambda m, r: Echo(), lambda w: None) as chats:
        api = Api(chats, 1, 1, 60.0)
        try:
            routes = list(api.app(loopback=True, token="").routes)
        finally:
            api.stop()
            api.close()
    served = {
        (method, re.sub(r":path\}", "}", route.path))
        for route in routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert served == {(each.method, each.path) for each in ENDPOINTS}


def test_openapi_describes_bodies_and_the_page_loads_nothing() -> None:
    with serving(Echo()) as address:
        document = send(address, "/openapi.json").json
        page = send(address, "/docs")
    chat = document["paths"]["/v1/chat/completions"]["post"]
    schema = chat["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["model", "messages"]
    assert schema["properties"]["temperature"] == {"type": "number"}
    assert schema["additionalProperties"] is False
    ids = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(set(ids)) == len(ids) == len(ENDPOINTS)
    text = page.body.decode()
    assert page.headers["content-type"].startswith("text/html")
    assert all(f"<code>{each.path}</code>" in text for each in ENDPOINTS)
    assert not re.search(r"<script|src=|https?://|@import|url\(", text)


def test_the_description_needs_the_token() -> None:
    with serving(Echo(), token="t") as address:
        assert send(address, "/openapi.json").status == 401
        assert send(address, "/docs", headers={"x-api-key": "t"}).status == 200


def test_help_lists_the_endpoints() -> None:
    shown = CliRunner().invoke(serve, ["--help"]).output
    for each in ENDPOINTS:
        assert re.search(rf"{each.method} +{re.escape(each.path)} ", shown)
    assert max(map(len, shown.splitlines())) <= 80
