"""The eight kinds of namespaces: which one a process is in, who owns it, what is above it.

A namespace has no name. Its identity is a file of the nsfs file system, and questions about
it are ioctls on a descriptor of that file. Some answers lie outside what the asker may see:
the kernel then says EPERM, which means "not visible from here", never "there is none".

Source: namespaces(7), ioctl_nsfs(2); linux/nsfs.h for NS_GET_ID (Linux 6.18).
"""

from __future__ import annotations

import errno
import os
import sys
from fcntl import ioctl

from ctrt.linux.processes import process_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from ctrt.linux.values import NamedTuple

KINDS = ("user", "pid", "mnt", "net", "uts", "ipc", "cgroup", "time")
"""As the links in /proc/PID/ns are called."""

INITIAL = {
    "mnt": 0xEFFFFFF8,
    "net": 0xEFFFFFF9,
    "time": 0xEFFFFFFA,
    "cgroup": 0xEFFFFFFB,
    "pid": 0xEFFFFFFC,
    "user": 0xEFFFFFFD,
    "uts": 0xEFFFFFFE,
    "ipc": 0xEFFFFFFF,
}
"""The fixed inode numbers of the namespaces the machine booted with (linux/nsfs.h). The ones
of mnt and net are fixed in recent kernels only; on older ones they are not recognised."""

_device = 0

_NS_GET_USERNS = 0xB701
_NS_GET_PARENT = 0xB702
_NS_GET_NSTYPE = 0xB703
_NS_GET_OWNER_UID = 0xB704
_SIOCGSKNS = 0x894C  # linux/sockios.h
_NS_GET_ID = 0x8008B70D  # _IOR(NSIO, 13, __u64)

_BY_FLAG = {
    0x00000080: "time",
    0x00020000: "mnt",
    0x02000000: "cgroup",
    0x04000000: "uts",
    0x08000000: "ipc",
    0x10000000: "user",
    0x20000000: "pid",
    0x40000000: "net",
}


class Key(NamedTuple):
    """What tells one living namespace from another: the device and inode of its file.

    Inode numbers are used again after a namespace has ended, so a key is for use within one
    moment; `Namespace.id` is never used again, where the kernel has it.
    """

    device: int
    inode: int


class Namespace(NamedTuple):
    """One namespace, as seen by this process.

    `owner` is the user namespace that it belongs to; `parent` is for user and pid namespaces
    only. None says that there is none or that it lies outside what this process may see;
    `owner_uid` (user namespaces only) is None when unknown. `id` is 0 before Linux 6.18.
    """

    kind: str
    key: Key
    id: int
    initial: bool
    owner: Key | None
    parent: Key | None
    owner_uid: int | None


def device() -> int:
    """The device number of nsfs: there is one nsfs in a kernel, so it is asked for once."""
    global _device
    if not _device:
        _device = os.stat("/proc/self/ns/user").st_dev
    return _device


def identify(pid: int | str, kind: str) -> Key:
    """The identity of a process's namespace, with a single call.

    Raises `Gone`, PermissionError (ptrace(2), PTRACE_MODE_READ), or FileNotFoundError where
    the kernel does not have this kind.
    """
    path = f"/proc/{pid}/ns/{kind}"
    try:
        link = os.readlink(path)  # "mnt:[4026531832]"; half the price of stat(2)
        return Key(device(), int(link[len(kind) + 2 : -1]))
    except OSError as error:
        raise process_error(error, path) from None


def read(pid: int | str, kind: str) -> Namespace:
    """A process's namespace with its owner and parent; raises what `identify` raises."""
    path = f"/proc/{pid}/ns/{kind}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise process_error(error, path) from None
    try:
        return describe(descriptor, kind)
    finally:
        os.close(descriptor)


def ancestors(pid: int | str, kind: str = "user") -> tuple[Namespace, ...]:
    """A process's user or pid namespace and all that are visible above it, innermost first."""
    path = f"/proc/{pid}/ns/{kind}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise process_error(error, path) from None
    found = []
    while descriptor >= 0:
        try:
            found.append(describe(descriptor, kind))
            above = _related(descriptor, _NS_GET_PARENT)
        finally:
            os.close(descriptor)
        descriptor = above
    return tuple(found)


def describe(descriptor: int, kind: str) -> Namespace:
    """What the kernel tells of the namespace that a descriptor stands for: ioctl_nsfs(2)."""
    key = _key(descriptor)
    initial = key.inode == INITIAL[kind]
    owner = parent = owner_uid = None
    if kind != "user":
        owner = _related_key(descriptor, _NS_GET_USERNS)
    else:
        owner_uid = owner_uid_of(descriptor)
    if not initial and kind in ("user", "pid"):
        parent = _related_key(descriptor, _NS_GET_PARENT)
        if kind == "user":
            owner = parent  # the owner of a user namespace is its parent: ioctl_nsfs(2)
    return Namespace._make((kind, key, id_of(descriptor), initial, owner, parent, owner_uid))


def _key(descriptor: int) -> Key:
    found = os.fstat(descriptor)
    return Key._make((found.st_dev, found.st_ino))


def open_file(path: str) -> int:
    """A descriptor of the namespace file at a path that somebody else has a say in.

    What is there is looked at before it is opened: opening a FIFO would wait, and a device may
    do anything. Raises OSError (EINVAL) for what is no namespace.
    """
    seen = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if os.fstat(seen).st_dev != device():
            raise OSError(errno.EINVAL, "not a file of a namespace", path)
        return os.open(f"/proc/self/fd/{seen}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(seen)


def parent_of(descriptor: int) -> int:
    """A descriptor of the namespace above a user or pid one; -1 when there is none to be seen."""
    return _related(descriptor, _NS_GET_PARENT)


def owner_of(descriptor: int) -> int:
    """A descriptor of the user namespace that owns one; -1 when it may not be seen."""
    return _related(descriptor, _NS_GET_USERNS)


def of_socket(descriptor: int) -> int:
    """A descriptor of a socket's network namespace: SIOCGSKNS, which needs CAP_NET_ADMIN there."""
    return ioctl(descriptor, _SIOCGSKNS)


def kind_of(descriptor: int) -> str:
    """Which kind of namespace a descriptor stands for: NS_GET_NSTYPE."""
    return _BY_FLAG[ioctl(descriptor, _NS_GET_NSTYPE)]


def _related(descriptor: int, request: int) -> int:
    """A descriptor of the owner or the parent; -1 when it is not visible or does not exist."""
    try:
        return ioctl(descriptor, request)
    except PermissionError:
        return -1


def _related_key(descriptor: int, request: int) -> Key | None:
    related = _related(descriptor, request)
    if related < 0:
        return None
    try:
        return _key(related)
    finally:
        os.close(related)


def id_of(descriptor: int) -> int:
    """The number of a namespace that is never used again: NS_GET_ID; 0 before Linux 6.18."""
    buffer = bytearray(8)
    try:
        ioctl(descriptor, _NS_GET_ID, buffer)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
        return 0
    return int.from_bytes(buffer, sys.byteorder)


def owner_uid_of(descriptor: int) -> int | None:
    """The uid that made a user namespace: NS_GET_OWNER_UID; None when it may not be asked."""
    buffer = bytearray(4)
    try:
        ioctl(descriptor, _NS_GET_OWNER_UID, buffer)
    except OSError:
        return None
    return int.from_bytes(buffer, sys.byteorder)
