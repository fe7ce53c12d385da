"""Texts that plugins offer to attach to a message, each mentioned as `PREFIX:NAME`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from chatlm.chat.attachments import MAX_FILE_BYTES, MAX_NAME_WIDTH, format_block
from chatlm.errors import ChatlmError, UsageError
from chatlm.text import one_line

if TYPE_CHECKING:  # slow to load, and not needed before something is attached
    from chatlm.plugin_host.hookspecs import ResourceSource
    from chatlm.plugin_host.host import PluginHost

log = logging.getLogger(__name__)


class Resources:
    """The resources of all plugins.

    Args:
        sources: by prefix.
    """

    def __init__(self, sources: Mapping[str, ResourceSource] | None = None) -> None:
        self._sources = dict(sources or {})

    @classmethod
    def of_plugins(cls, plugins: PluginHost) -> Resources:
        """Ask the plugins for their resources; of two with one prefix, the first counts."""
        found: dict[str, ResourceSource] = {}
        for _, (prefix, source) in plugins.collect("register_resources"):
            found.setdefault(prefix, source)
        return cls(found)

    def includes(self, mention: str) -> bool:
        """Whether a text such as `wiki:Home` names a resource, as far as its prefix says."""
        prefix, colon, name = mention.partition(":")
        return bool(colon and name.strip()) and prefix in self._sources

    def names(self) -> list[str]:
        """Return the mentions that can be completed; of a source that fails, none."""
        found = []
        for prefix, source in self._sources.items():
            try:
                found += [f"{prefix}:{name}" for name in source.names()]
            except Exception as error:  # a plugin may fail in any way; the rest is of use
                log.warning("resources %s cannot be listed: %r", one_line(prefix, 60), error)
        return found

    def read_block(self, mention: str) -> str:
        """Return a resource as a message shows it; see `format_block`.

        Raises:
            UsageError: it cannot be read, or is too large.
        """
        prefix, _, name = mention.partition(":")
        shown = one_line(mention, MAX_NAME_WIDTH)
        try:
            text = self._sources[prefix].read(name)
        except ChatlmError as error:
            raise UsageError(f"{shown}: {error.message}", error.hint) from error
        except Exception as error:  # a plugin may fail in any way
            problem = one_line(f"{type(error).__name__}: {error}", 200)
            raise UsageError(f"{shown} cannot be read: {problem}") from error
        if len(text.encode("utf-8", "replace")) > MAX_FILE_BYTES:
            raise UsageError(f"{shown} is larger than {MAX_FILE_BYTES // 1_000_000} MB")
        return format_block(mention, text)
