"""A seccomp filter: the system calls that sandboxed programs cannot make.

The filter is assembled here. libseccomp would be one more library of the system to be missing, its
Python bindings have not been released for years, and bubblewrap takes the assembled program.

Sources: Linux's `seccomp_filter.rst`, `asm/unistd_64.h` and `asm-generic/unistd.h` of Linux 6.12.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Mapping, Sequence

ARCHITECTURES = ("x86_64", "aarch64")
"""Machines whose system calls are known here, as `platform.machine` names them."""

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LAST_KNOWN = 470
"""Later system calls have the same number everywhere; they fail as on an older kernel."""

# System calls with their numbers on x86-64 and arm64; None where there is no such call.
_REACH_OTHERS: Mapping[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "get_robust_list": (274, 100),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
}
_NETWORK_AND_KERNEL: Mapping[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "io_uring_setup": (425, 425),  # would open sockets and files past this filter
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "personality": (135, 92),
    "lookup_dcookie": (212, 18),
    "uselib": (134, None),
    "lsm_set_self_attr": (460, 460),
}
_NAMESPACES: Mapping[str, tuple[int | None, int | None]] = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "mount_setattr": (442, 442),
    "listmount": (458, 458),
    "statmount": (457, 457),
    "listns": (470, 470),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
}
# Memory that belongs to no process, or outlives them all, escapes the limits.
_UNCOUNTED_MEMORY: Mapping[str, tuple[int | None, int | None]] = {
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
# What Landlock does not check: attributes of files, and watching them.
_FILE_ATTRIBUTES: Mapping[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
}
# Without these all processes stay in one process group, which one signal ends.
_LEAVE_GROUP: Mapping[str, tuple[int | None, int | None]] = {
    "setsid": (112, 157),
    "setpgid": (109, 154),
}
_SIGNALS: Mapping[str, tuple[int | None, int | None]] = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
}
_TRUNCATE: Mapping[str, tuple[int | None, int | None]] = {"truncate": (76, 45)}

_CLONE, _CLONE3 = (56, 220), (435, 435)
_NEW_NAMESPACES = 0x7E020000
_PRLIMIT, _SCHED_SETAFFINITY, _SETPRIORITY = (302, 261), (203, 122), (141, 140)
_SOCKETPAIR, _AF_UNIX = (53, 199), 1
_IOCTL, _TIOCSTI, _TIOCLINUX = (16, 29), 0x5412, 0x541C
_FCNTL, _F_SETOWN, _F_SETOWN_EX = (72, 25), 8, 15
_PRCTL, _PR_SET_DUMPABLE = (157, 167), 4

# Instructions of classic BPF, as in linux/bpf_common.h.
_LOAD, _EQUAL, _GREATER, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE = 0x00050000 | errno.EPERM
_UNKNOWN = 0x00050000 | errno.ENOSYS


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _argument(index: int) -> bytes:
    return _instruction(_LOAD, 16 + 8 * index)  # its lower half: `struct seccomp_data`


def _for_call(number: int, body: Sequence[bytes]) -> list[bytes]:
    """Run the body, which returns, for one call."""
    return [_instruction(_EQUAL, number, 0, len(body)), *body]


def _refuse_values(number: int, index: int, values: Sequence[int]) -> list[bytes]:
    """Refuse a call if one of its arguments has one of these values."""
    checks = [_argument(index)]
    for value in values:
        checks += [_instruction(_EQUAL, value, 0, 1), _instruction(_RETURN, _REFUSE)]
    return _for_call(number, [*checks, _instruction(_RETURN, _ALLOW)])


def _demand_value(number: int, index: int, value: int) -> list[bytes]:
    """Refuse a call unless one of its arguments has this value."""
    return _for_call(
        number,
        [
            _argument(index),
            _instruction(_EQUAL, value, 1, 0),
            _instruction(_RETURN, _REFUSE),
            _instruction(_RETURN, _ALLOW),
        ],
    )


def build_filter(*, landlock_abi: int | None, machine: str = "") -> bytes:
    """Assemble the filter.

    Args:
        landlock_abi: the version of Landlock that stands beside it, which does not see all that is
            refused here; None inside of namespaces.
        machine: as `platform.machine` names it; by default this one.

    Returns:
        Instructions of classic BPF, 8 bytes each.

    Raises:
        ValueError: the system calls of this machine are not known.
    """
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        raise ValueError(f"the system calls of {machine} are not known")
    column = ARCHITECTURES.index(machine)
    tables = [_REACH_OTHERS, _NETWORK_AND_KERNEL, _NAMESPACES, _UNCOUNTED_MEMORY]
    if landlock_abi is not None:
        tables += [_FILE_ATTRIBUTES, _LEAVE_GROUP]
        if landlock_abi < 3:
            tables.append(_TRUNCATE)
        if landlock_abi < 6:
            tables.append(_SIGNALS)
    program = [
        _instruction(_LOAD, 4),  # the architecture: 32-bit calls have other numbers
        _instruction(_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, 0),  # the number of the call
        _instruction(_GREATER, _LAST_KNOWN, 0, 1),  # those of x32 as well
        _instruction(_RETURN, _UNKNOWN),
    ]
    for table in tables:
        for numbers in table.values():
            if (number := numbers[column]) is not None:
                program += _for_call(number, [_instruction(_RETURN, _REFUSE)])
    program += _for_call(
        _CLONE[column],
        [
            _argument(0),
            _instruction(_ANY_BIT, _NEW_NAMESPACES, 0, 1),
            _instruction(_RETURN, _REFUSE),
            _instruction(_RETURN, _ALLOW),
        ],
    )
    # Its flags are in memory, where a filter cannot look; the C library falls back to clone.
    program += _for_call(_CLONE3[column], [_instruction(_RETURN, _UNKNOWN)])
    program += _demand_value(_PRLIMIT[column], 0, 0)
    program += _demand_value(_SCHED_SETAFFINITY[column], 0, 0)
    program += _demand_value(_SETPRIORITY[column], 1, 0)
    program += _demand_value(_SOCKETPAIR[column], 0, _AF_UNIX)
    program += _refuse_values(_IOCTL[column], 1, (_TIOCSTI, _TIOCLINUX))
    program += _refuse_values(_FCNTL[column], 1, (_F_SETOWN, _F_SETOWN_EX))
    program += _refuse_values(_PRCTL[column], 0, (_PR_SET_DUMPABLE,))
    program.append(_instruction(_RETURN, _ALLOW))
    return b"".join(program)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def install(program: bytes) -> None:
    """Put this process and all that it starts under the filter, for good.

    Raises:
        OSError: the kernel refused it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    described = _Program(len(program) // 8, program)
    set_seccomp, filter_mode = 22, 2
    if libc.prctl(set_seccomp, filter_mode, ctypes.byref(described), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
