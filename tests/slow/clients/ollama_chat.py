"""ollama: chats and prompts, whole and streamed, tools, schemas, embeddings and lists."""

import sys

import ollama
from pydantic import BaseModel

address, model = sys.argv[1:]
client = ollama.Client(host=address)
question = {"role": "user", "content": "What is the weather in Paris?"}
ask = {"model": model, "options": {"temperature": 0, "num_predict": 200}}


class City(BaseModel):
    name: str
    people: int


def weather(city: str) -> str:
    """Return the weather.

    Args:
        city: its name.
    """
    return "Sunny."


assert model in [each.model for each in client.list().models]
assert client.show(model).capabilities
text = client.chat(messages=[question], **ask).message.content
assert text
pieces = list(client.chat(messages=[question], stream=True, **ask))
assert "".join(piece.message.content or "" for piece in pieces) == text
assert pieces[-1].done and pieces[-1].eval_count
assert client.generate(prompt="Say hello.", **ask).response
assert "".join(piece.response for piece in client.generate(prompt="Say hi.", stream=True, **ask))

order = {"role": "user", "content": "Call the tool weather for Paris."}
for stream in (False, True):
    answers = client.chat(messages=[order], tools=[weather], stream=stream, **ask)
    messages = [each.message for each in answers] if stream else [answers.message]
    calls = [call for message in messages for call in message.tool_calls or []]
    for call in calls:  # a small model need not call, but what it calls is the tool
        assert call.function.name == "weather"
        assert isinstance(call.function.arguments["city"], str)
called = {
    "role": "assistant",
    "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Paris"}}}],
}
result = {"role": "tool", "tool_name": "weather", "content": "Sunny."}
assert client.chat(messages=[order, called, result], **ask).message.content

asked = {"role": "user", "content": "Paris has 2 million people."}
schema = City.model_json_schema()
City.model_validate_json(client.chat(messages=[asked], format=schema, **ask).message.content)
streamed = client.chat(messages=[asked], format=schema, stream=True, **ask)
City.model_validate_json("".join(piece.message.content or "" for piece in streamed))
assert model in [each.model for each in client.ps().models]
