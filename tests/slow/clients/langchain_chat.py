"""langchain-openai: chat models over both of OpenAI's endpoints, and embeddings."""

import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

address, model = sys.argv[1:]


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool
def weather(city: str) -> str:
    """Returns the weather in a city."""
    return "Sunny."


for responses in (False, True):
    chat = ChatOpenAI(
        base_url=f"{address}/v1",
        api_key="none",
        model=model,
        max_retries=0,
        temperature=0,
        max_tokens=200,
        use_responses_api=responses,
    )
    question = HumanMessage("What is the weather in Paris?")
    assert chat.invoke([question]).text
    assert "".join(chunk.text for chunk in chat.stream([question]))
    with_tools = chat.bind_tools([weather], tool_choice="any")
    called = with_tools.invoke([question])
    assert called.tool_calls[0]["name"] == "weather"
    results = [ToolMessage("Sunny.", tool_call_id=call["id"]) for call in called.tool_calls]
    assert chat.bind_tools([weather], tool_choice="none").invoke([question, called, *results]).text
    total = None
    for chunk in with_tools.stream([question]):
        total = chunk if total is None else total + chunk
    assert total.tool_calls[0]["name"] == "weather"
    for method in ("json_schema", "function_calling"):
        structured = chat.with_structured_output(City, method=method)
        assert isinstance(structured.invoke("Paris has 2 million people."), City)
