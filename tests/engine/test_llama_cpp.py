"""Native decoders and llama.cpp compute the same from the same tiny GGUF file in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chatlm.engines.devices import Placement
from chatlm.engines.load import load
from chatlm.engines.model import Unsupported
from chatlm.engines.native.architectures.registry import read_config
from chatlm.engines.native.model import NativeModel
from tests.gguf_files import make_folder
from tests.gguf_originals import ORIGINALS
from tests.plugins.llamacpp import EXACT, needs_llamacpp, open_model, save

IDS = [(37 * index) % 300 for index in range(150)]
"""Some tokens, in more than two chunks."""

LEFT_OUT = {
    "gemma3 27b": "62 layers take long and add nothing",
    "gpt-oss": "llama.cpp rounds YaRN's limits, which the model's own config.json forbids",
    "llama 3.1": "like llama 3.2",
    "llama old linear": "like llama linear",
    "phi3": "llama.cpp ignores its window",
    "phi3 longrope": "llama.cpp chooses the frequencies by the context, not by the text",
    "phi4 mini": "likewise",
    "llama yarn with all settings": "llama.cpp takes some of them from its own settings",
}


@needs_llamacpp
@pytest.mark.parametrize("variant", [name for name in ORIGINALS if name not in LEFT_OUT])
def test_a_file_has_the_logits_of_llama_cpp(tmp_path: Path, variant: str) -> None:
    path = save(tmp_path, variant)
    folder = make_folder(path)
    try:
        read_config(folder)
    except Unsupported as reason:
        pytest.skip(str(reason))
    model = load("tiny", folder, Placement({"": "cpu"}, torch.float32), "native")
    assert isinstance(model, NativeModel)
    theirs = open_model(path, **EXACT).new_cache()
    with torch.inference_mode():
        own = model.new_cache()
        rows = []
        for cache in (own, theirs):
            logits = [cache.prefill(IDS[:64]), cache.prefill(IDS[64:140])]
            logits += [cache.decode([token])[0] for token in IDS[140:]]
            kept = cache.truncate(140)  # a second turn
            if kept < 140:  # a recurrent state goes back to the end of a block
                cache.prefill(IDS[kept:140])
            logits += [cache.decode([token])[0] for token in IDS[:5]]
            rows.append(torch.stack(logits))
    made, expected = rows[0], rows[1][:, : rows[0].shape[1]]
    # llama.cpp rounds while it computes
    assert float((made - expected).norm() / expected.norm()) < 1e-2
    assert (made.argmax(-1) == expected.argmax(-1)).float().mean() > 0.9
