"""What the namespaces of one process hold that concerns nobody outside: names, objects, clocks.

A host name, System V objects and clocks are not in /proc under the process's number (only the
clocks' offsets are): members are told them, so a member is asked, see `_joined`.

Source: uts_namespaces(7), ipc_namespaces(7), time_namespaces(7), proc_sysvipc(5), mq_overview(7).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from ctrt.linux import calls, namespaces, processes
from ctrt.observe._values import NOT_ALLOWED, Unknown, attempt

if TYPE_CHECKING:
    from ctrt.linux.mountinfo import Mount
    from ctrt.linux.namespaces import Key

_NO_DOMAIN = "(none)"


class Names(NamedTuple):
    """What a UTS namespace says of itself; `domain` is the NIS domain name, "" for none.

    A new one begins with a copy of its maker's: `copied` says that both names are those that the
    observer's has.
    """

    host: str
    domain: str
    copied: bool = False


class Objects(NamedTuple):
    """How many objects an IPC namespace has: System V's three kinds, and POSIX message queues.

    `mqueues` is None where the process has no mqueue file system mounted to count them in.
    """

    shm: int
    sem: int
    msg: int
    mqueues: int | None


class Offset(NamedTuple):
    """How far a clock of a time namespace is ahead of the machine's: "monotonic", "boottime"."""

    clock: str
    seconds: int
    nanoseconds: int


class Inner(NamedTuple):
    """What the namespaces hold that set a process apart; None where it has none of that kind."""

    names: Names | Unknown | None = None
    objects: Objects | Unknown | None = None
    offsets: tuple[Offset, ...] | Unknown | None = None


def look(pid: int | str, apart: dict[str, Key], mounts: tuple[Mount, ...] | Unknown) -> Inner:
    """Ask for what those of its namespaces hold that are in `apart`."""
    told = _asked(pid, [kind for kind in ("uts", "ipc") if kind in apart])
    objects = told.get("ipc")
    if isinstance(objects, Objects):
        objects = objects._replace(mqueues=_queues(pid, mounts))
    names = told.get("uts")
    if isinstance(names, Names) and names == attempt(_names):
        told["uts"] = names._replace(copied=True)
    return Inner(told.get("uts"), objects, attempt(_offsets, pid) if "time" in apart else None)  # type: ignore[arg-type]


def _asked(pid: int | str, kinds: list[str]) -> dict[str, Names | Objects | Unknown]:
    """The answers for each kind; those that one user namespace owns are asked for together."""
    from ctrt.observe import _joined

    doors: dict[int, dict[str, int]] = {}
    told: dict[str, Names | Objects | Unknown] = {}
    opened: list[int] = []
    try:
        for kind in kinds:
            door = attempt(namespaces.open_file, f"/proc/{pid}/ns/{kind}")
            if isinstance(door, Unknown):
                told[kind] = door
                continue
            opened.append(door)
            owner = namespaces.owner_of(door)
            if owner >= 0:
                opened.append(owner)
            doors.setdefault(os.fstat(owner).st_ino if owner >= 0 else 0, {})[kind] = door
        for together in doors.values():
            found = attempt(_joined.ask, "ctrt.observe._inner:tell", (tuple(together),), together)
            if found == NOT_ALLOWED or found == Unknown("operation not permitted"):
                found = Unknown(_joined.NO_RIGHT)
            told |= dict.fromkeys(together, found) if isinstance(found, Unknown) else found
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return told


def tell(kinds: tuple[str, ...]) -> dict[str, Names | Objects | Unknown]:
    """What the namespaces that the caller is in hold; asked where one has joined them."""
    return {kind: attempt(_names) if kind == "uts" else attempt(_objects) for kind in kinds}


def _names() -> Names:
    domain = processes.read_file("/proc/sys/kernel/domainname").decode(errors="replace").strip()
    return Names(os.uname().nodename, "" if domain == _NO_DOMAIN else domain)


def _objects() -> Objects:
    # The first line of each table is its heading.
    shm, sem, msg = (
        max(processes.read_file(f"/proc/sysvipc/{name}", 64 << 20).count(b"\n") - 1, 0)
        for name in ("shm", "sem", "msg")
    )
    return Objects(shm, sem, msg, None)


def _queues(pid: int | str, mounts: tuple[Mount, ...] | Unknown) -> int | None:
    """The message queues that the process sees at the mqueue file system that it has."""
    if isinstance(mounts, Unknown):
        return None
    mount = next((m for m in reversed(mounts) if m.fstype == "mqueue" and m.root == "/"), None)
    if mount is None:
        return None
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # What its directories are called is the container's affair: no name leads out of it.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK
        found = calls.openat2(root, mount.target, flags, calls.RESOLVE_IN_ROOT)
        try:
            device = os.fstat(found).st_dev
            if f"{os.major(device)}:{os.minor(device)}" != mount.device:
                return None  # something else is mounted over it
            return len(os.listdir(found))
        finally:
            os.close(found)
    except OSError:
        return None
    finally:
        os.close(root)


def _offsets(pid: int | str) -> tuple[Offset, ...]:
    text = processes.read_file(f"/proc/{pid}/timens_offsets").decode()
    words = [line.split() for line in text.splitlines()]
    return tuple(Offset(clock, int(seconds), int(rest)) for clock, seconds, rest in words)
