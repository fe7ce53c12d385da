"""Download in a child process (run with -m), local cache, hash check.

The child (`chatlm.models.hub_child`) says what it finds as lines of JSON.

Arguments: repository, revision, folder, file for messages. It writes {"plan": {bytes, commit,
sha256}} and, when it fails, {"error": {message, hint, no_space}}, one JSON object a line.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from chatlm.errors import ModelError
from chatlm.hub.catalogue import HubSource
from chatlm.hub.disk import (
    NoSpace,
    disk_full_is_clear,
    link_or_copy,
    require_space,
    sha256,
    tree_bytes,
)
from chatlm.hub.jobs import (
    Cancelled,
    Progress,
    end_with_parent,
    last_lines,
    python_module,
    run_child,
)
from chatlm.hub.model_folder import PICKLED, folder_problem, is_wanted

PROBE_SECONDS = 3.0


def hub_answers(source: HubSource, seconds: float = PROBE_SECONDS) -> bool:
    """Whether the hub says anything about a repository in time; HF_HUB_OFFLINE=1 says no.

    A refusal counts as an answer: the download that follows says what is wrong.
    """
    if is_offline():
        return False
    url = f"{endpoint()}/api/models/{source.repository}"
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.build_opener().open(url, timeout=seconds)
        except urllib.error.HTTPError:
            answered.set()
        except OSError as error:
            if "CERTIFICATE" in str(error):  # the hub library knows more certificates than Python
                answered.set()
        else:
            answered.set()

    probe = threading.Thread(target=ask, name="hub-probe", daemon=True)
    probe.start()
    probe.join(seconds)
    return answered.is_set()


def is_offline() -> bool:
    """Whether the person told the hub library to stay away from the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def endpoint() -> str:
    """The hub's address."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def take_from_cache(source: HubSource, made: Path) -> str | None:
    """Link or copy a repository that is whole in the person's Hugging Face cache into `made`.

    Returns:
        The commit, or None when the cache does not have it.
    """
    if not (_cache() / f"models--{source.repository.replace('/', '--')}").is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(
        source.repository, "config.json", cache_dir=_cache(), revision=source.revision
    )
    snapshot = Path(config).parent if isinstance(config, str) else None
    if snapshot is None or folder_problem(snapshot):
        return None
    for path in snapshot.rglob("*"):
        name = path.relative_to(snapshot)
        if path.is_file() and is_wanted(name.as_posix()):
            link_or_copy(path, made / name)
    return snapshot.name


def fetch_hub(
    source: HubSource, partial: Path, log: Path, progress: Progress, cancelled: Cancelled
) -> str:
    """Download a repository's safetensors model into `partial`, keeping whole files that are there.

    Args:
        partial: the folder, which may hold an earlier interrupted download.
        log: the file for the child's messages.

    Returns:
        The commit that was fetched.

    Raises:
        NoSpace: the disk is too full.
        ModelError: no such repository, not allowed, no safetensors in it, no connection, or a file
            is not what the hub says.
    """
    partial.mkdir(parents=True, exist_ok=True)
    messages = log.with_suffix(".json")
    command = python_module(
        "chatlm.hub.huggingface", source.repository, source.revision, str(partial), str(messages)
    )
    total: int | None = None

    def tick() -> None:
        nonlocal total
        total = total or _message(messages, "plan").get("bytes")
        done = tree_bytes(partial)
        progress("download", min(done, total) if total else done, total)

    status = run_child(command, log, tick=tick, cancelled=cancelled)
    error = _message(messages, "error")
    if error:
        raise (NoSpace if error["no_space"] else ModelError)(error["message"], error["hint"])
    if status != 0:
        raise ModelError(
            f"The download of {source.repository} failed:\n{last_lines(log, 3)}",
            "Run the same command to go on where it stopped.",
        )
    plan = _message(messages, "plan")
    _check_hashes(source, partial, plan["sha256"], progress)
    return str(plan["commit"])


def _check_hashes(
    source: HubSource, folder: Path, expected: dict[str, str], progress: Progress
) -> None:
    for number, (name, digest) in enumerate(expected.items()):
        progress("check", number, len(expected))
        if sha256(folder / name) != digest:
            (folder / name).unlink()
            raise ModelError(
                f"{name} from {source.repository} is not what the hub has (SHA-256 differs).",
                "Run the same command to download that file again.",
            )


def _message(messages: Path, kind: str) -> dict[str, Any]:
    """The child's message of a kind, empty when there is none (yet)."""
    if not messages.is_file():
        return {}
    for line in messages.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n") and kind in (message := json.loads(line)):
            return dict(message[kind])
    return {}


def _cache() -> Path:
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    general = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{general}/huggingface")).expanduser() / "hub"


def main() -> None:
    """Download as the arguments say."""
    repository, revision, folder, messages = sys.argv[1:5]
    end_with_parent()
    with Path(messages).open("w", encoding="utf-8", buffering=1) as file:

        def tell(kind: str, **content: Any) -> None:
            file.write(json.dumps({kind: content}) + "\n")

        try:
            _download(repository, revision, Path(folder), tell)
        except ModelError as error:
            no_space = isinstance(error, NoSpace)
            tell("error", message=error.message, hint=error.hint, no_space=no_space)
            sys.exit(1)


def _download(repository: str, revision: str, folder: Path, tell: Any) -> None:
    import httpx2
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=10)
        files = {file.rfilename: file for file in info.siblings or []}
        wanted = [name for name in files if is_wanted(name)]
        _require_safetensors(repository, list(files), wanted)
        total = sum(files[name].size or 0 for name in wanted)
        hashes = {name: lfs.sha256 for name in wanted if (lfs := files[name].lfs)}
        tell("plan", bytes=total, commit=info.sha, sha256=hashes)
        _keep_only(folder, wanted)
        require_space(folder, max(total - tree_bytes(folder), 0), f"to download {repository}")
        with disk_full_is_clear(folder):
            snapshot_download(
                repository,
                revision=info.sha,
                local_dir=folder,
                allow_patterns=wanted,
            )
    except GatedRepoError as error:
        raise ModelError(
            f"The owner of {repository} asks you to accept terms before you can download it.",
            f"Accept them at {endpoint()}/{repository}, then run: hf auth login",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{repository} has no revision {revision}.", f"See {endpoint()}/{repository}/tree/main"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub has no model {repository}, or it is private.",
            "Check the spelling; for a private model run: hf auth login",
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError) as error:
        raise ModelError(
            f"The download of {repository} from {endpoint()} failed: {error}",
            "Check the network, then run the same command to go on where it stopped.",
        ) from error


def _keep_only(folder: Path, wanted: list[str]) -> None:
    """Delete what an earlier download left that this one cannot use, such as half files."""
    bookkeeping = folder / ".cache"
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        inside = path.is_relative_to(bookkeeping)
        if (
            path.suffix == ".incomplete"
            if inside
            else path.relative_to(folder).as_posix() not in wanted
        ):
            path.unlink()


def _require_safetensors(repository: str, names: list[str], wanted: list[str]) -> None:
    if any(name.endswith(".safetensors") for name in wanted):
        return
    pickled = [name for name in names if name.endswith(PICKLED)]
    if pickled:
        raise ModelError(
            f"{repository} has only pickle weights ({', '.join(pickled[:3])}), which can run code.",
            "Use a version of the model that has *.safetensors files.",
        )
    if any(name.endswith(".gguf") for name in names):
        raise ModelError(
            f"{repository} has only GGUF files.",
            f"Download one from {endpoint()}/{repository} and run: chatlm models pull FILE.gguf",
        )
    raise ModelError(f"{repository} has no *.safetensors weights.", "Choose another model.")


if __name__ == "__main__":
    main()
