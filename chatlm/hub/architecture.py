"""Tell from config.json whether chatlm can run a model, before anything large is downloaded."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chatlm.errors import ModelError
from chatlm.hub.quantization_config import UnreadableQuantization, read_quantization

PROVEN_FILE = Path(__file__).with_name("architectures.json")

_NOT_LEFT_TO_RIGHT: Mapping[str, str] = {
    "xlnet": "predicts masked words in any order",
    "xlm": "predicts a mask token that stands for the next word",
    "reformer": "reads text in chunks of a fixed length, which its past results depend on",
    "diffusion_gemma": "writes by diffusion instead of token by token",
}
"""Architectures with a class for causal language models whose next token does not follow from a
plain forward pass, and what they do."""

_ENCODERS = frozenset(
    {
        "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie",
        "megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
        "xlm-roberta", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip
"""Architectures of encoders, which generate text only as a part of other models."""

_OTHER_INPUTS: Mapping[str, str] = {
    "blip": "an image",
    "blip-2": "an image",
    "evolla": "a protein",
    "gemma4_assistant": "the hidden states of the model that it drafts for",
    "gemma4_unified_assistant": "the hidden states of the model that it drafts for",
    "idefics": "an image",
    "instructblip": "an image",
    "instructblipvideo": "a video",
    "kosmos-2": "an image",
    "moshi": "sound",
    "musicgen": "sound",
    "musicgen_melody": "sound",
    "pi0": "an image and a robot's state",
    "trocr": "an image",
    "whisper": "sound",
}
"""Architectures that generate nothing from text alone, and what they need."""

_NEEDED_PACKAGES: Mapping[str, str] = {
    "fast_vlm": "timm",
    "gemma3n": "timm",
    "perception_lm": "timm",
}
"""Packages that transformers needs to build an architecture, for the part that reads images."""

_QUANTIZED_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "awq": ("gptqmodel", "accelerate"),
    "gptq": ("gptqmodel", "optimum"),
    "bitsandbytes": ("bitsandbytes", "accelerate"),
    "compressed-tensors": ("compressed_tensors",),
    "hqq": ("hqq",),
    "torchao": ("torchao",),
    "aqlm": ("aqlm",),
    "quanto": ("optimum.quanto",),
    "quark": ("quark",),
    "eetq": ("kernels",),
    "vptq": ("vptq",),
    "spqr": ("spqr_quant",),
    "sinq": ("sinq",),
}
"""Packages that transformers needs to read quantized weights, by `quant_method`."""


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config.json of a model's folder.

    Raises:
        ModelError: it cannot be read.
    """
    path = folder / "config.json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(str(path), error) from error
    return parse_config(content, str(path))


def parse_config(content: bytes, source: str) -> dict[str, Any]:
    """Parse a config.json.

    Args:
        content: of the file.
        source: what the error calls it.

    Raises:
        ModelError: it is no JSON object.
    """
    try:
        values = json.loads(content)
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        return values
    except (ValueError, RecursionError) as error:
        raise _unreadable(source, error) from error


def _unreadable(source: str, error: Exception) -> ModelError:
    return ModelError(
        f"{source} cannot be read: {error}",
        "Copy or download the model again; the folder is not complete.",
    )


@cache
def proven_modes() -> tuple[str, Mapping[str, str]]:
    """Return a version of transformers and how each architecture was proven to read prompts with
    it, by `model_type`, see `chatlm.engines.transformers_cache.PrefillMode`.

    `python -m benchmarks.architectures --write` renews them.
    """
    values = json.loads(PROVEN_FILE.read_bytes())
    return values["transformers"], values["modes"]


_TEXT_PART = frozenset({"llama4"})
"""Architectures that also read images and whose whole model in transformers fails without one; the
part for text does not."""


def reads_as_whole(config: Any) -> bool:
    """Whether a model is loaded with the parts that read images, as its files name the tensors.

    Args:
        config: of transformers.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    has_parts = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return has_parts and config.model_type not in _TEXT_PART


def unexpected_tensors(config: Any, names: Collection[str]) -> set[str]:
    """Return the unexpected tensors without those of parts that are not loaded.

    Args:
        config: of transformers.
        names: that the loaded class does not have.
    """
    if config.model_type in _TEXT_PART:
        return {name for name in names if name.startswith("language_model.")}
    return set(names)


def check_architecture(
    name: str, config: Mapping[str, Any], *, only_transformers: bool = True
) -> None:
    """Refuse a chat model that chatlm cannot run, for what its config says.

    Args:
        name: of the model, as the user calls it.
        config: values of config.json.
        only_transformers: whether transformers must run it; chatlm itself reads some quantized
            weights without a package.

    Raises:
        ModelError: it has no decoder for text, its architecture is unknown or needs the
            repository's own code, or a package for its quantized weights is missing.
    """
    if wrong := config_problem(config):
        raise ModelError(
            f"chatlm cannot run {name}: {wrong}.",
            "Download it again, or choose another version of the model.",
        )
    problem = _architecture_problem(config)
    if problem is None and (only_transformers or not _reads_quantization(config)):
        problem = _quantization_problem(config)
    if problem:
        reason, hint = problem
        raise ModelError(f"chatlm cannot run {name}: {reason}.", hint)


_COUNTS = (
    "num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers",
    "num_experts", "num_local_experts", "n_routed_experts",
)  # fmt: skip
"""Settings of a config.json that say how many modules a model has."""


MAX_COUNT = 10_000
"""Of layers or experts; transformers would build billions of them without end."""


def config_problem(config: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the values of a config.json on which chatlm itself relies."""
    names = config.get("architectures")
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        return "the architectures in its config.json are not a list of names"
    if not isinstance(config.get("model_type", ""), str | None):
        return "the model_type in its config.json is not a name"
    text_config = config.get("text_config")
    parts = (config, text_config) if isinstance(text_config, Mapping) else (config,)
    for part in parts:
        for key in _COUNTS:
            value = part.get(key, 0)
            if isinstance(value, int) and not 0 <= value <= MAX_COUNT:
                return f"{key} in its config.json is {value:,}"
    return None


_ANOTHER = "Choose a model that generates text, such as one of `chatlm models list`."


def _architecture_problem(config: Mapping[str, Any]) -> tuple[str, str] | None:
    kind = str(config.get("model_type") or "")
    if not kind and not config.get("auto_map"):
        return "its config.json does not name its architecture (model_type)", _ANOTHER
    if problem := _known_problem(kind, config):
        return problem
    proven_with, proven = proven_modes()
    if kind in proven and proven_with == version("transformers"):
        return None  # so that transformers need not be imported
    return _transformers_problem(kind, config)


def _known_problem(kind: str, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what is known without asking transformers."""
    if kind in _NOT_LEFT_TO_RIGHT:
        return f"its architecture {kind} {_NOT_LEFT_TO_RIGHT[kind]}", _ANOTHER
    if kind in _ENCODERS:
        return f"its architecture {kind} is an encoder, which does not generate text", _ANOTHER
    if kind in _OTHER_INPUTS:
        return f"its architecture {kind} needs {_OTHER_INPUTS[kind]} to generate text", _ANOTHER
    package = _NEEDED_PACKAGES.get(kind)
    if package and not _is_installed(package):
        return (
            f"its architecture {kind} needs the package {package}",
            f"Run `pip install {package}`.",
        )
    if config.get("is_encoder_decoder"):
        return (
            f"its architecture {kind} is an encoder-decoder, and chatlm runs decoders only",
            _ANOTHER,
        )
    architecture = next(iter(config.get("architectures") or ()), "")
    if architecture.endswith(("ForMaskedLM", "ForPreTraining", "ForSequenceClassification")):
        return f"it is a {architecture}, which does not generate text", _ANOTHER
    return None


def _transformers_problem(kind: str, config: Mapping[str, Any]) -> tuple[str, str] | None:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto

    decoders = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )
    if any(kind in names for names in decoders):
        return None
    if kind in CONFIG_MAPPING:
        return f"its architecture {kind} does not generate text", _ANOTHER
    if config.get("auto_map"):
        return (
            f"its architecture {kind} is Python code in its repository, which chatlm does not run",
            "Use a version of it that transformers supports itself, often named with -hf, or a "
            "GGUF file of it.",
        )
    return (
        f"transformers {version('transformers')} does not know its architecture {kind}",
        "It may be newer: run `pip install -U transformers`, or use a GGUF file of it.",
    )


def _reads_quantization(config: Mapping[str, Any]) -> bool:
    try:
        return read_quantization(config) is not None
    except UnreadableQuantization:
        return False


def _quantization_problem(config: Mapping[str, Any]) -> tuple[str, str] | None:
    settings = config.get("quantization_config")
    if not isinstance(settings, Mapping):
        return None
    method = str(settings.get("quant_method") or "").lower()
    if not method and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        method = "bitsandbytes"
    missing = [
        package for package in _QUANTIZED_PACKAGES.get(method, ()) if not _is_installed(package)
    ]
    if not missing:
        return None
    names = " ".join(package.replace("_", "-").replace(".", "-") for package in missing)
    return (
        f"its weights are quantized with {method}, which needs the package"
        f"{'s' if missing[1:] else ''} {names.replace(' ', ' and ')}",
        f"Run `pip install {names}`, or use the original repository or a GGUF file of it.",
    )


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
