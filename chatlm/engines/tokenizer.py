"""Load tokenizer.json and the chat template, without transformers where possible."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from chatlm.engines.chat_tokenizer import ChatTokenizer
from chatlm.engines.load import log
from chatlm.engines.model import Unsupported
from chatlm.engines.tokenizer_file import read_tokenizer
from chatlm.errors import ModelError

_SUPPORTED_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes of transformers that use tokenizer.json as it is."""


_IGNORED_SETTINGS = {
    *("tokenizer_class", "backend", "is_local", "local_files_only", "model_max_length"),
    *("chat_template", "clean_up_tokenization_spaces", "name_or_path", "padding_side"),
}
"""Settings that do not affect tokens."""


_NATIVE_FILES = ("tokenizer.model", "tiktoken.model", "spiece.model")
"""Tokenizers that transformers converts with the library of their format."""


_SPECIAL_TOKEN_KEYS = ("bos_token", "eos_token", "unk_token", "pad_token")


class JsonTokenizer:
    """A `ChatTokenizer` read from a model's files, which starts without transformers.

    Args:
        folder: of the model.

    Raises:
        Unsupported: its settings or its chat template need transformers.
    """

    is_fast = True

    def __init__(self, folder: Path) -> None:
        try:
            settings = json.loads((folder / "tokenizer_config.json").read_bytes())
            self.backend_tokenizer = read_tokenizer(folder / "tokenizer.json")
        except Exception as error:  # `tokenizers` raises plain exceptions
            raise Unsupported(f"its tokenizer cannot be read: {error}") from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of Rust, which `tokenizers` is in
                raise
            raise ModelError(
                f"{folder / 'tokenizer.json'} is damaged: {error}",
                "Copy or download the model again.",
            ) from error
        if not isinstance(settings, dict):
            raise Unsupported("its tokenizer_config.json is not a JSON object")
        if settings.get("tokenizer_class") not in _SUPPORTED_CLASSES:
            raise Unsupported("its tokenizer is of another class")
        self.special_tokens_map = {
            name: settings[name] for name in _SPECIAL_TOKEN_KEYS if settings.get(name) is not None
        }
        if not all(isinstance(token, str) for token in self.special_tokens_map.values()):
            raise Unsupported("its special tokens have settings of their own")
        added = self.backend_tokenizer.get_added_tokens_decoder().values()
        special = {token.content for token in added if token.special}
        if not set(settings) <= {
            *_IGNORED_SETTINGS,
            *_SPECIAL_TOKEN_KEYS,
        } or not special.issuperset(self.special_tokens_map.values()):
            raise Unsupported("its tokenizer has unsupported settings")
        end = self.special_tokens_map.get("eos_token")
        self.eos_token_id: int | None = self.backend_tokenizer.token_to_id(end) if end else None
        self.chat_template = _read_templates(folder, settings)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text with the special tokens that the tokenizer adds."""
        return list(self.backend_tokenizer.encode(text).ids)


def _read_templates(folder: Path, settings: dict[str, Any]) -> dict[str, str] | None:
    """Read the chat templates by name; files win over settings, as in transformers."""
    templates: dict[str, str] = {}
    configured = settings.get("chat_template")
    if isinstance(configured, str):
        templates["default"] = configured
    elif isinstance(configured, list):
        templates |= {entry["name"]: entry["template"] for entry in configured}
    if files := _template_files(folder):
        templates = {name: file.read_text(encoding="utf-8") for name, file in sorted(files.items())}
    return templates or None


def _check_template_setting(folder: Path) -> None:
    """Refuse chat templates in the settings that are neither a text nor a list of named texts."""
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_bytes())
        configured = settings.get("chat_template")
    except (OSError, ValueError, RecursionError, AttributeError):
        return  # transformers says what is wrong with other settings
    if configured is None or isinstance(configured, str):
        return
    if not isinstance(configured, list) or not all(map(_is_named_template, configured)):
        raise ModelError(
            f"The chat_template in {folder / 'tokenizer_config.json'} is damaged: it is neither a "
            "text nor a list of texts with names.",
            "Copy or download the model again.",
        )


def _is_named_template(entry: Any) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(entry.get(key), str) for key in ("name", "template")
    )


def _template_files(folder: Path) -> dict[str, Path]:
    files = {file.stem: file for file in (folder / "additional_chat_templates").glob("*.jinja")}
    if (folder / "chat_template.jinja").is_file():
        files["default"] = folder / "chat_template.jinja"
    return files


def _require_packages(name: str, folder: Path) -> None:
    """Refuse a tokenizer that a missing package would have to read; transformers would blame
    another one."""
    if (folder / "tokenizer.json").is_file():
        return
    file = next((file for each in _NATIVE_FILES if (file := folder / each).is_file()), None)
    if file is None:
        return
    packages: tuple[str, ...] = ("sentencepiece", "google.protobuf")
    kind = "SentencePiece"
    if _is_tiktoken(file):
        packages, kind = ("tiktoken",), "tiktoken"
    missing = [
        {"google.protobuf": "protobuf"}.get(package, package.replace("_", "-"))
        for package in packages
        if not _is_installed(package)
    ]
    if missing:
        raise ModelError(
            f"The tokenizer of {name} is a {kind} file, {file.name}, which needs the package"
            f"{'s' if missing[1:] else ''} {' and '.join(missing)} to be read",
            hint=f"Run `pip install {' '.join(missing)}`, or use a version of the model that has "
            "a tokenizer.json.",
        )


def _is_tiktoken(file: Path) -> bool:
    """Whether a file has lines of a token in base64 and its rank, as tiktoken writes them."""
    with file.open("rb") as content:
        return re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", content.readline(1000)) is not None


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def load_tokenizer(name: str, folder: Path) -> ChatTokenizer:
    """Load a model's tokenizer from a folder, without transformers where its files allow.

    Raises:
        ModelError: it cannot be loaded.
    """
    for file in _template_files(folder).values():
        try:
            file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ModelError(
                f"The chat template {file} is damaged: {reason}.",
                "Copy or download the model again.",
            ) from error
    _check_template_setting(folder)
    _require_packages(name, folder)
    try:
        return JsonTokenizer(folder)
    except Unsupported as reason:
        log.info("the tokenizer of %s is loaded by transformers: %s", name, reason)
    from chatlm.engines import transformers_model

    tokenizer: ChatTokenizer = transformers_model.load_tokenizer(name, folder)
    return tokenizer
