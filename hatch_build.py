"""Complete a wheel: `prompts/`, `indices/` and, if asked for, compiled libraries.

An editable wheel reads the checkout and compiles what it needs when it is used, and so does a
standard one without CHATLM_WHEEL. With CHATLM_WHEEL=linux-x86_64, or another platform of
chatlm/engines/native/csrc/targets.toml, the wheel carries the libraries for its processors. They
are compiled by zig, for any platform on any machine.
"""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = "chatlm/engines/native"


class ShippedFiles(BuildHookInterface):  # type: ignore[type-arg]  # hatchling leaves it open
    """Hatchling build hook that adds the shipped folders and the libraries to the wheel."""

    def dependencies(self) -> list[str]:
        """Return what compiles the libraries, if any are asked for."""
        if not os.environ.get("CHATLM_WHEEL"):
            return []
        bundled = _load_bundled(Path(self.root))
        return [str(bundled.read_targets(Path(self.root, NATIVE, "csrc"))["compiler"])]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add what is asked for, unless the install is editable."""
        if version != "standard":
            return
        for folder in ("prompts", "indices"):
            build_data["force_include"][f"{self.root}/{folder}"] = f"chatlm/{folder}"
        platform = os.environ.get("CHATLM_WHEEL", "")
        if not platform:
            self.app.display_info(
                "This wheel has no compiled libraries: chatlm compiles them when it first loads a "
                "model, which takes some seconds and needs a C compiler."
            )
            return
        self._temporary = tempfile.TemporaryDirectory()
        out = Path(self._temporary.name)
        tag = self._compile_all(platform, out)
        build_data["force_include"][str(out)] = f"{NATIVE}/libraries"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{tag}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Delete what was compiled."""
        if hasattr(self, "_temporary"):
            self._temporary.cleanup()

    def _compile_all(self, platform: str, out: Path) -> str:
        """Compile all libraries of a platform into a folder; return the wheel's platform tag."""
        bundled = _load_bundled(Path(self.root))
        sources = Path(self.root, NATIVE, "csrc")
        targets = bundled.read_targets(sources)
        if platform not in targets["platforms"]:
            known = ", ".join(targets["platforms"])
            raise SystemExit(f"CHATLM_WHEEL={platform} is unknown; there are: {known}")
        how = targets["platforms"][platform]
        checksums = {}
        for processor in targets["processors"]:
            if processor["platform"] != platform:
                continue
            for name, library in targets["libraries"].items():
                self.app.display_info(f"compiling {name} for {processor['name']}")
                path = out / processor["name"] / f"{name}.so"
                path.parent.mkdir(exist_ok=True)
                subprocess.run(
                    [sys.executable, "-m", "ziglang", "cc", "-target", how["target"],
                     f"-mcpu={processor['cpu']}", *targets["flags"], *how["flags"],
                     *library.get("flags", ()), str(sources / library["source"]),
                     "-o", str(path), "-lm"],
                    check=True,
                )  # fmt: skip
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                checksums[path.relative_to(out).as_posix()] = digest
        manifest = {"sources": bundled.hash_sources(sources), "libraries": checksums}
        (out / bundled.MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        return str(how["tag"])


def _load_bundled(root: Path) -> ModuleType:
    """Import the module that reads the libraries, without chatlm's dependencies."""
    spec = importlib.util.spec_from_file_location("bundled", root / NATIVE / "bundled.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{root} has no {NATIVE}/bundled.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
