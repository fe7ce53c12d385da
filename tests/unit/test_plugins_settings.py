"""A plugin's settings: a dataclass has defaults and checks, file and environment the values."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from chatlm.config import config
from chatlm.errors import ConfigError
from chatlm.plugin_host import settings


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Settings:
    k: int = field(default=4, metadata={"help": "passages to find"})
    share: float = 0.5
    loud: bool = False
    model: str = "small"
    mode: Literal["fast", "good"] = "fast"
    folders: tuple[str, ...] = ()
    place: Path | None = None
    colour: Colour = Colour.RED

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError("k must be 1 or more")


SECTION = settings.plugin_section("my-rag", Settings)


def read(section: dict[str, Any]) -> Settings:
    return SECTION.read(section, "config.toml")


def test_defaults_file_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read({}) == Settings()
    section = {"k": 2, "share": 1, "folders": ["a", "b"], "place": "/x", "colour": "blue"}
    expected = Settings(2, 1, folders=("a", "b"), place=Path("/x"), colour=Colour.BLUE)
    assert read(section) == expected
    monkeypatch.setenv("CHATLM_MY_RAG_K", "9")
    monkeypatch.setenv("CHATLM_MY_RAG_LOUD", "true")
    monkeypatch.setenv("CHATLM_MY_RAG_MODEL", "12")
    monkeypatch.setenv("CHATLM_MY_RAG_FOLDERS", "only one")
    now = read(section)
    assert (now.k, now.loud, now.model, now.folders) == (9, True, "12", ("only one",))
    sources = {row.key: row.source for row in SECTION.effective(section, "config.toml")}
    assert sources["plugins.my-rag.k"] == "environment CHATLM_MY_RAG_K"
    assert sources["plugins.my-rag.share"] == "config.toml"
    assert sources["plugins.my-rag.mode"] == "default"


@pytest.mark.parametrize(
    ("section", "said", "hint"),
    [
        ({"k": "many"}, "plugins.my-rag.k must be a whole number, not 'many'", "config set"),
        ({"k": True}, "k must be a whole number", ""),
        ({"k": 0}, "plugins.my-rag: k must be 1 or more", ""),
        ({"share": float("nan")}, "share must be a number", ""),
        ({"loud": 1}, "loud must be true or false", ""),
        ({"mode": "slow"}, "mode must be fast or good, not 'slow'", ""),
        ({"colour": "green"}, "colour must be red or blue", ""),
        ({"folders": ["a", 1]}, "folders must be a list of texts", ""),
        ({"place": 3}, "place must be a path or nothing", ""),
        ({"modle": "x"}, "no setting 'plugins.my-rag.modle'", "Did you mean plugins.my-rag.mode"),
    ],
)
def test_a_wrong_setting_names_key_and_type(section: dict[str, Any], said: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(section)
    assert said in caught.value.message
    assert hint in caught.value.hint


def test_a_wrong_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATLM_MY_RAG_K", "x")
    with pytest.raises(ConfigError, match=r"CHATLM_MY_RAG_K: plugins\.my-rag\.k must be a whole"):
        read({})


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("k", "3", 3),
        ("model", "3", "3"),
        ("loud", "true", True),
        ("folders", "a", ["a"]),
        ("folders", '["a", "b"]', ["a", "b"]),
        ("place", "/tmp/x", "/tmp/x"),
        ("mode", "good", "good"),
    ],
)
def test_typed_text_becomes_what_the_file_holds(key: str, text: str, value: Any) -> None:
    assert SECTION.parse(key, text, {}) == value


def test_a_rule_over_several_settings_sees_the_others() -> None:
    with pytest.raises(ConfigError, match="k must be 1 or more"):
        SECTION.parse("k", "-1", {"model": "x"})


@dataclass(frozen=True)
class Ranged:
    count: int = field(default=4, metadata={"minimum": 1, "maximum": 2000})
    share: float | None = field(default=None, metadata={"minimum": 0})
    word: str = field(default="a", metadata={"accepts": str.isalpha, "expected": "a word"})


RANGED = settings.plugin_section("ranged", Ranged)


@pytest.mark.parametrize(
    ("key", "text", "problem"),
    [
        ("count", "0", "must be a whole number from 1 to 2,000, not 0"),
        ("count", "2001", "must be a whole number from 1 to 2,000, not 2,001"),
        ("share", "-0.5", "must be a number of at least 0, not -0.5"),
        ("word", "a b", "must be a word, not 'a b'"),
    ],
)
def test_a_field_may_declare_a_range_or_a_check(key: str, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RANGED.parse(key, text, {})
    assert caught.value.message == f"chatlm config set: plugins.ranged.{key} {problem}."
    assert RANGED.read({"count": 2000, "share": 0}, "config.toml") == Ranged(2000, 0)


def test_a_default_outside_its_range_is_refused() -> None:
    @dataclass(frozen=True)
    class Settings:
        count: int = field(default=0, metadata={"minimum": 1})

    with pytest.raises(TypeError, match=r"Settings\.count must be a whole number of at least 1"):
        settings.check_settings_class(SimpleNamespace(Settings=Settings))


def test_an_invalid_setting_names_the_file(home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text("[plugins.my-rag]\nk = 0\nmode = 'fast'\n")
    with pytest.raises(ConfigError) as caught:
        settings.load_plugin_settings("my-rag", Settings)
    file = home / "config.toml"
    assert caught.value.message == f"{file}: plugins.my-rag: k must be 1 or more."


@dataclass
class Thawed:
    k: int = 1


@dataclass(frozen=True)
class NoDefault:
    k: int


@dataclass(frozen=True)
class WrongDefault:
    k: int = "one"  # type: ignore[assignment]


class Plain:
    k = 1


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Thawed, "must be frozen"),
        (NoDefault, "k needs a default"),
        (WrongDefault, "default of Settings.k must be a whole number"),
        (Plain, "must be a class with @dataclass"),
        ("text", "must be a class with @dataclass"),
    ],
)
def test_a_bad_schema_is_refused(kind: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        settings.check_settings_class(SimpleNamespace(Settings=kind))


def test_own_settings_reads_the_users_file(home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text("[plugins.my-rag]\nk = 7\n")
    assert settings.load_plugin_settings("my-rag", Settings).k == 7
    assert config.load().plugins == {"my-rag": {"k": 7}}
