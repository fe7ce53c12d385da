"""What is sent for a request; knows no connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from chatlm import EngineError, Request, Sampling
from chatlm_openai.chunks import whole

GO_ON = {"add_generation_prompt": False, "continue_final_message": True}
"""By which vLLM, SGLang and others go on with the last message, where it is the assistant's."""

LOGPROBS = ("logprobs", "top_logprobs")
"""By which a server is asked how likely the tokens were."""

OWN = ("stream_options", "seed", "repeat_penalty")
"""Fields that chatlm adds by itself; a server that does not take one is asked without it."""

_ALWAYS = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "max_tokens", "seed")
_OFF = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Fields that not every server knows, with the value that changes nothing: that is not sent."""


def made(model: str, request: Request, sampling: Sampling) -> dict[str, Any]:
    """The body of `POST /chat/completions`.

    Args:
        model: as the server calls it; or its adapter, which stands in the model's place.
        request: with the messages that fit.
        sampling: what is asked for; a setting that is open is left to the server.

    Raises:
        EngineError: the request has something that only works on this machine.
    """
    _check(request)
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": each.role, "content": whole(each.content)} for each in request.messages
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    settings = sampling.settings()
    values = {name: settings[name] for name in (*_ALWAYS, *_OFF)}
    body |= {
        name: value
        for name, value in values.items()
        if value is not None and value != _OFF.get(name)
    }
    if "repetition_penalty" in body:
        body["repeat_penalty"] = body["repetition_penalty"]  # llama.cpp's and Ollama's name
    if sampling.stop:
        body["stop"] = list(map(whole, sampling.stop))
    if request.logprobs is not None:
        body |= zip(LOGPROBS, (True, request.logprobs), strict=True)
    if request.messages and request.messages[-1].role == "assistant":
        body |= GO_ON
    return body


def without(body: dict[str, Any], named: Iterable[str]) -> dict[str, Any]:
    """The same in another way, after a server refused fields; as it was where there is no other.

    Args:
        body: what was refused.
        named: fields that the refusal names.
    """
    names = set(named)
    other = {name: value for name, value in body.items() if name not in names or name not in OWN}
    if "max_completion_tokens" in names and "max_tokens" in other:  # as OpenAI's own models want it
        other["max_completion_tokens"] = other.pop("max_tokens")
    return other


def _check(request: Request) -> None:
    if added := [*map(_name, request.processors), *map(_name, request.criteria)]:
        raise EngineError(
            f"{', '.join(added)} of a plugin looks at each token, which only works with models "
            "that run on this machine.",
            hint="Choose a local model, or leave the plugin out: chatlm --without NAME",
        )


def _name(added: Callable[..., Any]) -> str:
    name: str = getattr(added, "__name__", type(added).__name__)
    return name
