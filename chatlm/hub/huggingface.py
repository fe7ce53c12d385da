"""Download in a child process (run with -m), local cache, hash check.

The child process (this module run with -m) reports its findings as JSON lines.

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
from chatlm.hub.architecture import check_architecture, read_config
from chatlm.hub.catalogue import HubSource
from chatlm.hub.disk import (
    NoSpace,
    link_or_copy,
    require_space,
    sha256,
    translate_disk_full,
    tree_bytes,
)
from chatlm.hub.jobs import (
    CancelCheck,
    ProgressCallback,
    exit_with_parent,
    last_lines,
    module_command,
    run_child,
)
from chatlm.hub.model_folder import (
    folder_problem,
    is_model_file,
    model_kind,
)
from chatlm.hub.weights import PICKLE_SUFFIXES

PROBE_TIMEOUT_SECONDS = 3.0


def is_hub_reachable(source: HubSource, timeout_seconds: float = PROBE_TIMEOUT_SECONDS) -> bool:
    """Tell whether the hub answers about a repository in time; False with HF_HUB_OFFLINE=1.

    A refusal counts as an answer: the download that follows says what is wrong.
    """
    if is_offline():
        return False
    url = f"{hub_endpoint()}/api/models/{source.repository}"
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.build_opener().open(url, timeout=timeout_seconds)
        except urllib.error.HTTPError:
            answered.set()
        except OSError as error:
            if "CERTIFICATE" in str(error):  # the hub library knows more certificates than Python
                answered.set()
        else:
            answered.set()

    probe = threading.Thread(target=ask, name="hub-probe", daemon=True)
    probe.start()
    probe.join(timeout_seconds)
    return answered.is_set()


def is_offline() -> bool:
    """Tell whether the user set the hub library offline."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def hub_endpoint() -> str:
    """Return the hub's address."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def copy_from_cache(source: HubSource, output_folder: Path) -> str | None:
    """Link or copy a repository that is complete in the user's Hugging Face cache into
    `output_folder`.

    Returns:
        The commit, or None when the cache does not have it.
    """
    if not (_cache_folder() / f"models--{source.repository.replace('/', '--')}").is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(
        source.repository, "config.json", cache_dir=_cache_folder(), revision=source.revision
    )
    snapshot = Path(config).parent if isinstance(config, str) else None
    if snapshot is None or folder_problem(snapshot):
        return None
    for path in snapshot.rglob("*"):
        name = path.relative_to(snapshot)
        if path.is_file() and is_model_file(name.as_posix()):
            link_or_copy(path, output_folder / name)
    return snapshot.name


def fetch_from_hub(
    source: HubSource,
    partial_folder: Path,
    log: Path,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> str:
    """Download a repository's safetensors model into `partial_folder`, keeping whole files that
    exist.

    Args:
        partial_folder: the folder, which may hold an earlier interrupted download.
        log: the file for the child's messages.

    Returns:
        The downloaded commit.

    Raises:
        NoSpace: the disk is too full.
        ModelError: no such repository, not allowed, no safetensors in it, no connection, or a file
            is not what the hub says.
    """
    partial_folder.mkdir(parents=True, exist_ok=True)
    messages = log.with_suffix(".json")
    command = module_command(
        "chatlm.hub.huggingface",
        source.repository,
        source.revision,
        str(partial_folder),
        str(messages),
    )
    total: int | None = None

    def tick() -> None:
        nonlocal total
        total = total or _read_message(messages, "plan").get("bytes")
        done = tree_bytes(partial_folder)
        progress("download", min(done, total) if total else done, total)

    status = run_child(command, log, on_poll=tick, cancelled=cancelled)
    error = _read_message(messages, "error")
    if error:
        raise (NoSpace if error["no_space"] else ModelError)(error["message"], error["hint"])
    if status != 0:
        raise ModelError(
            f"The download of {source.repository} failed:\n{last_lines(log, 3)}",
            "Run the same command to resume.",
        )
    plan = _read_message(messages, "plan")
    _check_hashes(source, partial_folder, plan["sha256"], progress)
    return str(plan["commit"])


def _check_hashes(
    source: HubSource, folder: Path, expected: dict[str, str], progress: ProgressCallback
) -> None:
    for number, (name, digest) in enumerate(expected.items()):
        progress("check", number, len(expected))
        if sha256(folder / name) != digest:
            (folder / name).unlink()
            raise ModelError(
                f"{name} from {source.repository} differs from the file on the hub (SHA-256).",
                "Run the same command to download that file again.",
            )


def _read_message(message_file: Path, kind: str) -> dict[str, Any]:
    """Return the child's message of a kind; empty if there is none yet."""
    if not message_file.is_file():
        return {}
    for line in message_file.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n") and kind in (message := json.loads(line)):
            return dict(message[kind])
    return {}


def _cache_folder() -> Path:
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    general = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{general}/huggingface")).expanduser() / "hub"


def main() -> None:
    """Run the download in the child process."""
    repository, revision, folder, messages = sys.argv[1:5]
    exit_with_parent()
    with Path(messages).open("w", encoding="utf-8", buffering=1) as file:

        def tell(kind: str, **content: Any) -> None:
            file.write(json.dumps({kind: content}) + "\n")

        try:
            _download_repository(repository, revision, Path(folder), tell)
        except ModelError as error:
            no_space = isinstance(error, NoSpace)
            tell("error", message=error.message, hint=error.hint, no_space=no_space)
            sys.exit(1)


def _download_repository(repository: str, revision: str, folder: Path, send: Any) -> None:
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
        wanted = [name for name in files if is_model_file(name)]
        _require_safetensors(repository, list(files), wanted)
        total = sum(files[name].size or 0 for name in wanted)
        hashes = {name: lfs.sha256 for name in wanted if (lfs := files[name].lfs)}
        send("plan", bytes=total, commit=info.sha, sha256=hashes)
        _delete_unusable_files(folder, wanted)
        require_space(folder, max(total - tree_bytes(folder), 0), f"to download {repository}")
        _check_config(repository, info.sha, folder, wanted)
        with translate_disk_full(folder):
            snapshot_download(
                repository,
                revision=info.sha,
                local_dir=folder,
                allow_patterns=wanted,
            )
    except GatedRepoError as error:
        raise ModelError(
            f"The owner of {repository} asks you to accept terms before you can download it.",
            f"Accept them at {hub_endpoint()}/{repository}, then run: hf auth login",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{repository} has no revision {revision}.",
            f"See {hub_endpoint()}/{repository}/tree/main",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub has no model {repository}, or it is private.",
            "Check the spelling; for a private model run: hf auth login",
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError) as error:
        raise ModelError(
            f"The download of {repository} from {hub_endpoint()} failed: {error}",
            "Check the network, then run the same command to resume.",
        ) from error


def _check_config(repository: str, revision: str | None, folder: Path, wanted: list[str]) -> None:
    """Download config.json alone and refuse an architecture that chatlm cannot run."""
    from huggingface_hub import hf_hub_download

    if "config.json" not in wanted:
        raise ModelError(
            f"{repository} has no config.json, so it is not a model for transformers.",
            "Give the repository of a language model.",
        )
    path = hf_hub_download(repository, "config.json", revision=revision, local_dir=folder)
    config = read_config(Path(path).parent)
    is_chat = "modules.json" not in wanted and model_kind(config) == "chat"
    if is_chat and (config.get("model_type") or config.get("auto_map")):
        check_architecture(repository, config, only_transformers=False)


def _delete_unusable_files(folder: Path, model_files: list[str]) -> None:
    """Delete remains of an earlier download that cannot be resumed, such as partial files."""
    bookkeeping = folder / ".cache"
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        inside = path.is_relative_to(bookkeeping)
        if (
            path.suffix == ".incomplete"
            if inside
            else path.relative_to(folder).as_posix() not in model_files
        ):
            path.unlink()


def _require_safetensors(
    repository: str, repository_files: list[str], model_files: list[str]
) -> None:
    if any(name.endswith(".safetensors") for name in model_files):
        return
    pickled = [name for name in repository_files if name.endswith(PICKLE_SUFFIXES)]
    if pickled:
        raise ModelError(
            f"{repository} has only pickle weights ({', '.join(pickled[:3])}), which can run code.",
            "Use a version of the model that has *.safetensors files.",
        )
    if any(name.endswith(".gguf") for name in repository_files):
        raise ModelError(
            f"{repository} has only GGUF files.",
            f"Download one from {hub_endpoint()}/{repository} and run: chatlm models pull "
            "FILE.gguf",
        )
    raise ModelError(f"{repository} has no *.safetensors weights.", "Choose another model.")


if __name__ == "__main__":
    main()
