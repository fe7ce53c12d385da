"""Attempts to get out of the sandbox; run as a program in it, and once without it.

Each function returns what it got, or raises `OSError` or `Refused`. The program prints one JSON
object: attempt → what it got, or null. Its first argument is the file with `Facts`.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUMBERS = ("x86_64", "aarch64").index(platform.machine())
LIBC = ctypes.CDLL(None, use_errno=True)
FACTS: dict[str, Any] = {}


class Refused(Exception):
    """An attempt got nothing."""


def syscall(numbers: tuple[int, int], *arguments: Any) -> int:
    result = int(LIBC.syscall(numbers[NUMBERS], *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "syscall")
    return result


def a_socket(family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> str:
    socket.socket(family, kind, protocol).close()
    return "a socket"


# Network


def connect_to_loopback() -> str:
    return str(socket.create_connection(("127.0.0.1", FACTS["port"]), timeout=5).recv(5))


def send_datagram() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        return str(sender.sendto(b"secret", ("127.0.0.1", FACTS["port"])))


def listen_on_a_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname())


def open_ipv6_socket() -> str:
    return a_socket(socket.AF_INET6)


def open_netlink_socket() -> str:
    return a_socket(socket.AF_NETLINK, socket.SOCK_RAW)


def open_machine_socket() -> str:
    return a_socket(socket.AF_VSOCK)


def open_kernel_crypto_socket() -> str:
    return a_socket(socket.AF_ALG, socket.SOCK_SEQPACKET)


def connect_to_unix_socket() -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(FACTS["unix_socket"])
        return str(client.recv(5))


def connect_to_abstract_socket() -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + FACTS["abstract_socket"])
        return str(client.recv(5))


def internet_socketpair() -> str:
    first, second = socket.socketpair(socket.AF_TIPC if hasattr(socket, "AF_TIPC") else 30)
    return str((first, second))


def io_uring() -> str:
    parameters = ctypes.create_string_buffer(120)
    return str(syscall((425, 425), 4, parameters))


# Files


def read_a_secret() -> str:
    return Path(FACTS["secret"]).read_text()


def list_a_folder() -> str:
    return str(os.listdir(FACTS["outside"]))


def walk_upwards() -> str:
    steps = "../" * 40
    return Path(steps + FACTS["secret"].lstrip("/")).read_text()


def make_a_file() -> str:
    return str(Path(FACTS["outside"], "made").write_text("x"))


def append_to_a_secret() -> str:
    with open(FACTS["secret"], "a") as file:
        return str(file.write("x"))


def cut_a_secret() -> str:
    os.truncate(FACTS["victim_file"], 1)
    return "cut"


def remove_a_file() -> str:
    os.unlink(FACTS["doomed"])
    return "removed"


def move_a_file_in() -> str:
    os.rename(FACTS["movable"], "moved")
    return Path("moved").read_text()


def link_a_file_in() -> str:
    os.link(FACTS["secret"], "linked")
    return Path("linked").read_text()


def follow_a_symlink() -> str:
    os.symlink(FACTS["secret"], "symlink")
    return Path("symlink").read_text()


def follow_a_symlink_to_a_folder() -> str:
    os.symlink(FACTS["outside"], "folder-link")
    return Path("folder-link", "secret").read_text()


def read_through_proc_root() -> str:
    return Path("/proc/self/root" + FACTS["secret"]).read_text()


def read_environment_of_another() -> str:
    return Path(f"/proc/{FACTS['victim']}/environ").read_text()


def read_folder_of_another() -> str:
    return str(os.listdir(f"/proc/{FACTS['victim']}/cwd/"))


def write_memory_of_another() -> str:
    with open(f"/proc/{FACTS['victim']}/mem", "r+b", buffering=0) as memory:
        return str(memory.fileno())


def open_by_handle() -> str:
    handle = ctypes.create_string_buffer(136)
    ctypes.memmove(handle, (128).to_bytes(4, "little"), 4)
    mount = ctypes.c_int()
    path = FACTS["secret"].encode()
    return str(syscall((303, 264), -100, path, handle, ctypes.byref(mount), 0))


def change_mode() -> str:
    os.chmod(FACTS["victim_file"], 0o777)
    return "changed"


def change_times() -> str:
    os.utime(FACTS["victim_file"], (1, 1))
    return "changed"


def change_attribute() -> str:
    os.setxattr(FACTS["victim_file"], "user.chatlm", b"x")
    return "changed"


def watch_a_folder() -> str:
    watcher = syscall((294, 26), 0)
    path = FACTS["outside"].encode()
    return str(syscall((254, 27), watcher, path, 0x100))


def run_a_program() -> str:
    if status := os.spawnv(os.P_WAIT, FACTS["program"], [FACTS["program"]]):
        raise Refused(status)
    return "it ran"


def change_python() -> str:
    path = Path(os.__file__).with_name("chatlm_sandbox_test.py")
    path.write_text("")
    path.unlink()
    return "written"


def change_the_system() -> str:
    path = Path("/usr/chatlm-sandbox-test")
    path.write_text("")
    path.unlink()
    return "written"


def make_a_device() -> str:
    os.mknod("device", 0o600 | 0o020000, os.makedev(1, 3))
    return "made"


def open_the_terminal() -> str:
    return str(os.open("/dev/tty", os.O_RDWR))


def fill_shared_memory() -> str:
    path = Path(f"/dev/shm/chatlm-{os.getpid()}")
    path.write_text("x")
    path.unlink()
    return "written"


# Other processes


def send_a_signal() -> str:
    os.kill(FACTS["victim"], signal.SIGURG)  # ignored unless it is handled
    return "sent"


def send_a_signal_by_descriptor() -> str:
    signal.pidfd_send_signal(os.pidfd_open(FACTS["victim"]), signal.SIGURG)
    return "sent"


def signal_by_input() -> str:
    import fcntl

    reader, _ = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETOWN, FACTS["victim"])
    return "set"


def trace_another() -> str:
    seize = 0x4206
    syscall((101, 117), seize, FACTS["victim"], None, None)
    return "traced"


def read_memory_of_another() -> str:
    return str(syscall((310, 270), FACTS["victim"], None, 0, None, 0, 0))


def limit_another() -> str:
    return str(resource.prlimit(FACTS["victim"], resource.RLIMIT_CORE, (0, 0)))


def slow_another() -> str:
    os.setpriority(os.PRIO_PROCESS, FACTS["victim"], 19)
    return "slowed"


def move_another() -> str:
    os.sched_setaffinity(FACTS["victim"], os.sched_getaffinity(0))
    return "moved"


# Rights, the kernel, what is inherited


def become_root() -> str:
    no_new_privileges = 39
    if LIBC.prctl(no_new_privileges, 0, 0, 0, 0) == 1:
        raise Refused("programs with the setuid bit give no rights")
    return "rights can be gained"


def use_capabilities() -> str:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held = (ctypes.c_uint32 * 6)()
    if LIBC.capget(ctypes.byref(header), ctypes.byref(held)) or not any(held):
        raise Refused("none")
    return str(list(held))


def new_user_namespace() -> str:
    return str(syscall((272, 97), 0x10000000))


def new_namespace_by_clone() -> str:
    pid = syscall((56, 220), 0x10000000 | signal.SIGCHLD, None, None, None, None)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "made"


def change_root() -> str:
    os.chroot(".")
    return "changed"


def mount_a_folder() -> str:
    return str(syscall((165, 40), b"/", b".", None, 0x1000, None))


def open_a_mount() -> str:
    return str(syscall((428, 428), -100, b"/", 1))


def read_keyring() -> str:
    return str(syscall((250, 219), 0, -3, 0))


def add_a_key() -> str:
    return str(syscall((248, 217), b"user", b"chatlm", b"x", 1, -3))


def load_a_kernel_program() -> str:
    return str(syscall((321, 280), 0, ctypes.create_string_buffer(120), 72))


def sample_the_kernel() -> str:
    attributes = ctypes.create_string_buffer(128)
    ctypes.memmove(attributes, (1).to_bytes(4, "little") + (128).to_bytes(4, "little"), 8)
    return str(syscall((298, 241), attributes, 0, -1, -1, 0))


def memory_that_stays() -> str:
    key = syscall((29, 194), 0, 4096, 0o1600)
    syscall((31, 195), key, 0, None)
    return "made"


def memory_without_a_process() -> str:
    return str(syscall((319, 279), b"x", 0))


def set_the_clock() -> str:
    now = time.time()
    time.clock_settime(time.CLOCK_REALTIME, now)
    return "set"


def read_inherited_files() -> str:
    found = []
    for descriptor in range(3, 256):
        try:
            found.append((descriptor, oct(os.fstat(descriptor).st_mode)))
        except OSError:
            continue
    if not found:
        raise Refused("none")
    return str(found)


def read_the_environment() -> str:
    return os.environ["CHATLM_SECRET"]


def hide_from_the_supervisor() -> str:
    set_dumpable = 4
    if LIBC.prctl(set_dumpable, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    return "hidden"


ATTEMPTS: tuple[Callable[[], str], ...] = (
    read_inherited_files,  # first: other attempts open files
    connect_to_loopback,
    send_datagram,
    listen_on_a_port,
    open_ipv6_socket,
    open_netlink_socket,
    open_machine_socket,
    open_kernel_crypto_socket,
    connect_to_unix_socket,
    connect_to_abstract_socket,
    internet_socketpair,
    io_uring,
    read_a_secret,
    list_a_folder,
    walk_upwards,
    make_a_file,
    append_to_a_secret,
    cut_a_secret,
    remove_a_file,
    move_a_file_in,
    link_a_file_in,
    follow_a_symlink,
    follow_a_symlink_to_a_folder,
    read_through_proc_root,
    read_environment_of_another,
    read_folder_of_another,
    write_memory_of_another,
    open_by_handle,
    change_mode,
    change_times,
    change_attribute,
    watch_a_folder,
    run_a_program,
    change_python,
    change_the_system,
    make_a_device,
    open_the_terminal,
    fill_shared_memory,
    send_a_signal,
    send_a_signal_by_descriptor,
    signal_by_input,
    trace_another,
    read_memory_of_another,
    limit_another,
    slow_another,
    move_another,
    become_root,
    use_capabilities,
    new_user_namespace,
    new_namespace_by_clone,
    change_root,
    mount_a_folder,
    open_a_mount,
    read_keyring,
    add_a_key,
    load_a_kernel_program,
    sample_the_kernel,
    memory_that_stays,
    memory_without_a_process,
    set_the_clock,
    read_the_environment,
    hide_from_the_supervisor,
)

HARMLESS = (
    connect_to_loopback,
    send_datagram,
    listen_on_a_port,
    connect_to_unix_socket,
    connect_to_abstract_socket,
    read_a_secret,
    list_a_folder,
    walk_upwards,
    make_a_file,
    append_to_a_secret,
    cut_a_secret,
    remove_a_file,
    move_a_file_in,
    link_a_file_in,
    follow_a_symlink,
    follow_a_symlink_to_a_folder,
    read_through_proc_root,
    read_environment_of_another,
    read_folder_of_another,
    change_mode,
    change_times,
    watch_a_folder,
    run_a_program,
    send_a_signal,
    limit_another,
    slow_another,
    read_the_environment,
    hide_from_the_supervisor,
)
"""Attempts that succeed for every user without a sandbox, and harm nothing there."""


def main() -> None:
    FACTS.update(json.loads(Path(sys.argv[1]).read_text()))
    attempts = HARMLESS if sys.argv[2:] == ["harmless"] else ATTEMPTS
    results: dict[str, str | None] = {}
    for attempt in attempts:
        try:
            results[attempt.__name__] = str(attempt())
        except (OSError, Refused, KeyError):
            results[attempt.__name__] = None
    print(json.dumps(results))


if __name__ == "__main__":
    main()
