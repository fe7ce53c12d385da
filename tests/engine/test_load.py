"""The decoder that is chosen for a model, the notes for the user, and the kernel's compilation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from chatlm.engines import devices, tokenizer
from chatlm.engines import load as load_module
from chatlm.engines.devices import Placement, resolve_placement
from chatlm.engines.load import load
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.model import Unsupported, describe_weights
from chatlm.engines.native import compiler
from chatlm.engines.native.architectures.registry import read_config
from chatlm.engines.native.c_decoder import CDecoder
from chatlm.engines.native.compiler import KernelUnavailable, kernel_library
from chatlm.engines.native.kernel import Kernel
from chatlm.engines.native.model import NativeCache, NativeModel
from chatlm.engines.native.torch_decoder import TorchDecoder
from chatlm.engines.native.weight_reader import read_weights
from chatlm.engines.prompt_encoder import PromptEncoder
from chatlm.engines.tokenizer import JsonTokenizer, load_tokenizer
from chatlm.engines.transformers_model import TransformersModel
from chatlm.errors import ModelError
from chatlm.hub import architecture
from chatlm.types.events import Delta
from chatlm.types.messages import Message, Role
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from tests.engine import tiny

CPU = Placement({"": "cpu"}, torch.bfloat16)


@pytest.mark.parametrize(
    ("engine", "weights", "label"),
    [
        ("auto", "auto", "8-bit"),
        ("auto", "bf16", "16-bit"),
        ("auto", "int8", "8-bit"),
        ("auto", "int4", "4-bit"),
        ("auto", "float32", "32-bit, transformers"),
        ("native", "auto", "8-bit"),
        ("torch", "int8", "8-bit, torch"),
        ("torch", "stored", "16-bit, torch"),
        ("transformers", "auto", "16-bit, transformers"),
        ("transformers", "stored", "16-bit, transformers"),
        ("transformers", "float32", "32-bit, transformers"),
    ],
)
def test_weights_and_an_unusual_engine_are_named(
    tmp_path: Path, engine: str, weights: str, label: str
) -> None:
    folder = tiny.save(tmp_path, "llama")
    model = load("tiny", folder, CPU, engine, weights)
    assert model.info.weights == label
    assert isinstance(model, TransformersModel if "transformers" in label else NativeModel)
    assert (model.info.device, model.info.context_length, model.info.notes) == ("cpu", 512, ())


@pytest.mark.parametrize("engine", ["native", "torch", "transformers"])
def test_a_kv_cache_of_8_bits_is_named_and_its_absence_noted(tmp_path: Path, engine: str) -> None:
    model = load("tiny", tiny.save(tmp_path, "llama"), CPU, engine, kv_cache="int8")
    kv_cache = model.new_cache()
    kv_cache.prefill([1, 2, 3])
    if engine == "transformers":
        assert model.info.kv_cache == ""
        assert model.info.notes == (
            "transformers runs this model, so its KV cache is not held in 8 bits.",
        )
    else:
        assert (model.info.kv_cache, model.info.notes) == ("8-bit", ())
        assert isinstance(kv_cache, NativeCache)
        assert kv_cache.sequence_input([]).kv_cache.buffer.layers[0].kv.dtype is torch.int8
    assert load("tiny", tmp_path, CPU, engine).info.kv_cache == ""


@pytest.mark.parametrize(
    ("dtype", "label"),
    [
        (torch.bfloat16, "16-bit"),
        (torch.float16, "16-bit"),
        (torch.float32, "32-bit"),
    ],
)
def test_stored_weights_keep_their_own_format(
    tmp_path: Path, dtype: torch.dtype, label: str
) -> None:
    folder = tiny.save(tmp_path, "llama")
    store_as(folder, dtype)
    model = load("tiny", folder, CPU, weights="stored")
    assert model.info.weights == label
    assert isinstance(model, NativeModel)
    assert isinstance(model.decoder, CDecoder)
    rounds = dtype is not torch.bfloat16
    with pytest.raises(ModelError, match="torch rounds") if rounds else nullcontext():
        load("tiny", folder, CPU, "torch", "stored")


@pytest.mark.parametrize(
    ("formats", "label"),
    [
        (["Q4_K", "Q6_K"], "4-bit and 6-bit, torch"),
        (["IQ4_XS", "MXFP4"], "4-bit, torch"),
        (["Q8_0", "BF16", "F32"], "8-bit and 16-bit and 32-bit, torch"),
    ],
)
def test_formats_are_described_by_their_bits(formats: list[str], label: str) -> None:
    assert describe_weights(formats, "torch") == label


@pytest.mark.parametrize("engine", ["auto", "transformers"])
def test_the_models_recommended_sampling_is_its_default(tmp_path: Path, engine: str) -> None:
    folder = tiny.save(tmp_path, "llama")
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.6, "top_k": 20, "eos_token_id": 2})
    )
    recommended = Sampling(temperature=0.6, top_k=20)
    assert load("tiny", folder, CPU, engine).info.recommended_sampling == recommended


def test_float16_on_the_processor_is_left_to_transformers(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "llama")
    model = load("tiny", folder, resolve_placement("cpu", "float16"))
    assert model.info.weights == "16-bit, transformers"


@pytest.mark.parametrize(("engine", "reason"), [("native", "is dynamic"), ("torch", "dynamic")])
def test_an_engine_that_cannot_run_a_model_says_why(
    tmp_path: Path, engine: str, reason: str
) -> None:
    with pytest.raises(ModelError, match=f"engine = {engine}: .*{reason}") as error:
        load("tiny", with_dynamic_rope(tmp_path), CPU, engine)
    assert "chatlm config set engine auto" in error.value.hint


def test_a_model_without_native_decoder_is_run_by_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "can_quantize", lambda: False)
    monkeypatch.setattr(load_module, "can_quantize", lambda: False)
    folder = with_dynamic_rope(tmp_path)
    assert load("tiny", folder, CPU).info.notes == ()
    asked = load("tiny", folder, CPU, weights="int8").info
    assert asked.weights == "16-bit, transformers"
    assert "could not be held as int8: " in asked.notes[0]
    assert "scaling is dynamic" in asked.notes[0]
    assert "chatlm[quantize]" in asked.notes[0]
    with pytest.raises(ModelError, match="bitsandbytes"):
        load("tiny", folder, CPU, "transformers", "int8")


def with_dynamic_rope(folder: Path) -> Path:
    """Save a model that only transformers runs."""
    folder = tiny.save(folder, "mistral")
    config = json.loads((folder / "config.json").read_text())
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}))
    return folder


def store_as(folder: Path, dtype: torch.dtype) -> None:
    """Convert the tensors of a saved model, and its config."""

    def convert(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.to(dtype)

    change_tensors(folder, convert)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of a saved model."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize("engine", ["auto", "transformers"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors.pop(f"{DOWN}.weight"), f"{DOWN}.weight (missing)"),
        (
            lambda tensors: tensors.update({f"{DOWN}.weight": torch.zeros(51, 76)}),
            f"{DOWN}.weight (another shape)",
        ),
        (
            lambda tensors: tensors.update({f"{DOWN}.bias": torch.ones(51)}),
            f"{DOWN}.bias (not expected)",
        ),
        (
            lambda tensors: tensors.update({f"{DOWN}.qweight": tensors.pop(f"{DOWN}.weight")}),
            "quantized with GPTQ or AWQ, but its config.json does not say how",
        ),
        (
            lambda tensors: tensors.update(
                {f"{DOWN}.{part}": torch.zeros(3) for part in ("qweight", "qzeros", "scales")}
            ),
            "quantized with AWQ",
        ),
        (
            lambda tensors: tensors.update(
                {f"{DOWN}.{part}": torch.zeros(3) for part in ("qweight", "qzeros", "g_idx")}
            ),
            f"{DOWN}.g_idx (not expected), {DOWN}.qweight (not expected), {DOWN}.qzeros",
        ),
    ],
)
def test_a_model_whose_tensors_do_not_fit_is_refused(
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], None],
    reason: str,
    engine: str,
) -> None:
    folder = tiny.save(tmp_path, "llama")
    change_tensors(folder, change)
    with pytest.raises(ModelError) as error:
        load("tiny", folder, CPU, engine)
    assert reason in f"{error.value.message} {error.value.hint}"


@pytest.mark.parametrize(
    ("method", "packages"), [("gptq", "gptqmodel optimum"), ("awq", "gptqmodel")]
)
def test_a_quantized_model_names_the_packages_that_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, packages: str
) -> None:
    monkeypatch.setattr(
        architecture, "_is_installed", lambda package: package not in ("gptqmodel", "optimum")
    )
    folder = tiny.save(tmp_path, "llama")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"quantized with {method}") as error:
        load("tiny", folder, CPU, "auto")
    assert f"pip install {packages}`" in error.value.hint


@pytest.mark.parametrize(
    ("name", "content", "packages"),
    [
        ("tokenizer.model", b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02", "sentencepiece protobuf"),
        ("tokenizer.model", b"IQ== 0\nIg== 1\n", "tiktoken"),
        ("tiktoken.model", b"IQ== 0\nIg== 1\n", "tiktoken"),
    ],
)
def test_a_tokenizer_of_another_library_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, packages: str
) -> None:
    monkeypatch.setattr(tokenizer, "_is_installed", lambda package: False)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=packages.partition(" ")[0]) as error:
        load_tokenizer("tiny", tmp_path)
    assert name in error.value.message
    assert f"pip install {packages}`" in error.value.hint


def test_renamed_tensors_are_refused_with_the_first_three(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "llama")

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[f"net.{name}"] = tensors.pop(name)

    change_tensors(folder, rename)
    with pytest.raises(ModelError, match=r"missing\), .* more"):
        load("tiny", folder, CPU, "auto")


@pytest.fixture
def no_compiler(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc")


def test_without_a_compiler_torch_decodes_and_a_note_says_so(
    default_model: Path, no_compiler: None
) -> None:
    engine = LocalEngine.from_folder("default", default_model, CPU)
    assert engine.info.weights == "4-bit, torch"
    assert "there is no C compiler (/nowhere/cc)" in engine.info.notes[0]
    greedy = Sampling(temperature=0.0, max_tokens=20)
    events = engine.stream(Request((Message("user", "What color is the sky?"),), greedy))
    assert "blue" in "".join(event.text for event in events if isinstance(event, Delta))
    model = engine._adapters.model
    assert isinstance(model, NativeModel)
    assert isinstance(model.decoder, TorchDecoder)
    engine.close()


def test_a_failing_compiler_is_quoted_and_leaves_no_files(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'kernel.c:1: error: no such thing' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(KernelUnavailable, match="error: no such thing"):
        kernel_library(float32=False)
    assert list((home / "kernels").iterdir()) == []
    broken.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(compiler, "COMPILE_TIMEOUT", 0.2)
    with pytest.raises(KernelUnavailable, match="took more than"):
        kernel_library(float32=False)
    assert list((home / "kernels").iterdir()) == []


def test_a_damaged_library_is_reported(home: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "decode.so"
    damaged.write_bytes(b"not machine code")
    with pytest.raises(KernelUnavailable, match="cannot be loaded"):
        Kernel(damaged, torch.bfloat16)


def test_the_kernel_is_compiled_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kernel_library(float32=False)
    monkeypatch.setattr(subprocess, "run", None)
    assert kernel_library(float32=False) == first
    monkeypatch.undo()
    monkeypatch.setenv("CHATLM_HOME", str(home))
    other = kernel_library(float32=True)
    assert sorted(path.name for path in (home / "kernels").iterdir()) == sorted(
        [first.name, other.name]
    )


CHILD = """
import sys
from contextlib import nullcontext
from pathlib import Path
import torch
from chatlm.engines.native.c_decoder import CDecoder
from chatlm.engines.native.kernel import Kernel
from chatlm.engines.native.lora import LoraPair
from chatlm.engines.native.model import NativeAdaptedModel, NativeModel
from chatlm.engines.native.architectures.registry import read_config
from chatlm.engines.native.weight_reader import read_weights
def additions(weights, rank):
    return tuple(
        {name: LoraPair(torch.randn(rank, matrix.columns), torch.randn(matrix.rows, rank), 0.1)
         for name, matrix in layer.matrices.items()}
        for layer in weights.layers
    )
torch.set_num_threads(1)
kernel = Kernel(Path(sys.argv[1]), torch.bfloat16)
for folder in map(Path, sys.argv[2:]):
    config = read_config(folder)
    weights = read_weights(folder, config)
    for form in ("bf16", "int8", "int4"):
        decoder = CDecoder(kernel, config, weights, form, 3)
        model = NativeModel(config, decoder.weights, decoder, None)
        cache = model.new_cache()
        cache.prefill(list(range(60)))
        cache.decode(list(range(10)))
        for rank in (1, 7, 40):
            cache = NativeAdaptedModel(model, additions(weights, rank)).new_cache()
            cache.prefill(list(range(60)))
            cache.decode(list(range(10)))
        decoder.close()
print("done")
"""


def test_the_kernel_touches_no_memory_but_its_own(tmp_path: Path) -> None:
    command = [
        shutil.which("cc") or "cc",
        "-std=gnu11",
        "-g",
        "-O1",
        "-shared",
        "-fPIC",
        "-pthread",
    ]
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    library = tmp_path / "checked.so"
    made = subprocess.run([*command, *checks, str(compiler.SOURCES[0]), "-o", library, "-lm"])
    runtime = subprocess.run(
        [command[0], "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout.strip()
    if made.returncode or not Path(runtime).is_absolute():
        pytest.skip("the compiler has no sanitizers")
    folders = [
        tiny.save(tmp_path / variant, variant)
        for variant in ("llama", "llama grouped", "llama biases", "qwen3")
    ]
    environment = {**os.environ, "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, library, *folders],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-3000:]


def test_closed_decoders_leave_no_threads(tmp_path: Path) -> None:
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("threads are counted in /proc")
    folder = tiny.save(tmp_path, "llama")
    config = read_config(folder)
    kernel = Kernel(kernel_library(float32=False), torch.bfloat16)
    before = len(list(tasks.iterdir()))
    for _ in range(10):
        CDecoder(kernel, config, read_weights(folder, config), "int8", 4).close()
    assert len(list(tasks.iterdir())) < before + 10  # threads other than the 30 workers come and go


CHATS: list[list[tuple[Role, str]]] = [
    [("user", "Hi")],
    [
        ("system", "Be brief."),
        ("user", "naïve café, 日本語 🏳️‍🌈"),
        ("assistant", "Yes."),
        ("user", "x\n\ny"),
    ],
    [("user", "Go on."), ("assistant", "Once upon a")],
]


def test_the_json_tokenizer_equals_that_of_transformers(default_model: Path) -> None:
    plain, theirs = JsonTokenizer(default_model), AutoTokenizer.from_pretrained(default_model)
    assert plain.eos_token_id == theirs.eos_token_id
    for text in (
        "",
        "Hello, world.  Two blanks",
        "<|im_start|>user\nx<|im_end|>",
        "日本語 🏳️‍🌈\t\n",
    ):
        assert plain.encode(text) == theirs.encode(text)
    encoder = PromptEncoder(plain, "template", [])
    for chat in CHATS:
        go_on = chat[-1][0] == "assistant"
        expected = theirs.apply_chat_template(
            [{"role": role, "content": content} for role, content in chat],
            add_generation_prompt=not go_on,
            continue_final_message=go_on,
            return_dict=False,
        )
        assert encoder.encode([Message(role, content) for role, content in chat]) == expected


@pytest.mark.parametrize(
    ("file", "changes", "reason"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"}, "another class"),
        ("tokenizer_config.json", {"add_bos_token": True}, "settings"),
        ("tokenizer_config.json", {"bos_token": "<new>"}, "settings"),
        ("tokenizer.json", "{}", "cannot be read"),
    ],
)
def test_an_unsupported_tokenizer_is_left_to_transformers(
    default_model: Path, tmp_path: Path, file: str, changes: object, reason: str
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(default_model / name, tmp_path / name)
    if isinstance(changes, dict):
        changes = json.dumps({**json.loads((tmp_path / file).read_text()), **changes})
    (tmp_path / file).write_text(str(changes))
    with pytest.raises(Unsupported, match=reason):
        JsonTokenizer(tmp_path)


def test_the_default_model_answers_without_transformers(
    default_model: Path, chat_home: Path
) -> None:
    script = (
        "import sys; from chatlm.cli.main import main\n"
        "try: main(['ask', '--no-save', '--max-tokens', '3', 'Hi'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'transformers', 'peft', 'sentence_transformers', 'accelerate', 'textual'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
