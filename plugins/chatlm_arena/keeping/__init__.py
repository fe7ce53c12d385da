"""The arena's database; it knows no rating and no screen."""

from __future__ import annotations

from chatlm_arena.keeping.store import ArenaStore, check, opened

__all__ = ["ArenaStore", "check", "opened"]
