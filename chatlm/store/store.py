"""The store of saved chats: conversations, turns, replies and what belongs to them, in SQLite."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from chatlm.errors import StoreError
from chatlm.hub.disk import tree_bytes
from chatlm.store import queries, writes
from chatlm.store.blobs import Blobs
from chatlm.store.database import Database
from chatlm.store.queries import ChatListEntry, TrashEntry
from chatlm.store.rows import (
    AnnotationLookup,
    BlobLookup,
    PassageLookup,
    ProvenanceLookup,
    TraceLookup,
    dump_plugin_names,
    dump_project,
    dump_sampling,
    dump_tags,
    dump_tools,
    short_title,
    utf8_safe,
)
from chatlm.store.search import ChatSearchHit, SearchedPart, search
from chatlm.store.vectors import TextVectors
from chatlm.types.conversations import (
    ContextPolicy,
    Conversation,
    ConversationHeader,
    PluginData,
    Turn,
)
from chatlm.types.messages import Annotation, Message, Passage
from chatlm.types.parts import Part
from chatlm.types.projects import Project
from chatlm.types.provenance import Provenance, Trace
from chatlm.types.replies import Reply, ReplyStep, StopReason, Usage, utc_now
from chatlm.types.sampling import Sampling
from chatlm.types.tool_rules import ChatTools

CACHES_FOLDER = "caches"
"""Name of the folder beside the database that has a folder for each chat's saved KV cache."""


class Store:
    """The chats of one database file; every method may be called from any thread.

    Text is stored unchanged, except that a lone surrogate, which UTF-8 cannot encode, becomes
    U+FFFD.

    Args:
        path: the database, created if missing; None keeps everything in memory (incognito).
        first_id: the first id of chats, turns and replies in memory; 0 counts from 1.

    Raises:
        StoreError: from any method: SQLite failed, an id was not found, or the chat is in the
            trash.
    """

    def __init__(self, path: Path | None, *, first_id: int = 0) -> None:
        self.on_disk = path is not None
        """Whether the chats outlive the program."""
        self.first_id = first_id
        self._database = Database(path)
        self.vectors = TextVectors(self._database)
        """Vectors of the messages and replies, by which these are found by meaning."""
        self._blobs = Blobs(None if path is None else path.resolve().parent / "blobs")
        self._caches = None if path is None else path.resolve().parent / CACHES_FOLDER
        if first_id:
            with self._database.write_transaction() as db:
                writes.start_ids(db, first_id)

    @property
    def unwritable(self) -> StoreError | None:
        """Why the chats can only be read; None if they can be written."""
        return self._database.unwritable

    @property
    def can_save(self) -> bool:
        """Whether chats can be saved on disk."""
        return self.on_disk and self.unwritable is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; call no other method afterwards."""
        self._database.close()

    # --- conversations ------------------------------------------------------------------------

    def create_conversation(
        self,
        title: str = "",
        system: str = "",
        sampling: Sampling | None = None,
        plugin_data: PluginData | None = None,
        disabled_plugins: Iterable[str] = (),
        source: str = "",
        project: Project | None = None,
        tools: ChatTools | None = None,
    ) -> Conversation:
        """Create an empty chat; `source` names what began it, for the list of chats."""
        now = utc_now()
        chat = Conversation(
            id=0,
            title=title,
            system=system,
            created=now,
            updated=now,
            sampling=sampling or Sampling(),
            plugin_data=plugin_data or {},
            disabled_plugins=frozenset(disabled_plugins),
            project=project,
            tools=tools or ChatTools(),
        )
        with self._database.write_transaction() as db:
            inserted = writes.insert_conversation(db, chat)
            if source:
                writes.set_conversation_column(db, inserted.conversation_id, "source", source)
            return queries.load_conversation(db, inserted.conversation_id)

    def add_conversation(
        self,
        conversation: Conversation,
        passages: PassageLookup = lambda _: (),
        annotations: AnnotationLookup = lambda _: (),
        provenance: ProvenanceLookup = lambda _: None,
        traces: TraceLookup = lambda _: (),
        blobs: BlobLookup = lambda _: None,
    ) -> Conversation:
        """Store an imported chat; it keeps its times and gets new ids.

        Args:
            conversation: the chat; the ids of its turns are unique, and so are those of its
                replies. `forked_from` is None or a chat of this store.
            passages: looks up a turn's passages by its id in `conversation`.
            annotations: looks up a turn's labels likewise.
            provenance: looks up a reply's provenance likewise.
            traces: looks up a turn's plugin traces likewise.
            blobs: looks up the bytes of an image by its hash; those that it lacks stay missing.
        """
        related = [
            (turn.id, passages(turn.id), annotations(turn.id), traces(turn.id))
            for turn in conversation.turns
        ]
        reply_ids = [reply.id for turn in conversation.turns for reply in turn.replies]
        sources = [(reply_id, provenance(reply_id)) for reply_id in reply_ids]
        with self._database.write_transaction() as db:
            for sha256 in sorted({image.sha256 for image in conversation.images()}):
                if (content := blobs(sha256)) is not None:
                    self._blobs.add(content)
            ids = writes.insert_conversation(db, conversation)
            for turn_id, turn_passages, labels, turn_traces in related:
                stored_id = ids.turn_ids[turn_id]
                writes.insert_passages(db, stored_id, turn_passages)
                writes.insert_annotations(db, stored_id, ids.remap_annotations(labels))
                writes.insert_traces(db, stored_id, ids.remap_traces(turn_traces))
            for reply_id, source in sources:
                if source is not None:
                    writes.upsert_provenance(db, ids.reply_ids[reply_id], source)
            return queries.load_conversation(db, ids.conversation_id)

    def find_duplicate(self, conversation: Conversation, *, created_known: bool) -> int | None:
        """Find the chat that already contains an imported one; the trash is not searched.

        Its first user messages are those of `conversation`. It also was created at the same
        moment or, where the file does not say when (`created_known` false), has the same system
        prompt and each reply among its versions.
        """
        with self._database.read_transaction() as db:
            return queries.find_duplicate(db, conversation, created_known)

    def fork(self, conversation_id: int, turn_count: int | None = None) -> Conversation:
        """Copy a chat into a new one; the original does not change.

        Args:
            conversation_id: the chat to copy.
            turn_count: how many of its turns to copy, from the first; None copies all. With none,
                a chat titled after its first message gets no title.
        """
        with self._database.write_transaction() as db:
            original = queries.load_conversation(db, conversation_id)
            copied = original.turns[:turn_count]
            title = short_title(original.title, copied[0].display_text if copied else None)
            copy = dataclasses.replace(
                original,
                title=writes.fork_title(title, queries.list_fork_titles(db)) if title else "",
                turns=copied,
                created=utc_now(),
                updated=utc_now(),
                pinned=False,
                forked_from=conversation_id,
            )
            ids = writes.insert_conversation(db, copy)
            writes.copy_related_rows(db, ids)
            return queries.load_conversation(db, ids.conversation_id)

    def list_conversations(
        self, limit: int | None = None, offset: int = 0, *, with_asked: bool = True
    ) -> list[ChatListEntry]:
        """List the chats: pinned ones first, then the last changed first.

        Args:
            limit: maximum number of chats; None for all.
            offset: how many to skip.
            with_asked: whether chats that `chatlm ask` began are listed.
        """
        with self._database.read_transaction() as db:
            return queries.list_chat_entries(db, limit, offset, "-" if with_asked else "ask")

    def conversation(self, conversation_id: int) -> Conversation:
        """Load a chat with all its turns and replies, in order."""
        with self._database.read_transaction() as db:
            return queries.load_conversation(db, conversation_id)

    def header(self, conversation_id: int) -> ConversationHeader:
        """Load a chat without its turns."""
        with self._database.read_transaction() as db:
            return queries.load_header(db, conversation_id)

    def title(self, conversation_id: int) -> str:
        """Return a chat's title, else the beginning of its first message; works in the trash too.

        May be empty.
        """
        with self._database.read_transaction() as db:
            return queries.chat_title(db, conversation_id)

    def rename(self, conversation_id: int, title: str) -> None:
        """Set a chat's title; an empty one shows the beginning of the first message instead."""
        self._set_column(conversation_id, "title", utf8_safe(title))

    def set_system(self, conversation_id: int, system: str) -> None:
        """Set a chat's system prompt."""
        self._set_column(conversation_id, "system", utf8_safe(system))

    def set_sampling(self, conversation_id: int, sampling: Sampling) -> None:
        """Set the user's sampling settings for a chat."""
        self._set_column(conversation_id, "sampling", dump_sampling(sampling))

    def set_project(self, conversation_id: int, project: Project | None) -> None:
        """Set the project that a chat belongs to; None for none."""
        self._set_column(conversation_id, "project", dump_project(project))

    def set_tools(self, conversation_id: int, tools: ChatTools) -> None:
        """Set what the user decided about tools in a chat."""
        self._set_column(conversation_id, "tools", dump_tools(tools))

    def allow_tool(self, conversation_id: int, name: str) -> None:
        """Let a tool run in a chat without asking, beside what was decided before."""
        with self._database.write_transaction() as db:
            tools = queries.load_header(db, conversation_id).tools.with_permission(name, "allow")
            writes.set_conversation_column(db, conversation_id, "tools", dump_tools(tools))

    def set_tags(self, conversation_id: int, tags: Iterable[str]) -> None:
        """Replace a chat's tags.

        Args:
            conversation_id: the chat.
            tags: words without spaces.
        """
        self._set_column(conversation_id, "tags", dump_tags(tags))

    def set_plugin_data(self, conversation_id: int, plugin: str, values: Mapping[str, Any]) -> None:
        """Replace the values that a plugin stores with a chat.

        Args:
            conversation_id: the chat.
            plugin: the plugin's name.
            values: JSON values; an empty mapping deletes the plugin's entry.

        Raises:
            TypeError, ValueError: a value that JSON cannot represent.
        """
        with self._database.write_transaction() as db:
            plugin_data = dict(queries.load_header(db, conversation_id).plugin_data)
            plugin_data.pop(plugin, None)
            if values:
                plugin_data[plugin] = values
            writes.set_plugin_data(db, conversation_id, plugin_data)

    def set_disabled_plugins(self, conversation_id: int, plugins: Iterable[str]) -> None:
        """Disable these plugins in a chat and enable all others."""
        self._set_column(conversation_id, "without", dump_plugin_names(plugins))

    def set_pinned(self, conversation_id: int, pinned: bool) -> None:
        """Pin a chat to the top of the list, or unpin it."""
        self._set_column(conversation_id, "pinned", pinned)

    def _set_column(
        self, conversation_id: int, column: writes.ConversationColumn, value: str | bool
    ) -> None:
        with self._database.write_transaction() as db:
            queries.check_chat(db, conversation_id)
            writes.set_conversation_column(db, conversation_id, column, value)

    # --- trash, drafts and search -------------------------------------------------------------

    def trash(self, conversation_id: int) -> None:
        """Move a chat to the trash; `restore` brings it back."""
        with self._database.write_transaction() as db:
            queries.check_chat(db, conversation_id)
            writes.set_trashed(db, conversation_id, trashed=True)
        self._remove_unused_caches()

    def restore(self, conversation_id: int) -> None:
        """Take a chat out of the trash; does nothing if it is not in the trash."""
        with self._database.write_transaction() as db:
            queries.check_chat(db, conversation_id, allow_trashed=True)
            writes.set_trashed(db, conversation_id, trashed=False)

    def list_trash(self, limit: int | None = None) -> list[TrashEntry]:
        """List the trash, last deleted first; `limit` None lists all."""
        with self._database.read_transaction() as db:
            return queries.list_trash_entries(db, limit)

    def empty_trash(self, before: datetime | None = None) -> int:
        """Delete for good what was trashed before this time; None deletes all of it.

        Returns:
            how many chats were deleted.
        """
        with self._database.write_transaction() as db:
            deleted = writes.delete_trashed(db, before)
        if deleted:
            self._database.truncate_wal()  # the log may still hold the deleted text
        self._remove_unused_blobs()
        self._remove_unused_caches()
        return deleted

    def delete(self, conversation_id: int) -> None:
        """Delete a chat and everything that belongs to it for good, in the trash or not."""
        with self._database.write_transaction() as db:
            queries.check_chat(db, conversation_id, allow_trashed=True)
            writes.delete_conversation(db, conversation_id)
        self._database.truncate_wal()  # the log may still hold the deleted text
        self._remove_unused_blobs()
        self._remove_unused_caches()

    def cache_folder(self, conversation_id: int) -> Path | None:
        """Return the folder for a chat's saved KV cache, which may not exist; None where nothing is
        written. It is removed when the chat is moved to the trash or deleted."""
        if self._caches is None or self.unwritable is not None:
            return None
        return self._caches / str(conversation_id)

    def saved_caches(self) -> tuple[Path | None, int, int]:
        """Return the folder of saved KV caches, None in memory, and how many chats and bytes."""
        if self._caches is None or not self._caches.is_dir():
            return self._caches, 0, 0
        return self._caches, len(list(self._caches.iterdir())), tree_bytes(self._caches)

    def remove_caches(self) -> None:
        """Remove the saved KV caches of all chats."""
        if self._caches is not None:
            shutil.rmtree(self._caches, ignore_errors=True)

    def _remove_unused_caches(self) -> None:
        """Remove the saved KV caches of chats that are in the trash or deleted."""
        if self._caches is None or not self._caches.is_dir():
            return
        with self._database.read_transaction() as db:
            kept = {str(number) for number in queries.chat_ids(db)}
        for folder in self._caches.iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def _remove_unused_blobs(self) -> None:
        """Remove images that no chat refers to, those of an interrupted import included.

        This comes after the deletion is on disk: if it were undone, its images would be gone.
        """
        if not self._blobs.is_empty():
            with self._database.write_transaction() as db:
                self._blobs.remove_all_but(queries.referenced_blobs(db))

    def blob(self, sha256: str) -> bytes:
        """Return the bytes of an image; a StoreError if they are missing or damaged."""
        return self._blobs.read(sha256)

    @property
    def images(self) -> Mapping[str, bytes]:
        """The bytes of all images by hash, each read when it is asked for, see `Request.images`."""
        return self._blobs

    def has_blob(self, sha256: str) -> bool:
        """Return whether the bytes of an image exist, without reading them."""
        return sha256 in self._blobs

    def find_blob(self, sha256: str) -> bytes | None:
        """Return the bytes of an image; None if they are missing."""
        return self.blob(sha256) if self.has_blob(sha256) else None

    def draft(self, conversation_id: int | None) -> str:
        """Return the unsent text of a chat; None stands for the new chat."""
        with self._database.read_transaction() as db:
            return queries.load_draft(db, conversation_id)

    def save_draft(self, conversation_id: int | None, text: str) -> None:
        """Save the unsent text of a chat, or of the new chat (None); empty text deletes it."""
        with self._database.write_transaction() as db:
            if conversation_id is not None:
                queries.check_chat(db, conversation_id, allow_trashed=True)
            writes.replace_draft(db, conversation_id, text)

    def search(
        self, query: str, limit: int = 50, *, part: SearchedPart = "text"
    ) -> list[ChatSearchHit]:
        """Find the titles, messages and replies that contain every word of `query`.

        Titles come first; within titles and within messages the newest comes first. The last word
        may be a prefix. Case and accents are ignored.

        Args:
            query: the words.
            limit: maximum number of hits.
            part: `reasoning` searches the reasoning of replies, and nothing else; `tools` searches
                calls of tools and their results.
        """
        with self._database.read_transaction() as db:
            return search(db, utf8_safe(query), limit, part)

    # --- turns and replies --------------------------------------------------------------------

    def add_turn(
        self,
        conversation_id: int,
        content: str | Iterable[Part],
        raw_input: str = "",
        blobs: Iterable[bytes] = (),
    ) -> Turn:
        """Append the user's next message.

        Args:
            conversation_id: the chat.
            content: the message's parts; a string stands for one text part.
            raw_input: what the user typed, as `Turn.raw_input`.
            blobs: the bytes of the message's images.
        """
        message = Message("user", content)
        with self._database.write_transaction() as db:
            queries.check_chat(db, conversation_id)
            for image in blobs:
                self._blobs.add(image)
            turn_id = writes.append_turn(db, conversation_id, message, raw_input)
            return queries.load_turn(db, turn_id)

    def rewrite_message(
        self, turn_id: int, content: str | Iterable[Part], raw_input: str = ""
    ) -> Turn:
        """Replace the user's message of a turn; the arguments are those of `add_turn`."""
        message = Message("user", content)
        with self._database.write_transaction() as db:
            queries.check_turn(db, turn_id)
            writes.rewrite_message(db, turn_id, message, raw_input)
            return queries.load_turn(db, turn_id)

    def remove_turn(self, turn_id: int) -> None:
        """Remove the last turn of a chat, with everything that belongs to it."""
        with self._database.write_transaction() as db:
            queries.check_turn(db, turn_id)
            writes.delete_turn(db, turn_id)

    def turn(self, turn_id: int) -> Turn:
        """Load a turn with its replies."""
        with self._database.read_transaction() as db:
            return queries.load_turn(db, turn_id)

    def reply(self, reply_id: int) -> Reply:
        """Load one version of a reply."""
        with self._database.read_transaction() as db:
            return queries.load_reply(db, reply_id)

    def start_reply(
        self, turn_id: int, *, model: str, adapter: str | None = None, settings: str = "{}"
    ) -> Reply:
        """Add an empty version of the reply and make it the active one."""
        with self._database.write_transaction() as db:
            queries.check_turn(db, turn_id)
            reply_id = writes.append_reply(db, turn_id, model, adapter, settings)
            return queries.load_reply(db, reply_id)

    def journal_reply(
        self, reply_id: int, content: str | Iterable[ReplyStep], images: Iterable[bytes] = ()
    ) -> None:
        """Save the whole reply so far; a finished reply counts as growing again.

        Args:
            reply_id: the reply.
            content: its steps; a string stands for one step with this text.
            images: the bytes of images that are new in it.
        """
        if isinstance(content, str):
            reply = Reply(reply_id, 1, content)
        else:
            reply = Reply(reply_id, 1, steps=content)
        with self._database.write_transaction() as db:
            queries.turn_id_of_reply(db, reply_id)
            for image in images:
                self._blobs.add(image)
            writes.journal_reply(db, reply)

    def finish_reply(
        self,
        reply_id: int,
        *,
        text: str = "",
        stop_reason: StopReason | None = None,
        usage: Usage | None = None,
        settings: str | None = None,
        error: str | None = None,
        steps: Iterable[ReplyStep] = (),
    ) -> Reply:
        """Save the whole reply and why it stopped.

        Args:
            reply_id: the reply.
            text: the text of a reply with one step; `steps` replaces it.
            stop_reason: why that step stopped, likewise.
            usage: what it cost, likewise.
            settings: JSON of the sampling settings; None leaves them unchanged.
            error: what failed; None for nothing.
            steps: the steps of any other reply.
        """
        reply = Reply(reply_id, 1, text, stop_reason, usage=usage, steps=steps)
        with self._database.write_transaction() as db:
            turn_id = queries.turn_id_of_reply(db, reply_id)
            writes.finish_reply(db, reply, settings, error)
            writes.touch_conversation(db, turn_id)
            return queries.load_reply(db, reply_id)

    def choose_reply(self, turn_id: int, reply_id: int) -> Turn:
        """Make this version of the reply the active one."""
        with self._database.write_transaction() as db:
            queries.check_turn(db, turn_id, reply_id)
            writes.set_active_reply(db, turn_id, reply_id)
            return queries.load_turn(db, turn_id)

    def set_context_policy(
        self, turn_id: int, policy: ContextPolicy, summary: str | None = None
    ) -> Turn:
        """Set how a turn takes part in the prompt.

        Args:
            turn_id: the turn.
            policy: its policy from now on.
            summary: a summary that can replace the turn; None keeps the stored one.
        """
        with self._database.write_transaction() as db:
            queries.check_turn(db, turn_id)
            writes.set_context_policy(db, turn_id, policy, summary)
            return queries.load_turn(db, turn_id)

    def recent_inputs(self, limit: int = 200) -> list[str]:
        """Return the newest distinct messages that were sent, newest first."""
        with self._database.read_transaction() as db:
            return queries.recent_inputs(db, limit)

    # --- what belongs to turns and replies ----------------------------------------------------

    def save_provenance(self, reply_id: int, provenance: Provenance) -> None:
        """Save the provenance of a reply, replacing an earlier one."""
        with self._database.write_transaction() as db:
            queries.turn_id_of_reply(db, reply_id)
            writes.upsert_provenance(db, reply_id, provenance)

    def provenance(self, reply_id: int) -> Provenance | None:
        """Load the provenance of a reply; None where none was saved."""
        with self._database.read_transaction() as db:
            queries.turn_id_of_reply(db, reply_id)
            return queries.load_provenance(db, reply_id)

    def save_passages(self, turn_id: int, passages: Iterable[Passage]) -> None:
        """Save the passages retrieved for a turn, in order, with the bytes of their images,
        replacing earlier ones.

        A score that is not finite is saved as 0.
        """
        passages = list(passages)
        with self._database.write_transaction() as db:
            for passage in passages:
                for content in passage.contents.values():
                    self._blobs.add(content)
            queries.check_turn(db, turn_id)
            writes.delete_passages(db, turn_id)
            writes.insert_passages(db, turn_id, passages)

    def passages(self, turn_id: int) -> list[Passage]:
        """Load the passages retrieved for a turn, in the order they were saved."""
        with self._database.read_transaction() as db:
            return queries.load_passages(db, turn_id)

    def annotate(
        self, turn_id: int, reply_id: int | None, annotations: Iterable[Annotation]
    ) -> None:
        """Label a reply, or the user's message (None), replacing the same plugins' old labels."""
        labels = list(annotations)
        with self._database.write_transaction() as db:
            queries.check_turn(db, turn_id, reply_id)
            writes.delete_annotations(db, turn_id, reply_id, {label.plugin for label in labels})
            writes.insert_annotations(db, turn_id, [(reply_id, label) for label in labels])

    def annotations(self, turn_id: int) -> list[tuple[int | None, Annotation]]:
        """Load a turn's labels, each with its reply's id, None for the user's message."""
        with self._database.read_transaction() as db:
            return queries.load_annotations(db, turn_id)

    def save_trace(self, turn_id: int, trace: Trace) -> None:
        """Add a trace of plugin calls to those of a turn."""
        with self._database.write_transaction() as db:
            queries.check_turn(db, turn_id, trace.reply_id)
            writes.insert_traces(db, turn_id, [trace])

    def traces(self, turn_id: int) -> list[Trace]:
        """Load the traces of plugin calls for a turn, in the order they were saved."""
        with self._database.read_transaction() as db:
            return queries.load_traces(db, turn_id)
