"""Read a model's weights from safetensors or GGUF, and convert them to tensors for torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from chatlm.engines.model import Unsupported
from chatlm.engines.native.dequantize import dequantize_matrix
from chatlm.engines.native.gguf_tensors import GgufTensors
from chatlm.engines.native.matrix_shape import MatrixShape
from chatlm.engines.native.model_config import LayerConfig, ModelConfig
from chatlm.engines.native.moe import LinearExperts, LinearStack, MoeConfig
from chatlm.engines.native.quantized_checkpoints import QuantizedTensors
from chatlm.engines.native.stored_experts import (
    MXFP4_GROUP,
    dequantize_experts,
    mxfp4_experts,
    transposed_experts,
)
from chatlm.engines.native.stored_matrix import (
    ELEMENT_TYPES,
    StoredExperts,
    StoredMatrix,
    TensorReader,
    stored_tensor,
)
from chatlm.engines.native.weights import (
    EmbeddingTable,
    LayerInputWeights,
    LayerWeights,
    Linear,
    LinearWeights,
    ModelWeights,
    MoeWeights,
    MtpWeights,
    StoredWeights,
    map_layer,
)
from chatlm.hub.quantization_config import UnreadableQuantization, read_quantization
from chatlm.hub.weights import gguf_file


def read_weights(folder: Path, config: ModelConfig) -> StoredWeights:
    """Map the weights of a model into memory; nothing but vectors is copied.

    Args:
        folder: with a GGUF file or safetensors.
        config: of the model.

    Raises:
        Unsupported: a tensor is missing, unknown, has another shape, or an unsupported type.
    """
    with _open_tensors(folder) as tensors:
        weights, names = _read_model(config, tensors), config.tensor_names
        tied_head = [f"{names.lm_head}.weight"] if config.tie_word_embeddings else []
        tensors.check_all_used((*names.unread, *tied_head))
        return weights


def read_mtp_weights(folder: Path, config: ModelConfig) -> MtpWeights:
    """Map the weights of a model's own layer for drafts.

    Args:
        folder: see `read_weights`.
        config: of the model.

    Raises:
        Unsupported: it has none, or see `read_weights`.
    """
    if config.mtp is None:
        raise Unsupported("it has no layer of its own for drafts that chatlm knows (MTP)")
    mtp, size = config.mtp, config.hidden_size
    with _open_tensors(folder) as tensors:
        norms = [
            _offset(config, tensors.vector(f"{name}.weight", size))
            for name in (mtp.embedding_norm, mtp.hidden_norm)
        ]
        projection = tensors.matrix(f"{mtp.projection}.weight", size, 2 * size)
        return MtpWeights(_read_model(mtp.model, tensors), projection, *norms)


def _read_model(config: ModelConfig, tensors: TensorReader) -> StoredWeights:
    names = config.tensor_names
    embedding = tensors.matrix(
        f"{names.embed_tokens}.weight", config.vocab_size, config.hidden_size
    )
    return ModelWeights(
        embed_tokens=embedding,
        layers=tuple(_read_layer(config, number, tensors) for number in range(len(config.layers))),
        norm=_offset(config, tensors.vector(f"{names.norm}.weight", config.hidden_size)),
        lm_head=embedding
        if config.tie_word_embeddings
        else tensors.matrix(f"{names.lm_head}.weight", config.vocab_size, config.hidden_size),
        layer_inputs=_read_layer_inputs(config, tensors),
    )


def _read_layer_inputs(
    config: ModelConfig, tensors: TensorReader
) -> LayerInputWeights[StoredMatrix, StoredMatrix] | None:
    own, names = config.layer_inputs, config.tensor_names.layer_inputs
    if own is None:
        return None
    size = len(config.layers) * own.size
    return LayerInputWeights(
        table=tensors.matrix(f"{names['table']}.weight", config.vocab_size, size),
        projection=tensors.matrix(f"{names['projection']}.weight", size, config.hidden_size),
        norm=tensors.vector(f"{names['norm']}.weight", own.size),
    )


def _read_layer(
    config: ModelConfig, number: int, tensors: TensorReader
) -> LayerWeights[StoredMatrix]:
    layer, names = config.layers[number], config.tensor_names
    prefix = f"{names.layers}.{number}"

    def vector(name: str, size: int) -> Tensor:
        suffix = "" if name in names.without_suffix else ".weight"
        values = tensors.vector(f"{prefix}.{names.of_layer[name]}{suffix}", size)
        return _offset(config, values) if name.endswith("norm") else values

    return LayerWeights(
        _read_matrices(layer.matrix_shapes(config.hidden_size), names.of_layer, prefix, tensors),
        {name: vector(name, size) for name, size in layer.vector_sizes(config.hidden_size).items()},
        _read_moe(layer.mlp, config, prefix, tensors) if isinstance(layer.mlp, MoeConfig) else None,
    )


def _read_moe(
    moe: MoeConfig, config: ModelConfig, prefix: str, tensors: TensorReader
) -> MoeWeights:
    names, hidden_size = config.tensor_names, config.hidden_size
    shapes = moe.expert_shapes(hidden_size)
    router, shared_gate = f"{prefix}.{names.router}", f"{prefix}.{names.shared_gate}.weight"
    experts: dict[str, StoredExperts] = {}
    for name, parts in group_by_name(shapes, names.experts).items():
        stored_name, shape = f"{prefix}.{name}", shapes[parts[0]]
        sizes = moe.num_experts, shape.rows, shape.columns
        if "{expert}" in name:
            stacks: tuple[StoredExperts, ...] = (
                _read_separate_experts(stored_name, *sizes, tensors),
            )
        elif names.stacked_experts:
            stacks = tensors.stacked_experts(f"{stored_name}.weight", *sizes, len(parts))
        else:
            stacks = tensors.experts(stored_name, *sizes, len(parts))
        if shape.bias:
            rows = len(parts) * shape.rows
            biases = tensors.vector(f"{stored_name}_bias", moe.num_experts, rows)
            stacks = tuple(
                stack.with_biases(biases[:, number :: len(parts)])
                for number, stack in enumerate(stacks)
            )
        experts |= zip(parts, stacks, strict=True)
    return MoeWeights(
        router=tensors.vector(f"{router}.weight", moe.num_experts, hidden_size),
        router_bias=tensors.vector(f"{router}.bias", moe.num_experts) if moe.bias else None,
        experts=experts,
        shared_gate=tensors.vector(shared_gate, 1, hidden_size)
        if moe.shared_intermediate_size and moe.shared_gate
        else None,
        choice_bias=tensors.vector(f"{prefix}.{names.choice_bias}", moe.num_experts)
        if moe.choice_bias
        else None,
    )


def _read_separate_experts(
    name: str, count: int, rows: int, columns: int, tensors: TensorReader
) -> StoredExperts:
    matrices = tuple(
        tensors.matrix(f"{name.format(expert=expert)}.weight", rows, columns)
        for expert in range(count)
    )
    return StoredExperts(count, matrices.__getitem__)


def _read_matrices(
    shapes: Mapping[str, MatrixShape], names: Mapping[str, str], prefix: str, tensors: TensorReader
) -> Mapping[str, StoredMatrix]:
    matrices: dict[str, StoredMatrix] = {}
    for stored_name, parts in group_by_name(shapes, names).items():
        sizes, columns = [shapes[part].rows for part in parts], shapes[parts[0]].columns
        name, rows = f"{prefix}.{stored_name}", part_rows(shapes, parts)
        if shapes[parts[0]].alternating:
            whole = tensors.matrix(f"{name}.weight", sum(sizes), columns)
            stored = [whole.select_rows(rows[part]) for part in parts]
        else:
            stored = [*tensors.matrices(f"{name}.weight", sizes, columns)]
        if shapes[parts[0]].bias:
            bias = tensors.vector(f"{name}.bias", sum(sizes))
            stored = [
                dataclasses.replace(matrix, bias=bias[rows[part]])
                for part, matrix in zip(parts, stored, strict=True)
            ]
        matrices |= zip(parts, stored, strict=True)
    return matrices


def group_by_name(
    shapes: Mapping[str, MatrixShape], names: Mapping[str, str]
) -> Mapping[str, tuple[str, ...]]:
    """Return the matrices of a layer by the names of those that its files hold.

    Args:
        shapes: of the layer's matrices by name.
        names: see `TensorNames.of_layer`.
    """
    groups: dict[str, tuple[str, ...]] = {}
    for name in shapes:
        groups[names[name]] = (*groups.get(names[name], ()), name)
    return groups


def part_rows(shapes: Mapping[str, MatrixShape], parts: Sequence[str]) -> Mapping[str, Tensor]:
    """Return which rows of a matrix in a file belong to each matrix of a layer, as indices.

    Args:
        shapes: of the layer's matrices by name.
        parts: names of those that the file holds as one.
    """
    sizes = [shapes[part].rows for part in parts]
    whole, alternating = torch.arange(sum(sizes)), shapes[parts[0]].alternating
    if alternating:
        groups = whole.view(-1, len(parts), alternating)
        return {part: groups[:, number].flatten() for number, part in enumerate(parts)}
    return dict(zip(parts, whole.split(sizes), strict=True))


def _offset(config: ModelConfig, norm: Tensor) -> Tensor:
    return norm + 1.0 if config.one_plus_norms else norm


def vector_dtype(config: ModelConfig, dtype: torch.dtype) -> torch.dtype:
    """Return in which dtype torch multiplies with vectors, for one of the computation."""
    return torch.float32 if config.one_plus_norms else dtype


def to_linear(
    weights: StoredWeights, config: ModelConfig, dtype: torch.dtype, device: str = "cpu"
) -> LinearWeights:
    """Convert all tensors to a dtype; matrices on the CPU that have it already stay mapped."""

    def tensor(matrix: StoredMatrix) -> Tensor:
        in_order = matrix.row_order is None and matrix.column_order is None
        if matrix.type == ELEMENT_TYPES.get(dtype) and in_order:
            return matrix.data.view(dtype).to(device)
        return dequantize_matrix(matrix, dtype).to(device)

    def linear(matrix: StoredMatrix) -> Linear:
        bias = None if matrix.bias is None else matrix.bias.to(device, dtype)
        return Linear(tensor(matrix), bias)

    def vector(values: Tensor) -> Tensor:
        return values.to(device, vector_dtype(config, dtype))

    def stack(experts: StoredExperts) -> LinearStack:
        bias = None if experts.biases is None else experts.biases.to(device, dtype)
        return LinearStack(dequantize_experts(experts, dtype).to(device), bias)

    def convert_layer(
        layer: LayerWeights[StoredMatrix], own_config: LayerConfig
    ) -> LayerWeights[Linear]:
        def mixture(moe: MoeWeights) -> MoeWeights:
            if not isinstance(own_config.mlp, MoeConfig):
                raise TypeError("the layer has no experts")
            stacks = {name: stack(experts) for name, experts in moe.experts.items()}
            moved: dict[str, Any] = {
                name: None if tensor is None else tensor.to(device)
                for name, tensor in moe.vectors().items()
            }
            return MoeWeights(experts=LinearExperts(own_config.mlp, **stacks), **moved)

        return map_layer(layer, linear, vector, mixture)

    embedding, inputs = tensor(weights.embed_tokens), weights.layer_inputs
    is_tied = weights.lm_head is weights.embed_tokens
    return ModelWeights(
        embed_tokens=EmbeddingTable(embedding),
        layers=tuple(map(convert_layer, weights.layers, config.layers)),
        norm=vector(weights.norm),
        lm_head=Linear(embedding) if is_tied else linear(weights.lm_head),
        layer_inputs=None
        if inputs is None
        else LayerInputWeights(
            EmbeddingTable(tensor(inputs.table)), linear(inputs.projection), vector(inputs.norm)
        ),
    )


class _SafetensorsReader:
    """A `TensorReader` of a model's safetensors files.

    Args:
        folder: of the model.
        files: closes them; tensors stay mapped.
    """

    def __init__(self, folder: Path, files: ExitStack) -> None:
        index = folder / "model.safetensors.index.json"
        names = ["model.safetensors"]
        if index.is_file():
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        self._file_of_tensor: dict[str, Any] = {}
        for name in names:
            file = files.enter_context(safe_open(folder / name, framework="pt"))
            self._file_of_tensor.update(dict.fromkeys(file.keys(), file))
        self._unused = set(self._file_of_tensor)

    def matrix(self, name: str, rows: int, columns: int) -> StoredMatrix:
        """Return a matrix without its bias."""
        return stored_tensor(self._find(name, rows, columns))

    def matrices(self, name: str, rows: Sequence[int], columns: int) -> tuple[StoredMatrix, ...]:
        """Return a matrix without its bias in parts."""
        return self.matrix(name, sum(rows), columns).split_rows(rows)

    def vector(self, name: str, *shape: int) -> Tensor:
        """Return a small tensor in float32."""
        return self._find(name, *shape).to(torch.float32, copy=True).reshape(shape)

    def experts(
        self, name: str, count: int, rows: int, columns: int, parts: int
    ) -> tuple[StoredExperts, ...]:
        """Return the matrices of all experts that are one tensor, plain or in MXFP4."""
        if f"{name}_blocks" not in self._file_of_tensor:
            return transposed_experts(self._find(name, count, columns, parts * rows), parts)
        groups = (count, parts * rows, columns // MXFP4_GROUP)
        blocks, scales = (
            self._find(f"{name}_{kind}", *groups, *more, dtypes=(torch.uint8,))
            for kind, more in (("blocks", (MXFP4_GROUP // 2,)), ("scales", ()))
        )
        return mxfp4_experts(blocks, scales, parts)

    def stacked_experts(
        self, name: str, count: int, rows: int, columns: int, parts: int
    ) -> tuple[StoredExperts, ...]:
        """Return the matrices of all experts that are one tensor, one after the other."""
        whole = self._find(name, count, parts * rows, columns)

        def part(number: int) -> StoredExperts:
            first = number * rows
            return StoredExperts(
                count, lambda expert: stored_tensor(whole[expert, first : first + rows])
            )

        return tuple(map(part, range(parts)))

    def check_all_used(self, ignored: tuple[str, ...]) -> None:
        """Refuse tensors that the architecture does not have, such as biases."""
        unused = {name for name in self._unused if not name.endswith("rotary_emb.inv_freq")}
        if unknown := sorted(name for name in unused if not name.startswith(ignored)):
            raise Unsupported(f"it has the unknown tensor {unknown[0]}")

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self._file_of_tensor

    def raw(self, name: str) -> Tensor:
        """Return a tensor as it is."""
        if name not in self._file_of_tensor:
            raise Unsupported(f"it has no tensor {name}")
        tensor: Tensor = self._file_of_tensor[name].get_tensor(name)
        self._unused.discard(name)
        return tensor.contiguous()

    def _find(
        self, name: str, *shape: int, dtypes: Collection[torch.dtype] = ELEMENT_TYPES
    ) -> Tensor:
        tensor = self.raw(name)
        fits = tuple(tensor.shape) == shape or shape == (tensor.numel(),)
        if not fits or tensor.dtype not in dtypes:
            raise Unsupported(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {shape}")
        return tensor


def _open_safetensors(folder: Path, files: ExitStack) -> TensorReader:
    tensors = _SafetensorsReader(folder, files)
    try:
        layout = read_quantization(json.loads((folder / "config.json").read_bytes()))
    except UnreadableQuantization:  # the architecture reads it itself, as gpt-oss MXFP4
        layout = None
    return tensors if layout is None else QuantizedTensors(tensors, layout)


@contextmanager
def _open_tensors(folder: Path) -> Iterator[TensorReader]:
    """Open the GGUF file in a folder, or else its safetensors."""
    gguf = gguf_file(folder)
    with ExitStack() as files:
        try:
            yield GgufTensors.open(gguf, folder) if gguf else _open_safetensors(folder, files)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise Unsupported(f"its weights cannot be read: {error}") from error
