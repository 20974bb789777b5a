"""The status file of a process, read fast: a scan takes thousands of them apart.

The kernel writes the lines in one order, so that two patterns find all of them; a text that
is otherwise (an older kernel's) goes the general way of `ctrt.linux.processes`.
"""

from __future__ import annotations

import os
import re

from ctrt.linux import processes
from ctrt.linux.processes import Status

_HEAD = re.compile(
    r"Name:\t(.*)\n(?:Umask:.*\n)?State:\t(.).*\n.*\n.*\nPid:\t(\d+)\nPPid:\t(\d+)\n.*\n"
    r"Uid:\t(.*)\nGid:\t(.*)\n.*\nGroups:\t(.*)\n.*\nNSpid:\t(.*)\n"
)
_TAIL = re.compile(
    r"\nThreads:\t(\d+)\n(?:.*\n){6}CapInh:\t(.*)\nCapPrm:\t(.*)\nCapEff:\t(.*)\n"
    r"CapBnd:\t(.*)\nCapAmb:\t(.*)\nNoNewPrivs:\t(.)\nSeccomp:\t(.)\nSeccomp_filters:\t(\d+)\n"
)
# Many processes have the same ids and capabilities: each text is taken apart once.
_masks: dict[str, int] = {}
_lists: dict[str, tuple[int, ...]] = {}


def parse(data: bytes) -> Status:
    """The bytes of /proc/PID/status; the name is fit to be shown."""
    text = os.fsdecode(data)
    head = _HEAD.match(text)
    tail = _TAIL.search(text, head.end()) if head else None
    if head is None or tail is None:
        return processes.named(processes.parse_status(text))
    name, state, pid, parent, uids, gids, groups, ns_pids = head.groups()
    threads, *masks, no_new_privs, seccomp, filters = tail.groups()
    if not name.isprintable() or "\\" in name:
        return processes.named(processes.parse_status(text))
    number = int(pid)
    return Status._make(
        (
            name,
            state,
            number,
            int(parent),
            (number,) if ns_pids == pid else tuple(map(int, ns_pids.split())),
            _lists.get(uids) or _list(uids),
            _lists.get(gids) or _list(gids),
            *[_masks[mask] if mask in _masks else _mask(mask) for mask in masks],
            no_new_privs == "1",
            int(seccomp),
            int(filters),
            _lists.get(groups) or _list(groups),
            int(threads),
        )
    )


def _mask(text: str) -> int:
    if len(_masks) > 1000:
        _masks.clear()
    _masks[text] = int(text, 16)
    return _masks[text]


def _list(text: str) -> tuple[int, ...]:
    if len(_lists) > 1000:
        _lists.clear()
    _lists[text] = tuple(map(int, text.split()))
    return _lists[text]
