"""Whoever loads a model is told how it fits, before it is loaded."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from chatlm.config.config import Config
from chatlm.engines.open import make_model_opener
from chatlm.hub import jobs
from chatlm.plugin_host.host import PluginHost
from tests import models


def test_the_fit_is_shown_while_a_model_is_loaded(home: Path, default_model: Path) -> None:
    models.lend(home, default_model)
    shown: list[str] = []
    config = Config(model=default_model.name)
    with closing(make_model_opener(config, PluginHost())(config.model, shown.append)):
        pass
    others = [text for text in shown if text not in jobs.STAGE_LABELS.values()]
    assert len(others) == 1
    assert others[0].startswith(("fits: ", "tight: "))
    assert "of memory, ~" in others[0]
    assert others[0].endswith(" tokens/s")
