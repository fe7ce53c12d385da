"""The terminal UI, built with Textual."""

from __future__ import annotations

import gc
import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatlm.config.config import Config
    from chatlm.store.store import Store
    from chatlm.tui.app import ChatApp

MAX_FPS = "120"
"""Upper bound on frames per second; at Textual's default a key press may wait a whole frame."""

GC_FULL_COLLECTION_THRESHOLD = 1000
"""Young-generation collections between two full ones, which freeze the screen."""

LOADER_EXIT_SECONDS = 0.3
"""Seconds that quitting waits for a model that is still loading."""

TASK_EXIT_SECONDS = 0.3
"""Seconds that quitting waits for tasks that are cancelled."""


def run(
    config: Config,
    incognito: bool = False,
    conversation_id: int | None = None,
    project: str = "",
) -> None:
    """Open the UI and return when the user quits.

    Args:
        config: the user's settings.
        incognito: start with a chat that is not saved.
        conversation_id: the chat to open at the start.
        project: the folder of the project to open at the start; empty for none.

    Raises:
        StoreError: the saved chats cannot be opened; an incognito chat does without them.
    """
    gc.set_threshold(*gc.get_threshold()[:2], GC_FULL_COLLECTION_THRESHOLD)
    os.environ.setdefault("TEXTUAL_FPS", MAX_FPS)  # Textual reads it when it is imported
    from chatlm.chat.first_start import is_first_start, make_offer
    from chatlm.engines.open import make_model_opener
    from chatlm.plugin_host.hook_threads import hooks_running
    from chatlm.plugin_host.lifecycle import loaded_plugins
    from chatlm.tui import clipboard
    from chatlm.tui.app import ChatApp
    from chatlm.tui.graphics import detect_graphics

    clipboard.install_paste_parser()
    store, notes = _open_store(incognito)
    with loaded_plugins(config) as plugins, store:
        app = ChatApp(
            store,
            make_model_opener(config, plugins),
            plugins=plugins,
            config=config,
            incognito=incognito,
            conversation_id=conversation_id,
            project=project,
            notices=notes,
            offer_models=partial(make_offer, config, plugins)
            if not (incognito or conversation_id or project) and is_first_start(config)
            else None,
            resumes_downloads=True,
            graphics=detect_graphics(config.images),
        )
        _run_app(app)
    loaded = app.services.engine.cancel(LOADER_EXIT_SECONDS)
    if not loaded or app.chat_screen.plugin_actions.busy or hooks_running():
        logging.shutdown()
        os._exit(app.return_code or 0)  # an interpreter that ends under a thread may crash
    app.services.engine.close()
    if app.return_code:
        sys.exit(app.return_code)


run_ui = run
"""Public name of `run`."""


def _run_app(app: ChatApp) -> None:
    """Run the app; not by `asyncio.run`, which waits for the threads that a plugin hangs in."""
    import asyncio

    loop = asyncio.new_event_loop()
    running = loop.create_task(app.run_async())
    try:
        while not running.done():
            try:
                loop.run_until_complete(running)
            except (SystemExit, KeyboardInterrupt) as error:  # which leave the loop from any task
                if running.done() or not app.catch_plugin_error(error):
                    raise
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=TASK_EXIT_SECONDS))
    finally:
        loop.close()


def _open_store(incognito: bool) -> tuple[Store, tuple[str, ...]]:
    """Open the saved chats; return them with notices for the user."""
    from chatlm.config import paths
    from chatlm.errors import StoreError
    from chatlm.store.store import Store

    try:
        store = Store(paths.database_file())
    except StoreError as error:
        if not incognito:
            raise
        return Store(None), (f"Nothing of this run is saved. {error}",)
    if store.unwritable is None:
        return store, ()
    return store, (f"Saved chats can be read, but nothing is saved. {store.unwritable}",)
