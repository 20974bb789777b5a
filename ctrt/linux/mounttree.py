"""Mount namespaces and mounts by number: without a path and without a process.

A mount has a number that is never used again (the "unique" one, since Linux 6.8), and so has a
mount namespace. listmount(2) and statmount(2) tell of every mount of every mount namespace by
these numbers, also of one that no process is in. Where the kernel does not have them the
functions raise OSError (ENOSYS), where one may not know PermissionError.

Source: statmount(2), listmount(2), ioctl_nsfs(2), linux/mount.h, linux/nsfs.h.
"""

from __future__ import annotations

import errno
import os
import struct
from fcntl import ioctl

from ctrt.linux.clib import (
    C_INT,
    C_LONG,
    C_POINTER,
    C_UINT,
    C_ULONG,
    byref,
    function,
    get_errno,
    library,
)
from ctrt.linux.mountinfo import Mount
from ctrt.linux.processes import IdRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NamedTuple
else:
    from ctrt.linux.values import NamedTuple

_STATMOUNT, _LISTMOUNT, _PIDFD_GETFD = 457, 458, 438  # the same on every machine
_NS_MNT_GET_INFO = 0x8010B70A  # _IOR(NSIO, 10, struct mnt_ns_info)
_NS_MNT_GET_NEXT = 0x8010B70B
_NS_MNT_GET_PREV = 0x8010B70C
_ROOT = 0xFFFFFFFFFFFFFFFF

# STATMOUNT_*: all but the namespace and the separate options.
_MASK = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x80 | 0x200
_IDMAPS = 0x6000
_SUPPORTED = 0x1000
_HEADER = 512  # where the strings begin
_FIXED = struct.Struct("=IIQIIQIIQQIIQQQQQIIQIIIIIIQIIII")

_libc = library(None)
_call3 = function(_libc, "syscall", C_LONG, C_LONG, C_POINTER, C_POINTER, C_ULONG, C_UINT)
_getfd = function(_libc, "syscall", C_LONG, C_LONG, C_INT, C_INT, C_UINT)

_ATTRIBUTES = (
    (0x02, "nosuid"),
    (0x04, "nodev"),
    (0x08, "noexec"),
    (0x200000, "nosymfollow"),
    (0x80, "nodiratime"),
)
_SB_FLAGS = ((0x10, "sync"), (0x80, "dirsync"), (0x40, "mand"), (0x2000000, "lazytime"))


class MountNamespaceInfo(NamedTuple):
    """What NS_MNT_GET_INFO tells: the namespace's number for listmount(2), and its size."""

    id: int
    mounts: int


class NumberedMount(NamedTuple):
    """A mount with its unique numbers and the id maps that it applies (empty: none)."""

    mount: Mount
    unique_id: int
    unique_parent: int
    uid_map: tuple[IdRange, ...]
    gid_map: tuple[IdRange, ...]


def info(descriptor: int) -> MountNamespaceInfo:
    """The number and size of a mount namespace: ioctl_nsfs(2), Linux 6.12."""
    buffer = bytearray(struct.pack("=IIQ", 16, 0, 0))
    ioctl(descriptor, _NS_MNT_GET_INFO, buffer)
    _, mounts, number = struct.unpack("=IIQ", buffer)
    return MountNamespaceInfo(number, mounts)


def namespaces_from(descriptor: int) -> Iterator[int]:
    """Descriptors of all mount namespaces but the given one, with or without processes.

    Each is valid until the next one is asked for. Needs CAP_SYS_ADMIN in each namespace's
    owner: one that may not be seen ends the walk in that direction, and PermissionError says
    that not even the first step was allowed.
    """
    for request in (_NS_MNT_GET_NEXT, _NS_MNT_GET_PREV):
        current = descriptor
        try:
            while True:
                try:
                    found = ioctl(current, request, bytearray(struct.pack("=IIQ", 16, 0, 0)))
                except OSError as error:
                    if error.errno == errno.ENOENT:
                        break
                    if current != descriptor and error.errno == errno.EPERM:
                        break
                    raise
                if current != descriptor:
                    os.close(current)
                current = found
                yield current
        finally:
            if current != descriptor:
                os.close(current)


def listmount(namespace: int) -> list[int]:
    """The unique numbers of the mounts of a mount namespace: listmount(2)."""
    found: list[int] = []
    room = C_ULONG * 512
    last = 0
    while True:
        request = struct.pack("=IIQQQ", 32, 0, _ROOT, last, namespace)
        numbers = room()
        count = _call3(_LISTMOUNT, _words(request), byref(numbers), 512, 0)
        if count < 0:
            number = get_errno()
            raise OSError(number, os.strerror(number), f"listmount of mount namespace {namespace}")
        found += numbers[:count]
        if count < 512:
            return found
        last = found[-1]


def statmount(number: int, namespace: int = 0, *, id_maps: bool = True) -> NumberedMount:
    """What mountinfo would say of a mount, by its unique number: statmount(2).

    `namespace` is the number of its mount namespace, 0 for the caller's.
    """
    request = struct.pack(
        "=IIQQQ", 32, 0, number, _MASK | (_IDMAPS | _SUPPORTED if id_maps else 0), namespace
    )
    size = 4096
    while True:
        buffer = (C_ULONG * (size // 8))()
        if _call3(_STATMOUNT, _words(request), byref(buffer), size, 0) >= 0:
            return _numbered(bytes(buffer))
        error = get_errno()
        if error != errno.EOVERFLOW or size > 1 << 22:
            raise OSError(error, os.strerror(error), f"statmount of mount {number}")
        size *= 8


def read(namespace: int) -> tuple[NumberedMount, ...]:
    """All mounts of a mount namespace by its number; one that goes meanwhile is left out."""
    found = []
    for number in listmount(namespace):
        try:
            found.append(statmount(number, namespace))
        except FileNotFoundError:
            continue
    return tuple(found)


def borrow(pidfd: int, descriptor: int) -> int:
    """A copy of another process's descriptor: pidfd_getfd(2), PTRACE_MODE_ATTACH."""
    copy = _getfd(_PIDFD_GETFD, pidfd, descriptor, 0)
    if copy < 0:
        number = get_errno()
        raise OSError(number, os.strerror(number), "pidfd_getfd")
    return int(copy)


def _words(data: bytes) -> object:
    """Bytes as the memory that a system call reads."""
    words = struct.unpack(f"={len(data) // 8}Q", data)
    return byref((C_ULONG * len(words))(*words))


def _numbered(data: bytes) -> NumberedMount:
    (
        _size, options_at, mask, major, minor, _magic, sb_flags, fs_type, unique, unique_parent,
        old, old_parent, attributes, propagation, group, master, from_group, root, target,
        _namespace, _subtype, source, _on, _oa, _sn, _sa, supported, uids, uid_at, gids, gid_at,
    ) = _FIXED.unpack_from(data)  # fmt: skip

    def text(offset: int) -> str:
        start = _HEADER + offset
        return os.fsdecode(data[start : data.index(b"\0", start)])

    def ranges(count: int, offset: int) -> tuple[IdRange, ...]:
        lines = []
        at = _HEADER + offset
        for _ in range(count):
            end = data.index(b"\0", at)
            inside, outside, length = data[at:end].split()
            lines.append(IdRange(int(inside), int(outside), int(length)))
            at = end + 1
        return tuple(lines)

    options = ["ro" if attributes & 1 else "rw"]
    options += [word for bit, word in _ATTRIBUTES if attributes & bit]
    if attributes & 0x70 == 0x10:
        options.append("noatime")
    elif attributes & 0x70 == 0:
        options.append("relatime")
    if attributes & 0x100000:
        options.append("idmapped")
    shared = group if propagation & (1 << 20) else 0
    unbindable = bool(propagation & (1 << 17))
    supers = ["ro" if sb_flags & 1 else "rw"]
    supers += [word for bit, word in _SB_FLAGS if sb_flags & bit]
    if mask & 0x80 and text(options_at):
        supers += text(options_at).split(",")
    place = text(target) if mask & 0x10 else "/"
    names = (text(root), place, text(fs_type), text(source) if mask & 0x200 else "none")
    tags = [f"shared:{shared}"] if shared else []
    tags += [f"master:{master}"] if master else []
    tags += [f"propagate_from:{from_group}"] if from_group and from_group != master else []
    tags += ["unbindable"] if unbindable else []
    line = " ".join(
        [
            *(str(old), str(old_parent), f"{major}:{minor}", names[0], names[1]),
            *(",".join(options), *tags, "-", names[2], names[3], ",".join(supers)),
        ]
    )
    mount = Mount(
        old,
        old_parent,
        f"{major}:{minor}",
        names[0],
        place,
        tuple(options),
        shared,
        master,
        from_group if from_group != master else 0,
        unbindable,
        names[2],
        names[3],
        tuple(supers),
        line,
    )
    known = supported & mask if supported else mask
    return NumberedMount(
        mount,
        unique,
        unique_parent,
        ranges(uids, uid_at) if known & 0x2000 else (),
        ranges(gids, gid_at) if known & 0x4000 else (),
    )
