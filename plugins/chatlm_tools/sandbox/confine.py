"""What a process does to itself before it becomes the sandboxed program."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

from chatlm_tools.sandbox import landlock, seccomp
from chatlm_tools.sandbox.limits import Limits
from chatlm_tools.sandbox.spec import DEVICES, RunSpec

_SET_NO_NEW_PRIVILEGES, _DROP_BOUNDING, _AMBIENT, _CLEAR_AMBIENT = 38, 24, 47, 4
_SET_PARENT_DEATH_SIGNAL, _SIGKILL = 1, 9
_CAPABILITY_VERSION_3 = 0x20080522


def set_limits(limits: Limits, running: int) -> None:
    """Set the kernel's limits of this process, which its children inherit.

    Args:
        limits: of the run.
        running: processes and threads that the user has already, which the kernel counts too.
    """
    values = {
        resource.RLIMIT_AS: limits.memory,
        resource.RLIMIT_CPU: int(limits.seconds * 4) + 1,  # several threads; time ends it first
        resource.RLIMIT_FSIZE: limits.disk,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_NPROC: running + limits.processes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, value in values.items():
        _, hard = resource.getrlimit(kind)
        lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (lower, lower))


def die_with_parent() -> None:
    """Have the kernel end this process with the one that started it."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, _SIGKILL, 0, 0, 0)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Give up what root may do beyond other users; without effect for others."""
    for capability in range(64):
        libc.prctl(_DROP_BOUNDING, capability, 0, 0, 0)
    libc.prctl(_AMBIENT, _CLEAR_AMBIENT, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    if libc.capset(ctypes.byref(header), ctypes.byref(none)):
        raise OSError(ctypes.get_errno(), "capset")


def confine(spec: RunSpec) -> None:
    """Put this process under Landlock and seccomp, for good.

    Raises:
        OSError: the kernel refused one of them.
        ValueError: the machine's system calls are not known.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _drop_capabilities(libc)
    if libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    program = seccomp.build_filter(landlock_abi=landlock.version())
    os.chdir(spec.folder)
    landlock.restrict(
        readable=map(Path, spec.readable),
        devices=map(Path, DEVICES),
        changeable=[Path(spec.folder)],
    )
    seccomp.install(program)
