"""Fixtures of the plugins' tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import openai

    from chatlm import ModelLocation
    from tests.plugins.serve import Caller


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelLocation:
    """A tiny chat model with random weights."""
    from tests.plugins.lora import tiny_base

    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def caller() -> Caller:
    """An engine that calls each tool it is offered."""
    from tests.plugins.serve import Caller

    return Caller()


@pytest.fixture
def client(caller: Caller) -> Iterator[openai.OpenAI]:
    """OpenAI's client of a server over `caller`; many modules have one of their own."""
    from tests.plugins.serve import serving
    from tests.plugins.test_serve_api import client_of

    with serving(caller) as address:
        yield client_of(address)
