"""Finds plugins, loads them and calls their hooks one by one; knows no hook's meaning."""

from chatlm.plugins.discovery import Found, find
from chatlm.plugins.host import MOST_FAILURES, SLOW_SECONDS, Fault, PluginHost
from chatlm.plugins.lifetime import load_all, loaded

__all__ = [
    "MOST_FAILURES",
    "SLOW_SECONDS",
    "Fault",
    "Found",
    "PluginHost",
    "find",
    "load_all",
    "loaded",
]
