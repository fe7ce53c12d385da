"""Settings: errors are located, and writing loses nothing."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.config import config, paths
from chatlm.config import paths as paths_module
from chatlm.errors import ConfigError
from chatlm.types.sampling import NUMERIC_SAMPLING, Sampling
from chatlm.types.tool_rules import ToolSettings


@pytest.fixture
def file(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in (
        "CHATLM_MODEL",
        "CHATLM_DEVICE",
        "CHATLM_ENGINE",
        "CHATLM_WEIGHTS",
        "CHATLM_DTYPE",
    ):
        monkeypatch.delenv(variable, raising=False)
    home.mkdir()
    return paths.config_file()


def test_without_a_file_the_defaults_apply_and_none_is_written(file: Path) -> None:
    assert config.load() == config.Config()
    assert config.load().model == "smollm2-135m-instruct"
    assert not file.exists()


def test_every_key_is_read(file: Path) -> None:
    file.write_text(
        """
        model = "m"
        system = "Be brief."
        device = "cuda:1"
        engine = "transformers"
        weights = "int4"
        context = 4096
        prompt_format = "alpaca"
        theme = "nord"
        disabled_plugins = ["rag"]
        [sampling]
        temperature = 0
        top_k = 5
        stop = ["a", "b"]
        [plugins.emotion]
        model = "x"
        """
    )
    assert config.load() == config.Config(
        model="m",
        system="Be brief.",
        device="cuda:1",
        engine="transformers",
        weights="int4",
        context=4096,
        prompt_format="alpaca",
        theme="nord",
        sampling=Sampling(temperature=0, top_k=5, stop=("a", "b")),
        disabled_plugins=("rag",),
        plugins={"emotion": {"model": "x"}},
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {}),
        ({"fast": "auto", "dtype": "auto", "quantize": "none"}, {}),
        ({"fast": "off"}, {"engine": "transformers"}),
        ({"fast": "int8"}, {"weights": "int8"}),
        ({"fast": "bf16", "dtype": "float32"}, {"weights": "bf16"}),
        ({"dtype": "float32"}, {"weights": "float32"}),
        ({"dtype": "bfloat16"}, {}),
        ({"dtype": "float16"}, {"weights": "bf16"}),
        ({"quantize": "8bit"}, {"weights": "int8"}),
        ({"quantize": "4bit", "fast": "off"}, {"engine": "transformers", "weights": "int4"}),
        ({"quantize": "4bit", "fast": "int8"}, {"weights": "int4"}),
        ({"fast": "off", "engine": "torch"}, {"engine": "torch"}),
        ({"weights": "stored", "quantize": "4bit"}, {"weights": "stored"}),
    ],
)
def test_settings_of_earlier_versions_are_read(
    file: Path, old: dict[str, str], new: dict[str, Any]
) -> None:
    file.write_text("".join(f'{name} = "{value}"\n' for name, value in old.items()))
    assert config.load() == config.Config(**new)
    shown = {each.key: each.source for each in config.effective_settings()}
    assert {name for name in shown if shown[name] == "config.toml"} == set(new)
    assert not {"fast", "dtype", "quantize"} & set(shown)


def test_an_old_environment_variable_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('weights = "int4"\n')
    monkeypatch.setenv("CHATLM_DTYPE", "float32")
    assert config.load().weights == "float32"
    assert config.overriding_env_var("weights") == "CHATLM_DTYPE"
    monkeypatch.setenv("CHATLM_WEIGHTS", "int8")
    assert config.load().weights == "int8"
    assert config.overriding_env_var("weights") == "CHATLM_WEIGHTS"
    monkeypatch.setenv("CHATLM_DTYPE", "float8")
    with pytest.raises(ConfigError, match="environment CHATLM_DTYPE: dtype must be auto, float32"):
        config.load()


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("fast", "off", "Use: chatlm config set engine transformers"),
        ("quantize", "8bit", "Use: chatlm config set weights int8"),
        ("dtype", "auto", "Leave weights unset instead."),
    ],
)
def test_an_old_setting_is_not_written_but_its_successor_is_named(
    file: Path, key: str, value: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=f"{key} is now part of") as error:
        config.set_value(key, value)
    assert error.value.hint == hint
    assert not file.exists()


def test_an_old_setting_can_be_removed(file: Path) -> None:
    file.write_text('fast = "off"\n')
    assert config.unset("fast")
    assert config.load() == config.Config()


def test_the_keys_are_those_of_config_and_sampling() -> None:
    own = {field.name for field in dataclasses.fields(config.Config)} - {
        "sampling",
        "tools",
        "plugins",
        "keys",
        "safe_mode",
    }
    sampling = {f"sampling.{field.name}" for field in dataclasses.fields(Sampling)}
    tools = {f"tools.{field.name}" for field in dataclasses.fields(ToolSettings)}
    assert set(config.key_help()) == own | sampling | tools
    assert {f"sampling.{name}" for name in NUMERIC_SAMPLING} < set(config.key_help())


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("model = ", "line 1, column 9: Invalid value", "chatlm config edit"),
        ("a = 1\nb = [1,\n", "line 3, column 1", "chatlm config edit"),
        ('\nx = "abc', "line 2, column 9", "chatlm config edit"),
        ("a = 1\na = 2", "line 2, column 6", "chatlm config edit"),
        (b'a = "\xff"', "line 1, column 6: Not UTF-8", "chatlm config edit"),
        ("modl = 'x'", "'modl'", "Did you mean model?"),
        ("temperature = 1", "'temperature'", "Did you mean sampling.temperature?"),
        ("[sampling]\ntemp = 1", "'sampling.temp'", "Did you mean sampling.temperature?"),
        ("zzz = 1", "'zzz'", "chatlm config show"),
        ("model = 3", "model must be a name, not 3", "model:"),
        ("model = ' '", "model must be a name", "model:"),
        ("device = 'gpu'", "device must be auto, cpu, mps, cuda or cuda:N, not 'gpu'", ""),
        ("device = 'cuda:x'", "device must be", ""),
        ("weights = 'int3'", "weights must be auto, stored, int8, int4, bf16 or float32", ""),
        ("dtype = 'int8'", "dtype must be auto, float32, bfloat16 or float16", "setting weights"),
        ("quantize = '3bit'", "quantize must be none, 8bit or 4bit", ""),
        ("prompt_format = 'llama'", "prompt_format must be", ""),
        ("context = 1", "context must be a whole number from 64", ""),
        ("context = true", "context must be a whole number", ""),
        ("disabled_plugins = 'rag'", "disabled_plugins must be a list of names", ""),
        ("disabled_plugins = [1]", "disabled_plugins must be a list of names", ""),
        ("sampling = 1", "sampling must be a section", ""),
        ("plugins = 1", "plugins must be a section", ""),
        ("[plugins]\nrag = 1", "plugins.rag must be a section", "[plugins.rag]"),
        ("[sampling]\ntemperature = 9", "sampling.temperature must be a number from 0 to 5", ""),
        ("[sampling]\ntop_p = nan", "sampling.top_p must be a number", ""),
        ("[sampling]\ntop_k = 1.0", "sampling.top_k must be a whole number", ""),
        ("[sampling]\ntop_k = true", "sampling.top_k must be a whole number", ""),
        ("[sampling]\nstop = ['']", "sampling.stop must be non-empty texts", ""),
        ("[sampling]\nstop = 3", "sampling.stop must be non-empty texts", ""),
    ],
)
def test_what_is_wrong_is_named(file: Path, content: str | bytes, message: str, hint: str) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = file.read_bytes()
    with pytest.raises(ConfigError) as caught:
        config.load()
    assert str(file) in caught.value.message
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2
    assert file.read_bytes() == before


def test_a_byte_order_mark_is_no_error(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + b'model = "m"\r\n')
    assert config.load().model == "m"


def test_a_folder_in_place_of_the_file(file: Path) -> None:
    file.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load()


def test_the_environment_wins_and_is_checked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('model = "m"\ndevice = "cpu"\ntheme = "nord"\n')
    monkeypatch.setenv("CHATLM_MODEL", "other")
    monkeypatch.setenv("CHATLM_DTYPE", "")
    assert (config.load().model, config.load().device) == ("other", "cpu")
    sources = {
        setting.key: (setting.value, setting.source) for setting in config.effective_settings()
    }
    assert sources["model"] == ("other", "environment CHATLM_MODEL")
    assert sources["device"] == ("cpu", "config.toml")
    assert sources["weights"] == ("auto", "default")
    assert list(sources) == list(config.key_help())
    assert all(setting.help for setting in config.effective_settings())
    monkeypatch.setenv("CHATLM_DEVICE", "gpu")
    with pytest.raises(ConfigError, match="environment CHATLM_DEVICE: device must be"):
        config.load()


def test_effective_shows_sampling_and_plugins(file: Path) -> None:
    file.write_text("[sampling]\ntop_k = 5\n[plugins.rag]\nk = 3\n")
    sources = {
        setting.key: (setting.value, setting.source) for setting in config.effective_settings()
    }
    assert sources["sampling.top_k"] == (5, "config.toml")
    assert sources["sampling.top_p"] == (None, "default")
    assert sources["plugins.rag.k"] == (3, "config.toml")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("model", "3", "3"),
        ("system", '"quoted"', '"quoted"'),
        ("system", "", ""),
        ("context", "4096", 4096),
        ("disabled_plugins", "rag", ("rag",)),
        ("disabled_plugins", '["rag", "lora"]', ("rag", "lora")),
        ("sampling.temperature", "0.5", 0.5),
        ("sampling.temperature", "1", 1),
        ("sampling.seed", "7", 7),
        ("sampling.stop", "###", ("###",)),
        ("sampling.stop", "3", ("3",)),
        ("sampling.stop", '["a", "\\n"]', ("a", "\n")),
    ],
)
def test_set_writes_what_load_reads(file: Path, key: str, text: str, value: object) -> None:
    config.set_value(key, text)
    now = {setting.key: setting for setting in config.effective_settings()}[key]
    assert (now.value, now.source) == (value, "config.toml")
    assert config.unset(key)
    assert config.load() == config.Config()
    assert not config.unset(key)


def test_set_keeps_comments_order_permissions_and_links(file: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text('# mine\r\ntheme = "nord"  # blue\r\n\r\n[plugins.rag]\r\nk = 3 # few\r\n')
    real.chmod(0o640)
    file.symlink_to(real)
    config.set_value("model", "m")
    config.set_value("sampling.top_k", "5")
    config.set_value("plugins.rag.k", "4")
    config.set_value("plugins.emotion.name", "x y")
    text = real.read_text()
    assert "# mine" in text
    assert 'theme = "nord"  # blue' in text
    assert "# few" in text
    assert file.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    now = config.load()
    assert (now.model, now.theme, now.sampling.top_k) == ("m", "nord", 5)
    assert now.plugins == {"rag": {"k": 4}, "emotion": {"name": "x y"}}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dotfiles.toml", "home"]


def test_set_makes_a_private_file(file: Path) -> None:
    file.parent.rmdir()
    config.set_value("model", "m")
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("modl", "x"),
        ("plugins.x", "1"),
        ("keys.", "ctrl+y"),
        ("keys.copy.code", "ctrl+y"),
        ("sampling.top_p", "2"),
        ("sampling.top_p", "0.5\nmodel = 1"),
        ("context", "many"),
        ("sampling.stop", ""),
        ("device", "gpu"),
    ],
)
def test_set_refuses_what_load_would(file: Path, key: str, text: str) -> None:
    file.write_text("# here\n")
    with pytest.raises(ConfigError):
        config.set_value(key, text)
    assert file.read_text() == "# here\n"


def test_set_refuses_a_corrupt_file_and_one_without_the_section(file: Path) -> None:
    for content, message in (("model = ", "line 1"), ("sampling = 3", "not a section")):
        file.write_text(content)
        with pytest.raises(ConfigError, match=message):
            config.set_value("sampling.top_k", "3")
        assert file.read_text() == content
    file.write_text("model = ")
    with pytest.raises(ConfigError, match="line 1"):
        config.unset("model")


def test_set_and_unset_mend_a_file_with_a_wrong_key(file: Path) -> None:
    file.write_text('device = "gpu"\nmodl = "x"\n')
    config.set_value("device", "cpu")
    assert config.unset("modl")
    assert config.load().device == "cpu"


def test_a_write_that_fails_leaves_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("# here\n")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left on device") as caught:
        config.set_value("model", "m")
    assert "It is unchanged" in caught.value.message
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_text() == "# here\n"


def test_a_home_below_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CHATLM_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(ConfigError, match="Not a directory"):
        config.set_value("model", "m")


@pytest.mark.parametrize(
    "content",
    [
        ".".join(["a"] * 3000) + " = 1",
        "plugins." + ".".join(["a"] * 3000) + " = 1",
        "[plugins.x]\na = " + "[" * 3000 + "]" * 3000,
        "[plugins.x]\na = " + "{b = " * 60 + "1" + "}" * 60,
    ],
    ids=["key", "plugin", "list", "table"],
)
def test_a_file_that_is_nested_too_deeply_is_named(file: Path, content: str) -> None:
    file.write_text(content)
    for use in (
        config.load,
        config.effective_settings,
        lambda: config.set_value("theme", "nord"),
        lambda: config.unset("theme"),
    ):
        with pytest.raises(ConfigError, match="nested more than 50 levels deep") as caught:
            use()
        assert str(file) in caught.value.message
        assert "chatlm config edit" in caught.value.hint
    assert file.read_text() == content


def test_a_value_that_is_nested_too_deeply_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="nested more than"):
        config.set_value("plugins.x.a", "[" * 60 + "]" * 60)
    assert not file.exists()


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_comes_back_through_the_file(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        config.set_value("system", text, path)
        config.set_value("theme", "nord", path)
        assert tomllib.loads(path.read_bytes().decode())["system"] == text
        assert config.load(path).system == text


def test_write_atomically_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    paths_module.write_atomically(path, ["a\r\n", "é"])
    assert path.read_bytes() == "a\r\né".encode()

    def broken() -> Iterator[str]:
        yield "half"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        paths_module.write_atomically(path, broken())
    assert path.read_bytes() == "a\r\né".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_keys_of_the_screen_can_be_chosen(home: Path) -> None:
    config.set_value("keys.regenerate", "ctrl+y")
    assert config.load().keys == {"regenerate": "ctrl+y"}
    assert ("keys.regenerate", "ctrl+y", "config.toml") in [
        (setting.key, setting.value, setting.source) for setting in config.effective_settings()
    ]
    with pytest.raises(ConfigError, match=r"keys\.stop must be a key, not 3"):
        home.joinpath("config.toml").write_text("[keys]\nstop = 3\n")
        config.load()


def test_reduced_motion_is_true_or_false(home: Path) -> None:
    config.set_value("reduced_motion", "true")
    assert config.load().reduced_motion is True
    with pytest.raises(ConfigError, match="reduced_motion must be true or false"):
        config.set_value("reduced_motion", "maybe")


def test_each_key_of_the_core_has_a_valid_default() -> None:
    for section in config.SECTIONS:
        for spec in section.specs.values():
            assert spec.problem(spec.default) == ""
