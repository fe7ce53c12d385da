"""The catalogue: what ships is valid and plausible, and a newer one is fetched safely."""

from __future__ import annotations

import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from chatlm.cli.models import models_group
from chatlm.errors import ModelError, UsageError
from chatlm.hub import refresh
from chatlm.hub.catalogue import (
    CatalogueEntry,
    GgufSource,
    catalogue,
    close_names,
    find_entry,
    parse_catalogue,
    refreshed_file,
    shipped_text,
)
from chatlm.hub.gguf_choices import quantization_of

CHAT = [entry for entry in catalogue().values() if entry.kind == "chat"]
SHAPED = [entry for entry in CHAT if entry.shape and not entry.active_parameters]

MINIMAL = """
format = 1
date = "2100-01-01"

[[models]]
name = "new:1b"
description = "New."
kind = "chat"
licence = "MIT"
context_length = 4096

[[models.sources]]
type = "gguf"
repository = "org/new-GGUF"
files = [{ quantization = "Q4_K_M", names = ["new-Q4_K_M.gguf"], bytes = 700_000_000 }]
"""


def test_it_has_the_kinds_and_sizes_that_people_run() -> None:
    assert 20 <= len(catalogue()) <= 40
    kinds = [entry.kind for entry in catalogue().values()]
    assert {"chat", "embedder", "reranker"} == set(kinds)
    sizes = [entry.bytes for entry in CHAT]
    assert min(sizes) < 500e6 < 2e9 < 4e9 < 10e9 < max(sizes)


@pytest.mark.parametrize("entry", CHAT, ids=lambda entry: entry.name)
def test_each_file_is_named_after_its_quantization_and_as_large_as_that_makes_it(
    entry: CatalogueEntry,
) -> None:
    if not entry.gguf:
        return
    assert entry.parameters
    for files in entry.gguf.files:
        assert quantization_of(files.names[0]) == files.quantization
        bits = files.bytes * 8 / entry.parameters
        ranges = {"Q4_K_M": (4.6, 6.6), "Q8_0": (8.0, 9.2), "MXFP4": (4.2, 5.0)}
        low, high = ranges[files.quantization]
        assert low < bits < high, f"{files.names[0]} has {bits:.2f} bits a weight"


@pytest.mark.parametrize("entry", SHAPED, ids=lambda entry: entry.name)
def test_the_shape_has_as_many_parameters_as_the_model(entry: CatalogueEntry) -> None:
    """Linear attention and convolutions are left out of the sum, so those models have more."""
    shape = entry.shape
    assert shape
    assert entry.parameters
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    heads, kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    attention = 2 * hidden * shape["head_dim"] * (heads + kv_heads)
    embeddings = hidden * shape["vocab_size"] * (1 if shape["tie_word_embeddings"] else 2)
    counted = layers * (attention + 3 * hidden * shape["intermediate_size"]) + embeddings
    plain = not {"full_attention_interval", "full_attention_layers"} & shape.keys()
    assert (0.99 if plain else 0.85) < counted / entry.parameters < 1.01


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("format = 1", "format = 2"), "its format is 2"),
        (('kind = "chat"', 'kind = "toy"'), "kind of new:1b is 'toy'"),
        (('licence = "MIT"', ""), "licence of new:1b is missing"),
        (("context_length = 4096", 'context_length = "much"'), "is str, not int"),
        (("context_length = 4096", "context_length = true"), "is bool, not int"),
        (("context_length = 4096", "context_length = 0"), "context_length of new:1b is 0"),
        (("700_000_000", "-1"), "bytes of new:1b, a source, a file is -1"),
        (('names = ["new-Q4_K_M.gguf"]', "names = []"), "a source, a file is empty"),
        (('description = "New."', r'description = "\u001b[31m"'), "cannot be printed"),
        (('kind = "chat"', 'kind = "chat"\nsampling = { top_k = -9 }'), "sampling of new:1b"),
        (('kind = "chat"', 'kind = "chat"\nshape = { head_dim = "8" }'), "head_dim in the shape"),
        (('kind = "chat"', 'kind = "chat"\naliases = ["new:1B"]'), None),
        (('type = "gguf"', 'type = "ftp"'), "'ftp', not hub or gguf or wheel"),
    ],
)  # fmt: skip
def test_an_invalid_catalogue_is_refused_by_name(
    change: tuple[str, str], problem: str | None
) -> None:
    text = MINIMAL.replace(*change)
    assert text != MINIMAL
    if problem is None:
        assert parse_catalogue(text)[1]["new:1b"].aliases == ("new:1B",)
        return
    with pytest.raises(ValueError, match=problem.replace("[", r"\[")):
        parse_catalogue(text)


def test_two_models_of_one_name_are_refused() -> None:
    twice = MINIMAL + MINIMAL[MINIMAL.index("[[models]]") :].replace('"new:1b"', '"NEW:1b"')
    with pytest.raises(ValueError, match="new:1b is the name of two models"):
        parse_catalogue(twice)


@pytest.mark.parametrize(
    ("typed", "name", "quantization"),
    [
        ("qwen3:4b", "qwen3:4b", ""),
        ("QWEN3:4B", "qwen3:4b", ""),
        ("qwen3", "qwen3:8b", ""),
        ("qwen3:latest", "qwen3:8b", ""),
        ("qwen3:4b-q8_0", "qwen3:4b", "Q8_0"),
        ("qwen3:4b-q4_K_M", "qwen3:4b", ""),
        ("smollm2:135m", "smollm2-135m-instruct", ""),
    ],
)
def test_names_that_people_type(typed: str, name: str, quantization: str) -> None:
    found = find_entry(typed)
    assert found is not None
    assert (found[0].name, found[1]) == (name, quantization)


@pytest.mark.parametrize("typed", ["qwen3:4b-q3_K_S", "qwen4", "", "qwen3:4"])
def test_other_names_are_not_guessed(typed: str) -> None:
    assert find_entry(typed) is None


def test_close_names_are_of_the_same_family_first() -> None:
    assert close_names("gpt-4") == ["gpt-oss:20b"]
    assert set(close_names("gemma3:2b")) == {"gemma3:1b", "gemma3:4b", "gemma3:12b"}


def test_a_newer_catalogue_adds_to_the_shipped_one(home: Path) -> None:
    home.mkdir()
    refreshed_file().write_text(MINIMAL)
    assert "new:1b" in catalogue()
    assert "qwen3:4b" in catalogue()
    refreshed_file().write_text(MINIMAL.replace("2100-01-01", "2001-01-01"))
    assert "new:1b" not in catalogue()
    refreshed_file().write_text("damaged")
    assert "qwen3:4b" in catalogue()


@contextmanager
def serving(body: bytes, redirect: str = "", status: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(302 if redirect else status)
            if redirect:
                self.send_header("Location", redirect)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/catalogue.toml"
    server.shutdown()
    server.server_close()


def test_refresh_stores_a_newer_one_and_says_so(home: Path) -> None:
    with serving(MINIMAL.encode()) as url:
        told = CliRunner().invoke(models_group, ["refresh", url])
        assert told.output == "The catalogue of 2100-01-01 with 1 model is stored.\n"
        assert "new:1b" in catalogue()
        again = CliRunner().invoke(models_group, ["refresh", url])
        assert again.output == "The catalogue of 2100-01-01 is the newest there is.\n"


def test_refresh_without_an_address_uses_the_projects_or_asks_for_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = ["Changelog, https://example.org/c"]
    stated = types.SimpleNamespace(get_all=lambda name: urls if name == "Project-URL" else None)
    monkeypatch.setattr(refresh, "metadata", lambda name: stated)
    with pytest.raises(ModelError, match="does not say where its project's repository is") as error:
        refresh.refresh_catalogue()
    assert "chatlm models refresh https://" in error.value.hint
    with serving(MINIMAL.encode()) as url:
        urls.append(f"Catalogue, {url}")
        told = CliRunner().invoke(models_group, ["refresh"])
        assert told.output == "The catalogue of 2100-01-01 with 1 model is stored.\n"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"<html>", "is no catalogue that this chatlm reads"),
        (b"\xff\xfe", "could not be fetched"),
        (b"x" * (refresh.MAX_BYTES + 1), "larger than 2 MiB"),
        (MINIMAL.replace("format = 1", "format = 9").encode(), "its format is 9"),
    ],
    ids=["no TOML", "no text", "large", "newer format"],
)
def test_what_is_no_catalogue_changes_nothing(home: Path, body: bytes, problem: str) -> None:
    with serving(body) as url, pytest.raises(ModelError, match=problem) as error:
        refresh.refresh_catalogue(url)
    assert "present catalogue stays" in error.value.hint
    assert not refreshed_file().exists()


@pytest.mark.parametrize("url", ["http://example.org/c.toml", "file:///etc/passwd", "c.toml"])
def test_other_addresses_than_https_are_refused(home: Path, url: str) -> None:
    with pytest.raises(UsageError, match="not an https address"):
        refresh.refresh_catalogue(url)


def test_a_redirect_does_not_lead_away_from_https(home: Path) -> None:
    with (
        serving(MINIMAL.encode()) as other,
        serving(b"", redirect=other) as url,
    ):
        assert refresh.refresh_catalogue(url).is_newer  # still loopback
    with (
        serving(b"", redirect="ftp://example.org/c.toml") as url,
        pytest.raises((ModelError, UsageError)),
    ):
        refresh.refresh_catalogue(url)


def test_what_the_server_answers_is_told(home: Path) -> None:
    with serving(b"", status=404) as url, pytest.raises(ModelError) as error:
        refresh.refresh_catalogue(url)
    assert str(error.value) == (
        f"The catalogue could not be fetched from {url}: the server answers 404 Not Found.\n"
        "Check the address. The present catalogue stays."
    )


def test_without_a_network_the_shipped_one_serves(home: Path) -> None:
    with pytest.raises(ModelError, match="could not be fetched"):
        refresh.refresh_catalogue("http://127.0.0.1:9/catalogue.toml")
    assert "qwen3:4b" in catalogue()
    assert parse_catalogue(shipped_text())[0]


def test_gguf_sources_name_no_file_outside_their_repository() -> None:
    for entry in catalogue().values():
        for source in entry.sources:
            if isinstance(source, GgufSource):
                assert all(".." not in name for files in source.files for name in files.names)
