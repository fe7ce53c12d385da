"""Finds plugins, loads them and calls their hooks one by one; knows no hook's meaning."""

from chatlm.plugins.discovery import Found, find
from chatlm.plugins.faults import Fault
from chatlm.plugins.host import MOST_FAILURES, SLOW_SECONDS, PluginHost
from chatlm.plugins.lifetime import load_all, loaded
from chatlm.plugins.turn import TurnPlugins

__all__ = [
    "MOST_FAILURES",
    "SLOW_SECONDS",
    "Fault",
    "Found",
    "PluginHost",
    "TurnPlugins",
    "find",
    "load_all",
    "loaded",
]
