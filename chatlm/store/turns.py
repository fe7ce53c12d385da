"""The turns and replies of saved chats, as a part of `Store`."""

from __future__ import annotations

from chatlm.errors import StoreError
from chatlm.generation import Provenance
from chatlm.messages import Reply, Standing, StopReason, Turn, Usage
from chatlm.store import copying, queries, rows
from chatlm.store.opened import Opened
from chatlm.store.queries import touch
from chatlm.store.rows import maybe, moment, storable


class Turns(Opened):
    """What is said in the chats, and what made it."""

    def add_turn(self, conversation_id: int, content: str, typed: str = "") -> Turn:
        """The user's next message; `typed` where it was made from other words."""
        with self._database.writing() as db:
            queries.check_chat(db, conversation_id)
            row = db.execute(
                "INSERT INTO turn (conversation_id, position, content, created, typed)"
                " SELECT ?1, coalesce(max(position) + 1, 0), ?2, ?3, ?4"
                " FROM turn WHERE conversation_id = ?1",
                (conversation_id, storable(content), moment(), storable(typed)),
            )
            turn = queries.turn(db, row.lastrowid or 0)
            touch(db, turn.id)
            return turn

    def turn(self, turn_id: int) -> Turn:
        """A turn with its replies."""
        with self._database.reading() as db:
            return queries.turn(db, turn_id)

    def reply(self, reply_id: int) -> Reply:
        """One version of a reply."""
        with self._database.reading() as db:
            return queries.reply(db, reply_id)

    def start_reply(
        self, turn_id: int, *, model: str, adapter: str | None = None, settings: str = "{}"
    ) -> Reply:
        """A new, empty version of the reply; it becomes the one that stands in the history."""
        with self._database.writing() as db:
            queries.check_turn(db, turn_id)
            row = db.execute(
                "INSERT INTO reply (turn_id, version, model, adapter, settings, created)"
                " SELECT ?1, coalesce(max(version) + 1, 1), ?2, ?3, ?4, ?5"
                " FROM reply WHERE turn_id = ?1",
                (turn_id, storable(model), maybe(adapter), storable(settings), moment()),
            )
            reply_id = row.lastrowid or 0
            db.execute("UPDATE turn SET chosen = ? WHERE id = ?", (reply_id, turn_id))
            touch(db, turn_id)
            return queries.reply(db, reply_id)

    def journal(self, reply_id: int, text: str) -> None:
        """Keep the whole reply so far; a finished reply counts as growing again."""
        with self._database.writing() as db:
            queries.turn_of(db, reply_id)
            db.execute(
                "UPDATE reply SET text = ?, stop_reason = NULL, error = NULL WHERE id = ?",
                (storable(text), reply_id),
            )

    def finish_reply(
        self,
        reply_id: int,
        *,
        text: str,
        stop_reason: StopReason,
        usage: Usage,
        settings: str | None = None,
        error: str | None = None,
    ) -> Reply:
        """Keep the whole reply and why it stopped; `settings` None leaves them as they were."""
        with self._database.writing() as db:
            turn_id = queries.turn_of(db, reply_id)
            db.execute(
                "UPDATE reply SET text = ?, stop_reason = ?, error = ?,"
                " settings = coalesce(?, settings), prompt_tokens = ?, cached_tokens = ?,"
                " completion_tokens = ?, first_token_seconds = ?, decode_seconds = ?"
                " WHERE id = ?",
                (
                    storable(text),
                    stop_reason.value,
                    maybe(error),
                    maybe(settings),
                    usage.prompt_tokens,
                    usage.cached_tokens,
                    usage.completion_tokens,
                    usage.first_token_seconds,
                    usage.decode_seconds,
                    reply_id,
                ),
            )
            touch(db, turn_id)
            return queries.reply(db, reply_id)

    def choose(self, turn_id: int, reply_id: int) -> Turn:
        """Let this version of the reply stand in the history."""
        with self._database.writing() as db:
            queries.check_turn(db, turn_id, reply_id)
            db.execute("UPDATE turn SET chosen = ? WHERE id = ?", (reply_id, turn_id))
            return queries.turn(db, turn_id)

    def set_standing(self, turn_id: int, standing: Standing, summary: str | None = None) -> Turn:
        """Say how a turn takes part in what the model reads.

        Args:
            turn_id: the turn.
            standing: from now on.
            summary: what may stand for the turn; None keeps the one there is.
        """
        with self._database.writing() as db:
            queries.check_turn(db, turn_id)
            db.execute(
                "UPDATE turn SET standing = ?, summary = coalesce(?, summary) WHERE id = ?",
                (standing.value, maybe(summary), turn_id),
            )
            return queries.turn(db, turn_id)

    def save_provenance(self, reply_id: int, provenance: Provenance) -> None:
        """Keep what made a reply, in place of what was kept before."""
        with self._database.writing() as db:
            queries.turn_of(db, reply_id)
            copying.keep_provenance(db, reply_id, provenance)

    def provenance(self, reply_id: int) -> Provenance | None:
        """What made a reply; None where that was not kept."""
        with self._database.reading() as db:
            queries.turn_of(db, reply_id)
            found = db.execute("SELECT content FROM provenance WHERE reply_id = ?", (reply_id,))
            row = found.fetchone()
        if row is None:
            return None
        provenance = rows.to_provenance(row["content"])
        if provenance is None:
            raise StoreError(
                f"What made reply {reply_id} is damaged and cannot be read.",
                hint="The reply itself is whole; make it again to keep it anew.",
            )
        return provenance

    def sent(self, limit: int = 200) -> list[str]:
        """The newest different messages that were sent, newest first."""
        texts: dict[str, None] = {}
        with self._database.reading() as db:
            for row in db.execute(queries.SENT):
                texts[row["words"]] = None
                if len(texts) >= limit:
                    break
        return list(texts)
