"""A pipe or a device is refused wherever a file is named: one can block, the other never ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from chatlm.chat.attachments import AttachmentReader
from chatlm.config import toml_file
from chatlm.errors import ChatlmError
from chatlm.plugin_host.host import PluginHost
from chatlm.store.importing.importer import read_chats
from chatlm_arena import golden, tournament, vote_files
from chatlm_emotion import examples
from chatlm_lora import dataset
from chatlm_rag import evaluation
from tests.program import run_chatlm

DEVICE = Path("/dev/null")
"""A device that looks empty to a reader without the check, so that its test fails, not hangs."""

READERS: dict[str, Callable[[Path], Any]] = {
    "chats": read_chats,
    "votes": vote_files.read_votes,
    "a hash of votes": vote_files.file_sha256,
    "golden chats": golden.read_goldens,
    "prompts": tournament.read_prompts,
    "labelled texts": examples.read_texts,
    "training chats": lambda path: dataset.read_dataset(path, seed=0, held_out_share=0.5),
    "questions": evaluation.read_questions,
    "judgements": evaluation.read_judgements,
    "settings": toml_file.read,
    "an attachment": lambda path: AttachmentReader(PluginHost())(path, "x"),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_device_is_no_file(kind: str) -> None:
    with pytest.raises(ChatlmError, match="it is a pipe or a device, not a file"):
        result = READERS[kind](DEVICE)
        if isinstance(result, Iterable):
            list(result)


def test_a_command_names_the_device() -> None:
    done = run_chatlm("chats", "import", str(DEVICE))
    assert done.returncode == 2
    assert "/dev/null cannot be read: it is a pipe or a device, not a file." in done.stderr
