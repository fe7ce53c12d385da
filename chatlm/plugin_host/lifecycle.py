"""Load, start, stop; enable, disable; status of plugins."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from chatlm.config import config, paths, toml_file
from chatlm.config.config import Config
from chatlm.config.paths import write_atomically
from chatlm.errors import ChatlmError
from chatlm.plugin_host import hookspecs
from chatlm.plugin_host.crash_records import clear_crashes, crashes_in_a_row, recorded_crashes
from chatlm.plugin_host.discovery import ENTRY_POINT_GROUP, PluginSource, find_plugins
from chatlm.plugin_host.faults import LOADING_STEPS, Fault
from chatlm.plugin_host.host import PluginHost
from chatlm.types.services import require_service

T = TypeVar("T")

SHUTDOWN_SECONDS = 0.7
"""How long all `shutdown` hooks together may take, since the user waits for the shell."""


@contextmanager
def loaded_plugins(config: Config) -> Iterator[PluginHost]:
    """Load and start the enabled plugins; shut them down at the end."""
    host = PluginHost()
    load_plugins(host, config)
    start_plugins(host, config)
    try:
        yield host
    finally:
        host.shut_down(SHUTDOWN_SECONDS)
        save_faults(host)


@contextmanager
def service(name: str, protocol: Callable[..., T]) -> Iterator[T]:
    """Provide a service of another plugin to a command, for which the plugins are loaded.

        with chatlm.service("adapters", chatlm.Adapters) as adapters:
            print(adapters.names())

    Args:
        name: such as `adapters`.
        protocol: what the service must be an instance of, such as `chatlm.Adapters`.

    Raises:
        UsageError: no plugin offers it.
    """
    with loaded_plugins(config.load()) as host:
        yield require_service(name, host.service(name), protocol)


def load_plugins(host: PluginHost, config: Config, only: Iterable[str] | None = None) -> None:
    """Load the enabled plugins; failures are recorded in the host.

    Args:
        host: gets the plugins.
        config: says which are switched off; in safe mode all are.
        only: load no other than these.
    """
    wanted = None if only is None else set(only)
    for found in [] if config.safe_mode else find_plugins():
        left_out = wanted is not None and found.name not in wanted
        if left_out or found.name in config.disabled_plugins:
            continue
        if not is_shipped(found) and (crashes := crashes_in_a_row(found.name)):
            host.drop(found.name, "loading", _crash_error(found.name, crashes))
            continue
        with recorded_crashes(found.name, "import") if not found.problem else nullcontext():
            host.load(found)


def is_shipped(plugin: PluginSource) -> bool:
    """Return whether a plugin comes with chatlm."""
    return plugin.source == ENTRY_POINT_GROUP


def crashing_shipped_plugins() -> dict[str, list[str]]:
    """Return the crashes in a row of the plugins that come with chatlm, by name.

    They are loaded all the same; only the user can say whether to do without.

    Raises:
        ConfigError: the config file cannot be read.
    """
    records = paths.data_dir() / "loading"
    if not records.is_dir() or not any(records.iterdir()):
        return {}
    disabled = config.load().disabled_plugins
    shipped = (plugin.name for plugin in find_plugins() if is_shipped(plugin))
    crashes = {name: crashes_in_a_row(name) for name in shipped if name not in disabled}
    return {name: found for name, found in crashes.items() if found}


def start_plugins(host: PluginHost, config: Config) -> None:
    """Give each plugin its settings, then call `startup`."""
    own = {name: host.settings(name, config.plugins.get(name, {})) for name in host.names}
    with ExitStack() as record:

        def context(name: str) -> Mapping[str, Any]:
            record.close()
            record.enter_context(recorded_crashes(name, "startup"))
            return {
                "context": hookspecs.PluginContext(
                    config, paths.data_dir(), own[name], host.service
                )
            }

        for _ in host.call_each("startup", context):
            pass


def save_faults(host: PluginHost) -> None:
    """Save the last fault of each plugin, for `chatlm plugins list`, until the same goes well."""
    before = load_faults()
    mended = host.succeeded_calls | {(name, step) for name in host.names for step in LOADING_STEPS}
    now = {name: fault for name, fault in before.items() if (name, fault.hook) not in mended}
    now |= host.last_faults
    if now == before:
        return
    text = json.dumps({name: fault.to_dict() for name, fault in now.items()}, indent=1)
    with suppress(OSError):
        write_atomically(_faults_file(), [text])


def load_faults() -> dict[str, Fault]:
    """Return the last fault of each plugin, as earlier runs saved them."""
    try:
        kept = json.loads(_faults_file().read_text(encoding="utf-8"))
        return {name: Fault.from_dict(values) for name, values in kept.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _faults_file() -> Path:
    return paths.data_dir() / "plugin-faults.json"


def _crash_error(name: str, crashes: list[str]) -> ChatlmError:
    return ChatlmError(
        f"chatlm crashed {len(crashes)} times in a row while it was loaded ({crashes[-1]})",
        hint=f"Try it again: chatlm plugins enable {name}",
    )


def enable(name: str) -> bool:
    """Load a plugin again at the next start, also after a crash; returns whether it was off.

    Raises:
        ConfigError: the config file cannot be read or written.
    """
    disabled = config.load().disabled_plugins
    if name in disabled:
        _write_disabled([other for other in disabled if other != name])
    crashed = bool(crashes_in_a_row(name))
    clear_crashes(name)
    return crashed or name in disabled


def disable(name: str) -> None:
    """Disable a plugin from the next start on. Raises as `enable`."""
    disabled = config.load().disabled_plugins
    if name not in disabled:
        _write_disabled([*disabled, name])


def _write_disabled(disabled: list[str]) -> None:
    toml_file.set_key(paths.config_file(), ["disabled_plugins"], disabled)


PluginStatus = Literal["on", "off", "slow", "failing", "left out", "failed", "crashed"]
"""`off` is switched off, `slow` took too long when it was used last, `failing` is on but failed
then, `left out` failed too often or did not return, `failed` cannot be loaded, `crashed` crashed
chatlm twice while it was loaded and is left out until it is enabled."""


@dataclass(frozen=True)
class PluginInfo:
    """One plugin in the list."""

    name: str
    version: str | None
    """None for a loose file."""
    source: str
    status: PluginStatus
    error: str | None
    summary: str = ""
    """What it does, in one line; empty where it does not say so or is not loaded."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "name": self.name,
            "version": self.version,
            "source": self.source,
            "status": self.status,
            "error": self.error,
            "summary": self.summary,
        }


def describe_plugins(
    host: PluginHost, disabled: Collection[str], faults: Mapping[str, Fault]
) -> list[PluginInfo]:
    """Describe every plugin that was found, in loading order.

    Args:
        host: has loaded those that are not `disabled`.
        disabled: the names of those that are switched off.
        faults: the last fault of each plugin.
    """
    rows = []
    for one in find_plugins():
        fault = faults.get(one.name)
        status: PluginStatus = "on"
        error = None
        if one.problem:
            status, error = "failed", one.problem
        elif one.name in disabled:
            status = "off"
        elif fault:
            status, error = _status_after_fault(host, fault), f"{fault.hook}: {fault.error}"
        version, summary = one.version or None, host.summary(one.name)
        rows.append(PluginInfo(one.name, version, one.source, status, error, summary))
    return rows


def _status_after_fault(host: PluginHost, fault: Fault) -> PluginStatus:
    if fault.plugin in host.names and not host.is_dropped(fault.plugin):
        return "slow" if fault.kind == "slow" else "failing"
    if crashes_in_a_row(fault.plugin):
        return "crashed"
    return "failed" if fault.hook in LOADING_STEPS else "left out"
