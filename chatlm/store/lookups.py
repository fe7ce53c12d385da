"""How code that handles a whole chat asks for what belongs to it; types only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chatlm.generation import Provenance
from chatlm.messages import Annotation, Passage
from chatlm.trace import Trace

PassagesOf = Callable[[int], Sequence[Passage]]
"""A turn's id to its passages, such as `Store.passages`."""

AnnotationsOf = Callable[[int], Sequence[tuple[int | None, Annotation]]]
"""A turn's id to its labels and the replies they belong to, such as `Store.annotations`."""

ProvenanceOf = Callable[[int], Provenance | None]
"""A reply's id to what made it, such as `Store.provenance`."""

TracesOf = Callable[[int], Sequence[Trace]]
"""A turn's id to what plugins did for it, such as `Store.traces`."""
