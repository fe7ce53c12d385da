"""anthropic: messages whole and streamed, tools, schemas, and the count of tokens."""

import sys

from anthropic import Anthropic, transform_schema
from pydantic import BaseModel

address, model = sys.argv[1:]
client = Anthropic(base_url=address, api_key="none", max_retries=0)
question = {"role": "user", "content": "What is the weather in Paris?"}
greedy = {"temperature": 0}  # of which newer clients know nothing
ask = {"model": model, "max_tokens": 200, "messages": [question], "extra_body": greedy}
weather = {
    "name": "weather",
    "description": "Returns the weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


class City(BaseModel):
    name: str
    people: int


reply = client.messages.create(**ask)
assert reply.content[0].text
with client.messages.stream(**ask) as stream:
    text = "".join(stream.text_stream)
    assert text == reply.content[0].text == stream.get_final_message().content[0].text
assert client.messages.count_tokens(model=model, messages=[question]).input_tokens > 5

with_tools = ask | {"tools": [weather], "tool_choice": {"type": "any"}}
called = client.messages.create(**with_tools)
assert called.stop_reason == "tool_use", called
calls = [block for block in called.content if block.type == "tool_use"]
assert isinstance(calls[0].input["city"], str)
pieces = []
with client.messages.stream(**with_tools) as stream:
    for event in stream:
        if event.type == "input_json":
            pieces.append(event.partial_json)
    final = stream.get_final_message()
assert [block.input for block in final.content if block.type == "tool_use"] == [
    call.input for call in calls
]
assert len([piece for piece in pieces if piece]) > 1, pieces
results = [
    {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny, 21 degrees."}
    for call in calls
]
again = with_tools | {
    "tool_choice": {"type": "none"},
    "messages": [
        question,
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": results},
    ],
}
assert client.messages.create(**again).content[0].text

structured = client.messages.create(
    model=model,
    max_tokens=200,
    messages=[{"role": "user", "content": "Paris has 2 million people."}],
    extra_body={
        "output_config": {"format": {"type": "json_schema", "schema": transform_schema(City)}}
    },
)
City.model_validate_json(structured.content[0].text)
