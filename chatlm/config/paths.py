"""Places of chatlm's files on disk, and atomic writing."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

import platformdirs

_PACKAGE_DIR = Path(__file__).parents[1]


def _home() -> Path | None:
    home = os.environ.get("CHATLM_HOME")
    return Path(home).expanduser() if home else None


def data_dir() -> Path:
    """Return the data folder: chats, models, the user's plugins, prompts and indices."""
    return _home() or Path(platformdirs.user_data_dir("chatlm", appauthor=False))


def config_file() -> Path:
    """Return the path of config.toml."""
    home = _home()
    folder = home or Path(platformdirs.user_config_dir("chatlm", appauthor=False))
    return folder / "config.toml"


def config_dir() -> Path:
    """Return the folder of config.toml and of other files that users write."""
    return config_file().parent


def log_file() -> Path:
    """Return the path of the newest log file."""
    home = _home()
    return (home or Path(platformdirs.user_log_dir("chatlm", appauthor=False))) / "chatlm.log"


def database_file() -> Path:
    """Return the path of the chats' database."""
    return data_dir() / "chats.db"


def models_dir() -> Path:
    """Return the folder of downloaded models, one folder each."""
    return data_dir() / "models"


def user_plugins_dir() -> Path:
    """Return the folder of the user's loose plugins."""
    return data_dir() / "plugins"


def bundled_dir(name: str) -> Path:
    """Return a folder shipped with chatlm, such as `prompts`: in the wheel, else the checkout."""
    inside = _PACKAGE_DIR / name
    return inside if inside.is_dir() else _PACKAGE_DIR.parent / name


def expand_path(path: str) -> Path:
    """Expand `~` and `~NAME`; return the path unchanged if there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def check_regular_file(path: Path) -> None:
    """Check that a path is a file, before it is opened.

    Opening a named pipe can wait forever, and a device such as /dev/zero has no end.

    Raises:
        OSError: it is missing, or a folder, a pipe or a device.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def write_atomically(path: Path, chunks: Iterable[str]) -> None:
    """Replace a file's content by the joined chunks, as UTF-8.

    The old content stays until the new one is on disk. Permissions are kept, a new file is
    readable by its owner only, and a symbolic link stays one.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full; nothing changed.
    """
    target = path.resolve()
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
