"""Compare the names and shapes of a model's tensors with its architecture, without their data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatlm.errors import ModelError
from chatlm.hub.architecture import read_config, reads_as_whole
from chatlm.hub.catalogue import ModelKind
from chatlm.hub.gguf.architectures import UnknownArchitecture
from chatlm.hub.weights import Shape, tensor_shapes


class NotChecked(Exception):
    """The tensors cannot be compared; the message says why."""


class InvalidConfig(ModelError):
    """transformers cannot build the model that a config.json describes."""

    def __init__(self, error: Exception) -> None:
        reason = str(error).strip().partition("\n")[0]
        super().__init__(
            f"transformers cannot build the model that config.json describes: "
            f"{type(error).__name__}: {reason}",
            "Copy or download the model again.",
        )


def find_wrong_folder_tensors(folder: Path, kind: ModelKind) -> list[str]:
    """Describe each tensor of a folder that its architecture does not have, or lacks.

    Raises:
        NotChecked: transformers does not know the architecture, or the weights are quantized.
        ModelError: config.json describes no model, or a file of weights is damaged.
    """
    try:
        shapes = tensor_shapes(folder)
    except UnknownArchitecture as error:
        raise NotChecked("only a runtime of GGUF files may know the architecture") from error
    return find_wrong_tensors(read_config(folder), shapes, kind)


def find_wrong_tensors(
    config: Mapping[str, Any], shapes: Mapping[str, Shape], kind: ModelKind = "chat"
) -> list[str]:
    """Describe each tensor that the architecture of a config.json does not have, or lacks.

    transformers loads the names into a model without memory, so its renamings are applied as
    when the model is really loaded.

    Raises:
        NotChecked: transformers does not know the architecture, or the weights are quantized.
        InvalidConfig: config.json describes no model.
    """
    if "quantization_config" in config:
        raise NotChecked("they are quantized by another program")
    if not isinstance(config.get("model_type"), str):
        raise NotChecked("config.json does not name the architecture (model_type)")
    import torch

    with quiet_transformers():
        model_class, model_config = _model_class(config, kind)
        tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        try:
            _, report = model_class.from_pretrained(
                None,
                config=model_config,
                state_dict=tensors,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # to be named
                device_map="meta",
            )
        except RuntimeError:  # tensors that are joined are missing, or do not fit each other
            return _compare(_expected_shapes(model_class, model_config), shapes)
        except Exception as error:  # transformers raises many types
            raise InvalidConfig(error) from error
    return describe_wrong_tensors(report)


def describe_wrong_tensors(report: Mapping[str, Any]) -> list[str]:
    """Describe the tensors that transformers' loading report names, missing ones first."""
    return [
        *(f"{key} (missing)" for key in sorted(report["missing_keys"])),
        *(f"{key} (another shape)" for key, *_ in sorted(report["mismatched_keys"])),
        *(f"{key} (not expected)" for key in sorted(report["unexpected_keys"])),
    ]


def _model_class(config: Mapping[str, Any], kind: ModelKind) -> tuple[Any, Any]:
    """Return the class of transformers that loads a model, and its configuration."""
    import transformers

    model_type: str = config["model_type"]
    if model_type not in transformers.CONFIG_MAPPING:
        raise NotChecked(f"transformers does not know the architecture {model_type!r}")
    try:
        model_config = transformers.CONFIG_MAPPING[model_type].from_dict(dict(config))
    except Exception as error:  # transformers raises many types
        raise InvalidConfig(error) from error
    mapping: Any = transformers.MODEL_MAPPING
    if kind == "reranker":
        mapping = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if kind == "chat":
        mapping = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        if reads_as_whole(model_config):
            mapping = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if type(model_config) in mapping:
        loaded: Any = mapping[type(model_config)]
        if loaded.config_class is not type(model_config):
            raise NotChecked("chatlm loads only its part for text")
        return loaded, model_config
    name = (config.get("architectures") or [""])[0]
    model_class = getattr(transformers, name, None) if name.isidentifier() else None
    if model_class is None or not hasattr(model_class, "from_pretrained"):
        raise NotChecked(f"transformers does not know the architecture {name or model_type!r}")
    return model_class, model_config


def _expected_shapes(model_class: Any, model_config: Any) -> dict[str, Shape]:
    """Return the tensors of a checkpoint as transformers would save it."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    try:
        with torch.device("meta"):
            model = model_class(model_config)
    except Exception as error:  # transformers raises many types
        raise InvalidConfig(error) from error
    saved = revert_weight_conversion(model, model.state_dict())
    tied = set(model.all_tied_weights_keys)
    return {name: tuple(tensor.shape) for name, tensor in saved.items() if name not in tied}


def _compare(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    common = sorted(expected.keys() & found.keys())
    return describe_wrong_tensors(
        {
            "missing_keys": expected.keys() - found.keys(),
            "mismatched_keys": [(name,) for name in common if expected[name] != found[name]],
            "unexpected_keys": found.keys() - expected.keys(),
        }
    ) or ["its tensors do not fit each other"]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the progress bars and warnings of transformers, which would disturb the screen."""
    import transformers

    logger = transformers.utils.logging
    level, bars = logger.get_verbosity(), logger.is_progress_bar_enabled()
    logger.set_verbosity_error()
    logger.disable_progress_bar()
    try:
        yield
    finally:
        logger.set_verbosity(level)
        if bars:
            logger.enable_progress_bar()
