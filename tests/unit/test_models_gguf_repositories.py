"""Repositories with GGUF files: offered, downloaded with resume, and refused with a next step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from gguf import GGUFWriter

from chatlm.cli import model_download
from chatlm.cli.main import cli
from chatlm.engines import fit, memory_plan
from chatlm.errors import ModelError, OutOfMemoryError
from chatlm.hub import catalogue as catalogue_module
from chatlm.hub import installed, pull
from chatlm.hub.catalogue import CatalogueEntry, GgufFiles, GgufSource, catalogue
from chatlm.hub.weights import gguf_file
from tests.fake_hub import COMMIT, FakeHub, serve
from tests.gguf_files import save_gguf
from tests.gguf_originals import SIZES


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", "llama tied").read_bytes()


@pytest.fixture
def hub(
    home: Path, tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHub]:
    files = {
        "tiny-Q4_K_M.gguf": weights,
        "tiny-Q8_0.gguf": weights + b"\0" * 64,
        "mmproj-F16.gguf": b"GGUF",
        "README.md": b"#",
    }
    hub = FakeHub({"org/tiny-GGUF": files})
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with serve(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def gets(hub: FakeHub, name: str) -> list[str]:
    return [each for each in hub.requests if each.startswith("GET") and name in each]


def test_the_usual_file_is_taken_and_found_under_both_names(home: Path, hub: FakeHub) -> None:
    location = pull.pull_model("org/tiny-GGUF")
    assert location.name == "org/tiny-GGUF:Q4_K_M"
    assert location.folder == home / "models" / "org--tiny-GGUF+Q4_K_M"
    assert (location.folder / "tiny-Q4_K_M.gguf").is_file()
    assert not gets(hub, "Q8_0")
    assert installed.find_model("org/tiny-GGUF") == location
    assert installed.find_model("hf.co/org/tiny-GGUF:q4_k_m").folder == location.folder
    assert pull.ensure_model("org/tiny-GGUF") == location
    assert installed.describe_model("org/tiny-GGUF").source == f"hub org/tiny-GGUF@{COMMIT[:8]}"
    assert installed.verify_model("org/tiny-GGUF").problems == ()


def test_a_split_model_is_one(home: Path, hub: FakeHub, weights: bytes, tmp_path: Path) -> None:
    whole = save_gguf(tmp_path / "whole.gguf", "llama tied").read_bytes()
    hub.repositories["org/tiny-GGUF"] = {
        "Q8_0/tiny-Q8_0-00001-of-00002.gguf": whole,
        "Q8_0/tiny-Q8_0-00002-of-00002.gguf": b"GGUF",
    }
    location = pull.pull_model("org/tiny-GGUF")
    assert location.name == "org/tiny-GGUF:Q8_0"
    assert sorted(path.name for path in location.folder.glob("*.gguf")) == [
        "tiny-Q8_0-00001-of-00002.gguf",
        "tiny-Q8_0-00002-of-00002.gguf",
    ]
    assert len(gets(hub, "00001-of-00002")) == len(gets(hub, "00002-of-00002")) == 1


def test_files_are_offered_with_size_quality_and_fit(hub: FakeHub) -> None:
    lines = run("models", "files", "org/tiny-GGUF").stdout.splitlines()
    assert lines[0].split() == ["FILE", "SIZE", "QUALITY", "FIT", "SPEED"]
    assert [line.split()[0] for line in lines[1:3]] == ["Q4_K_M", "Q8_0"]
    assert "almost as the original" in lines[2]
    assert lines[3] == "Take one: chatlm pull org/tiny-GGUF:Q4_K_M"
    rows = json.loads(run("models", "files", "org/tiny-GGUF", "--json").stdout)
    assert rows[1]["name"] == "org/tiny-GGUF:Q8_0"
    assert rows[0]["fit"]["verdict"] == "fits"


def test_pull_says_what_it_takes_before_it_takes_it(home: Path, hub: FakeHub) -> None:
    told = run("pull", "org/tiny-GGUF")
    assert "org/tiny-GGUF has 2 models; taking Q4_K_M." in told.stderr
    assert "org/tiny-GGUF:Q4_K_M: " in told.stderr
    assert "to download, fits" in told.stderr
    assert told.stdout.startswith("org/tiny-GGUF:Q4_K_M is ready in ")
    listed = run("list").stdout.splitlines()
    assert listed[1].split()[0] == "org/tiny-GGUF:Q4_K_M"


def test_what_does_not_fit_is_refused_before_a_byte_is_fetched(
    home: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.sizes["tiny-Q8_0.gguf"] = 40_000_000_000
    monkeypatch.setattr(memory_plan, "available_memory", lambda device: 3_000_000_000)
    monkeypatch.setattr(fit, "_free_disk", lambda folder: 10**12)
    with pytest.raises(OutOfMemoryError, match=r"needs .* are available on cpu") as error:
        run("pull", "org/tiny-GGUF:Q8_0")
    assert "Nothing was downloaded." in error.value.message
    smaller = error.value.hint.splitlines()[0].removeprefix("This fits: chatlm pull ")
    assert catalogue()[smaller].bytes < 3_000_000_000
    assert not gets(hub, "resolve")


def test_a_file_of_another_size_than_the_hub_says_is_refused(home: Path, hub: FakeHub) -> None:
    true_size = len(hub.repositories["org/tiny-GGUF"]["tiny-Q8_0.gguf"])
    hub.sizes["tiny-Q8_0.gguf"] = true_size + 1000
    with pytest.raises(ModelError, match=rf"differs .* has {true_size:,} bytes, not"):
        run("models", "pull", "--anyway", "org/tiny-GGUF:Q8_0")
    assert not list((home / "models" / ".staging").rglob("*.part"))


def test_a_file_that_the_disk_cannot_hold_is_refused(home: Path, hub: FakeHub) -> None:
    hub.sizes["tiny-Q8_0.gguf"] = 10**18
    with pytest.raises(ModelError, match="disk"):
        run("models", "pull", "--anyway", "org/tiny-GGUF:Q8_0")
    assert not gets(hub, "resolve")


def test_an_interrupted_file_goes_on_where_it_ended(home: Path, hub: FakeHub) -> None:
    def interrupt(stage: str, done: int, total: int | None) -> None:
        if list((home / "models" / ".staging").rglob("*.part")) and done >= 100_000:
            raise KeyboardInterrupt

    # bytes after the tensors belong to none of them
    hub.repositories["org/tiny-GGUF"]["tiny-Q4_K_M.gguf"] += bytes(600_000)
    hub.bytes_per_second = 400_000
    with pytest.raises(KeyboardInterrupt):
        pull.pull_model("org/tiny-GGUF:Q4_K_M", interrupt)
    kept = next((home / "models" / ".staging").rglob("*.part")).stat().st_size
    assert kept >= 100_000
    assert "an interrupted download of org/tiny-GGUF:Q4_K_M" in run("models", "du").stdout
    hub.bytes_per_second = None
    hub.requests.clear()
    pull.pull_model("org/tiny-GGUF:Q4_K_M")
    ranges = [each.partition("bytes=")[2] for each in gets(hub, "Q4_K_M.gguf")]
    assert len(ranges) == 1
    assert int(ranges[0].rstrip("-")) >= kept
    assert installed.verify_model("org/tiny-GGUF:Q4_K_M").problems == ()
    assert run("models", "clean").stdout == "There is nothing to clean.\n"


def test_a_model_of_the_catalogue_comes_from_its_gguf_repository(
    home: Path, hub: FakeHub, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was renamed since is found by its quantization."""
    files = GgufFiles("Q4_K_M", ("older-name-Q4_K_M.gguf",), len(weights))
    entry = CatalogueEntry(
        "toy:1b", "Toy.", "chat", "MIT", 128, len(weights),
        (GgufSource("org/tiny-GGUF", (files,)),),
    )  # fmt: skip
    monkeypatch.setitem(catalogue(), "toy:1b", entry)
    location = pull.pull_model("toy:1b")
    assert (location.name, location.folder.name) == ("toy:1b", "toy+1b")
    details = installed.describe_model("toy:1b")
    assert (details.licence, details.installed) == ("MIT", True)
    assert catalogue_module.find_entry("toy:1b") == (entry, "")
    assert installed.remove_model("toy:1b") > 0


def test_the_users_hub_cache_is_linked_instead_of_copied(
    home: Path, hub: FakeHub, weights: bytes, tmp_path: Path
) -> None:
    cached = tmp_path / "hf" / "hub" / "models--org--tiny-GGUF"
    snapshot = cached / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    (snapshot / "tiny-Q4_K_M.gguf").write_bytes(weights)
    location = pull.pull_model("org/tiny-GGUF:Q4_K_M")
    assert (location.folder / "tiny-Q4_K_M.gguf").samefile(snapshot / "tiny-Q4_K_M.gguf")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "code", "message", "hint"),
    [
        (403, "GatedRepo", "accept terms", "hf auth login"),
        (404, "RepoNotFound", "no model org/tiny-GGUF", "HF_TOKEN"),
        (404, "RevisionNotFound", "no revision main", "tree/main"),
    ],
)
def test_a_refusal_names_the_next_step(
    hub: FakeHub, status: int, code: str, message: str, hint: str
) -> None:
    hub.refusals["org/tiny-GGUF"] = (status, code)
    with pytest.raises(ModelError, match=message) as error:
        run("pull", "org/tiny-GGUF:Q4_K_M")
    assert hint in error.value.hint


def test_without_a_hub_there_is_a_next_step(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"hub http://127.0.0.1:9 did not answer") as error:
        run("pull", "qwen3:0.6b")
    assert "a .gguf file or a model on a server" in error.value.hint


def test_run_downloads_and_asks(home: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(name: str) -> installed.ModelLocation:
        asked.append(name)
        return pull.pull_model(name)

    monkeypatch.setattr(model_download, "download", download)
    result = CliRunner().invoke(cli, ["run", "org/tiny-GGUF:Q4_K_M", "Say", "hi"])
    assert asked == ["org/tiny-GGUF:Q4_K_M"]
    assert result.exit_code == 0, result.output
    assert result.stdout


def test_the_mmproj_file_of_a_repository_comes_with_its_models(
    home: Path, hub: FakeHub, tmp_path: Path
) -> None:
    writer = GGUFWriter(tmp_path / "mmproj.gguf", "clip")
    writer.add_uint32("clip.vision.projection_dim", SIZES["hidden_size"])
    writer.add_tensor("mm.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    encoder = (tmp_path / "mmproj.gguf").read_bytes()
    files = hub.repositories["org/tiny-GGUF"]
    files |= {"mmproj-F16.gguf": encoder, "mmproj-Q4_0.gguf": b"GGUF"}
    location = pull.pull_model("org/tiny-GGUF:Q4_K_M")
    assert (location.folder / "mmproj.gguf").read_bytes() == encoder
    assert gguf_file(location.folder) == location.folder / "tiny-Q4_K_M.gguf"
    assert not gets(hub, "mmproj-Q4_0")
    assert installed.verify_model("org/tiny-GGUF:Q4_K_M").problems == ()
