"""Where classifiers are."""

from __future__ import annotations

from pathlib import Path

from chatlm import Artifacts

CLASSIFIERS = Artifacts("classifier", "chatlm emotion", Path(__file__).parent / "classifiers")

SHIPPED = "mood"
"""The name of the classifier that comes with chatlm."""
