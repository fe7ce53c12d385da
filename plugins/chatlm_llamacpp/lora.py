"""Turn peft's LoRA adapters into GGUF files, which are all that llama.cpp reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import gguf
import torch
from torch import Tensor

from chatlm import StoredLinear, Unsupported, read_peft_lora


@contextmanager
def gguf_adapter(
    folder: Path, architecture: str, find_linear: Callable[[str], StoredLinear | None]
) -> Iterator[Path]:
    """Return a GGUF file with an adapter, which may be a temporary one.

    Args:
        folder: of the adapter, in peft's format or with one GGUF file.
        architecture: of the model, as its file calls it.
        find_linear: see `chatlm.GgufModel`.

    Raises:
        Unsupported: it uses something that llama.cpp cannot compute.
        ValueError: it is damaged.
    """
    files = sorted(folder.glob("*.gguf"))
    if files:
        yield files[0]
        return
    with TemporaryDirectory(prefix="chatlm-lora-") as temporary:
        path = Path(temporary) / "adapter.gguf"
        write_adapter(folder, path, architecture, find_linear)
        yield path


def write_adapter(
    folder: Path,
    path: Path,
    architecture: str,
    find_linear: Callable[[str], StoredLinear | None],
) -> None:
    """Write a peft adapter as a GGUF file; arguments and errors as in `gguf_adapter`."""
    tensors: dict[str, Tensor] = {}
    for module, lora_a, lora_b, scale in read_peft_lora(folder):
        stored = find_linear(module)
        if stored is None:
            raise Unsupported(
                f"it changes {module}, whose place in files of the architecture {architecture} "
                "chatlm does not know; llama.cpp's convert_lora_to_gguf.py may convert it"
            )
        rows = lora_b.float() * scale  # llama.cpp knows one scale for all
        tensors[f"{stored.tensor}.lora_a"] = lora_a.float()
        tensors[f"{stored.tensor}.lora_b"] = interleave(rows, stored.heads)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)  # means a scale of 1
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleave(rows: Tensor, heads: int) -> Tensor:
    """Bring the rows of heads into the order of interleaved rotation; 0 heads change nothing."""
    if not heads:
        return rows
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return torch.transpose(halves, 1, 2).reshape(rows.shape)
