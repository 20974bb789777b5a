"""System calls that Python does not have, each under its own name.

A function here does one call and raises `KernelError` when the kernel refuses: an OSError
that also says which call it was. Arguments are in the order of the man pages. The mount
calls are the ones by descriptor (fsopen(2) and its kin, Linux 5.2 and later), so that no
path is looked up twice.
"""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: ospath.py

from ctrt.linux import ospath
from ctrt.linux.clib import (
    C_INT,
    C_LONG,
    C_POINTER,
    C_TEXT,
    C_UINT,
    C_UINT32,
    C_UINT64,
    C_ULONG,
    C_USHORT,
    Structure,
    addressof,
    byref,
    function,
    get_errno,
    library,
    sizeof,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# linux/sched.h
CLONE_FILES = 0x400
CLONE_NEWTIME = 0x80
CLONE_PIDFD = 0x1000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PARENT = 0x00008000
CLONE_INTO_CGROUP = 0x200000000

NAMESPACE_FLAGS = {
    "user": CLONE_NEWUSER,
    "mount": CLONE_NEWNS,
    "pid": CLONE_NEWPID,
    "network": CLONE_NEWNET,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}
"""Namespace types as the OCI runtime specification names them, with their clone(2) flags."""

# linux/mount.h
MS_RDONLY = 1
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x200000
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR__ATIME = 0x70
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6

# linux/fcntl.h, linux/openat2.h
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_GET_SECUREBITS = 27
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

SECCOMP_SET_MODE_FILTER = 1
PTRACE_TRACEME = 0
PTRACE_DETACH = 17
CLOSE_RANGE_CLOEXEC = 4

# Source: the kernel's unistd_64.h; numbers from 424 on are the same on every machine.
_NUMBERS = {
    "x86_64": {
        "pivot_root": 155,
        "capget": 125,
        "capset": 126,
        "seccomp": 317,
        "ptrace": 101,
        "keyctl": 250,
        "rt_sigaction": 13,
    },
    "aarch64": {
        "pivot_root": 41,
        "capget": 90,
        "capset": 91,
        "seccomp": 277,
        "ptrace": 117,
        "keyctl": 219,
        "rt_sigaction": 134,
    },
}
_COMMON = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
}
_machine = os.uname().machine
_numbers = {**_COMMON, **_NUMBERS.get(_machine, {})}

_libc = library(None)


class KernelError(OSError):
    """A system call was refused: `call` names it, `errno` and `strerror` say how."""

    call: str

    def __init__(self, number: int, call: str) -> None:
        super().__init__(number, os.strerror(number))
        self.call = call

    def __str__(self) -> str:
        return f"{self.call}: {self.strerror}"


def _checked(result: int, call: str) -> int:
    if result < 0:
        raise KernelError(get_errno(), call)
    return result


def _function(name: str, *types: Any) -> Callable[..., int]:
    """A function of the C library; with its types known, a call costs a third."""
    made = function(_libc, name, C_INT, *types)

    def call(*arguments: object) -> int:
        result: int = made(*arguments)
        return result if result >= 0 else _checked(result, name)

    return call


def _syscall(name: str, *types: Any) -> Callable[..., int]:
    """A system call that the C library has no function for."""
    number = _numbers.get(name)
    made = function(_libc, "syscall", C_LONG, C_LONG, *types)

    def call(*arguments: object) -> int:
        if number is None:
            raise KernelError(38, name)  # ENOSYS: this machine's number is not known
        result: int = made(number, *arguments)
        return result if result >= 0 else _checked(result, name)

    return call


def _path(path: str) -> bytes:
    return ospath.encoded(path)


class _CloneArgs(Structure):
    _fields_ = tuple(
        (name, C_UINT64)
        for name in (
            "flags pidfd child_tid parent_tid exit_signal stack stack_size tls "
            "set_tid set_tid_size cgroup"
        ).split()
    )


# Holds the interpreter's lock over the call, so that both sides of a clone come back with it.
_clone3 = function(_libc, "syscall", C_LONG, C_LONG, C_POINTER, C_ULONG, holding=True)


def clone3(flags: int, cgroup: int = -1) -> tuple[int, int]:
    """Make a child as fork(2) does, in new namespaces: (pid, pidfd), or (0, -1) in the child.

    `cgroup` is a descriptor of a cgroup2 directory that the child is born in. With CLONE_PARENT
    it is the caller's sibling. The caller must be single-threaded. Source: clone(2).
    """
    pidfd = C_INT(-1)
    # A sibling ends with the signal that its creator ends with: another may not be given.
    signal = 0 if flags & CLONE_PARENT else 17
    arguments = _CloneArgs(flags=flags | CLONE_PIDFD, exit_signal=signal)
    arguments.pidfd = addressof(pidfd)
    if cgroup >= 0:
        arguments.flags |= CLONE_INTO_CGROUP
        arguments.cgroup = cgroup
    pid = _checked(
        _clone3(_COMMON["clone3"], byref(arguments), sizeof(arguments)),
        "clone3",
    )
    return (pid, pidfd.value) if pid else (0, -1)


_unshare = _function("unshare", C_INT)
_setns = _function("setns", C_INT, C_INT)
_pidfd_open = _syscall("pidfd_open", C_INT, C_INT)
_pidfd_send_signal = _syscall("pidfd_send_signal", C_INT, C_INT, C_POINTER, C_INT)
_close_range = _syscall("close_range", C_UINT, C_UINT, C_UINT)


def unshare(flags: int) -> None:
    """Leave shared namespaces (or tables) for new ones: unshare(2)."""
    _unshare(flags)


def setns(descriptor: int, flags: int) -> None:
    """Join the namespace of a descriptor, or several of a pidfd: setns(2)."""
    _setns(descriptor, flags)


def pidfd_open(pid: int) -> int:
    """A descriptor of a process: pidfd_open(2)."""
    return _pidfd_open(pid, 0)


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Signal the process of a pidfd, and no other that may have got its number since."""
    _pidfd_send_signal(pidfd, signal, None, 0)


def close_range(first: int, last: int, flags: int) -> None:
    """Close, or mark close-on-exec, every descriptor from `first` to `last`: close_range(2)."""
    _close_range(first, last, flags)


# --- mounts ---------------------------------------------------------------------------------


_mount = _function("mount", C_TEXT, C_TEXT, C_TEXT, C_ULONG, C_TEXT)
_umount2 = _function("umount2", C_TEXT, C_INT)
_fstatfs = _function("fstatfs", C_INT, C_POINTER)
_pivot_root = _syscall("pivot_root", C_TEXT, C_TEXT)
_open_tree = _syscall("open_tree", C_INT, C_TEXT, C_UINT)
_move_mount = _syscall("move_mount", C_INT, C_TEXT, C_INT, C_TEXT, C_UINT)
_fsopen = _syscall("fsopen", C_TEXT, C_UINT)
_fsconfig = _syscall("fsconfig", C_INT, C_UINT, C_TEXT, C_TEXT, C_INT)
_fsmount = _syscall("fsmount", C_INT, C_UINT, C_UINT)
_mount_setattr = _syscall("mount_setattr", C_INT, C_TEXT, C_UINT, C_POINTER, C_ULONG)


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    """Mount, or change the propagation type of mounts: mount(2)."""
    _mount(_path(source) or None, _path(target), _path(fstype) or None, flags, _path(data) or None)


def umount2(target: str, flags: int) -> None:
    """Unmount: umount2(2)."""
    _umount2(_path(target), flags)


def pivot_root(new_root: str, put_old: str) -> None:
    """Change the root mount: pivot_root(2)."""
    _pivot_root(_path(new_root), _path(put_old))


def open_tree(directory: int, path: str, flags: int) -> int:
    """A descriptor of a mount, or with OPEN_TREE_CLONE of a detached copy of it."""
    return _open_tree(directory, _path(path), flags | OPEN_TREE_CLOEXEC)


def move_mount(mount_descriptor: int, target_descriptor: int) -> None:
    """Attach the mount of one descriptor at the place of another: move_mount(2)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _move_mount(mount_descriptor, b"", target_descriptor, b"", flags)


def fsopen(fstype: str) -> int:
    """A context in which a file system is configured: fsopen(2)."""
    return _fsopen(_path(fstype), 1)


def fsconfig(context: int, command: int, key: str = "", value: str | int = "") -> None:
    """Set a parameter of a context, or create its file system: fsconfig(2).

    `value` is a descriptor when `command` is FSCONFIG_SET_FD.
    """
    if isinstance(value, int):
        _fsconfig(context, command, _path(key), None, value)
    else:
        text = _path(value) if command == FSCONFIG_SET_STRING else None
        _fsconfig(context, command, _path(key) or None, text, 0)


def fsmount(context: int, attributes: int) -> int:
    """A descriptor of a detached mount of the context's file system: fsmount(2)."""
    return _fsmount(context, 1, attributes)


class _MountAttr(Structure):
    _fields_ = tuple(
        (name, C_UINT64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")
    )


def mount_setattr(
    descriptor: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns: int = 0,
    recursive: bool = False,
) -> None:
    """Change the attributes of the mount that a descriptor stands for: mount_setattr(2).

    With MOUNT_ATTR_IDMAP in `attr_set`, `userns` is a descriptor of the user namespace
    whose id maps the mount takes.
    """
    attributes = _MountAttr(attr_set, attr_clr, propagation, userns)
    _mount_setattr(
        descriptor,
        b"",
        AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0),
        byref(attributes),
        sizeof(attributes),
    )


# --- paths ----------------------------------------------------------------------------------


PROC_SUPER_MAGIC = 0x9FA0
"""linux/magic.h"""

_StatFs = C_ULONG * 32


def file_system_of(descriptor: int) -> int:
    """The magic number of the file system that a descriptor is on: fstatfs(2)."""
    found = _StatFs()
    _fstatfs(descriptor, byref(found))
    return int(found[0])


class _OpenHow(Structure):
    _fields_ = tuple((name, C_UINT64) for name in ("flags", "mode", "resolve"))


_openat2 = _syscall("openat2", C_INT, C_TEXT, C_POINTER, C_ULONG)


def openat2(directory: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open a path below a directory with rules for its resolution: openat2(2)."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    return _openat2(directory, _path(path), byref(how), sizeof(how))


# --- processes ------------------------------------------------------------------------------


_prctl = _function("prctl", C_INT, *[C_ULONG] * 4)
_sethostname = _function("sethostname", C_TEXT, C_ULONG)
_setdomainname = _function("setdomainname", C_TEXT, C_ULONG)
_socket = _function("socket", C_INT, C_INT, C_INT)
_ioctl = _function("ioctl", C_INT, C_ULONG, C_TEXT)
_seccomp = _syscall("seccomp", C_UINT, C_UINT, C_POINTER)
_ptrace = _syscall("ptrace", C_LONG, C_LONG, C_LONG, C_LONG)
_rt_sigaction = _syscall("rt_sigaction", C_LONG, C_TEXT, C_LONG, C_LONG)
_keyctl = _syscall("keyctl", C_INT, C_TEXT)
_key_setperm = _syscall("keyctl", C_INT, C_INT, C_UINT)
_capget = _syscall("capget", C_POINTER, C_POINTER)
_capset = _syscall("capset", C_POINTER, C_POINTER)


def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    """Operations on the calling thread: prctl(2)."""
    return _prctl(option, argument, second, 0, 0)


def sethostname(name: str) -> None:
    """Set the host name of the caller's UTS namespace: sethostname(2)."""
    encoded = _path(name)
    _sethostname(encoded, len(encoded))


def setdomainname(name: str) -> None:
    """Set the NIS domain name of the caller's UTS namespace: setdomainname(2)."""
    encoded = _path(name)
    _setdomainname(encoded, len(encoded))


class _SockFprog(Structure):
    _fields_ = (
        ("len", C_USHORT),
        ("filter", C_TEXT),
    )


def seccomp_filter(program: bytes, flags: int = 0) -> int:
    """Load a compiled BPF filter (8 bytes an instruction) for the calling thread: seccomp(2)."""
    fprog = _SockFprog(len(program) // 8, program)
    return _seccomp(SECCOMP_SET_MODE_FILTER, flags, byref(fprog))


def join_session_keyring(name: str) -> int:
    """Join (or make) the session keyring of that name, or a new one for "": keyctl(2).

    One with a name may be searched by its user, too, without which nobody else joins it.
    """
    KEYCTL_JOIN_SESSION_KEYRING, KEYCTL_SETPERM = 1, 5  # noqa: N806
    serial = _keyctl(KEYCTL_JOIN_SESSION_KEYRING, _path(name) or None)
    if name:
        # All for who possesses it; view, read, search and link for the user: keyrings(7).
        _key_setperm(KEYCTL_SETPERM, serial, 0x3F1B0000)
    return serial


def ptrace(request: int, pid: int = 0) -> None:
    """Trace a process, as far as PTRACE_TRACEME and PTRACE_DETACH go: ptrace(2)."""
    _ptrace(request, pid, 0, 0)


def default_signal(number: int) -> None:
    """Give a signal its default disposition, also one that the C library keeps to itself.

    Source: rt_sigaction(2), signal(7). Handlers that Python knows of are not told.
    """
    _rt_sigaction(number, bytes(32), 0, 8)


def namespace_type(descriptor: int) -> int:
    """The kind of the namespace of a descriptor, as its clone(2) flag: ioctl_nsfs(2)."""
    return _ioctl(descriptor, 0xB703, None)


def loopback_up() -> None:
    """Set the loopback interface of the caller's network namespace up: netdevice(7)."""
    AF_INET, SOCK_DGRAM, SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 2, 2, 0x8914, 0x1, 0x40  # noqa: N806
    descriptor = _socket(AF_INET, SOCK_DGRAM, 0)
    try:
        # struct ifreq: a name of 16 bytes and a union of 24, of which the flags are a short.
        request = b"lo".ljust(16, b"\0") + (IFF_UP | IFF_RUNNING).to_bytes(2, "little")
        _ioctl(descriptor, SIOCSIFFLAGS, request.ljust(40, b"\0"))
    finally:
        os.close(descriptor)


# --- capabilities ---------------------------------------------------------------------------


class _CapHeader(Structure):
    _fields_ = (
        ("version", C_UINT32),
        ("pid", C_INT),
    )


_CapData = C_UINT32 * 6
_CAPABILITY_VERSION_3 = 0x20080522


def capget(pid: int = 0) -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of a thread, as bit masks: capget(2)."""
    header = _CapHeader(_CAPABILITY_VERSION_3, pid)
    data = _CapData()
    _capget(byref(header), data)
    return (data[0] | data[3] << 32, data[1] | data[4] << 32, data[2] | data[5] << 32)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set three of the calling thread's sets, as bit masks: capset(2)."""
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    low = 0xFFFFFFFF
    data = _CapData(
        *[s & low for s in (effective, permitted, inheritable)],
        *[s >> 32 for s in (effective, permitted, inheritable)],
    )
    _capset(byref(header), data)
