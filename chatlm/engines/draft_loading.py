"""Check whether a model can draft for another one, and load it."""

from __future__ import annotations

from pathlib import Path

from chatlm.engines.chat_tokenizer import ChatTokenizer
from chatlm.engines.devices import Placement
from chatlm.engines.draft_model import Drafter, DraftModel
from chatlm.engines.load import load
from chatlm.engines.model import Model, Unsupported
from chatlm.engines.mtp_drafts import load_mtp
from chatlm.engines.native.architectures.registry import read_config
from chatlm.engines.native.kv_cache import KVFormat
from chatlm.engines.native.model import NativeModel
from chatlm.engines.native.weight_reader import read_mtp_weights
from chatlm.engines.tokenizer import load_tokenizer
from chatlm.errors import ModelError

ONLY_EXACT = "only chatlm's own engine on the CPU can check drafts without another result"
"""Why there are no drafts elsewhere."""

OWN_LAYER = "mtp"
"""In place of a draft model's name: the layer that the model itself has for drafts."""

_NO_OWN_LAYER = "the model has no layer of its own that chatlm can draft with"


def check_draft_model(
    folder: Path, tokenizer: ChatTokenizer, draft_folder: Path, draft_tokenizer: ChatTokenizer
) -> None:
    """Check that a model can draft for another one, as far as their files show.

    Args:
        folder: of the model that it drafts for.
        tokenizer: of that model.
        draft_folder: of the draft model.
        draft_tokenizer: of the draft model.

    Raises:
        Unsupported: it cannot; the message says why.
    """
    if folder.resolve() == draft_folder.resolve():
        raise Unsupported("it is the model itself, so drafts would save no time")
    try:
        config = read_config(draft_folder)
    except Unsupported as reason:
        raise Unsupported(f"chatlm's own engine does not run it: {reason}") from reason
    if config.state_shapes:
        raise Unsupported("its recurrent layers cannot go back when a draft is rejected")
    if config.long_past is not None:
        raise Unsupported("it reads its text again past a certain length")
    same = _vocabulary(tokenizer) == _vocabulary(draft_tokenizer)
    if not same:
        raise Unsupported("it has another tokenizer")
    if max(_vocabulary(tokenizer).values(), default=0) >= config.vocab_size:
        raise Unsupported("it has fewer logits than its tokenizer has tokens")


def draft_problem(
    name: str, folder: Path, draft_folder: Path, placement: Placement, engine: str, weights: str
) -> str:
    """Return why a model would not draft for another one, without loading them; empty if it would.

    Args:
        name: of the draft model, as the user calls it, or `OWN_LAYER`.
        folder: of the model that it would draft for.
        draft_folder: of the draft model.
        placement: of the model, as the next two.
        engine: see `chatlm.engines.load.load`.
        weights: see `chatlm.engines.load.load`.
    """
    native = engine in ("auto", "native") and weights != "float32" and placement.device == "cpu"
    try:
        if not native:
            raise Unsupported(ONLY_EXACT)
        try:
            config = read_config(folder)
        except Unsupported as reason:
            raise Unsupported(ONLY_EXACT) from reason
        if name == OWN_LAYER:
            if config.mtp is None:
                raise Unsupported(_NO_OWN_LAYER)
            read_mtp_weights(folder, config)  # which may have been left out
            return ""
        tokenizer = load_tokenizer(folder.name, folder)
        check_draft_model(folder, tokenizer, draft_folder, load_tokenizer(name, draft_folder))
    except Unsupported as reason:
        return str(reason)
    except ModelError as error:
        return error.message.rstrip(".")
    return ""


def load_draft_model(
    name: str,
    draft_folder: Path,
    *,
    model: Model,
    folder: Path,
    tokenizer: ChatTokenizer,
    kv_cache: KVFormat = "auto",
) -> Drafter:
    """Load what drafts for a model: another one, or its own layer.

    Args:
        name: of the draft model, as the user calls it, or `OWN_LAYER`.
        draft_folder: of the draft model.
        model: that it drafts for, loaded.
        folder: of that model.
        tokenizer: of that model.
        kv_cache: format of the draft model's KV cache.

    Raises:
        Unsupported: it cannot draft for the model; the message says why.
        OutOfMemoryError: there is not enough memory for it.
    """
    if not isinstance(model, NativeModel) or not model.max_draft_tokens:
        raise Unsupported(ONLY_EXACT)
    if name == OWN_LAYER:
        if model.config.mtp is None:
            raise Unsupported(_NO_OWN_LAYER)
        return load_mtp(name, folder, model)
    try:
        check_draft_model(folder, tokenizer, draft_folder, load_tokenizer(name, draft_folder))
        placement = Placement({"": "cpu"}, model.dtype)
        loaded = load(name, draft_folder, placement, "native", kv_cache=kv_cache)
    except ModelError as error:
        raise Unsupported(error.message.rstrip(".")) from error
    return DraftModel(name, loaded)


def _vocabulary(tokenizer: ChatTokenizer) -> dict[str, int]:
    vocabulary: dict[str, int] = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    return vocabulary
