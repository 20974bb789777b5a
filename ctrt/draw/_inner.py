"""What a process's own namespaces hold, in a few words: host name, IPC objects, clocks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ctrt.draw._scene import Raw
from ctrt.observe import Unknown
from ctrt.words import one_line, plural, visible

if TYPE_CHECKING:
    from ctrt.observe import Snapshot

_HASH = re.compile(r"[0-9a-f]{12,}")
_OBJECTS = (
    ("shm", "memory segment"), ("sem", "semaphore set"), ("msg", "message queue"),
    ("mqueues", "POSIX queue"),
)  # fmt: skip
_BILLION = 10**9
_LONGEST = 30


class Held(NamedTuple):
    """For a namespace's pill, for its row, where the kernel says it, and the command that does."""

    short: str = ""
    long: str = ""
    raw: tuple[Raw, ...] = ()
    command: str = ""


def held(snapshot: Snapshot, kind: str, ids: bool) -> Held:
    """What the target's own namespace of a kind holds; empty where there is nothing to tell.

    The hexadecimal host names that engines give are another each time, and the host's own on each
    machine, so only `ids` shows them.
    """
    proc = f"{snapshot.pid}" if ids else "PID"
    if kind == "uts":
        return _names(snapshot, proc, ids)
    if kind == "ipc":
        return _objects(snapshot, proc)
    return _clocks(snapshot, proc) if kind == "time" else Held()


def _names(snapshot: Snapshot, proc: str, ids: bool) -> Held:
    names = snapshot.inner.names
    command = f"nsenter -t {proc} -u hostname"
    if names is None:
        return Held()
    if isinstance(names, Unknown):
        return Held("", f"could not be read: {names.reason}", (), command)
    if names.copied and not ids:
        return Held("", "still the host's", (), command)  # another on each machine
    host, domain = (
        visible(text if ids else _HASH.sub("…", text)) for text in (names.host, names.domain)
    )
    raw = [Raw("/proc/sys/kernel/hostname", host)]
    words = host
    if domain:
        raw.append(Raw("/proc/sys/kernel/domainname", domain))
        words += f", NIS domain {domain}"
    return Held(one_line([host], _LONGEST), words, tuple(raw), command)


def _objects(snapshot: Snapshot, proc: str) -> Held:
    objects = snapshot.inner.objects
    command = f"nsenter -t {proc} -i ipcs"
    if objects is None:
        return Held()
    if isinstance(objects, Unknown):
        return Held("", f"could not be read: {objects.reason}", (), command)
    counts = [(getattr(objects, name) or 0, word) for name, word in _OBJECTS]
    told = [plural(count, word) for count, word in counts if count]
    number = sum(count for count, _ in counts)
    raw = tuple(
        Raw(f"/proc/sysvipc/{name}", plural(count, word))
        for (name, word), (count, _) in zip(_OBJECTS[:3], counts, strict=False)
        if count
    )
    return Held(plural(number, "IPC object") if number else "", ", ".join(told), raw, command)


def _clocks(snapshot: Snapshot, proc: str) -> Held:
    offsets = snapshot.inner.offsets
    path = f"/proc/{proc}/timens_offsets"
    if offsets is None:
        return Held()
    if isinstance(offsets, Unknown):
        return Held("", f"could not be read: {offsets.reason}", (), f"cat {path}")
    told = [
        f"{one.clock} {_ahead(one.seconds, one.nanoseconds)}"
        for one in offsets
        if one.seconds or one.nanoseconds
    ]
    raw = tuple(Raw(path, f"{one.clock} {one.seconds} {one.nanoseconds}") for one in offsets)
    return Held(", ".join(told), ", ".join(told), raw, f"cat {path}")


def _ahead(seconds: int, nanoseconds: int) -> str:
    """An offset with its sign: the kernel counts nanoseconds upward from the seconds."""
    total = seconds * _BILLION + nanoseconds
    whole, rest = divmod(abs(total), _BILLION)
    digits = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{'-' if total < 0 else '+'}{whole}{digits} s"
