"""Which plugins there are and how each does, as values; loads none and calls no hook."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chatlm.plugins.crashes import crashed
from chatlm.plugins.discovery import find
from chatlm.plugins.faults import LOADING_STEPS, Fault
from chatlm.plugins.host import PluginHost

Status = Literal["on", "off", "failing", "left out", "failed", "crashed"]
"""`off` is switched off, `failing` is on but failed when it was used last, `left out` failed too
often, `failed` cannot be loaded, `crashed` ended chatlm while it was loaded and is left out until
it is enabled."""


@dataclass(frozen=True)
class Row:
    """One plugin in the list."""

    name: str
    version: str | None
    """None for a loose file."""
    source: str
    status: Status
    error: str | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "name": self.name,
            "version": self.version,
            "source": self.source,
            "status": self.status,
            "error": self.error,
        }


def overview(host: PluginHost, off: Collection[str], faults: Mapping[str, Fault]) -> list[Row]:
    """Every plugin that is here, in the order they are loaded.

    Args:
        host: has loaded those that are not `off`.
        off: the names of those that are switched off.
        faults: the last fault of each plugin.
    """
    rows = []
    for one in find():
        fault = faults.get(one.name)
        status: Status = "on"
        error = None
        if one.problem:
            status, error = "failed", one.problem
        elif one.name in off:
            status = "off"
        elif fault:
            status, error = _status(host, fault), f"{fault.hook}: {fault.error}"
        rows.append(Row(one.name, one.version or None, one.source, status, error))
    return rows


def _status(host: PluginHost, fault: Fault) -> Status:
    if fault.plugin in host.names and not host.is_left_out(fault.plugin):
        return "failing"
    if crashed(fault.plugin):
        return "crashed"
    return "failed" if fault.hook in LOADING_STEPS else "left out"
