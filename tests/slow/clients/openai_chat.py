"""OpenAI's own client: chat completions and responses."""

import json
import sys

from openai import OpenAI
from pydantic import BaseModel

address, model = sys.argv[1:]
client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
messages = [{"role": "user", "content": "What is the weather in Paris?"}]
parameters = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
function = {"name": "weather", "description": "Returns the weather.", "parameters": parameters}


class City(BaseModel):
    name: str
    people: int


# chat completions
limit = {"model": model, "max_tokens": 200, "temperature": 0}
reply = client.chat.completions.create(messages=messages, **limit)
assert reply.choices[0].message.content
pieces = list(
    client.chat.completions.create(
        messages=messages, stream=True, stream_options={"include_usage": True}, **limit
    )
)
text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
assert text == reply.choices[0].message.content
assert pieces[-1].usage == reply.usage or pieces[-1].usage.total_tokens

tools = [{"type": "function", "function": function}]
called = client.chat.completions.create(
    messages=messages, tools=tools, tool_choice="required", **limit
)
(choice,) = called.choices
assert choice.finish_reason == "tool_calls", choice
call = choice.message.tool_calls[0]
assert json.loads(call.function.arguments)["city"] is not None
result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 21 degrees."}
answered = client.chat.completions.create(
    messages=[
        *messages,
        choice.message,
        *[result | {"tool_call_id": each.id} for each in choice.message.tool_calls],
    ],
    tools=tools,
    tool_choice="none",
    **limit,
)
assert answered.choices[0].message.content
with client.chat.completions.stream(
    messages=messages, tools=tools, tool_choice="required", **limit
) as stream:
    deltas = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
    streamed = stream.get_final_completion()
assert len(deltas) > 1
whole = streamed.choices[0].message.tool_calls[0]
assert whole.function.name == "weather"
assert whole.function.arguments == call.function.arguments
parsed = client.chat.completions.parse(
    messages=[{"role": "user", "content": "Paris has 2 million people."}],
    response_format=City,
    **limit,
)
assert isinstance(parsed.choices[0].message.parsed, City)
two = client.chat.completions.create(messages=messages, n=2, seed=1, **limit)
assert len(two.choices) == 2

# responses
limit = {"model": model, "max_output_tokens": 200, "temperature": 0}
response = client.responses.create(input=messages, **limit)
assert response.output_text == text
with client.responses.stream(input=messages, **limit) as stream:
    deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == stream.get_final_response().output_text == text
flat = [{"type": "function", "strict": True} | function]
called = client.responses.create(input=messages, tools=flat, tool_choice="required", **limit)
calls = [item for item in called.output if item.type == "function_call"]
results = [
    {"type": "function_call_output", "call_id": item.call_id, "output": "Sunny."} for item in calls
]
answered = client.responses.create(
    input=[*messages, *called.output, *results], tools=flat, tool_choice="none", **limit
)
assert answered.output_text
with client.responses.stream(input=messages, tools=flat, tool_choice="required", **limit) as stream:
    deltas = [
        event.delta for event in stream if event.type == "response.function_call_arguments.delta"
    ]
assert len(deltas) > 1
assert "".join(deltas) == "".join(item.arguments for item in calls)
parsed = client.responses.parse(input="Paris has 2 million people.", text_format=City, **limit)
assert isinstance(parsed.output_parsed, City)

# completions and embeddings
completed = client.completions.create(model=model, prompt="Once upon a time", max_tokens=5)
assert completed.choices[0].text
