"""The child process of a hub download: plans it, checks the room, and lets the hub library do it.

Arguments: repository, revision, folder, file for messages. It writes {"plan": {bytes, commit,
sha256}} and, when it fails, {"error": {message, hint, no_space}}, one JSON object a line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from chatlm.errors import ModelError
from chatlm.models.child import end_with_parent
from chatlm.models.disk import NoSpace, disk_full_is_clear, require_space, tree_bytes
from chatlm.models.folder import PICKLED, is_wanted
from chatlm.models.hub import endpoint


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
