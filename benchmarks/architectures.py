"""Compare tiny random models of every architecture in transformers with its plain forward pass.

Each is saved as a folder and opened by chatlm as a user's would be, in float32. Every score that
chatlm samples from is compared with one forward pass of transformers over the same tokens, without
blocks and without a cache: for a short prompt, for one that crosses several blocks, sliding windows
and the original length of longrope, and for second turns from a warm cache, while another chat
comes in between. Each architecture runs in a process of its own, since one may crash.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import GenerationConfig

from benchmarks import tiny_architectures
from chatlm.engines import transformers_model
from chatlm.engines.devices import Placement
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.transformers_cache import PREFILL_MODES, PrefillMode
from chatlm.errors import ModelError
from chatlm.hub.architecture import PROVEN_FILE, check_architecture
from chatlm.types.events import Finished
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling

FLOAT32 = Placement({"": "cpu"}, torch.float32)

NEW_TOKENS = 6

TEXT = (
    "When the river froze that winter, the children of the village crossed it on foot and found, "
    "on the far bank, a house that no map had ever shown. "
) * 8

PROMPTS = {"short": TEXT[:20], "across a window": TEXT[3:25], "across blocks": TEXT[:345]}
"""Texts of one token a character, by what they cross; 320 is the end of a block, 300 that of
longrope's original length."""

SECOND_TURNS = {"short": " And then?", "across blocks": TEXT[100:140]}

Outcome = Literal["equal", "refused", "silently different", "crashed", "timed out", "not tried"]


@dataclass(frozen=True)
class Result:
    """What came out for one architecture."""

    name: str
    outcome: Outcome
    mode: str = ""
    """How chatlm read the prompts, see `PrefillMode`."""
    detail: str = ""
    worst: float = 0.0
    """Largest difference of a score, in units of their spread."""
    compared: int = 0
    """Positions."""
    seconds: float = 0.0


@dataclass
class Recorder:
    """A logits processor that keeps what it sees."""

    seen: list[tuple[list[int], torch.Tensor]]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Keep the tokens so far and the scores of the next one."""
        self.seen.append((input_ids[0].tolist(), scores[0].clone()))
        return scores


def chat(engine: LocalEngine, messages: tuple[Message, ...], recorder: Recorder) -> Message:
    """Generate a greedy reply."""
    request = Request(
        messages, Sampling(temperature=0, max_tokens=NEW_TOKENS), logits_processors=(recorder,)
    )
    text = ""
    with closing(engine.stream(request)) as events:
        for event in events:
            text += getattr(event, "text", "") if not isinstance(event, Finished) else ""
    return Message("assistant", text or "x")


def scores_of_chats(engine: LocalEngine) -> list[tuple[list[int], torch.Tensor]]:
    """Return tokens and scores of first turns, then of second ones from a warm cache."""
    recorder = Recorder([])
    chats = {}
    for name, prompt in PROMPTS.items():
        messages = (Message("user", prompt),)
        chats[name] = (*messages, chat(engine, messages, recorder))
    for name, text in SECOND_TURNS.items():
        chat(engine, (*chats[name], Message("user", text)), recorder)
    return recorder.seen


def plain_scores(module: Any, ids: list[int]) -> torch.Tensor:
    """Return the scores after some tokens, in one forward pass of transformers."""
    with torch.inference_mode():
        scores: torch.Tensor = module(torch.tensor([ids]), use_cache=False).logits[0, -1]
    return scores


def generated(module: Any, ids: list[int], count: int) -> list[int] | None:
    """Return what `generate` writes without a cache, and without rules of the maker's own, such as
    a forced last token; None if it fails, as with some models that also read images."""
    module.generation_config = GenerationConfig()
    settings = GenerationConfig(
        max_new_tokens=count, do_sample=False, use_cache=False, eos_token_id=2
    )
    try:
        with torch.inference_mode():
            out = module.generate(torch.tensor([ids]), generation_config=settings)
    except Exception:  # a model may raise anything
        return None
    return list(out[0, len(ids) :].tolist())


def forced(mode: PrefillMode | None) -> AbstractContextManager[Any]:
    """Let every model be read in one mode."""
    if mode is None:
        return nullcontext()
    return patch.object(transformers_model, "choose_mode", lambda module: mode)


def refused_by_config(name: str) -> Result | None:
    """Return the refusal of an architecture of which there is no tiny model; None if it may run."""
    kind = tiny_architectures.model_type(name)
    try:
        check_architecture(name, {"model_type": kind})
    except ModelError as error:
        return Result(name, "refused", detail=f"{error.message} {error.hint}")
    return None


def compare(name: str, mode: PrefillMode | None) -> Result:
    """Make the model, open it and compare it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        try:
            auto = tiny_architectures.save(folder, name)
            reference = auto.from_pretrained(folder, dtype=torch.float32).eval()
        except Exception as error:
            return refused_by_config(name) or Result(name, "not tried", detail=_describe(error))
        try:
            with forced(mode):
                engine = LocalEngine.from_folder(name, folder, FLOAT32, engine="transformers")
        except ModelError as error:
            return Result(name, "refused", detail=f"{error.message} {error.hint}")
        with closing(engine):
            model: Any = engine._adapters.model
            used = str(model.mode)
            seen = scores_of_chats(engine)
        worst, where = 0.0, ""
        for ids, scores in seen:
            expected = plain_scores(reference, ids)
            if not expected.isfinite().all():
                return Result(name, "not tried", used, "transformers computes no finite scores")
            difference = float((scores - expected).abs().max() / expected.std())
            if not difference <= worst:  # NaN is the worst
                worst, where = difference, f"after {len(ids)} tokens"
        outcome: Outcome = "equal" if worst <= 1e-3 else "silently different"
        if outcome == "equal":
            prompt = seen[0][0]
            written: list[int] = []
            for count, (ids, _) in enumerate(seen[:NEW_TOKENS]):
                if ids[: len(prompt)] == prompt and len(ids) == len(prompt) + count:
                    written = ids[len(prompt) :]
            if generated(reference, prompt, len(written)) not in (written, None):
                outcome, where = "silently different", "generate writes other tokens"
        return Result(name, outcome, used, "" if outcome == "equal" else where, worst, len(seen))


def _describe(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {lines[-1] if lines else ''} ({Path(place.filename).name})"


def _work(name: str, find: bool, results: Any) -> None:
    started = time.monotonic()
    torch.set_num_threads(1)
    result = Result(name, "crashed")
    for mode in (*PREFILL_MODES, None) if find else (None,):
        try:
            result = compare(name, mode)
        except Exception as error:
            result = Result(name, "crashed", str(mode or ""), _describe(error))
        if result.outcome not in ("silently different", "crashed"):
            break
    values = asdict(result) | {"seconds": round(time.monotonic() - started, 1)}
    results.put(values)


def walk(names: list[str], processes: int, limit: float, find: bool) -> Iterator[Result]:
    """Compare architectures, each in a process forked from this one, which has transformers.

    Args:
        names: of architectures and variants.
        processes: at once.
        limit: seconds for each.
        find: whether to look for the fastest mode that is right, instead of using what is known.
    """
    context = multiprocessing.get_context("fork")
    waiting = list(names)
    running: dict[str, tuple[Any, Any, float]] = {}
    while waiting or running:
        while waiting and len(running) < processes:
            name = waiting.pop(0)
            results = context.Queue()
            process = context.Process(target=_work, args=(name, find, results), daemon=True)
            process.start()
            running[name] = process, results, time.monotonic()
        for name, (process, results, started) in list(running.items()):
            try:
                yield Result(**results.get(timeout=0.05))
            except queue.Empty:
                if process.is_alive() and time.monotonic() - started < limit:
                    continue
                if process.is_alive():
                    process.kill()
                    yield Result(name, "timed out", detail=f"after {limit:.0f} s")
                else:
                    try:
                        yield Result(**results.get(timeout=0.5))
                    except queue.Empty:
                        yield Result(name, "crashed", detail=f"exit status {process.exitcode}")
            process.join(10)
            del running[name]


def write_modes(results: list[Result]) -> None:
    """Write the modes that were proven, for chatlm to use; of an architecture that was not tried
    now, the mode stays."""
    before = json.loads(PROVEN_FILE.read_bytes())
    order = [str(mode) for mode in PREFILL_MODES]
    tried = {tiny_architectures.model_type(result.name) for result in results}
    modes: dict[str, str] = {}
    if before["transformers"] == version("transformers"):
        modes = {kind: mode for kind, mode in before["modes"].items() if kind not in tried}
    failed = set()
    for result in results:
        kind = tiny_architectures.model_type(result.name)
        if result.outcome == "equal":
            slower = order.index(result.mode), order.index(modes.get(kind, order[0]))
            modes[kind] = order[max(slower)]
        else:
            failed.add(kind)
    values = {
        "transformers": version("transformers"),
        "modes": {kind: modes[kind] for kind in sorted(modes) if kind not in failed},
    }
    PROVEN_FILE.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def preload() -> None:
    """Import what every architecture needs, before processes are forked."""
    import transformers
    from transformers import (  # noqa: F401
        AutoModelForCausalLM,
        LlamaForCausalLM,
        LlavaForConditionalGeneration,
        Qwen2VLForConditionalGeneration,
    )

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def main() -> None:
    """Walk through the architectures."""
    parser = argparse.ArgumentParser(
        description="Compare tiny models of every architecture with transformers."
    )
    parser.add_argument("--only", help="names of architectures or variants, with commas")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=float, default=180, help="seconds for each")
    parser.add_argument(
        "--write",
        action="store_true",
        help="find the fastest way to read each and write them to the list that chatlm uses",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = [*tiny_architectures.architectures(), *tiny_architectures.VARIANTS]
    if options.only:
        names = [name.strip() for name in options.only.split(",")]
    preload()
    results = []
    for result in walk(names, options.processes, options.limit, options.write):
        results.append(result)
        print(f"{result.outcome:18} {result.name:26} {result.mode:9} {result.detail}", flush=True)
    counts = Counter(result.outcome for result in results)
    if options.write:
        write_modes(results)
    if options.json:
        values = {
            "transformers": version("transformers"),
            "architectures": len(results),
            **{
                outcome.replace(" ", "_"): counts[outcome]
                for outcome in (
                    "equal",
                    "refused",
                    "silently different",
                    "crashed",
                    "timed out",
                    "not tried",
                )
            },
            "results": [asdict(result) for result in sorted(results, key=lambda each: each.name)],
        }
        print(json.dumps(values, ensure_ascii=False))
    else:
        print(", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()))


if __name__ == "__main__":
    main()
