"""Turn the vocabulary of a GGUF file into tokenizer.json, with its chat templates and special
tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm.hub.gguf.file import GgufError, GgufFile
from chatlm.hub.gguf.pre_tokenizers import SPLITTINGS, Splitting

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4


_SPECIAL_IDS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
"""Special tokens in transformers and in the file."""


_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


_END_TOKENS = frozenset(
    (
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>"),
        *("<|flush|>", "<|calls|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>"),
        *("_<EOT>", "[EOT]", "[EOS]", "<end_of_utterance>", "<eos>", "<turn|>"),
        *("<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
    )
)
"""Control tokens that end a reply whatever the file says, as in llama.cpp: many files name only
one of a model's."""


_CHANNEL_ENDS = ({"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"})
"""Where a model has both tokens of a pair, <|end|> ends a channel and not the reply."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that a model uses as signs."""

    bos: int | None
    ends: tuple[int, ...]
    """Tokens that end a reply, the file's own first."""
    pad: int | None

    def to_config(self) -> dict[str, Any]:
        """Return the settings of a config.json or generation_config.json."""
        ends = list(self.ends)
        return {
            "bos_token_id": self.bos,
            "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
            "pad_token_id": self.pad,
        }


def read_special_tokens(file: GgufFile) -> SpecialTokens:
    """Return the special tokens of a file.

    Raises:
        GgufError: an id is outside the vocabulary.
    """
    tokens, types = _vocabulary(file)
    own = [_token_id(file, key) for key in _END_KEYS]
    ends = dict.fromkeys(token for token in own if token is not None)
    named = {
        tokens[index]: index
        for index, kind in enumerate(types)
        if kind in (_CONTROL, _USER_DEFINED) and tokens[index] in _END_TOKENS
    }
    if any(pair <= named.keys() for pair in _CHANNEL_ENDS) and "<|end|>" in named:
        ends.pop(named.pop("<|end|>"), None)
    ends |= dict.fromkeys(named.values())
    return SpecialTokens(
        _token_id(file, "bos_token_id"), tuple(ends), _token_id(file, "padding_token_id")
    )


def write_tokenizer(file: GgufFile, folder: Path, context_length: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat templates.

    Raises:
        GgufError: the vocabulary is damaged or of a kind that is not read.
    """
    tokens, types = _vocabulary(file)
    special = {
        name: tokens[token]
        for name, key in _SPECIAL_IDS.items()
        if (token := _token_id(file, key)) is not None
    }
    tokenizer, adds_bos = _build(file, tokens)
    _add_special_tokens(file, tokenizer, tokens, types, special)
    _check_ids(file, tokenizer, tokens, types)
    _add_post_processor(file, tokenizer, tokens, adds_bos)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "backend": "tokenizers",
        "model_max_length": context_length,
        "tokenizer_class": "TokenizersBackend",
        **special,
    }
    _write_json(folder / "tokenizer_config.json", settings)
    for name, template in read_templates(file).items():
        path = folder / "chat_template.jinja"
        if name != "default":
            path = folder / "additional_chat_templates" / f"{name}.jinja"
            path.parent.mkdir(exist_ok=True)
        path.write_text(template, encoding="utf-8", newline="")


def read_templates(file: GgufFile) -> dict[str, str]:
    """Return the chat templates by name; the usual one is called default.

    Raises:
        GgufError: a name cannot be that of a file.
    """
    prefix = "tokenizer.chat_template"
    templates = {}
    for key in file.keys:
        template = file.get(key) if key.startswith(prefix) else None
        if not isinstance(template, str):
            continue
        name = key.removeprefix(prefix).removeprefix(".") or "default"
        if not re.fullmatch(r"\w{1,64}", name, re.ASCII):
            raise _damaged(file, f"it has a chat template called {name[:60]!r}")
        templates[name] = template
    return templates


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _vocabulary(file: GgufFile) -> tuple[list[str], list[int]]:
    """Return the tokens and their types."""
    key = "tokenizer.ggml.tokens"
    tokens = file.get(key)
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
        raise _damaged(file, f"it has no {key}")
    types = file.get("tokenizer.ggml.token_type", [1] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise _damaged(file, f"{key} and token_type do not have the same length")
    if file.get("tokenizer.ggml.model") != "gpt2":  # Gemma's tokens of blanks are stored as blanks
        tokens = [token if token.strip(" ") else "▁" * len(token) for token in tokens]
    return tokens, types


def _token_id(file: GgufFile, key: str) -> int | None:
    token = file.get(f"tokenizer.ggml.{key}")
    if token is None or token == 0xFFFFFFFF:  # none
        return None
    if type(token) is not int or not 0 <= token < file.array_length("tokenizer.ggml.tokens"):
        raise _damaged(file, f"tokenizer.ggml.{key} is {token!r}, which is no token")
    return token


def _build(file: GgufFile, tokens: list[str]) -> tuple[Tokenizer, bool]:
    """Return the tokenizer without special tokens, and whether it adds the token of the beginning
    if the file does not say."""
    match file.get("tokenizer.ggml.model"):
        case "gpt2":
            splitting = _splitting(file)
            return _build_byte_level(file, tokens, splitting), splitting.bos
        case "llama":
            return _build_sentencepiece(file, tokens), True
        case "gemma4":
            return _build_sentencepiece(file, tokens), False
        case kind:
            raise GgufError(
                f"{file.path.name} has a tokenizer of the kind {str(kind)[:40]!r}, "
                "which chatlm does not read.",
                "A safetensors version of the model may work: chatlm models pull ORG/NAME",
            )


def _splitting(file: GgufFile) -> Splitting:
    name = file.get("tokenizer.ggml.pre")
    if name in SPLITTINGS:
        return SPLITTINGS[name]
    what = (
        f"splits text in the way {str(name)[:40]!r}, which chatlm does not know"
        if name
        else "does not say how it splits text (tokenizer.ggml.pre), as files before May 2024"
    )
    raise GgufError(
        f"The tokenizer of {file.path.name} {what}; the model would read wrong tokens.",
        "Use a newer conversion, or a safetensors version: chatlm models pull ORG/NAME",
    )


def _merges(file: GgufFile) -> list[tuple[str, str]]:
    merges = file.get("tokenizer.ggml.merges", [])
    pairs = []
    for merge in merges:
        left, blank, right = str(merge).partition(" ")
        if not blank:
            raise _damaged(file, f"tokenizer.ggml.merges holds {left[:60]!r}, which is no pair")
        pairs.append((left, right))
    return pairs


def _build_byte_level(file: GgufFile, tokens: list[str], splitting: Splitting) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocab = {token: index for index, token in enumerate(tokens)}
    model = models.BPE(
        vocab=vocab, merges=_merges(file), ignore_merges=splitting.ignore_merges, fuse_unk=False
    )
    tokenizer = Tokenizer(model)
    if splitting.normalize:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = splitting.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _build_sentencepiece(file: GgufFile, tokens: list[str]) -> Tokenizer:
    """Build a SentencePiece tokenizer with transformers' classes, which recover the merges."""
    from tokenizers import decoders, pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

    table: dict[str, Any] = {
        "tokenizer_type": file.get("tokenizer.ggml.model"),
        "tokens": tokens,
    }
    if "tokenizer.ggml.merges" in file:
        table["merges"] = file.get("tokenizer.ggml.merges")
    scores = file.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise _damaged(file, "tokenizer.ggml.tokens and scores do not have the same length")
    table["scores"] = scores
    tokenizer, _ = convert_gguf_tokenizer(file.architecture, table)
    if isinstance(tokenizer.pre_tokenizer, pre_tokenizers.Metaspace) and not file.get(
        "tokenizer.ggml.add_space_prefix", True
    ):
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    return tokenizer


def _add_special_tokens(
    file: GgufFile,
    tokenizer: Tokenizer,
    tokens: list[str],
    types: list[int],
    special: Mapping[str, str],
) -> None:
    from tokenizers import AddedToken

    # Microsoft's tokenizer_config.json; the file does not have it
    phi3 = file.architecture == "phi3" and file.get("tokenizer.ggml.model") == "llama"
    keeps_blanks = ("<unk>", "<s>", "<|endoftext|>")
    tokenizer.add_special_tokens(
        [
            AddedToken(token, normalized=False, rstrip=phi3 and token not in keeps_blanks)
            for token, kind in zip(tokens, types, strict=True)
            if kind in (_CONTROL, _UNKNOWN) or token in special.values()
        ]
    )
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind == _USER_DEFINED and token not in special.values()
        ]
    )


def _check_ids(file: GgufFile, tokenizer: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Refuse a vocabulary in which a control token has another id, since it is there twice."""
    for index, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind in (_CONTROL, _USER_DEFINED) and tokenizer.token_to_id(token) != index:
            raise _damaged(file, f"the token {token[:60]!r} is there twice")


def _add_post_processor(
    file: GgufFile, tokenizer: Tokenizer, tokens: list[str], adds_bos: bool
) -> None:
    """Let the tokenizer add the tokens of the beginning and the end where the file says so."""
    from tokenizers import processors

    if file.get("tokenizer.ggml.model") == "gemma4":  # its template writes the beginning
        return
    single: list[str] = ["$A"]
    added: list[tuple[str, int]] = []
    for key, default, place in (("bos", adds_bos, 0), ("eos", False, 1)):
        token = _token_id(file, f"{key}_token_id")
        if token is None or not file.get(f"tokenizer.ggml.add_{key}_token", default):
            continue
        text = tokens[token]
        single.insert(place * len(single), text)
        added.append((text, token))
    if added:
        second = [f"{part}:1" for part in single]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single,
            pair=[*single, *(part.replace("$A", "$B") for part in second)],
            special_tokens=added,
        )


def _damaged(file: GgufFile, how: str) -> GgufError:
    return GgufError(
        f"{file.path.name} is damaged: {how}.",
        "Download it again, from another source if it stays so.",
    )
