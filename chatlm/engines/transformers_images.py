"""Let a model of transformers read images: features of the vision encoder in place of tokens."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from chatlm.engines.image_ids import find_images, is_image_id, plain_ids
from chatlm.engines.image_processor import ImageProcessor
from chatlm.engines.image_sources import ImageSources
from chatlm.engines.model import Unsupported

MAX_FEATURE_BYTES = 256 * 2**20
"""Limit of the features that are kept, so that an image of an earlier turn is not read again."""

_ENCODED = "mm_encoder_outputs"
"""Argument of a forward pass that takes the features of images."""

_TYPES = frozenset({"token_type_ids", "mm_token_type_ids"})
"""Arguments that tell which tokens stand for images, which may see each other in both directions;
of the whole sequence."""


class TransformersImages:
    """The images of a model: their tokens, and what the model reads in place of them.

    Args:
        module: the model.
        processor: its image processor.

    Raises:
        Unsupported: the model does not take the features of its vision encoder.
    """

    def __init__(self, module: Any, processor: ImageProcessor) -> None:
        self._module = module
        self._processor = processor
        self._arguments = frozenset(inspect.signature(type(module).forward).parameters)
        if _ENCODED not in self._arguments or not hasattr(module, "get_image_features"):
            raise Unsupported(
                "transformers has no separate step for images in its architecture "
                f"{module.config.model_type}"
            )
        feature_id = getattr(module.config, "image_token_id", None)
        if feature_id is None:
            feature_id = getattr(module.config, "image_token_index", None)
        if not isinstance(feature_id, int):
            raise Unsupported("its config.json does not name the token of images (image_token_id)")
        self.feature_id = feature_id
        self.placeholder = processor.placeholder
        self.chat_template = processor.chat_template
        self.expand = processor.expand
        self._sources = ImageSources()
        self.available = self._sources.available
        self._features: OrderedDict[tuple[str | None, str], Any] = OrderedDict()
        """The encoder's outputs, by adapter and hash."""
        self._grids: dict[str, Tensor] = {}
        """Rows and columns of images whose positions follow from them, by hash."""
        self._encoded = frozenset(inspect.signature(module.get_image_features).parameters)

    def clear(self) -> None:
        """Free the memory of features."""
        self._features.clear()
        self._grids.clear()

    def arguments(
        self, ids: Sequence[int], start: int, adapter: str | None, delta: int | None
    ) -> tuple[dict[str, Any], int | None]:
        """Return what a forward pass needs besides the ids.

        Args:
            ids: of the whole sequence, see `chatlm.engines.image_ids`.
            start: index of the first that is new.
            adapter: that is active.
            delta: what the last call for this sequence returned, if only text followed; None
                otherwise.

        Returns:
            the arguments, and by how much positions of text differ from its indices; None where
            the model counts them itself.
        """
        new = ids[start:]
        if delta is not None and not any(map(is_image_id, new)):
            return {"position_ids": self._text_positions(start, len(ids), delta)}, delta
        units = find_images(ids)
        if not units:
            return {}, None
        inside = [unit for unit in units if unit.start >= start]
        if len(inside) > 1:
            raise ValueError("a block has more than one image")
        found: dict[str, Any] = {}
        types = torch.tensor([[int(is_image_id(number)) for number in ids]])
        types = types.to(self._module.device)
        for unit in inside:
            found[_ENCODED] = {"image": self._encode(self._sources.find(ids, unit), adapter)}
            for name in _TYPES & self._arguments:
                found[name] = types
        find_positions = getattr(self._module.model, "get_rope_index", None)
        if find_positions is None:
            return found, None
        positions, _ = find_positions(
            torch.tensor([plain_ids(ids, self.feature_id)], device=self._module.device),
            mm_token_type_ids=types,
            image_grid_thw=torch.cat([self._grid(self._sources.find(ids, unit)) for unit in units]),
        )
        found["position_ids"] = positions[..., start:]
        return found, int(positions.max()) + 1 - len(ids)

    def _text_positions(self, start: int, end: int, delta: int) -> Tensor:
        positions = torch.arange(start, end, device=self._module.device) + delta
        return positions.expand(3, 1, -1)

    def _grid(self, sha256: str) -> Tensor:
        if sha256 not in self._grids:
            self._inputs(sha256)
        return self._grids[sha256]

    def _inputs(self, sha256: str) -> dict[str, Any]:
        """Return what the processor makes of an image."""
        device, dtype = self._module.device, self._module.dtype
        inputs: dict[str, Any] = dict(self._processor.read(self._sources.read(sha256)))
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                inputs[name] = value.to(device, dtype if value.is_floating_point() else None)
        if (grid := inputs.get("image_grid_thw")) is not None:
            self._grids[sha256] = grid
        return inputs

    def _encode(self, sha256: str, adapter: str | None) -> Any:
        """Return the features of an image, which may be known from an earlier prompt."""
        key = adapter, sha256
        if key not in self._features:
            inputs = self._inputs(sha256)
            known = {name: value for name, value in inputs.items() if name in self._encoded}
            with torch.inference_mode():
                features = self._module.get_image_features(**known, return_dict=True)
            for name in ("last_hidden_state", "hidden_states", "attentions"):
                if name in features:
                    features[name] = None
            self._features[key] = features
            self._drop_oldest()
        self._features.move_to_end(key)
        return self._features[key]

    def _drop_oldest(self) -> None:
        sizes = {key: _count_bytes(features) for key, features in self._features.items()}
        total = sum(sizes.values())
        for key in list(self._features)[:-1]:
            if total <= MAX_FEATURE_BYTES:
                return
            total -= sizes[key]
            del self._features[key]


def _count_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_count_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_count_bytes, value))
    return 0
