"""Programs that serve models, and the ports of this machine that they use unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Program:
    """A program that serves models."""

    name: str
    """As an endpoint: `openai:MODEL@ollama`."""
    title: str
    port: int
    path: str = "/v1"
    """Of OpenAI's protocol."""

    @property
    def url(self) -> str:
        """Its base URL on this machine."""
        return f"http://127.0.0.1:{self.port}{self.path}"


PROGRAMS: Mapping[str, Program] = MappingProxyType(
    {
        program.name: program
        for program in (
            Program("ollama", "Ollama", 11434),
            Program("lmstudio", "LM Studio", 1234),
            Program("llamacpp", "llama.cpp's server", 8080),
            Program("vllm", "vLLM", 8000),
            Program("chatlm", "chatlm serve", 8471),
            Program("sglang", "SGLang", 30000),
            Program("jan", "Jan", 1337),
            Program("koboldcpp", "KoboldCpp", 5001),
            Program("textgen", "text-generation-webui", 5000),
            Program("lemonade", "Lemonade", 13305),
            Program("docker", "Docker Model Runner", 12434, "/engines/v1"),
            Program("gpt4all", "GPT4All", 4891),
        )
    }
)
"""By the name of their endpoint."""
