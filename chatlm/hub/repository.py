"""Ask the hub what a repository has, and turn its refusals into next steps."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from chatlm.errors import ModelError
from chatlm.hub.architecture import parse_config
from chatlm.hub.catalogue import GgufFiles
from chatlm.hub.gguf_choices import group_files
from chatlm.hub.model_folder import is_model_file, model_kind

ASK_SECONDS = 10.0
"""Timeout of a question to the hub."""


@dataclass(frozen=True)
class Repository:
    """What a repository of the hub has."""

    name: str
    commit: str
    sizes: Mapping[str, int]
    """Bytes of each file by path."""
    hashes: Mapping[str, str]
    """SHA-256 of the large ones."""
    licence: str
    """As its card names it; empty if it does not."""

    @property
    def ggufs(self) -> list[GgufFiles]:
        """Its GGUF models, smallest first."""
        return group_files(self.sizes)

    @property
    def safetensors_bytes(self) -> int:
        """Size of its weights in safetensors, without copies in folders; 0 if it has none."""
        names = [name for name in self.sizes if name.endswith(".safetensors")]
        return sum(self.sizes[name] for name in names if is_model_file(name))

    @property
    def has_safetensors(self) -> bool:
        """Whether it has weights in safetensors."""
        return any(name.endswith(".safetensors") for name in self.sizes)


def is_offline() -> bool:
    """Tell whether the user set the hub library offline."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def hub_endpoint() -> str:
    """Return the hub's address."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def read_repository(repository: str, revision: str = "main") -> Repository:
    """Ask the hub for a repository's files.

    Raises:
        ModelError: there is none, it is not allowed, or the hub does not answer.
    """
    from huggingface_hub import HfApi

    if is_offline():
        raise offline_error()
    with hub_errors(repository, revision):
        info = HfApi(endpoint=hub_endpoint()).model_info(
            repository, revision=revision, files_metadata=True, timeout=ASK_SECONDS
        )
    files = {file.rfilename: file for file in info.siblings or [] if _stays_inside(file.rfilename)}
    card = info.card_data
    licence = card.get("license", "") if card is not None else ""
    return Repository(
        name=repository,
        commit=info.sha or revision,
        sizes={name: file.size or 0 for name, file in files.items()},
        hashes={name: lfs.sha256 for name, file in files.items() if (lfs := file.lfs)},
        licence=licence if isinstance(licence, str) else "",
    )


def read_hub_config(found: Repository) -> dict[str, Any] | None:
    """Read the config.json of a chat model in safetensors; None if it is no such model.

    Raises:
        ModelError: the hub does not answer, or it is no config.json.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import get_session, hf_raise_for_status

    if not found.safetensors_bytes or "config.json" not in found.sizes:
        return None
    url = hf_hub_url(found.name, "config.json", revision=found.commit, endpoint=hub_endpoint())
    with hub_errors(found.name, found.commit):
        response = get_session().get(
            url, headers=build_hf_headers(), timeout=ASK_SECONDS, follow_redirects=True
        )
        hf_raise_for_status(response)
    config = parse_config(response.content, f"config.json of {found.name}")
    is_chat = "modules.json" not in found.sizes and model_kind(config) == "chat"
    return config if is_chat else None


def _stays_inside(name: str) -> bool:
    """Whether a file's path, which comes from outside, leads to no other folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def offline_error() -> ModelError:
    """Return the error for a download that the user has switched off."""
    return ModelError(
        "HF_HUB_OFFLINE is set, so the hub is not used.",
        "To download the model, unset HF_HUB_OFFLINE.",
    )


@contextlib.contextmanager
def hub_errors(repository: str, revision: str) -> Iterator[None]:
    """Turn errors of the hub library into `ModelError`s with a next step."""
    import httpx2
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise ModelError(
            f"The owner of {repository} asks you to accept terms before you can download it.",
            f"Accept them at {hub_endpoint()}/{repository}, then run: hf auth login\n"
            "(or set HF_TOKEN). GGUF copies of the same model are often free of that: "
            "chatlm models list",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{repository} has no revision {revision}.",
            f"See {hub_endpoint()}/{repository}/tree/main",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub has no model {repository}, or it is private.",
            "Check the spelling; for a private model run: hf auth login (or set HF_TOKEN)"
            + _similar(repository),
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError) as error:
        raise ModelError(
            f"{repository} could not be read from {hub_endpoint()}: {error}",
            "Check the network, then run the same command again; a download goes on where it was.",
        ) from error
    except OSError as error:
        if not str(error).startswith("Consistency check failed"):
            raise
        raise ModelError(
            f"A file of {repository} differs from what the hub says of it: {error}",
            "Run the same command to download that file again.",
        ) from error


def _similar(repository: str) -> str:
    from chatlm.hub.catalogue import close_names

    close = close_names(repository, 2)
    return f"\nSimilar models in the catalogue: {', '.join(close)}" if close else ""
