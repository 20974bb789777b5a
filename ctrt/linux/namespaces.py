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
_NS_GET_OWNER_UID = 0xB704
_NS_GET_ID = 0x8008B70D  # _IOR(NSIO, 13, __u64)


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


def identify(pid: int | str, kind: str) -> Key:
    """The identity of a process's namespace, with a single call.

    Raises `Gone`, PermissionError (ptrace(2), PTRACE_MODE_READ), or FileNotFoundError where
    the kernel does not have this kind.
    """
    global _device
    path = f"/proc/{pid}/ns/{kind}"
    try:
        link = os.readlink(path)  # "mnt:[4026531832]"; half the price of stat(2)
        if not _device:
            # There is one nsfs in a kernel, so its device is asked for once.
            _device = os.stat("/proc/self/ns/user").st_dev
    except OSError as error:
        raise process_error(error, path) from None
    return Key(_device, int(link[len(kind) + 2 : -1]))


def read(pid: int | str, kind: str) -> Namespace:
    """A process's namespace with its owner and parent; raises what `identify` raises."""
    path = f"/proc/{pid}/ns/{kind}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise process_error(error, path) from None
    try:
        return _describe(descriptor, kind)
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
            found.append(_describe(descriptor, kind))
            above = _related(descriptor, _NS_GET_PARENT)
        finally:
            os.close(descriptor)
        descriptor = above
    return tuple(found)


def _describe(descriptor: int, kind: str) -> Namespace:
    key = _key(descriptor)
    initial = key.inode == INITIAL[kind]
    owner = parent = owner_uid = None
    if kind != "user":
        owner = _related_key(descriptor, _NS_GET_USERNS)
    else:
        owner_uid = _owner_uid(descriptor)
    if not initial and kind in ("user", "pid"):
        parent = _related_key(descriptor, _NS_GET_PARENT)
        if kind == "user":
            owner = parent  # the owner of a user namespace is its parent: ioctl_nsfs(2)
    return Namespace(kind, key, _id(descriptor), initial, owner, parent, owner_uid)


def _key(descriptor: int) -> Key:
    found = os.fstat(descriptor)
    return Key(found.st_dev, found.st_ino)


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


def _id(descriptor: int) -> int:
    buffer = bytearray(8)
    try:
        ioctl(descriptor, _NS_GET_ID, buffer)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
        return 0
    return int.from_bytes(buffer, sys.byteorder)


def _owner_uid(descriptor: int) -> int | None:
    buffer = bytearray(4)
    try:
        ioctl(descriptor, _NS_GET_OWNER_UID, buffer)
    except OSError:
        return None
    return int.from_bytes(buffer, sys.byteorder)
