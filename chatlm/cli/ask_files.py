"""Read what `chatlm ask -a` attaches; index folders that are too large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from chatlm.chat.attached import Attached, join_attached, read_attached, split_fragment
from chatlm.chat.attachments import AttachmentReader, FolderTooLarge
from chatlm.chat.resources import Resources
from chatlm.chat.web_images import fetch_image, is_web_address
from chatlm.errors import UsageError
from chatlm.plugin_host.host import PluginHost
from chatlm.types.conversations import PluginData
from chatlm.types.services import FolderIndexer, as_service


def read_files(
    files: Sequence[str],
    plugins: PluginHost,
    web_hosts: Sequence[str],
    *,
    may_index: bool = False,
    chosen: Mapping[str, object] = MappingProxyType({}),
) -> tuple[Attached, PluginData]:
    """Return the texts and images of files, folders, addresses and resources.

    Args:
        files: as they were named, with or without an @.
        plugins: may read files, offer resources and index folders.
        web_hosts: servers that need not be public, see `fetch_image`.
        may_index: whether a folder that is too large may be indexed.
        chosen: the plugin data of options, such as `--index`.

    Returns:
        The texts and images, and the plugin data with which a chat uses the index of a folder that
        was too large to attach.

    Raises:
        UsageError: one cannot be read.
    """
    read_file = AttachmentReader(plugins)
    resources = Resources.of_plugins(plugins) if files else Resources()
    found: list[Attached] = []
    data: PluginData = {}
    for name in files:
        mention = name.removeprefix("@")
        if resources.includes(mention) and not Path(name).exists():
            found.append(Attached((resources.read_block(mention),)))
            continue
        if is_web_address(mention) and not Path(name).exists():
            found.append(Attached(images=(fetch_image(mention, web_hosts),)))
            continue
        path, fragment = (name, "") if Path(name).exists() else split_fragment(name)
        try:
            found.append(read_attached(Path(path), str(Path(path)), fragment, read_file))
        except FolderTooLarge as error:
            if not may_index:
                raise
            if data:
                raise UsageError(
                    "A question can use the index of one folder, and several are too large",
                    hint="Index them together: chatlm rag build NAME PATHS, then --index NAME",
                ) from error
            data = _index(error, plugins, chosen)
    return join_attached(found), data


def _index(error: FolderTooLarge, plugins: PluginHost, chosen: Mapping[str, object]) -> PluginData:
    """Index a folder, with its progress on stderr.

    Raises:
        FolderTooLarge: no plugin can.
        UsageError: an option chose another index.
        ChatlmError: it cannot be indexed.
    """
    from chatlm.plugin_kit.progress import progress_bar

    plugin, offered = plugins.service_of("folder_indexer")
    indexer = as_service(offered, FolderIndexer)
    if indexer is None:
        raise error
    if plugin in chosen:
        raise UsageError(
            f"{error.message}, and a question can use only one index",
            hint="Leave out --index, or attach a part of the folder.",
        ) from error
    with progress_bar() as progress:
        name = error.folder.resolve().name  # `.` has none
        progress.update(0, None, f"{name} is too large to attach; indexing it")
        return indexer.index_folder(error.folder, progress).plugin_data
