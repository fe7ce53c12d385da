"""litellm: its OpenAI-compatible provider."""

import json
import sys

import litellm
from pydantic import BaseModel

address, model = sys.argv[1:]


class City(BaseModel):
    name: str
    people: int


ask = {
    "model": f"openai/{model}",
    "api_base": f"{address}/v1",
    "api_key": "none",
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "max_tokens": 200,
    "temperature": 0,
    "num_retries": 0,
}
function = {
    "name": "weather",
    "description": "Returns the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
tools = [{"type": "function", "function": function}]
text = litellm.completion(**ask).choices[0].message.content
assert text
pieces = [piece.choices[0].delta.content or "" for piece in litellm.completion(stream=True, **ask)]
assert "".join(pieces) == text
called = litellm.completion(tools=tools, tool_choice="required", **ask).choices[0].message
assert called.tool_calls[0].function.name == "weather"
results = [
    {"role": "tool", "tool_call_id": call.id, "name": "weather", "content": "Sunny."}
    for call in called.tool_calls
]
again = ask | {"messages": [*ask["messages"], called, *results]}
assert litellm.completion(tools=tools, tool_choice="none", **again).choices[0].message.content
chunks = list(litellm.completion(tools=tools, tool_choice="required", stream=True, **ask))
built = litellm.stream_chunk_builder(chunks, messages=ask["messages"])
assert built.choices[0].message.tool_calls[0].function.name == "weather"
structured = litellm.completion(response_format=City, **ask).choices[0].message.content
City.model_validate(json.loads(structured))
response = litellm.responses(
    model=ask["model"],
    api_base=ask["api_base"],
    api_key="none",
    input="Say hello.",
    max_output_tokens=50,
)
assert response.output
