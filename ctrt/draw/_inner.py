"""What a process's own namespaces hold, in a few words: host name, IPC objects, clocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctrt.draw._labels import HASH
from ctrt.draw._scene import Raw
from ctrt.observe import Unknown
from ctrt.words import one_line, plural, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ctrt.observe import Names, Objects, Offset, Snapshot

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


def _names(names: Names, command: str, ids: bool) -> Held:
    if names.copied and not ids:
        return Held("", "still the host's", (), command)  # another on each machine
    host, domain = (
        visible(text if ids else HASH.sub("…", text)) for text in (names.host, names.domain)
    )
    raw = [Raw("/proc/sys/kernel/hostname", host)]
    words = host
    if domain:
        raw.append(Raw("/proc/sys/kernel/domainname", domain))
        words += f", NIS domain {domain}"
    return Held(one_line([host], _LONGEST), words, tuple(raw), command)


def _objects(objects: Objects, command: str, _ids: bool) -> Held:
    counts = [(getattr(objects, name) or 0, word) for name, word in _OBJECTS]
    told = [plural(count, word) for count, word in counts if count]
    number = sum(count for count, _ in counts)
    raw = tuple(
        Raw(f"/proc/sysvipc/{name}", plural(count, word))
        for (name, word), (count, _) in zip(_OBJECTS[:3], counts, strict=False)
        if count
    )
    return Held(plural(number, "IPC object") if number else "", ", ".join(told), raw, command)


def _clocks(offsets: Sequence[Offset], command: str, _ids: bool) -> Held:
    path = command.removeprefix("cat ")
    told = [
        f"{one.clock} {_ahead(one.seconds, one.nanoseconds)}"
        for one in offsets
        if one.seconds or one.nanoseconds
    ]
    raw = tuple(Raw(path, f"{one.clock} {one.seconds} {one.nanoseconds}") for one in offsets)
    return Held(", ".join(told), ", ".join(told), raw, command)


def _ahead(seconds: int, nanoseconds: int) -> str:
    """An offset with its sign: the kernel counts nanoseconds upward from the seconds."""
    total = seconds * _BILLION + nanoseconds
    whole, rest = divmod(abs(total), _BILLION)
    digits = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{'-' if total < 0 else '+'}{whole}{digits} s"


_KINDS: dict[str, tuple[str, str, Callable[[Any, str, bool], Held]]] = {
    "uts": ("names", "nsenter -t {} -u hostname", _names),
    "ipc": ("objects", "nsenter -t {} -i ipcs", _objects),
    "time": ("offsets", "cat /proc/{}/timens_offsets", _clocks),
}
"""By kind: what a snapshot calls it, the command that asks for it, and who puts it into words."""


def held(snapshot: Snapshot, kind: str, ids: bool) -> Held:
    """What the target's own namespace of a kind holds; empty where there is nothing to tell.

    The hexadecimal host names that engines give are another each time, and the host's own on each
    machine, so only `ids` shows them.
    """
    if kind not in _KINDS:
        return Held()
    name, command, words = _KINDS[kind]
    command = command.format(snapshot.pid if ids else "PID")
    found = getattr(snapshot.inner, name)
    if found is None:
        return Held()
    if isinstance(found, Unknown):
        return Held("", f"could not be read: {found.reason}", (), command)
    return words(found, command, ids)
