"""A chat's KV cache on disk gives what reading the chat again gives, or is not used."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import stat
from collections import namedtuple
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import architectures, tiny_architectures
from chatlm.engines import saved_caches
from chatlm.engines.adapters import AdapterCache
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.model import Model
from chatlm.engines.prompt_cache import CachedPrompt, decode_batch
from chatlm.engines.saved_caches import SavedCaches, describe_computation
from chatlm.engines.transformers_model import TransformersModel
from chatlm.hub.disk import tree_bytes
from chatlm.types.events import Delta, PromptReady
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from tests.engine import adapter_files, tiny
from tests.engine.test_native import native_model

IDS = torch.randint(3, 200, (2000,), generator=torch.Generator().manual_seed(1)).tolist()

GB = 10**9

KINDS = [
    "native",
    "native int8",
    "native lfm2",
    "native qwen3.5",
    "gemma3_text",
    "gpt_oss",
    "qwen3_5_text",
    "lfm2",
    "falcon_h1",
]


@pytest.fixture(autouse=True)
def _short_chats_are_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(saved_caches, "MIN_TOKENS", 256)
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return open_tiny(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return open_tiny(tmp_path_factory.mktemp("native"), "native")


def open_tiny(folder: Path, kind: str) -> Model:
    if kind.startswith("native"):
        variant = kind.removeprefix("native").strip()
        name = variant if variant in {**tiny.CONFIGS, **tiny.FAMILIES} else "qwen3"
        saved = tiny.save(folder, name, max_position_embeddings=4096)
        model = native_model(saved, torch.bfloat16, "int8")
        if kind == "native int8":
            model.kv_format = "int8"
        return model
    tiny_architectures.save(folder, kind)
    return TransformersModel(kind, folder, architectures.FLOAT32)


def write(
    model: Model, folder: Path, prompt: list[int], saved: SavedCaches, adapter: str = ""
) -> list[int]:
    """Read a prompt and save its cache; return the tokens that were on disk after each file."""
    cached = CachedPrompt(model)
    list(cached.prefill(prompt))
    return list(saved.save(folder, cached, adapter))


def reopen(
    model: Model,
    folder: Path,
    prompt: list[int],
    computed_by: str = "x",
    limit: int = GB,
    adapter: str = "",
) -> tuple[int, CachedPrompt]:
    """Return the number of tokens that are reused after a restart."""
    cached = CachedPrompt(model)
    SavedCaches(computed_by, limit).load(folder, cached, prompt, adapter)
    return cached.reuse_prefix(prompt), cached


def logits_of(model: Model, cached: CachedPrompt, prompt: list[int]) -> torch.Tensor:
    list(cached.prefill(prompt))
    decoded = [decode_batch(model, [cached], [[token]])[0] for token in (5, 6)]
    return torch.cat([cached.logits[None], *decoded])


def test_a_reopened_chat_gives_the_logits_of_one_that_was_read(
    model: Model, tmp_path: Path
) -> None:
    saved = SavedCaches("x", GB)
    write(model, tmp_path / "7", IDS[:570], saved)
    for prompt in (IDS[:640], IDS[:1100]):
        tokens, cached = reopen(model, tmp_path / "7", prompt)
        assert tokens == 512
        expected = logits_of(model, CachedPrompt(model), prompt)
        assert torch.equal(logits_of(model, cached, prompt), expected)
    cached.reuse_prefix(IDS[:820])
    list(cached.prefill(IDS[:820]))
    assert list(SavedCaches("x", GB).save(tmp_path / "7", cached, ""))[-1] == 768
    tokens, cached = reopen(model, tmp_path / "7", IDS[:1100])
    assert tokens == 768
    expected = logits_of(model, CachedPrompt(model), IDS[:1100])
    assert torch.equal(logits_of(model, cached, IDS[:1100]), expected)


def test_files_are_written_once_and_for_the_owner_alone(native: Model, tmp_path: Path) -> None:
    saved = SavedCaches("x", GB)
    folder = tmp_path / "caches" / "7"
    assert write(native, folder, IDS[:570], saved) == [256, 512]
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert sorted(before) == ["0-256.safetensors", "256-512.safetensors"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for again in (saved, SavedCaches("x", GB)):
        assert write(native, folder, IDS[:800], again) in ([768], [])
    assert {name: (folder / name).stat().st_ino for name in before} == before


def test_small_blocks_are_kept_until_the_chat_outgrows_them(native: Model, tmp_path: Path) -> None:
    assert write(native, tmp_path, IDS[:600], SavedCaches("x", GB)) == [256, 512, 576]
    tokens, cached = reopen(native, tmp_path, IDS[:640])
    assert tokens == 576
    expected = logits_of(native, CachedPrompt(native), IDS[:640])
    assert torch.equal(logits_of(native, cached, IDS[:640]), expected)
    assert reopen(native, tmp_path, IDS[:800])[0] == 512
    assert write(native, tmp_path, IDS[:800], SavedCaches("x", GB)) == [768]
    assert not (tmp_path / "512-576.safetensors").exists()


def test_a_state_is_kept_for_a_chat_that_outgrows_small_blocks(tmp_path: Path) -> None:
    model = open_tiny(tmp_path / "model", "native lfm2")
    folder = tmp_path / "7"
    assert write(model, folder, IDS[:600], SavedCaches("x", GB))[-1] == 576
    names = sorted(path.stem for path in folder.glob("state-*"))
    assert names == ["state-512", "state-576"]
    for length, expected in ((640, 576), (800, 512)):
        tokens, cached = reopen(model, folder, IDS[:length])
        assert tokens == expected
        fresh = logits_of(model, CachedPrompt(model), IDS[:length])
        assert torch.equal(logits_of(model, cached, IDS[:length]), fresh)
    damage(folder / "state-576.safetensors", "middle")
    assert reopen(model, folder, IDS[:640])[0] == 512
    assert not (folder / "state-576.safetensors").exists()


def test_a_state_outlives_a_turn_of_another_program(tmp_path: Path) -> None:
    model = open_tiny(tmp_path / "model", "native lfm2")
    folder = tmp_path / "7"
    write(model, folder, IDS[:600], SavedCaches("x", GB))
    _, cached = reopen(model, folder, IDS[:650])  # which has the state after 576 alone
    list(cached.prefill(IDS[:650]))
    list(SavedCaches("x", GB).save(folder, cached, ""))
    names = sorted(path.stem for path in folder.glob("state-*"))
    assert names == ["state-512", "state-640"]
    fresh = logits_of(model, CachedPrompt(model), IDS[:800])
    tokens, after_restart = reopen(model, folder, IDS[:800])
    assert tokens == 512
    assert torch.equal(logits_of(model, after_restart, IDS[:800]), fresh)
    # the program that goes on could only go back to its beginning
    assert not SavedCaches("x", GB).load(folder, cached, IDS[:660], "")
    assert SavedCaches("x", GB).load(folder, cached, IDS[:800], "")
    assert cached.reuse_prefix(IDS[:800]) == 512
    assert torch.equal(logits_of(model, cached, IDS[:800]), fresh)


def test_a_large_state_is_written_only_where_it_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_tiny(tmp_path / "model", "gemma3_text")
    for limit, expected in ((10**6, 576), (0, 512)):
        monkeypatch.setattr(saved_caches, "MAX_STATE_BYTES", limit)
        folder = tmp_path / str(limit)
        assert write(model, folder, IDS[:600], SavedCaches("x", GB))[-1] == expected
        tokens, cached = reopen(model, folder, IDS[:640])
        assert tokens == expected
        fresh = logits_of(model, CachedPrompt(model), IDS[:640])
        assert torch.equal(logits_of(model, cached, IDS[:640]), fresh)


def test_decoded_tokens_are_not_kept(native: Model, tmp_path: Path) -> None:
    cached = CachedPrompt(native)
    list(cached.prefill(IDS[:500]))
    for token in IDS[500:580]:
        decode_batch(native, [cached], [[token]])
    assert list(SavedCaches("x", GB).save(tmp_path, cached, ""))[-1] == 448
    assert reopen(native, tmp_path, IDS[:640])[0] == 256


def test_a_short_chat_is_not_kept(native: Model, tmp_path: Path) -> None:
    assert write(native, tmp_path / "7", IDS[:200], SavedCaches("x", GB)) == []
    assert not (tmp_path / "7").exists()


def test_what_was_computed_otherwise_is_thrown_away(native: Model, tmp_path: Path) -> None:
    for change in ("computed_by", "adapter", "text"):
        folder = tmp_path / change
        write(native, folder, IDS[:570], SavedCaches("x", GB), adapter="a")
        prompt = IDS[:640]
        if change == "text":
            prompt = [*IDS[:300], 7, *IDS[301:640]]
        by, adapter = ("y" if change == "computed_by" else "x"), "a" * (change != "adapter")
        tokens, _ = reopen(native, folder, prompt, by, adapter=adapter)
        assert tokens == (256 if change == "text" else 0)
        assert (
            not (folder / ("256-512" if change == "text" else "0-256"))
            .with_suffix(".safetensors")
            .exists()
        )


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        del content[len(content) // 2 :]
    elif how == "empty":
        content.clear()
    elif how == "foreign":
        content[:] = b"PK\x03\x04" + os.urandom(500)
    elif how == "huge header":
        content[:8] = (2**40).to_bytes(8, "little")
    else:
        where = {"first byte": 0, "header": 40, "last byte": -1, "middle": len(content) // 2}[how]
        content[where] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "how",
    ["truncated", "empty", "foreign", "huge header", "first byte", "header", "middle", "last byte"],
)
@pytest.mark.parametrize("name", ["0-256", "256-512"])
def test_a_damaged_file_is_thrown_away(native: Model, tmp_path: Path, name: str, how: str) -> None:
    write(native, tmp_path, IDS[:570], SavedCaches("x", GB))
    path = tmp_path / f"{name}.safetensors"
    damage(path, how)
    tokens, cached = reopen(native, tmp_path, IDS[:640])
    assert tokens == (0 if name == "0-256" else 256)
    assert not path.exists()
    expected = logits_of(native, CachedPrompt(native), IDS[:640])
    assert torch.equal(logits_of(native, cached, IDS[:640]), expected)
    assert write(native, tmp_path, IDS[:570], SavedCaches("x", GB)) == [int(name.split("-")[1])]
    assert reopen(native, tmp_path, IDS[:640])[0] == 512


def test_a_file_of_another_chat_is_not_taken_for_this_ones(native: Model, tmp_path: Path) -> None:
    saved = SavedCaches("x", GB)
    write(native, tmp_path / "7", IDS[:570], saved)
    write(native, tmp_path / "8", IDS[600:1170], saved)
    for name in ("0-256", "256-512"):
        path = tmp_path / "7" / f"{name}.safetensors"
        shutil.copyfile(tmp_path / "8" / path.name, path)
    assert reopen(native, tmp_path / "7", IDS[:640])[0] == 0


def test_a_missing_state_makes_the_blocks_useless(tmp_path: Path) -> None:
    model = open_tiny(tmp_path / "model", "gemma3_text")
    write(model, tmp_path / "7", IDS[:570], SavedCaches("x", GB))
    assert (tmp_path / "7" / "state-512.safetensors").exists()
    damage(tmp_path / "7" / "state-512.safetensors", "middle")
    assert reopen(model, tmp_path / "7", IDS[:640])[0] == 0
    assert write(model, tmp_path / "7", IDS[:800], SavedCaches("x", GB))[-1] == 768
    names = [path.name for path in (tmp_path / "7").glob("state-*")]
    assert names == ["state-768.safetensors"]


def test_the_chats_used_least_recently_make_room(native: Model, tmp_path: Path) -> None:
    write(native, tmp_path / "1", IDS[:570], SavedCaches("x", GB))
    size = tree_bytes(tmp_path / "1")
    saved = SavedCaches("x", 3 * size)
    for number in (2, 3):
        write(native, tmp_path / str(number), IDS[:570], saved)
        os.utime(tmp_path / str(number), (number, number))
    os.utime(tmp_path / "1", (1, 1))
    assert reopen(native, tmp_path / "1", IDS[:640])[0] == 512  # used now
    write(native, tmp_path / "4", IDS[:570], saved)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3", "4"]
    assert write(native, tmp_path / "5", IDS[:570], SavedCaches("x", size // 2 + 100)) == [256]


def test_what_cannot_be_written_is_left_out(
    native: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, GB))
        assert write(native, tmp_path / "7", IDS[:570], SavedCaches("x", GB)) == []
    real = Path.replace
    with monkeypatch.context() as patch:

        def full(self: Path, target: Path) -> Path:
            if target.name.startswith("256"):
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(self, target)

        patch.setattr(Path, "replace", full)
        assert write(native, tmp_path / "7", IDS[:570], SavedCaches("x", GB)) == [256]
    assert [path.name for path in (tmp_path / "7").iterdir()] == ["0-256.safetensors"]
    (tmp_path / "file").write_text("a file where the folder would be")
    assert write(native, tmp_path / "file" / "7", IDS[:570], SavedCaches("x", GB)) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_only_read(native: Model, tmp_path: Path) -> None:
    write(native, tmp_path / "7", IDS[:570], SavedCaches("x", GB))
    (tmp_path / "7").chmod(0o500)
    try:
        assert write(native, tmp_path / "7", IDS[:800], SavedCaches("x", GB)) == []
        assert reopen(native, tmp_path / "7", IDS[:640])[0] == 512
    finally:
        (tmp_path / "7").chmod(0o700)


def test_left_over_parts_are_removed(native: Model, tmp_path: Path) -> None:
    old, new = tmp_path / ".part-old", tmp_path / ".part-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    write(native, tmp_path, IDS[:570], SavedCaches("x", GB))
    assert (old.exists(), new.exists()) == (False, True)
    assert reopen(native, tmp_path, IDS[:640])[0] == 512


def test_an_adapter_is_known_by_its_content(tmp_path: Path) -> None:
    model = native_model(tiny.save(tmp_path / "m", "qwen3"), torch.bfloat16, "int8")
    one = adapter_files.save(tmp_path / "one", tmp_path / "m", strength=0.5)
    folders = {"a": one, "b": shutil.copytree(one, tmp_path / "two")}
    adapters = AdapterCache(model, folders.__getitem__)
    assert adapters.digest("a") == adapters.digest("b") != ""
    assert adapters.digest(None) == ""
    adapter_files.save(tmp_path / "two", tmp_path / "m", strength=0.7)
    assert adapters.digest("a") != adapters.digest("b")


def test_a_model_is_known_by_its_files_and_how_it_is_computed(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "m", "qwen3")
    model = native_model(folder, torch.bfloat16, "int8")
    one = describe_computation(folder, model)
    assert describe_computation(folder, model) == one
    changes: list[dict[str, Any]] = [
        {"kv_cache": "8-bit"}, {"weights": "4-bit"}, {"device": "cuda:0"}
    ]  # fmt: skip
    for change in changes:
        changed = native_model(folder, torch.bfloat16, "int8")
        changed.info = dataclasses.replace(changed.info, **change)
        assert describe_computation(folder, changed) != one
    os.utime(folder / "model.safetensors", (1, 1))
    assert describe_computation(folder, model) != one


def test_an_engine_continues_a_chat_after_a_restart(tmp_path: Path) -> None:
    tiny_architectures.save(tmp_path / "model", "qwen3_5_text")

    def reply(request: Request, ahead: tuple[Message, ...] = ()) -> tuple[str, int]:
        engine: Any = LocalEngine.from_folder(
            "m", tmp_path / "model", architectures.FLOAT32, engine="transformers", chat_cache=GB
        )
        with closing(engine):
            if ahead:
                list(engine.read_ahead(dataclasses.replace(request, messages=ahead)))
            with closing(engine.stream(request)) as events:
                seen = list(events)
        assert isinstance(seen[0], PromptReady)
        text = "".join(event.text for event in seen if isinstance(event, Delta))
        return text, seen[0].cached_tokens

    history = (Message("user", "Rivers? " * 80), Message("assistant", "They flow. " * 10))
    sampling = Sampling(temperature=1.0, seed=5, max_tokens=12)
    request = Request(
        (*history, Message("user", "Where?")), sampling, cache_folder=tmp_path / "caches" / "7"
    )
    text, cached = reply(request, history)
    assert cached >= 512
    assert reply(request) == (text, 512)
    assert reply(dataclasses.replace(request, cache_folder=None)) == (text, 0)
