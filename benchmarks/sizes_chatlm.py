"""chatlm in a process of its own, through what the command line uses; see `sizes_child`.

chatlm is imported by `_Chatlm`, so that the time is measured.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import sizes_child


class _Chatlm:
    """The engine that `chatlm` opens for a name or a file, with all it does per token except
    speculative decoding."""

    def __init__(self, task: dict[str, Any]) -> None:
        from chatlm.config.config import Config
        from chatlm.engines import local_engine  # noqa: F401  # `open_engine` imports it when called
        from chatlm.engines import open as opening

        self._task = task
        self._opening = opening
        settings = {"context": task["context"], **task.get("settings", {})}
        self._config = Config(model=task["file"], safe_mode=True, **settings)

    def open(self) -> None:
        from chatlm.hub.jobs import ignore_progress
        from chatlm.plugin_host.host import PluginHost

        self.engine = self._opening.open_engine(self._config, PluginHost(), ignore_progress)

    def reply(self, length: int, tokens: int) -> list[float]:
        from benchmarks.single_tokens import no_guesses
        from chatlm.types.events import Delta
        from chatlm.types.messages import Message
        from chatlm.types.replies import Usage
        from chatlm.types.requests import Request
        from chatlm.types.sampling import Sampling

        prompt = self._task["prompts"][str(length)]
        sampling = Sampling(
            temperature=0.0, frequency_penalty=0.0, presence_penalty=0.0, repetition_penalty=1.0,
            max_tokens=tokens,
        )  # fmt: skip
        request = Request(tuple(Message(role, text) for role, text in prompt["messages"]), sampling)
        times, usage = [], Usage()
        with no_guesses(), closing(self.engine.stream(request)) as events:
            for event in events:
                if isinstance(event, Delta):
                    times.append(time.perf_counter())
                    usage = event.usage
        if usage.prompt_tokens != len(prompt["ids"]) or usage.cached_tokens:
            raise RuntimeError(f"not the other programs' prompt: {usage}")
        return times

    def about(self) -> dict[str, str]:
        from chatlm.version import version

        info = self.engine.info
        return {"chatlm": version(), **info.versions, "weights": info.weights}


def prepare(task: dict[str, Any]) -> dict[str, Any]:
    """Open the model once, which may compile a kernel, and make the prompts for all programs."""
    from benchmarks.speed import prompt_of
    from chatlm.types.messages import Message

    program = _Chatlm(task)
    program.open()
    prompts: dict[int, Any] = {}
    for length in task["lengths"]:
        # another beginning each, so that no program reuses a part of an earlier prompt
        prompt = prompt_of(program.engine, length, (Message("system", f"{length} words."),))
        messages = [(message.role, message.text) for message in prompt.messages]
        prompts[length] = {"messages": messages, "ids": prompt.ids}
    Path(task["prompts"]).write_text(json.dumps(prompts), encoding="utf-8")
    return {"prompts": {length: len(prompt["ids"]) for length, prompt in prompts.items()}}


def compare(task: dict[str, Any]) -> dict[str, Any]:
    """Compare chatlm's choices with texts that another program wrote after the prompts, and its
    logits with float32."""
    from benchmarks.sizes_check import TEXTS, agreement, compare_real, open_model
    from benchmarks.speed_quality import LENGTH

    prompts = json.loads(Path(task["prompts"]).read_text(encoding="utf-8"))
    model = open_model(task["file"], **task["settings"])
    counts = [
        agreement(model, prompts[length]["ids"], written)
        for length, written in task["written"].items()
    ]
    same, compared = (sum(numbers) for numbers in zip(*counts, strict=True))
    longest = max(prompts.values(), key=lambda prompt: len(prompt["ids"]))["ids"]
    texts = [longest[n * LENGTH // 4 :][:LENGTH] for n in range(TEXTS)]
    quality = compare_real(Path(task["file"]), model, texts)
    return {
        "same": same,
        "compared": compared,
        "weights": model.info.weights,
        "divergence": quality.divergence,
        "agreement": quality.agreement,
    }


def main() -> None:
    """Measure chatlm, make prompts, or compare choices."""
    sizes_child.be_killed_first()
    task = json.loads(sys.argv[1])
    if "lengths" in task:
        print(json.dumps(prepare(task)))
        return
    if "written" in task:
        print(json.dumps(compare(task)))
        return
    task["prompts"] = json.loads(Path(task["prompts"]).read_text(encoding="utf-8"))
    print(json.dumps(sizes_child.measure(_Chatlm(task), task)))


if __name__ == "__main__":
    main()
