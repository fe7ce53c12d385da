"""Fixtures of the plugins' tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chatlm import ModelLocation


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelLocation:
    """A tiny chat model with random weights."""
    from tests.plugins.lora import tiny_base

    return tiny_base(tmp_path_factory.mktemp("base"))
