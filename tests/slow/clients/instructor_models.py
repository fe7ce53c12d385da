"""instructor: Pydantic models through tools and through JSON schemas, whole and streamed."""

import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel

address, model = sys.argv[1:]
openai = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


class City(BaseModel):
    name: str
    people: int


ask = {
    "model": model,
    "messages": [{"role": "user", "content": "Paris has 2 million people."}],
    "max_tokens": 200,
    "temperature": 0,
    "max_retries": 0,
}
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.JSON):
    client = instructor.from_openai(openai, mode=mode)
    if mode is not instructor.Mode.JSON:
        city = client.chat.completions.create(response_model=City, **ask)
        assert isinstance(city, City), mode
        *_, last = client.chat.completions.create_partial(response_model=City, **ask)
        assert last.name is not None, mode
    text = client.chat.completions.create(response_model=None, **ask)
    assert text.choices[0].message.content, mode
