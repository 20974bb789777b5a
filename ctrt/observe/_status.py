"""The status file of a process, read fast: a scan takes thousands of them apart.

The kernel writes the lines in one order, so the few that are wanted are found one after the
other; what many processes have in common (ids, capabilities) is taken apart once for each text.
A file that is otherwise (an older kernel's) goes the general way of `ctrt.linux.processes`.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, TypeVar

from ctrt.linux import processes
from ctrt.linux.processes import Status

if TYPE_CHECKING:
    Rights = tuple[int, int, int, int, int, bool, int, int]

_RIGHTS = re.compile(
    rb"\nCapInh:\t(.*)\nCapPrm:\t(.*)\nCapEff:\t(.*)\nCapBnd:\t(.*)\nCapAmb:\t(.*)\n"
    rb"NoNewPrivs:\t(.)\nSeccomp:\t(.)\nSeccomp_filters:\t(\d+)"
)
_MOST = 1000
T = TypeVar("T")
_lists: dict[bytes, tuple[int, ...]] = {}
_rights: dict[bytes, Rights] = {}
_names: dict[bytes, str] = {}


def parse(data: bytes) -> Status:
    """The bytes of /proc/PID/status; the name is fit to be shown."""
    try:
        (
            name, _, state, _, _, own, parent, _, uids, gids, _, groups, _, inside, rest,
        ) = data.split(b"\n", 14)  # fmt: skip
        if inside[:7] != b"NSpid:\t" or own[:5] != b"Pid:\t":
            raise ValueError(inside)
        at = rest.index(b"\nThreads:\t") + 10
        threads = rest[at : rest.index(b"\n", at)]
        may = rest.index(b"\nCapInh:\t", at)
        rights = rest[may : rest.index(b"\nSpec", may)]
        inheritable, permitted, effective, bounding, ambient, nnp, seccomp, filters = _rights.get(
            rights
        ) or _rights_of(rights)
        pid = int(own[5:])
        return Status._make(
            (
                _names.get(name) or _name(name),
                chr(state[7]),
                pid,
                int(parent[6:]),
                (pid,) if inside[7:] == own[5:] else tuple(map(int, inside[7:].split())),
                _lists.get(uids) or _list(uids),
                _lists.get(gids) or _list(gids),
                inheritable,
                permitted,
                effective,
                bounding,
                ambient,
                nnp,
                seccomp,
                filters,
                _lists[groups] if groups in _lists else _list(groups),
                1 if threads == b"1" else int(threads),
            )
        )
    except (ValueError, IndexError):
        return processes.named(processes.parse_status(os.fsdecode(data)))


def _name(line: bytes) -> str:
    """A name that needs no care; ValueError for one that does."""
    name = os.fsdecode(line[6:])
    if not name.isprintable() or "\\" in name:
        raise ValueError(name)
    return _kept(_names, line, name)


def _list(line: bytes) -> tuple[int, ...]:
    return _kept(_lists, line, tuple(map(int, line.partition(b":")[2].split())))


def _rights_of(text: bytes) -> Rights:
    found = _RIGHTS.match(text)
    if found is None:
        raise ValueError(text)
    *masks, no_new_privs, seccomp, filters = found.groups()
    inheritable, permitted, effective, bounding, ambient = (int(mask, 16) for mask in masks)
    rights = (
        inheritable, permitted, effective, bounding, ambient, no_new_privs == b"1", int(seccomp),
        int(filters),
    )  # fmt: skip
    return _kept(_rights, text, rights)


def _kept(store: dict[bytes, T], text: bytes, value: T) -> T:
    if len(store) > _MOST:
        store.clear()
    store[text] = value
    return value
