"""Loads the plugins a run wants, tells them when it begins and ends, and keeps what failed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from chatlm import hookspecs, paths
from chatlm.config import Config
from chatlm.errors import ChatlmError
from chatlm.files import write_atomically
from chatlm.plugins import crashes
from chatlm.plugins.discovery import find
from chatlm.plugins.faults import LOADING_STEPS, Fault
from chatlm.plugins.host import PluginHost


@contextmanager
def loaded(config: Config) -> Iterator[PluginHost]:
    """The plugins that the person has and wants, told when chatlm is ready and about to exit."""
    host = PluginHost()
    load_all(host, config)
    start(host, config)
    try:
        yield host
    finally:
        for _ in host.each("shutdown"):
            pass
        remember(host)


def load_all(host: PluginHost, config: Config, only: Iterable[str] | None = None) -> None:
    """Load what is switched on; what fails is the host's to tell.

    Args:
        host: gets the plugins.
        config: says which are switched off; in safe mode all are.
        only: load no other than these.
    """
    wanted = None if only is None else set(only)
    for found in [] if config.safe_mode else find():
        left_out = wanted is not None and found.name not in wanted
        if left_out or found.name in config.disabled_plugins:
            continue
        if found.problem:
            host.load(found)
            continue
        with crashes.watched(found.name) as safe:
            if safe:
                host.load(found)
            else:
                host.leave_out(found.name, "loading", _crash(found.name))


def start(host: PluginHost, config: Config) -> None:
    """Give each plugin its settings, then call `startup`."""
    own = {name: host.settings(name, config.plugins.get(name, {})) for name in host.names}
    with ExitStack() as mark:

        def context(name: str) -> Mapping[str, Any]:
            mark.close()
            mark.enter_context(crashes.watched(name))
            return {"context": hookspecs.Context(config, paths.data_dir(), own[name])}

        for _ in host.offer("startup", context):
            pass


def remember(host: PluginHost) -> None:
    """Keep the last fault of each plugin, for `chatlm plugins list`, until the same goes well."""
    before = recalled()
    mended = host.came_through | {(name, step) for name in host.names for step in LOADING_STEPS}
    now = {name: fault for name, fault in before.items() if (name, fault.hook) not in mended}
    now |= host.last_faults
    if now == before:
        return
    text = json.dumps({name: fault.to_dict() for name, fault in now.items()}, indent=1)
    with suppress(OSError):
        write_atomically(_file(), [text])


def recalled() -> dict[str, Fault]:
    """The last faults by plugin, as earlier runs left them."""
    try:
        kept = json.loads(_file().read_text(encoding="utf-8"))
        return {name: Fault.from_dict(values) for name, values in kept.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _file() -> Path:
    return paths.data_dir() / "plugin-faults.json"


def _crash(name: str) -> ChatlmError:
    return ChatlmError(
        "chatlm ended while it was being loaded", hint=f"Try it again: chatlm plugins enable {name}"
    )
