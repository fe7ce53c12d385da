"""Write docs/model-names.md: what each kind of model name gives, as chatlm itself answers.

Run `python docs/model_names.py` after a change in how names are resolved. Nothing is downloaded
from the real hub: a small one on loopback has the repositories.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "model-names.md"
sys.path.insert(0, str(ROOT))

from chatlm.errors import ModelError  # noqa: E402
from chatlm.hub import names, pull  # noqa: E402
from chatlm.hub.disk import human_bytes  # noqa: E402
from chatlm.hub.names import CatalogueTarget, FolderTarget, GgufTarget  # noqa: E402
from tests.fake_hub import FakeHub, serve  # noqa: E402
from tests.gguf_files import save_gguf  # noqa: E402

FOUND = (
    "qwen3:4b",
    "qwen3",
    "qwen3:4b-q8_0",
    "smollm2-135m-instruct",
    "ORG/TINY-GGUF",
    "ORG/TINY-GGUF:Q8_0",
    "hf.co/ORG/TINY-GGUF:Q8_0",
    "ORG/TINY-GGUF:Q8_0@v1.0",
    "https://huggingface.co/ORG/TINY-GGUF",
    "https://huggingface.co/ORG/TINY-GGUF/blob/main/TINY-Q8_0.gguf",
    "ORG/SPLIT-GGUF",
    "./TINY-Q4_K_M.gguf",
    "./FOLDER",
)
"""Names that are resolved."""

REFUSED = (
    "qwen3:5b",
    "gema3",
    "gpt-4",
    "claude-sonnet",
    "qwen3:4b-q3_k_s",
    "ORG/TINY-GGUF:Q2_K",
    "ORG/MISSING",
    "ORG/GATED",
    "./MISSING.gguf",
    "something",
)
"""Names that are answered with a next step."""

WITHOUT_A_HUB = ("qwen3:4b", "ORG/OTHER")
"""Names that are tried where no hub answers."""

NOWHERE = "http://127.0.0.1:9"
"""An address where no hub answers."""

HEADER = """\
# What a model's name gives

What `chatlm pull`, `chatlm run`, `chatlm -m` and `/model` make of each kind of name. This page is
written by `python docs/model_names.py` from chatlm's own answers, with a small hub in place of the
real one. More about models is in the [user guide](guide.md#models).
"""


def render() -> str:
    """Return the page."""
    with tempfile.TemporaryDirectory() as temporary, _stage(Path(temporary)) as hub:
        found = [(name, _answer(name, hub)) for name in FOUND]
        refused = [(name, _answer(name, hub)) for name in REFUSED]
        with patch.dict(os.environ, {"HF_ENDPOINT": NOWHERE}):
            offline = [(name, _answer(name, hub, download=True)) for name in WITHOUT_A_HUB]
    return "\n".join(
        [
            HEADER,
            *_table(("you type", "you get"), found),
            "",
            "## Names that give no model",
            "",
            *_table(("you type", "the answer"), refused),
            "",
            "## Without a hub",
            "",
            "`smollm2-135m-instruct` and `all-minilm-l6-v2` come as Python packages then, also",
            "from a mirror. For others:",
            "",
            *_table(("you type", "the answer"), offline),
            "",
        ]
    )


@contextmanager
def _stage(folder: Path) -> Iterator[FakeHub]:
    """Offer a hub with small repositories, an empty home, and a working folder with files."""
    weights = save_gguf(folder / "TINY-Q4_K_M.gguf", "llama tied").read_bytes()
    (folder / "FOLDER").mkdir()
    parts = {f"SPLIT-Q4_K_M-0000{number}-of-00002.gguf": b"GGUF" for number in (1, 2)}
    tiny = {"TINY-Q4_K_M.gguf": weights, "TINY-Q8_0.gguf": weights + bytes(64)}
    hub = FakeHub({"ORG/TINY-GGUF": tiny, "ORG/SPLIT-GGUF": parts})
    hub.refusals["ORG/GATED"] = (403, "GatedRepo")
    before = Path.cwd()
    places = {"CHATLM_HOME": str(folder / "home"), "HF_HOME": str(folder / "hf")}
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN")
    }
    os.chdir(folder)
    try:
        with (
            serve(hub),
            patch.dict(os.environ, {**kept, **places, "HF_ENDPOINT": hub.url}, clear=True),
        ):
            yield hub
    finally:
        os.chdir(before)


def _answer(name: str, hub: FakeHub, *, download: bool = False) -> str:
    """Return what a name gives, in words; the hub is asked where the answer depends on it."""
    try:
        target = names.resolve_name(name)
        if isinstance(target, FolderTarget):
            return "your folder, used where it is"
        if isinstance(target, GgufTarget):
            return "your file, linked and not copied"
        if isinstance(target, CatalogueTarget) and not download:
            return _describe_entry(target)
        if "SPLIT" in name:
            return _describe_split(name)
        return f"`{pull.pull_model(name).name}`"
    except ModelError as error:
        text = f"{error.message}\n{error.hint}".replace(str(Path.cwd()) + "/", "")
        for address in (hub.url, NOWHERE):
            text = text.replace(address, "https://huggingface.co")
        return text.strip()


def _describe_entry(target: CatalogueTarget) -> str:
    entry = target.entry
    if entry.gguf is None:
        return f"the catalogue's `{target.name}`, {human_bytes(entry.bytes)}: {entry.sources[0]}"
    files = entry.gguf.find(target.quantization) or entry.gguf.files[0]
    return (
        f"the catalogue's `{target.name}`, {human_bytes(files.bytes)}: {files.quantization} of "
        f"{entry.gguf.repository}"
    )


def _describe_split(name: str) -> str:
    from chatlm.cli.model_download import file_choices

    repository, choices = file_choices(name)
    ((files, _),) = choices
    return f"`{repository}:{files.quantization}`, of {len(files.names)} files"


def _table(heads: tuple[str, str], rows: Sequence[tuple[str, str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|---|---|"]
    for name, answer in rows:
        cell = answer.replace("|", "\\|").replace("\n", "<br>")
        lines.append(f"| `{name}` | {cell} |")
    return lines


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
