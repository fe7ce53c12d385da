"""A plugin's settings as a form shows them: texts that are read back, checked and saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest

from chatlm.config import config, paths
from chatlm.config.form import SettingsForm
from chatlm.config.schema import format_setting
from chatlm.errors import ConfigError
from chatlm.plugin_host.settings import plugin_section

pytestmark = pytest.mark.usefixtures("home")


class Case(Enum):
    LOWER = "lower"
    UPPER = "upper"


@dataclass(frozen=True)
class Settings:
    most: int = field(default=3, metadata={"help": "at most so many"})
    strict: bool = False
    mode: Literal["auto", "never", 2] = "auto"
    case: Case = Case.LOWER
    file: Path = Path("a.toml")
    terms: tuple[str, ...] = ("a", 'b "c"')
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError("most must be 1 or more")


SECTION = plugin_section("demo", Settings)
FIELDS = SettingsForm(SECTION)


def configure(text: str) -> None:
    paths.config_file().parent.mkdir(parents=True, exist_ok=True)
    paths.config_file().write_text(text, encoding="utf-8")


def test_every_setting_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    configure("[plugins.demo]\nmost = 5\n")
    monkeypatch.setenv("CHATLM_DEMO_STRICT", "true")
    most, strict, mode, case, file, terms, weight = FIELDS.fields()
    assert (most.effective, most.source, most.default, most.help) == (
        "5",
        "config.toml",
        "3",
        "at most so many",
    )
    assert (strict.effective, strict.source, strict.variable) == (
        "true",
        "environment",
        "CHATLM_DEMO_STRICT",
    )
    assert strict.choices == ("true", "false")
    assert mode.choices == ("auto", "never", "2")
    assert (case.choices, case.effective) == (("lower", "upper"), "lower")
    assert (file.choices, file.effective, file.expected) == ((), "a.toml", "a path")
    assert terms.effective == '["a", "b \\"c\\""]'
    assert (weight.effective, weight.source) == ("", "default")


@pytest.mark.parametrize(
    "key, value",
    [
        ("most", 7),
        ("strict", True),
        ("mode", "never"),
        ("mode", 2),
        ("case", Case.UPPER),
        ("file", Path("/a b/c")),
        ("terms", ("x", 'y, "z"', "ü\n")),
        ("weight", 0.5),
    ],
)
def test_what_is_written_is_read_back(key: str, value: Any) -> None:
    saved = FIELDS.save(key, format_setting(value))
    assert (saved.configured, saved.source) == (format_setting(value), "config.toml")
    read = SECTION.read(config.load().plugins["demo"], "config.toml")
    assert getattr(read, key) == value


def test_an_empty_text_means_the_default() -> None:
    configure("# mine\n[plugins.demo]\nmost = 5 # enough\nstrict = true\n")
    FIELDS.check("most", "")
    assert FIELDS.save("most", "").source == "default"
    assert paths.config_file().read_text() == "# mine\n[plugins.demo]\nstrict = true\n"


def test_comments_stay() -> None:
    configure("# mine\n[plugins.demo]\nmost = 5 # enough\n")
    FIELDS.save("most", "6")
    assert paths.config_file().read_text() == "# mine\n[plugins.demo]\nmost = 6 # enough\n"


@pytest.mark.parametrize(
    "key, text, message",
    [
        ("most", "x", "most must be a whole number, not 'x'."),
        ("most", "0", "most must be 1 or more."),
        ("strict", "maybe", "strict must be true or false, not 'maybe'."),
        ("mode", "often", "mode must be auto, never or 2, not 'often'."),
        ("terms", "[1]", "terms must be a list of texts, not [1]."),
    ],
)
def test_a_wrong_value_is_named_and_not_saved(key: str, text: str, message: str) -> None:
    for act in (FIELDS.check, FIELDS.save):
        with pytest.raises(ConfigError) as caught:
            act(key, text)
        assert caught.value.message == message
    assert not paths.config_file().exists()


def test_two_mistakes_in_the_file_are_corrected_one_by_one() -> None:
    configure('[plugins.demo]\nmost = "x"\nstrict = 3\nunknown = 1\n')
    assert [field.configured for field in FIELDS.fields()[:2]] == ["x", "3"]
    FIELDS.save("most", "4")
    FIELDS.save("strict", "true")
    assert [field.configured for field in FIELDS.fields()[:2]] == ["4", "true"]
