"""Download in a child process (run with -m), local cache, hash check.

The child process (this module run with -m) reports its findings as JSON lines.

Arguments: the job as JSON, folder, file for messages. It writes {"plan": {bytes, commit, sha256,
names}} and, when it fails, {"error": {message, hint, kind}}, one JSON object a line.
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
from chatlm.hub.catalogue import GgufSource, HubSource
from chatlm.hub.disk import (
    NoSpace,
    link_or_copy,
    require_space,
    sha256,
    translate_disk_full,
    tree_bytes,
)
from chatlm.hub.gguf_choices import choose_files, group_files
from chatlm.hub.jobs import (
    CancelCheck,
    ProgressCallback,
    exit_with_parent,
    last_lines,
    module_command,
    run_child,
)
from chatlm.hub.mmproj import choose_order
from chatlm.hub.model_folder import (
    folder_problem,
    is_model_file,
    model_kind,
)
from chatlm.hub.repository import hub_endpoint, hub_errors, is_offline, read_repository
from chatlm.hub.weights import PICKLE_SUFFIXES

PROBE_TIMEOUT_SECONDS = 3.0

_CHUNK_BYTES = 1 << 16
"""Bytes of a download that are written at once."""


def is_hub_reachable(
    source: HubSource | GgufSource, timeout_seconds: float = PROBE_TIMEOUT_SECONDS
) -> bool:
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


class OnlyGguf(ModelError):
    """A repository has GGUF files instead of safetensors."""


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


def find_gguf_in_cache(source: GgufSource, quantization: str) -> tuple[str, list[Path]] | None:
    """Find a GGUF model that is complete in the user's Hugging Face cache.

    Returns:
        The commit and the files, in order; None when the cache does not have it.
    """
    repository = _cache_folder() / f"models--{source.repository.replace('/', '--')}"
    try:
        commit = (repository / "refs" / source.revision).read_text("ascii").strip()
    except (OSError, ValueError):
        commit = source.revision
    snapshot = repository / "snapshots" / commit
    paths = {
        path.relative_to(snapshot).as_posix(): path
        for path in snapshot.rglob("*.gguf")
        if path.is_file()
    }
    listed = source.find(quantization) if source.files else None
    try:
        files = choose_files(
            source.repository,
            group_files({name: path.stat().st_size for name, path in paths.items()}),
            quantization or (listed.quantization if listed else ""),
            listed.names if listed else (),
        )
    except ModelError:
        return None
    return commit, [paths[name] for name in files.names]


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
        source: the repository.
        partial_folder: the folder, which may hold an earlier interrupted download.
        log: the file for the child's messages.
        progress: is told how far it is.
        cancelled: stops it.

    Returns:
        The downloaded commit.

    Raises:
        NoSpace: the disk is too full.
        OnlyGguf: it has GGUF files instead.
        ModelError: no such repository, not allowed, no safetensors in it, no connection, or a file
            is not what the hub says.
    """
    job = {"repository": source.repository, "revision": source.revision}
    return str(_run_job(job, partial_folder, log, progress, cancelled)["commit"])


def fetch_gguf(
    source: GgufSource,
    quantization: str,
    partial_folder: Path,
    log: Path,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> tuple[str, list[Path]]:
    """Download a GGUF file, or the parts of a split one, and the mmproj file of the repository if
    it has one; an interrupted download is resumed.

    Args:
        source: the repository; files that it lists are taken if the repository has them.
        quantization: empty for the default one.
        partial_folder: the folder, which may hold an earlier interrupted download.
        log: the file for the child's messages.
        progress: is told how far it is.
        cancelled: stops it.

    Returns:
        The downloaded commit, and the files in order.

    Raises:
        NoSpace, ModelError: as `fetch_from_hub`, or it has no such quantization.
    """
    listed = source.find(quantization) if source.files else None
    job = {
        "repository": source.repository,
        "revision": source.revision,
        "quantization": quantization or (listed.quantization if listed else ""),
        "names": list(listed.names) if listed else [],
    }
    plan = _run_job(job, partial_folder, log, progress, cancelled)
    return str(plan["commit"]), [partial_folder / name for name in plan["names"]]


def _run_job(
    job: dict[str, Any],
    partial_folder: Path,
    log: Path,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> dict[str, Any]:
    partial_folder.mkdir(parents=True, exist_ok=True)
    messages = log.with_suffix(".json")
    command = module_command(
        "chatlm.hub.huggingface", json.dumps(job), str(partial_folder), str(messages)
    )
    total: int | None = None

    def tick() -> None:
        nonlocal total
        total = total or _read_message(messages, "plan").get("bytes")
        done = tree_bytes(partial_folder)
        progress("download", min(done, total) if total else done, total)

    repository = job["repository"]
    status = run_child(command, log, on_poll=tick, cancelled=cancelled)
    error = _read_message(messages, "error")
    if error:
        raise _ERRORS[error["kind"]](error["message"], error["hint"])
    if status != 0:
        raise ModelError(
            f"The download of {repository} failed:\n{last_lines(log, 3)}",
            "Run the same command to resume.",
        )
    plan = _read_message(messages, "plan")
    _check_hashes(repository, partial_folder, plan["sha256"], progress)
    return plan


_ERRORS: dict[str, type[ModelError]] = {
    each.__name__: each for each in (ModelError, NoSpace, OnlyGguf)
}


def _check_hashes(
    repository: str, folder: Path, expected: dict[str, str], progress: ProgressCallback
) -> None:
    total = sum((folder / name).stat().st_size for name in expected)
    done = 0
    for name, digest in expected.items():
        progress("check", done, total)
        done += (folder / name).stat().st_size
        if sha256(folder / name) != digest:
            (folder / name).unlink()
            raise ModelError(
                f"{name} from {repository} differs from the file on the hub (SHA-256).",
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
    job, folder, messages = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    exit_with_parent()
    with messages.open("w", encoding="utf-8", buffering=1) as file:

        def tell(what: str, **content: Any) -> None:
            file.write(json.dumps({what: content}) + "\n")

        try:
            with hub_errors(job["repository"], job["revision"]), translate_disk_full(folder):
                if "quantization" in job:
                    _download_gguf(job, folder, tell)
                else:
                    _download_repository(job["repository"], job["revision"], folder, tell)
        except ModelError as error:
            kind = type(error).__name__
            tell(
                "error",
                message=error.message,
                hint=error.hint,
                kind=kind if kind in _ERRORS else ModelError.__name__,
            )
            sys.exit(1)


def _download_repository(repository: str, revision: str, folder: Path, send: Any) -> None:
    from huggingface_hub import snapshot_download

    found = read_repository(repository, revision)
    wanted = [name for name in found.sizes if is_model_file(name)]
    _require_safetensors(repository, list(found.sizes), wanted)
    total = sum(found.sizes[name] for name in wanted)
    hashes = {name: found.hashes[name] for name in wanted if name in found.hashes}
    send("plan", bytes=total, commit=found.commit, sha256=hashes, names=wanted)
    _delete_unusable_files(folder, wanted)
    require_space(folder, max(total - tree_bytes(folder), 0), f"to download {repository}")
    _check_config(repository, found.commit, folder, wanted)
    snapshot_download(repository, revision=found.commit, local_dir=folder, allow_patterns=wanted)


def _download_gguf(job: dict[str, Any], folder: Path, send: Any) -> None:
    repository = job["repository"]
    found = read_repository(repository, job["revision"])
    files = choose_files(repository, found.ggufs, job["quantization"], job["names"])
    names = [*files.names, *choose_order(found.sizes)[:1]]
    total = sum(found.sizes[name] for name in names)
    hashes = {name: found.hashes[name] for name in names if name in found.hashes}
    send("plan", bytes=total, commit=found.commit, sha256=hashes, names=files.names)
    growing = {name: f"{found.hashes.get(name, found.commit)}.part" for name in names}
    _delete_unusable_files(folder, [*names, *growing.values()])
    require_space(folder, max(total - tree_bytes(folder), 0), f"to download {repository}")
    for name in names:
        _download_file(
            repository, found.commit, name, folder / growing[name], folder / name, found.sizes[name]
        )


def _download_file(
    repository: str, commit: str, name: str, growing: Path, target: Path, size: int
) -> None:
    """Download one file; what is there of it from before is kept.

    The hub library's own functions start a file from its beginning again in each process.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    if target.is_file():
        return
    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK_BYTES  # so that little is lost and progress is smooth
    if growing.is_file() and growing.stat().st_size > size:
        growing.unlink()
    url = hf_hub_url(repository, name, revision=commit, endpoint=hub_endpoint())
    with growing.open("ab") as file:
        have = file.tell()
        if not size or have < size:
            http_get(url, file, resume_size=have, headers=build_hf_headers())
        file.flush()
        os.fsync(file.fileno())
        have = file.tell()
    if size and have != size:  # a broken connection has raised before: the file itself differs
        growing.unlink()
        raise ModelError(
            f"{name} from {repository} differs from what the hub says of it: "
            f"it has {have:,} bytes, not {size:,}.",
            "Run the same command to download that file again.",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    growing.replace(target)


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
        raise OnlyGguf(
            f"{repository} has only GGUF files.",
            f"Take one of them: chatlm models files {repository}",
        )
    raise ModelError(f"{repository} has no *.safetensors weights.", "Choose another model.")


if __name__ == "__main__":
    main()
