"""Libraries that came compiled with the wheel: which one is chosen, and what is done without."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
import torch

from chatlm.engines.devices import Placement
from chatlm.engines.load import load
from chatlm.engines.native import c_decoder, compiler
from chatlm.engines.native.bundled import MANIFEST, bundled_library, hash_sources, read_targets
from chatlm.engines.native.c_decoder import CDecoder
from chatlm.engines.native.compiler import KernelUnavailable, compile_missing, kernel_library
from chatlm.engines.native.model import NativeModel
from tests.engine import tiny

SOURCES = Path(compiler.__file__).with_name("csrc")
TARGETS = read_targets(SOURCES)
CPU = Placement({"": "cpu"}, torch.bfloat16)


def features(*groups: str) -> list[str]:
    """Return features of processors, as targets.toml groups them."""
    return [feature for group in groups for feature in TARGETS["features"][group]]


def bundle(folder: Path, library: bytes, processors: Iterable[str]) -> Path:
    """Write what a wheel carries for some processors."""
    checksums = {}
    for processor in processors:
        for name in TARGETS["libraries"]:
            path = folder / processor / f"{name}.so"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(library)
            checksums[f"{processor}/{name}.so"] = hashlib.sha256(library).hexdigest()
    manifest = {"sources": hash_sources(SOURCES), "libraries": checksums}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def all_x86(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    names = [each["name"] for each in TARGETS["processors"] if "x86" in each["platform"]]
    return bundle(tmp_path / "libraries", b"library", names)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (("v2", "v3", "v4", "vnni", "bf16", "amx"), "x86-64-v4-amx"),
        (("v2", "v3", "v4", "vnni", "bf16"), "x86-64-v4-bf16"),
        (("v2", "v3", "v4", "vnni", "amx"), "x86-64-v4-vnni"),
        (("v2", "v3", "v4"), "x86-64-v4"),
        (("v2", "v3", "avxvnni"), "x86-64-v3-vnni"),
        (("v2", "v3"), "x86-64-v3"),
        (("v2", "v4", "vnni"), "x86-64-v2"),
        (("v3",), None),
        ((), None),
    ],
)
def test_a_processor_gets_the_most_capable_library_that_it_runs(
    all_x86: Path, groups: tuple[str, ...], expected: str | None
) -> None:
    path = bundled_library("choose", folder=all_x86, features=features(*groups))
    assert path == (expected and all_x86 / expected / "choose.so")


def test_another_system_gets_none(all_x86: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = features(*TARGETS["features"])
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert bundled_library("choose", folder=all_x86, features=everything) is None


@pytest.fixture
def logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    # a test that starts the program keeps its records from other loggers
    monkeypatch.setattr(logging.getLogger("chatlm"), "propagate", True)
    return caplog


def test_a_damaged_library_is_passed_over(all_x86: Path, logged: pytest.LogCaptureFixture) -> None:
    known = features("v2", "v3", "v4")
    (all_x86 / "x86-64-v4" / "choose.so").write_bytes(b"librarY")
    path = bundled_library("choose", folder=all_x86, features=known)
    assert path == all_x86 / "x86-64-v3" / "choose.so"
    assert "choose.so is damaged" in logged.text


def test_libraries_of_other_sources_are_not_used(
    all_x86: Path, logged: pytest.LogCaptureFixture
) -> None:
    manifest = json.loads((all_x86 / MANIFEST).read_text())
    (all_x86 / MANIFEST).write_text(json.dumps({**manifest, "sources": "0" * 64}))
    assert bundled_library("choose", folder=all_x86, features=features("v2")) is None
    assert "they are of another chatlm" in logged.text
    (all_x86 / MANIFEST).write_text("[]")
    assert bundled_library("choose", folder=all_x86, features=features("v2")) is None


def decoder_of(folder: Path) -> CDecoder:
    model = load("tiny", folder, CPU, "native")
    assert isinstance(model, NativeModel)
    assert isinstance(model.decoder, CDecoder)
    return model.decoder


def test_a_library_of_the_wheel_is_used_without_a_compiler(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = kernel_library(float32=False).read_bytes()
    name = "apple-m1"  # needs no features
    libraries = bundle(tmp_path / "libraries", made, [name])
    monkeypatch.setenv("CC", "/nowhere/cc")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(
        compiler, "bundled_library", partial(bundled_library, folder=libraries, features=())
    )
    decoder_of(tiny.save(tmp_path / "model", "llama"))


@pytest.mark.parametrize("is_wrong", [True, False])
def test_what_does_not_work_is_compiled_here_instead(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_wrong: bool
) -> None:
    """A library that computes something else, and one that cannot be loaded."""
    bad = tmp_path / "decode.so"
    bad.write_bytes(kernel_library(float32=False).read_bytes() if is_wrong else b"no library")
    monkeypatch.setattr(compiler, "bundled_library", lambda name: bad)
    checked = []

    def check(decoder: CDecoder) -> None:
        checked.append(decoder)
        if is_wrong and len(checked) == 1:
            raise KernelUnavailable("wrong")

    monkeypatch.setattr(CDecoder, "check_products", check)
    decoder_of(tiny.save(tmp_path / "model", "llama"))
    assert len(checked) == 1 + is_wrong


def test_a_wrong_product_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of(tiny.save(tmp_path, "llama"))
    decoder.check_products()
    multiply = c_decoder.PackedLinear.__call__
    monkeypatch.setattr(
        c_decoder.PackedLinear, "__call__", lambda self, x: multiply(self, x).roll(1, 0)
    )
    with pytest.raises(KernelUnavailable, match="multiplies wrongly"):
        decoder.check_products()


def test_compiling_is_announced_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(compiler, "_compile", lambda command, library: library.write_bytes(b""))
    for _ in range(2):
        compile_missing(("decode-float32", "choose"), lambda: told.append("compile"))
    assert told == ["compile"]
    monkeypatch.setenv("CC", "/nowhere/cc")
    compile_missing(("choose",), lambda: told.append("compile"))
    assert told == ["compile"], "nothing is announced that cannot be done"
