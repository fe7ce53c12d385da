"""A plugin that keeps a local model's reply from ending before a test has seen it grow.

Such a reply takes minutes on any machine: the model cannot choose a control
token, and each token takes its time.
"""

from __future__ import annotations

from pathlib import Path

from chatlm.store.store import Store

PLUGIN = '''
import dataclasses
import time

from chatlm import hookimpl

CONTROL_TOKENS = 17
"""The first ids of SmolLM2's vocabulary."""


def never_end(input_ids, scores):
    time.sleep(0.02)
    scores[..., :CONTROL_TOKENS] = float("-inf")
    return scores


@hookimpl
def adjust_request(request):
    sampling = dataclasses.replace(request.sampling, max_tokens=8000)
    processors = (*request.logits_processors, never_end)
    return dataclasses.replace(request, sampling=sampling, logits_processors=processors)
'''


def install(home: Path) -> None:
    """Let no reply of the default model end by itself in this home."""
    folder = home / "plugins"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "endless.py").write_text(PLUGIN, encoding="utf-8")


def text_on_disk(database: Path, chat: int) -> str:
    """Return the stored text of a chat's first reply, which another process may be writing."""
    with Store(database) as store:
        reply = store.conversation(chat).turns[0].reply
    return reply.text if reply else ""
