"""Load tokenizer.json and the chat template, without transformers where possible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from chatlm.engines.load import log
from chatlm.engines.model import Unsupported
from chatlm.engines.prompt_encoder import ChatTokenizer

_SUPPORTED_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes of transformers that use tokenizer.json as it is."""


_IGNORED_SETTINGS = {
    *("tokenizer_class", "backend", "is_local", "local_files_only", "model_max_length"),
    *("chat_template", "clean_up_tokenization_spaces", "name_or_path", "padding_side"),
}
"""Settings that do not affect tokens."""


_SPECIAL_TOKEN_KEYS = ("bos_token", "eos_token", "unk_token", "pad_token")


_CONTINUATION_MARKER = "\ue002"


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
            self.backend_tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # `tokenizers` raises plain exceptions
            raise Unsupported(f"its tokenizer cannot be read: {error}") from error
        if settings.get("tokenizer_class") not in _SUPPORTED_CLASSES:
            raise Unsupported("its tokenizer is of another class")
        self._special_tokens = {
            name: settings[name] for name in _SPECIAL_TOKEN_KEYS if settings.get(name) is not None
        }
        added = self.backend_tokenizer.get_added_tokens_decoder().values()
        special = {token.content for token in added if token.special}
        if not set(settings) <= {
            *_IGNORED_SETTINGS,
            *_SPECIAL_TOKEN_KEYS,
        } or not special.issuperset(self._special_tokens.values()):
            raise Unsupported("its tokenizer has unsupported settings")
        if (folder / "additional_chat_templates").exists():
            raise Unsupported("it has several chat templates")
        self.eos_token: str | None = self._special_tokens.get("eos_token")
        self.eos_token_id: int | None = (
            self.backend_tokenizer.token_to_id(self.eos_token) if self.eos_token else None
        )
        self.chat_template = _read_template(folder, settings)
        self._template = _compile_template(self.chat_template)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text with the special tokens that the tokenizer adds."""
        return list(self.backend_tokenizer.encode(text).ids)

    def apply_chat_template(
        self,
        messages: list[dict[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        continue_final_message: bool,
    ) -> str:
        """Render the chat as transformers does; `tokenize` must be False."""
        if tokenize:
            raise ValueError("this tokenizer only renders text")
        if continue_final_message:
            last = {**messages[-1], "content": messages[-1]["content"] + _CONTINUATION_MARKER}
            messages = [*messages[:-1], last]
        text = self._template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._special_tokens,
        )
        return text[: text.rindex(_CONTINUATION_MARKER)] if continue_final_message else text


def _read_template(folder: Path, settings: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    text = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
    if text is not None and not isinstance(text, str):
        raise Unsupported("it has several chat templates")
    return text


def _compile_template(text: str | None) -> jinja2.Template:
    """Compile the template in a sandbox without functions; refuse one that calls any."""
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    sandbox.globals.clear()
    variables = {"messages", "tools", "documents", "add_generation_prompt", *_SPECIAL_TOKEN_KEYS}
    try:
        used = jinja2.meta.find_undeclared_variables(sandbox.parse(text or ""))
        if used - variables or "tojson" in (text or ""):
            raise Unsupported("its chat template calls functions")
        return sandbox.from_string(text or "")
    except jinja2.TemplateError as error:
        raise Unsupported(f"its chat template: {error}") from error


def load_tokenizer(name: str, folder: Path) -> ChatTokenizer:
    """Load a model's tokenizer from a folder, without transformers where its files allow.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        return JsonTokenizer(folder)
    except Unsupported as reason:
        log.info("the tokenizer of %s is loaded by transformers: %s", name, reason)
    from chatlm.engines import transformers_model

    tokenizer: ChatTokenizer = transformers_model.load_tokenizer(name, folder)
    return tokenizer
