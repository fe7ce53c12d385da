"""pydantic-ai: agents over chat completions and responses."""

import asyncio
import sys

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import UsageLimits

address, name = sys.argv[1:]
provider = OpenAIProvider(base_url=f"{address}/v1", api_key="none")
settings = ModelSettings(temperature=0.0, max_tokens=200)


class City(BaseModel):
    name: str
    people: int


async def try_model(kind):
    model = kind(name, provider=provider)
    agent = Agent(model, model_settings=settings, instructions="Be brief.")
    assert (await agent.run("Say hello.")).output
    async with agent.run_stream("Say hello.") as stream:
        assert await stream.get_output()

    for output in (NativeOutput(City), ToolOutput(City)):
        structured = Agent(model, output_type=output, model_settings=settings, retries=0)
        result = await structured.run("Paris has 2 million people.")
        assert isinstance(result.output, City)

    calls = []
    with_tool = Agent(model, model_settings=settings, output_type=ToolOutput(City))

    @with_tool.tool_plain
    def weather(city: str) -> str:
        """Returns the weather in a city."""
        calls.append(city)
        return "Sunny."

    try:
        await with_tool.run(
            "What is the weather in Paris?", usage_limits=UsageLimits(request_limit=3)
        )
    except Exception as error:  # a small model may call the tool again and again
        assert calls, error


for kind in (OpenAIChatModel, OpenAIResponsesModel):
    asyncio.run(try_model(kind))
