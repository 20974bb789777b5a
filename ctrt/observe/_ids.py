"""User and group ids between any two user namespaces.

What is read of an id map holds between that namespace and the reader's (user_namespaces(7)), so
an id goes from one namespace to another by way of the observer's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctrt.linux.processes import IdRange
from ctrt.observe._values import Unknown

if TYPE_CHECKING:
    from ctrt.linux.namespaces import Key
    from ctrt.observe._system import System

OVERFLOW = 65534
_EVERY = 0xFFFFFFFF


class Id(NamedTuple):
    """An id in a namespace; one that has no number there is shown as the overflow id."""

    value: int
    mapped: bool


def id_map(
    system: System, inside: Key, outside: Key, kind: str = "uid"
) -> tuple[IdRange, ...] | Unknown:
    """How the ids of one user namespace are those of another, as ranges.

    `inside` and `outside` are any two user namespaces, not only parent and child; `kind` is
    "uid" or "gid". Ids in no range have no number in the other namespace.
    """
    first = _observed(system, inside, kind)
    second = _observed(system, outside, kind)
    if isinstance(first, Unknown):
        return first
    if isinstance(second, Unknown):
        return second
    return compose(first, second)


def compose(one: tuple[IdRange, ...], other: tuple[IdRange, ...]) -> tuple[IdRange, ...]:
    """Two maps to the same third namespace as one map, from the first's ids to the other's."""
    found = []
    for here in one:
        for there in other:
            start = max(here.outside, there.outside)
            end = min(here.outside + here.length, there.outside + there.length)
            if start < end:
                found.append(
                    IdRange(
                        start - here.outside + here.inside,
                        start - there.outside + there.inside,
                        end - start,
                    )
                )
    return tuple(sorted(found))


def translate_id(
    system: System, number: int, inside: Key, outside: Key, kind: str = "uid"
) -> Id | Unknown:
    """What an id of one user namespace is called in another (/proc/sys/kernel/overflowuid)."""
    ranges = id_map(system, inside, outside, kind)
    if isinstance(ranges, Unknown):
        return ranges
    for line in ranges:
        if line.inside <= number < line.inside + line.length:
            return Id(number - line.inside + line.outside, True)
    return Id(_overflow(kind), False)


def _observed(system: System, key: Key, kind: str) -> tuple[IdRange, ...] | Unknown:
    """The map of a user namespace to the observer's numbers."""
    if key == system.processes[system.me].namespace("user"):
        # Of its own namespace a reader is told the ids of the parent, which is not meant here.
        return (IdRange(0, 0, _EVERY),)
    space = system.spaces[key]
    found = space.uid_map if kind == "uid" else space.gid_map
    return Unknown("it is no user namespace") if found is None else found


def _overflow(kind: str) -> int:
    try:
        with open(f"/proc/sys/kernel/overflow{kind}") as file:
            return int(file.read())
    except (OSError, ValueError):
        return OVERFLOW
