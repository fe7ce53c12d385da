"""Put `prompts/` and `indices/` into a standard wheel; an editable one reads the checkout."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ShippedFolders(BuildHookInterface):  # type: ignore[type-arg]  # hatchling leaves it open
    """Hatchling build hook that adds the shipped folders to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folders unless the install is editable."""
        if version == "standard":
            for folder in ("prompts", "indices"):
                build_data["force_include"][f"{self.root}/{folder}"] = f"chatlm/{folder}"
