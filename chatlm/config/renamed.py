"""Settings of earlier versions, which are still read from files and the environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatlm.errors import ConfigError


@dataclass(frozen=True)
class OldSetting:
    """A setting that newer ones replace."""

    name: str
    new_values: Mapping[str, Mapping[str, str]]
    """Each value it could have, and what now has the same effect, by setting."""
    variable: str = ""
    """The environment variable that overrode the config file; may be empty."""

    def translate(self, value: Any, source: str) -> Mapping[str, str]:
        """Return the settings that now have the effect of a value.

        Raises:
            ConfigError: it never was a valid value.
        """
        if not isinstance(value, str) or value not in self.new_values:
            *others, last = self.new_values
            raise ConfigError(
                f"{source}: {self.name} must be {', '.join(others)} or {last}, not {value!r}.",
                hint=f"Use the setting {' or '.join(self.replacements)} instead.",
            )
        return self.new_values[value]

    @property
    def replacements(self) -> tuple[str, ...]:
        """Names of the settings that replace it."""
        return tuple(sorted({name for new in self.new_values.values() for name in new}))


OLD_SETTINGS = (
    OldSetting("quantize", {"none": {}, "8bit": {"weights": "int8"}, "4bit": {"weights": "int4"}}),
    OldSetting(
        "fast",
        {
            "auto": {},
            "bf16": {"weights": "bf16"},
            "int8": {"weights": "int8"},
            "int4": {"weights": "int4"},
            "off": {"engine": "transformers"},
        },
    ),
    OldSetting(
        "dtype",
        {
            "auto": {},
            "float32": {"weights": "float32"},
            "bfloat16": {},  # of the computation only, and now chosen by the processor
            "float16": {"weights": "bf16"},
        },
        variable="CHATLM_DTYPE",
    ),
)
"""Of the core. Where two set the same new setting, the first had the last word then, too."""


def translate(
    section: Mapping[str, Any], old_settings: Sequence[OldSetting], source: str
) -> dict[str, Any]:
    """Return the settings of a section with new names; one with a new name wins.

    Raises:
        ConfigError: an old setting has an invalid value.
    """
    old = {each.name: each for each in old_settings}
    settings = {name: value for name, value in section.items() if name not in old}
    for name, each in old.items():
        if name in section:
            settings = {**each.translate(section[name], source), **settings}
    return settings
