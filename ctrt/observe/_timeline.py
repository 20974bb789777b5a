"""The system over time: watched as it changes, recorded as lines of JSON, and replayed.

The kernel tells that something has happened (process events, mount events), and a scan tells
what. Not all changes are told (setns(2) and unshare(2) are not), so the system is looked at from
time to time anyway; where no events are allowed, that is all.
"""

from __future__ import annotations

import json
import os
import select
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from ctrt.errors import CtrtError
from ctrt.linux import events, processes
from ctrt.linux.mountinfo import Mount
from ctrt.linux.namespaces import Key
from ctrt.observe._difference import Change, difference
from ctrt.observe._scan import scan
from ctrt.observe._system import Holder, MountTable, Process, Space, System, Unseen
from ctrt.observe._values import Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from socket import socket

_FORMAT = "ctrt timeline 1"
_BEGIN = b'{"told":'


class Event(NamedTuple):
    """What has changed at a moment (seconds since the epoch), and the system as it is then.

    `told` says by what the watcher was woken: "processes", "mounts", or "time" when it looked
    by itself. The first event of a timeline has no changes.
    """

    moment: float
    told: str
    changes: tuple[Change, ...]
    system: System


class Timeline(NamedTuple):
    """The events of a recording, in order."""

    events: tuple[Event, ...]

    def at(self, moment: float) -> System:
        """The system as it was last seen at or before a moment (the first one, before that)."""
        latest = self.events[0]
        for event in self.events:
            if event.moment > moment:
                break
            latest = event
        return latest.system


def watch(
    *, seconds: float | None = None, pause: float = 0.1, at_least: float = 1.0, details: bool = True
) -> Iterator[Event]:
    """The system now, and then an event for whatever changes.

    Ends after `seconds` (None: never). Between two looks there is a pause of `pause` seconds,
    however much happens; one look is taken every `at_least` seconds, even if nothing is told.
    """
    end = None if seconds is None else time.monotonic() + seconds
    signals = _Signals()
    try:
        before = scan(details=details)
        signals.mark(before)
        yield Event(before.moment, "time", (), before)
        while end is None or time.monotonic() < end:
            left = at_least if end is None else min(at_least, end - time.monotonic())
            told = signals.wait(max(left, 0.0))
            now = scan(details=details)
            changes = difference(before, now)
            if changes:
                signals.mark(now)
                yield Event(now.moment, told, changes, now)
            before = now
            time.sleep(pause if end is None else max(min(pause, end - time.monotonic()), 0.0))
    finally:
        signals.close()


class _Signals:
    """The descriptors by which the kernel tells that something has happened."""

    def __init__(self) -> None:
        self.poll = select.poll()
        self.names: dict[int, str] = {}
        self.marked: set[Key] = set()
        self.processes: socket | None = None
        self.mounts = -1
        self.table = -1
        try:
            self.processes = events.process_events()
            self._add(self.processes.fileno(), "processes", select.POLLIN)
        except OSError:
            pass  # not allowed: the system is looked at from time to time
        try:
            self.mounts = events.mount_events()
            self._add(self.mounts, "mounts", select.POLLIN)
        except OSError:
            # Before Linux 6.14: the own mount table can be waited for, proc_pid_mounts(5).
            try:
                self.table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
                self._add(self.table, "mounts", select.POLLPRI | select.POLLERR)
            except OSError:
                pass

    def _add(self, descriptor: int, name: str, flags: int) -> None:
        self.names[descriptor] = name
        self.poll.register(descriptor, flags)

    def mark(self, system: System) -> None:
        """Have the kernel tell of the mounts of every mount namespace of a scan."""
        if self.mounts < 0:
            return
        for space in system.of_kind("mnt"):
            if space.key in self.marked:
                continue
            for pid in space.processes[:3]:
                try:
                    descriptor = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
                except OSError:
                    continue
                try:
                    events.watch_mounts(self.mounts, descriptor)
                    self.marked.add(space.key)
                except OSError:
                    pass  # CAP_SYS_ADMIN in its owner is needed
                finally:
                    os.close(descriptor)
                break

    def wait(self, seconds: float) -> str:
        """Wait until something is told or the time is over; by what it was."""
        told = "time"
        for descriptor, _ in self.poll.poll(seconds * 1000):
            told = self.names[descriptor]
            if descriptor != self.table:
                events.drain(descriptor)
        return told

    def close(self) -> None:
        if self.processes is not None:
            self.processes.close()
        for descriptor in (self.mounts, self.table):
            if descriptor >= 0:
                os.close(descriptor)


def record(path: str, happening: Iterable[Event]) -> int:
    """Write events to a file as they come; how many there were.

    The first line has the whole system, each other one what was different then.
    """
    return sum(1 for _ in recorded(path, happening))


def recorded(path: str, happening: Iterable[Event]) -> Iterator[Event]:
    """The same events, each handed on when it has been written to a file."""
    before: System | None = None
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        for event in happening:
            line = {
                "told": event.told,
                "changes": _plain(event.changes),
                "system": _delta(before, event.system),
            }
            if before is None:
                line["format"] = _FORMAT
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
            file.flush()
            before = event.system
            yield event


def is_recording(path: str) -> bool:
    """Whether a file begins as a recording does."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_BEGIN)) == _BEGIN
    except OSError:
        return False


def replay(path: str) -> Timeline:
    """The events of a recording. CtrtError when the file is none."""
    happened: list[Event] = []
    system: System | None = None
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for number, text in enumerate(file, 1):
                try:
                    line = json.loads(text)
                    if system is None and line.get("format") != _FORMAT:
                        raise ValueError
                    system = _applied(system, line["system"])
                    changes = _value(line["changes"])
                except (ValueError, KeyError, TypeError, AttributeError, IndexError):
                    raise CtrtError(f"{path}: line {number} is not of a timeline") from None
                happened.append(Event(system.moment, line["told"], changes, system))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CtrtError(f"{path}: {reason}") from None
    if not happened:
        raise CtrtError(f"{path}: there is nothing recorded in it")
    return Timeline(tuple(happened))


_CLASSES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (Change, Holder, Key, Mount, MountTable, Process, Space, Unknown, Unseen)
} | {"IdRange": processes.IdRange, "Status": processes.Status, "Group": processes.Cgroup}
_NAMES = {kind: name for name, kind in _CLASSES.items()}
_PARTS = ("spaces", "processes", "tables")


def _plain(value: Any) -> Any:
    """A value of the model as JSON has it: a tuple is a list that begins with its kind."""
    if isinstance(value, tuple):
        return [_NAMES.get(type(value), ""), *map(_plain, value)]
    return value


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        name, *members = plain
        values = [_value(member) for member in members]
        return _CLASSES[name](*values) if name else tuple(values)
    return plain


def _delta(before: System | None, after: System) -> dict[str, Any]:
    """What must be written to make one system of another."""
    made: dict[str, Any] = {
        "me": after.me,
        "moment": after.moment,
        "gone": _plain(after.gone),
        "unseen": _plain(after.unseen),
    }
    for part in _PARTS:
        old = getattr(before, part) if before is not None else {}
        new = getattr(after, part)
        made[part] = [
            [[_plain(key), _plain(value)] for key, value in new.items() if old.get(key) != value],
            [_plain(key) for key in old if key not in new],
        ]
    return made


def _applied(before: System | None, made: dict[str, Any]) -> System:
    parts = []
    for part in _PARTS:
        whole = dict(getattr(before, part)) if before is not None else {}
        changed, removed = made[part]
        for key in removed:
            del whole[_value(key)]
        for key, value in changed:
            whole[_value(key)] = _value(value)
        parts.append(whole)
    spaces, running, tables = parts
    return System(
        made["me"],
        made["moment"],
        spaces,
        running,
        tables,
        _value(made["gone"]),
        _value(made["unseen"]),
    )
