"""Every place on disk that chatlm uses; `CHATLM_HOME` puts all of it into one folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).parent


def _home() -> Path | None:
    home = os.environ.get("CHATLM_HOME")
    return Path(home).expanduser() if home else None


def data_dir() -> Path:
    """What must be kept: chats, models, the person's plugins, prompts and indices."""
    return _home() or Path(platformdirs.user_data_dir("chatlm", appauthor=False))


def config_file() -> Path:
    """The settings file, TOML."""
    home = _home()
    folder = home or Path(platformdirs.user_config_dir("chatlm", appauthor=False))
    return folder / "config.toml"


def log_file() -> Path:
    """The newest log."""
    home = _home()
    return (home or Path(platformdirs.user_log_dir("chatlm", appauthor=False))) / "chatlm.log"


def database() -> Path:
    """The chats."""
    return data_dir() / "chats.db"


def models_dir() -> Path:
    """Models that chatlm fetched, one folder each."""
    return data_dir() / "models"


def user_plugins() -> Path:
    """The person's own loose plugins."""
    return data_dir() / "plugins"


def shipped(name: str) -> Path:
    """A folder that comes with chatlm, such as `prompts`: inside a wheel, else the checkout."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
