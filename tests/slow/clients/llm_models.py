"""llm: a model of its file of OpenAI-compatible models."""

import os
import pathlib
import sys
import tempfile

address, model = sys.argv[1:]
home = pathlib.Path(tempfile.mkdtemp())
os.environ["LLM_USER_PATH"] = str(home)
(home / "extra-openai-models.yaml").write_text(
    f"- model_id: local\n  model_name: {model}\n  api_base: {address}/v1\n"
    "  supports_tools: true\n  supports_schema: true\n"
)

import llm
from pydantic import BaseModel


class City(BaseModel):
    name: str
    people: int


called = []


def weather(city: str) -> str:
    """Returns the weather in a city."""
    called.append(city)
    return "Sunny."


local = llm.get_model("local")
local.key = "none"
limit = {"max_tokens": 200, "temperature": 0}
assert local.prompt("Say hello.", stream=False, **limit).text()
assert "".join(local.prompt("Say hello.", **limit))
schema = local.prompt("Paris has 2 million people.", schema=City, stream=False, **limit).text()
City.model_validate_json(schema)
chain = local.conversation().chain(
    "Call the tool weather for Paris.", tools=[weather], options=limit, chain_limit=3
)
try:
    chain.text()
except ValueError:  # a small model may call the tool again and again
    assert called
chat = local.conversation()
assert chat.prompt("Say hello.", stream=False, **limit).text()
assert chat.prompt("Again.", stream=False, **limit).text()
