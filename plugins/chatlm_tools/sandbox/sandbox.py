"""Run programs where they can harm nothing: no network, one temporary folder, limits."""

from __future__ import annotations

import base64
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from chatlm import ChatlmError
from chatlm_tools.sandbox.limits import Limits, Outcome
from chatlm_tools.sandbox.spec import RunSpec, Tier

_SYSTEM_FOLDERS = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"),
    *("/nix/store", "/gnu/store", "/run/current-system"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives"),
    *("/etc/localtime", "/etc/timezone", "/etc/fonts", "/etc/mime.types", "/etc/nsswitch.conf"),
    "/sys/devices/system/cpu",
)
"""What programs need to run; they hold no user's data and no passwords."""

_PYTHON_PARTS = ("bin", "lib", "lib32", "lib64", "pyvenv.cfg")

_ANSWER_SECONDS = 20.0
"""How long the supervisor may take beyond the program's time, on a busy machine."""
_TEST_LIMITS = Limits(seconds=60, memory=1 << 30)


class SandboxUnavailable(ChatlmError):
    """This machine has nothing that could contain a program."""


def _bwrap() -> str:
    """Return the path of bubblewrap; empty without it."""
    return shutil.which("bwrap") or ""


def missing_reason(tier: Tier) -> str:
    """Say why a tier cannot be used here; empty if it can, as far as one can tell by looking."""
    if sys.platform != "linux":
        return "it exists on Linux alone"
    from chatlm_tools.sandbox import landlock, seccomp

    if platform.machine() not in seccomp.ARCHITECTURES:
        return f"its filter of system calls is made for {' and '.join(seccomp.ARCHITECTURES)}"
    if tier == "bubblewrap":
        return "" if _bwrap() else "the program bwrap is not installed"
    return "" if landlock.version() else "this kernel has no Landlock, or has it switched off"


@functools.cache
def available_tier() -> tuple[Tier | None, str]:
    """Return the strongest tier that works here, tried with a real program, and why not others.

    Returns:
        the tier, None if there is none; and one line for each stronger one, with the reason.
    """
    reasons: list[str] = []
    tiers: tuple[Tier, ...] = ("bubblewrap", "landlock")
    for tier in tiers:
        reason = missing_reason(tier)
        if not reason:
            reason = _try_tier(tier)
        if not reason:
            return tier, "\n".join(reasons)
        reasons.append(f"{tier}: {reason}")
    return None, "\n".join(reasons)


def _try_tier(tier: Tier) -> str:
    """Run a program that does nothing; return what went wrong."""
    try:
        with Sandbox(tier, _TEST_LIMITS).open() as run:
            outcome = run([sys.executable, "-I", "-S", "-c", "print(6 * 7)"])
    except (ChatlmError, OSError) as error:
        return str(error)
    if outcome.is_error or outcome.stdout.strip() != "42":
        lines = outcome.stderr.strip().splitlines()
        return lines[-1] if lines else f"a test program ended with {outcome.exit_code}"
    return ""


@functools.cache
def python_folders() -> tuple[str, ...]:
    """Return the folders of this Python and its packages.

    Not the whole folder that Python is installed in, which may be the user's home.
    """
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    found = {f"{prefix}/{part}" for prefix in prefixes for part in _PYTHON_PARTS}
    found |= {sys.executable, os.path.realpath(sys.executable)}
    for folder in {path for path in sys.path if path.endswith(("site-packages", "dist-packages"))}:
        found.add(folder)
        for entry in os.scandir(folder):
            if entry.is_symlink():  # some installers link packages to a shared folder
                found.add(os.path.realpath(entry.path))
    found |= {os.path.realpath(path) for path in found}
    covered: list[str] = []
    for path in sorted(found):
        if not any(path == one or path.startswith(one + "/") for one in covered):
            covered.append(path)
    return tuple(covered)


RunCommand = Callable[..., Outcome]
"""Runs `command` in an open sandbox; see `Sandbox.open`."""


class Sandbox:
    """Runs programs in one tier, under the same limits.

    Args:
        tier: what contains them.
        limits: of each run.
        readable: more folders that can be read; absolute.
    """

    def __init__(self, tier: Tier, limits: Limits, readable: Sequence[Path] = ()) -> None:
        self.tier = tier
        self.limits = limits
        self._readable = tuple(readable)

    @classmethod
    def best(cls, limits: Limits, readable: Sequence[Path] = ()) -> Sandbox:
        """Choose the strongest tier.

        Raises:
            SandboxUnavailable: none works on this machine.
        """
        tier, reasons = available_tier()
        if tier is None:
            raise SandboxUnavailable(
                "Nothing on this machine can contain a program, so none is run.\n" + reasons,
                hint="On Linux, install bubblewrap; on other systems these tools are off.",
            )
        return cls(tier, limits, readable)

    @contextmanager
    def open(self) -> Iterator[SandboxFolder]:
        """Make a temporary folder; it is removed with everything in it."""
        folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="chatlm-sandbox-")))
        try:
            yield SandboxFolder(self, folder)
        finally:
            _remove(folder)

    def spec(self, command: Sequence[str], folder: Path) -> RunSpec:
        """Describe a run."""
        return RunSpec(
            tier=self.tier,
            command=tuple(command),
            folder=str(folder),
            readable=(*_SYSTEM_FOLDERS, *python_folders(), *map(str, self._readable)),
            environment=_environment(folder),
            limits=self.limits,
            bwrap=_bwrap() if self.tier == "bubblewrap" else "",
        )


class SandboxFolder:
    """The temporary folder of a sandbox, in which commands can be run."""

    def __init__(self, sandbox: Sandbox, path: Path) -> None:
        self._sandbox = sandbox
        self.path = path

    def __call__(
        self, command: Sequence[str], cancelled: Callable[[], bool] = lambda: False
    ) -> Outcome:
        """Run a command to its end.

        Args:
            command: the program's absolute path or name, and its arguments.
            cancelled: asked ten times a second; everything is killed once it is true.

        Raises:
            SandboxUnavailable: the supervisor failed.
        """
        limits = self._sandbox.limits
        with subprocess.Popen(
            [sys.executable, "-I", "-m", "chatlm_tools.sandbox.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.defpath},
            start_new_session=True,  # Ctrl-C in the terminal reaches chatlm alone
        ) as supervisor:
            spec = self._sandbox.spec(command, self.path)
            answer, problems = _converse(
                supervisor, spec, limits.seconds + _ANSWER_SECONDS, cancelled
            )
        try:
            values: Mapping[str, object] = json.loads(answer)
        except ValueError:
            last = problems.decode(errors="replace").strip().splitlines()[-1:]
            raise SandboxUnavailable(
                f"The sandbox failed: {''.join(last) or 'it was ended from outside'}"
            ) from None
        texts = {
            name: base64.b64decode(str(values[name])).decode("utf-8", errors="replace")
            for name in ("stdout", "stderr")
        }
        return Outcome(**{**values, **texts})  # type: ignore[arg-type]


def _converse(
    supervisor: subprocess.Popen[bytes],
    spec: RunSpec,
    seconds: float,
    cancelled: Callable[[], bool],
) -> tuple[bytes, bytes]:
    """Describe the run and wait for the answer; the input is closed, which ends it, if cancelled.

    Returns:
        the supervisor's output and its error messages.
    """
    deadline = time.monotonic() + seconds
    # `communicate` would close the input at once.
    stdin, supervisor.stdin = cast(IO[bytes], supervisor.stdin), None
    with stdin:
        with suppress(BrokenPipeError):
            stdin.write(spec.to_json().encode() + b"\n")
            stdin.flush()
        while True:
            if cancelled() or time.monotonic() > deadline:
                stdin.close()
            try:
                return supervisor.communicate(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue


def _environment(folder: Path) -> dict[str, str]:
    """Return the whole environment of a program: nothing of the user's own is in it."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": str(folder / ".matplotlib"),
        "OMP_NUM_THREADS": "2",  # each thread of a mathematical library takes address space
        "OPENBLAS_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
    } | ({"TZ": zone} if (zone := os.environ.get("TZ")) else {})


def _remove(folder: Path) -> None:
    """Remove a folder that a hostile program filled: locked, or nested deeper than paths reach."""
    remove = shutil.which("rm")
    unlock = shutil.which("chmod")
    for _ in range(2):
        if remove:
            command = [remove, "-rf", "--", str(folder)]
            subprocess.run(command, check=False, capture_output=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        if unlock:
            command = [unlock, "-R", "u+rwx", "--", str(folder)]
            subprocess.run(command, check=False, capture_output=True)
