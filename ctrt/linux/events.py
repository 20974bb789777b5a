"""What the kernel tells of by itself: processes that come and go, mounts that appear and vanish.

The descriptors here become readable when something has happened; what exactly, a new look tells.
All of it may be refused: then PermissionError or another OSError says so.

Source: linux/cn_proc.h (the proc connector), fanotify_init(2), fanotify_mark(2); mount events of
fanotify are of Linux 6.14.
"""

from __future__ import annotations

import os
import struct

from ctrt.linux.clib import C_INT, C_POINTER, C_UINT, C_UINT64, function, get_errno, library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

_FAN_CLOEXEC, _FAN_NONBLOCK, _FAN_REPORT_MNT = 0x1, 0x2, 0x4000
_FAN_MARK_ADD, _FAN_MARK_MNTNS = 0x1, 0x110
_FAN_MNT_ATTACH, _FAN_MNT_DETACH = 0x01000000, 0x02000000
_NETLINK_CONNECTOR, _CN_IDX_PROC, _CN_VAL_PROC, _MCAST_LISTEN = 11, 1, 1, 1

_libc = library(None)
_init = function(_libc, "fanotify_init", C_INT, C_UINT, C_UINT)
_mark = function(_libc, "fanotify_mark", C_INT, C_INT, C_UINT, C_UINT64, C_INT, C_POINTER)


def process_events() -> socket:
    """A socket that is readable after a process has been made, has executed or has ended."""
    import socket

    made = socket.socket(
        socket.AF_NETLINK,
        socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
        _NETLINK_CONNECTOR,
    )
    try:
        made.bind((0, _CN_IDX_PROC))
        # struct cn_msg (id, seq, ack, len, flags) and the operation.
        body = struct.pack("=IIIIHHI", _CN_IDX_PROC, _CN_VAL_PROC, 0, 0, 4, 0, _MCAST_LISTEN)
        made.send(struct.pack("=IHHII", 16 + len(body), 3, 0, 0, os.getpid()) + body)
    except OSError:
        made.close()
        raise
    return made


def mount_events() -> int:
    """A descriptor that is readable after a mount has come or gone in a marked namespace."""
    descriptor = _init(_FAN_CLOEXEC | _FAN_NONBLOCK | _FAN_REPORT_MNT, os.O_RDONLY)
    if descriptor < 0:
        number = get_errno()
        raise OSError(number, os.strerror(number), "fanotify_init")
    return int(descriptor)


def watch_mounts(events: int, namespace: int) -> None:
    """Let `events` tell of the mount namespace that a descriptor stands for."""
    what = _FAN_MNT_ATTACH | _FAN_MNT_DETACH
    if _mark(events, _FAN_MARK_ADD | _FAN_MARK_MNTNS, what, namespace, None) < 0:
        number = get_errno()
        raise OSError(number, os.strerror(number), "fanotify_mark")


def drain(descriptor: int) -> None:
    """Read all that has been told so far."""
    while True:
        try:
            if not os.read(descriptor, 1 << 16):
                return
        except BlockingIOError:
            return
        except OSError:
            return  # ENOBUFS: more than the kernel would keep; a new look tells all anyway
