"""A program in a process of its own, measured from the inside; `benchmarks.sizes` starts it.

Run by its path with a JSON object as the only argument, it opens a model, writes replies and prints
the measurements as JSON. It imports nothing of chatlm, so that it runs in a peer's environment too.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol


class Program(Protocol):
    """A program that has imported its libraries but opened no model."""

    def open(self) -> None:
        """Open the model."""
        ...

    def reply(self, length: int, tokens: int) -> list[float]:
        """Write a greedy reply that the model does not end.

        Args:
            length: which prompt, by its tokens.
            tokens: of the reply.

        Returns:
            The time of each token.
        """
        ...

    def about(self) -> dict[str, str]:
        """Describe the program: versions and how it was built."""
        ...


class _LlamaCpp:
    """llama.cpp's own functions, without the Python code that llama-cpp-python has per token."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._task = task
        self._api: Any = importlib.import_module("llama_cpp")
        self._silent = self._api.llama_log_callback(lambda level, text, data: None)
        self._api.llama_log_set(self._silent, ctypes.c_void_p(0))
        self._api.llama_backend_init()

    def open(self) -> None:
        api, task = self._api, self._task
        self._model = api.llama_model_load_from_file(
            task["file"].encode(), api.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError("llama.cpp cannot open the file")
        settings = api.llama_context_default_params()
        settings.n_ctx = task["context"]
        settings.n_batch = settings.n_ubatch = 512
        settings.n_threads = settings.n_threads_batch = task["threads"]
        self._context = api.llama_init_from_model(self._model, settings)
        if not self._context:
            raise RuntimeError("llama.cpp cannot make a context")
        chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        api.llama_sampler_chain_add(chain, api.llama_sampler_init_greedy())
        self._sampler = chain

    def reply(self, length: int, tokens: int) -> list[float]:
        api, ids = self._api, self._task["prompts"][str(length)]["ids"]
        api.llama_memory_clear(api.llama_get_memory(self._context), True)
        for start in range(0, len(ids), 512):
            self._decode(ids[start : start + 512])
        times: list[float] = []
        self.written: list[int] = []
        while len(times) < tokens:
            if times:
                self._decode(self.written[-1:])
            self.written.append(api.llama_sampler_sample(self._sampler, self._context, -1))
            times.append(time.perf_counter())
        return times

    def _decode(self, ids: list[int]) -> None:
        array = (ctypes.c_int32 * len(ids))(*ids)
        batch = self._api.llama_batch_get_one(array, len(ids))
        if self._api.llama_decode(self._context, batch):
            raise RuntimeError("llama.cpp cannot decode")

    def about(self) -> dict[str, str]:
        built = Path(sys.prefix) / "built.txt"
        return {
            "llama-cpp-python": version("llama-cpp-python"),
            "built": built.read_text(encoding="utf-8").strip() if built.exists() else "not known",
            "system": self._api.llama_print_system_info().decode(),
        }


class _OpenVino:
    """The text generation pipeline of OpenVINO GenAI, which reads GGUF files itself."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._task = task
        self._numpy: Any = importlib.import_module("numpy")
        self._openvino: Any = importlib.import_module("openvino")
        self._genai: Any = importlib.import_module("openvino_genai")

    def open(self) -> None:
        settings = {"INFERENCE_NUM_THREADS": self._task["threads"]}
        self._pipeline = self._genai.LLMPipeline(self._task["file"], "CPU", **settings)

    def reply(self, length: int, tokens: int) -> list[float]:
        genai, tensor = self._genai, self._openvino.Tensor
        ids = self._numpy.array([self._task["prompts"][str(length)]["ids"]], "int64")
        times: list[float] = []

        class Clock(genai.StreamerBase):  # type: ignore[misc, name-defined]
            def write(self, token: Any) -> Any:
                count = len(token) if isinstance(token, list) else 1
                times.extend([time.perf_counter()] * count)
                return genai.StreamingStatus.RUNNING

            def end(self) -> None:
                pass

        self._pipeline.generate(
            genai.TokenizedInputs(tensor(ids), tensor(self._numpy.ones_like(ids))),
            max_new_tokens=tokens, ignore_eos=True, do_sample=False, streamer=Clock(),
        )  # fmt: skip
        return times

    def about(self) -> dict[str, str]:
        names = ("openvino-genai", "openvino", "openvino-tokenizers")
        return {name: version(name) for name in names} | {"built": "wheel from PyPI"}


class _Transformers:
    """`generate()` of transformers in bfloat16."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._task = task
        self._torch: Any = importlib.import_module("torch")
        self._torch.set_num_threads(task["threads"])
        self._library: Any = importlib.import_module("transformers")
        self._streamers: Any = importlib.import_module("transformers.generation.streamers")

    def open(self) -> None:
        path = Path(self._task["file"])
        inside = {"gguf_file": path.name} if path.is_file() else {}
        self._model = self._library.AutoModelForCausalLM.from_pretrained(
            path.parent if inside else path, dtype=self._torch.bfloat16, **inside
        ).eval()

    def reply(self, length: int, tokens: int) -> list[float]:
        ids = self._torch.tensor([self._task["prompts"][str(length)]["ids"]])
        times: list[float] = []

        class Clock(self._streamers.BaseStreamer):  # type: ignore[misc, name-defined]
            def put(self, value: Any) -> None:
                times.append(time.perf_counter())

            def end(self) -> None:
                pass

        with self._torch.inference_mode():
            self._model.generate(
                input_ids=ids, attention_mask=self._torch.ones_like(ids), streamer=Clock(),
                max_new_tokens=tokens, do_sample=False, eos_token_id=None,
            )  # fmt: skip
        return times[1:]  # the first call has the prompt

    def about(self) -> dict[str, str]:
        return {name: version(name) for name in ("transformers", "torch")} | {
            "built": "wheel from PyPI, " + self._torch.__config__.show().split("\n")[1].strip(" -")
        }


PEERS: dict[str, Callable[[dict[str, Any]], Program]] = {
    "llamacpp": _LlamaCpp,
    "openvino": _OpenVino,
    "transformers": _Transformers,
}
"""Names of the peers."""


MINIMUM = 16
"""Tokens of the shortest reply whose speed is measured."""


def memory() -> dict[str, int]:
    """Return resident memory of this process in bytes: the peak, all, and that of no file."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    values = dict(line.split(":", 1) for line in lines)
    wanted = {"peak": "VmHWM", "resident": "VmRSS", "anonymous": "RssAnon"}
    return {name: 1024 * int(values[key].split()[0]) for name, key in wanted.items()}


_USE_MEMORY = """
import mmap, sys
size = int(sys.argv[1])
area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
if hasattr(mmap, "MADV_HUGEPAGE"):
    area.madvise(mmap.MADV_HUGEPAGE)
page = bytes(1 << 20)
for start in range(0, size - len(page), len(page)):
    area[start : start + len(page)] = page
"""


def use_memory(size: int) -> float:
    """Let another process use so many bytes of memory and free them; return the seconds it took.

    A virtual machine gets memory from its host when it first uses it, and gives back what was free
    for a while. That can take 2 s for 1 GB, which is no work of the program that is measured.
    """
    start = time.perf_counter()
    if size:
        subprocess.run([sys.executable, "-S", "-c", _USE_MEMORY, str(size)], check=True)
    return time.perf_counter() - start


def measure(program: Program, task: dict[str, Any]) -> dict[str, Any]:
    """Open the model and write the replies of a task.

    Args:
        program: just made.
        task: with pairs of length and tokens in `replies`, when the process was `started`, as
            `time.perf_counter` told in the parent, which has the same clock on Linux, and the
            bytes of `memory` to use before, if any.
    """
    task["started"] += use_memory(task.get("memory", 0))
    opening = time.perf_counter()
    program.open()
    opened = time.perf_counter()
    found: dict[str, Any] = {
        "import_seconds": opening - task["started"],
        "open_seconds": opened - opening,
        "memory_opened": memory(),
        "replies": [],
    }
    for length, tokens in task["replies"]:
        start, used = time.perf_counter(), time.process_time()
        times = program.reply(length, tokens)
        wall, used = time.perf_counter() - start, time.process_time() - used
        if len(times) < min(tokens, MINIMUM):  # a real model may end its reply
            raise RuntimeError(f"{len(times)} tokens were written instead of {tokens}")
        if not found["replies"]:
            found["start_to_first_token"] = times[0] - task["started"]
            found["open_to_first_token"] = times[0] - opening
        speed = (len(times) - 1) / (times[-1] - times[0]) if tokens > 1 else None
        found["replies"].append(
            {
                "length": length,
                "first_token": times[0] - start,
                "tokens_per_second": speed,
                # below 1 where other programs used the processor, or threads were idle
                "processor_share": used / wall / task["threads"],
                "written": getattr(program, "written", None),  # ids, where a program tells them
            }
        )
    found["memory"] = memory()
    found["about"] = program.about()
    return found


def be_killed_first() -> None:
    """Let the system end this process, and no other, when memory runs out."""
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main() -> None:
    """Measure one peer."""
    be_killed_first()
    task = json.loads(sys.argv[1])
    task["prompts"] = json.loads(Path(task["prompts"]).read_text(encoding="utf-8"))
    print(json.dumps(measure(PEERS[task["program"]](task), task)))


if __name__ == "__main__":
    main()
