"""The manifest and the plan of a build: fixed keys on disk, and nothing but the right types."""

from __future__ import annotations

from typing import Any

import pytest

from chatlm_rag.documents.document import Problem
from chatlm_rag.documents.files import Source, Stamp
from chatlm_rag.index.chunks import Chunking
from chatlm_rag.index.embedding import EmbedderRecord
from chatlm_rag.index.manifest import BuildPlan, FileRecord, Manifest

SOURCE = Source("/docs", ("*.md",), ("old",))
SOURCE_DICT = {"path": "/docs", "include": ["*.md"], "exclude": ["old"], "follow_links": False}
FILE = FileRecord(
    "/docs/cats.md", "docs/cats.md", Stamp(12, 34), "ab", 5, 2, (Problem("page 3", "is empty"),)
)
MANIFEST = Manifest(EmbedderRecord("mini", "f00"), 384, Chunking(100, 20), (SOURCE,), (FILE,), 99)
PLAN = BuildPlan((SOURCE,), "mini", Chunking(100, 20), from_scratch=True)


def test_a_manifest_is_stored_under_fixed_keys() -> None:
    stored = {
        "embedder": {
            "name": "mini",
            "fingerprint": "f00",
            "query_prompt": "",
            "passage_prompt": "",
            "cut_to": 0,
        },
        "dimension": 384,
        "chunking": {"tokens": 100, "overlap": 20},
        "sources": [SOURCE_DICT],
        "files": [
            {
                "path": "/docs/cats.md",
                "source": "docs/cats.md",
                "stamp": {"size": 12, "mtime_ns": 34},
                "sha256": "ab",
                "first": 5,
                "count": 2,
                "problems": [{"place": "page 3", "reason": "is empty"}],
            }
        ],
        "looked_ns": 99,
    }
    assert MANIFEST.to_dict() == stored
    assert Manifest.from_dict(stored) == MANIFEST


def test_a_plan_is_stored_under_fixed_keys() -> None:
    stored = {
        "sources": [SOURCE_DICT],
        "embedder": "mini",
        "chunking": {"tokens": 100, "overlap": 20},
        "anew": True,
        "cut_to": 0,
    }
    assert PLAN.to_dict() == stored
    assert BuildPlan.from_dict(stored) == PLAN


@pytest.mark.parametrize(
    ("key", "value"),
    [("path", None), ("sha256", 7), ("first", "5"), ("count", True), ("problems", [{"place": 1}])],
)
def test_a_value_of_the_wrong_type_is_refused(key: str, value: Any) -> None:
    with pytest.raises((KeyError, TypeError)):
        FileRecord.from_dict({**FILE.to_dict(), key: value})


def test_a_missing_value_is_refused_unless_it_has_a_default() -> None:
    values = FILE.to_dict()
    del values["first"], values["count"]
    assert FileRecord.from_dict(values).chunk_count == 0
    earlier = {key: value for key, value in SOURCE_DICT.items() if key != "follow_links"}
    assert Source.from_dict(earlier) == SOURCE
    del values["sha256"]
    with pytest.raises(KeyError):
        FileRecord.from_dict(values)
