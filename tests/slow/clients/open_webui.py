"""Open WebUI: its server with chatlm behind both of its connections, OpenAI's and Ollama's."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import httpx

address, model = sys.argv[1:]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
settings = {
    "DATA_DIR": str(pathlib.Path("data").resolve()),
    "OLLAMA_BASE_URL": address,
    "OPENAI_API_BASE_URL": f"{address}/v1",
    "OPENAI_API_KEY": "none",
    "OFFLINE_MODE": "true",  # or it fetches a model for its own documents
    "HF_HUB_OFFLINE": "1",
    "RAG_EMBEDDING_ENGINE": "openai",
    "WEBUI_AUTH": "False",
    "WEBUI_SECRET_KEY": "none",
}
program = pathlib.Path(sys.executable).with_name("open-webui")
pathlib.Path("data").mkdir()
log = pathlib.Path("log.txt")
with log.open("w") as output:
    server = subprocess.Popen(
        [program, "serve", "--host", "127.0.0.1", "--port", str(port)],
        env=os.environ | settings,
        stdout=output,
        stderr=output,
    )
web = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300)


def answers() -> bool:
    """Whether the server is ready."""
    assert server.poll() is None, log.read_text()[-3000:]
    try:
        return web.get("/health").is_success
    except httpx.TransportError:
        return False


def post(path: str, **body: object) -> httpx.Response:
    """Send a body; it must be answered."""
    reply = web.post(path, json=body)
    assert reply.is_success, reply.text
    return reply


def ask(path: str, **body: object) -> dict:
    """Return a reply in OpenAI's form."""
    limit = {"model": model, "temperature": 0, "max_tokens": 200, "stream": False}
    (choice,) = post(path, **limit | body).json()["choices"]
    return choice["message"]


def chunks(path: str, **body: object) -> list[dict]:
    """Return what comes of a stream in OpenAI's form."""
    limit = {"model": model, "temperature": 0, "max_tokens": 200, "stream": True}
    lines = post(path, **limit | body).text.splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return [each["choices"][0]["delta"] for each in map(json.loads, data) if each.get("choices")]


def check(path: str) -> None:
    """Ask for text, a stream, tool calls and JSON that fits a schema."""
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    text = ask(path, messages=messages)["content"]
    assert text
    assert "".join(each.get("content") or "" for each in chunks(path, messages=messages)) == text

    offered = {"messages": messages, "tools": [weather], "tool_choice": "required"}
    if path.startswith("/openai"):  # Ollama's protocol cannot demand a call
        message = ask(path, **offered)
        calls = message["tool_calls"]
        assert calls[0]["function"]["name"] == "weather"
        assert "city" in json.loads(calls[0]["function"]["arguments"])
        deltas = [call for each in chunks(path, **offered) for call in each.get("tool_calls") or ()]
        joined = "".join(
            each["function"].get("arguments") or "" for each in deltas if each["index"] == 0
        )
        assert json.loads(joined) == json.loads(calls[0]["function"]["arguments"])
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": "Sunny."} for call in calls
        ]
        history = [*messages, message, *results]
        assert ask(path, messages=history, tools=[weather], tool_choice="none")["content"]
    else:
        ask(path, messages=messages, tools=[weather])

    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": city, "strict": True}}
    asked = [{"role": "user", "content": "Paris has 2 million people."}]
    found = json.loads(ask(path, messages=asked, response_format=form)["content"])
    assert isinstance(found["name"], str) and isinstance(found["people"], int)


parameters = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
weather = {
    "type": "function",
    "function": {"name": "weather", "description": "Returns it.", "parameters": parameters},
}
city = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["name", "people"],
    "additionalProperties": False,
}

try:
    end = time.monotonic() + 600
    while not answers():
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(1)
    signed_in = post("/api/v1/auths/signin", email="admin@localhost", password="admin").json()
    web.headers["Authorization"] = f"Bearer {signed_in['token']}"
    listed = web.get("/api/models").json()["data"]
    assert model in {each["id"] for each in listed}

    check("/openai/chat/completions")  # passed on as it is
    check("/api/chat/completions")  # what its pages call; translated to Ollama's protocol

    question = {"model": model, "messages": [{"role": "user", "content": "Say hello."}]}
    options = {"temperature": 0, "num_predict": 50}
    whole = post("/ollama/api/chat", stream=False, options=options, **question).json()
    parts = post("/ollama/api/chat", stream=True, options=options, **question).text.splitlines()
    streamed = "".join(json.loads(part)["message"]["content"] for part in parts if part)
    assert streamed == whole["message"]["content"] != ""
    formed = post("/ollama/api/chat", stream=False, options=options, format=city, **question)
    assert "name" in formed.json()["message"]["content"]
finally:
    server.terminate()
    server.wait(60)
