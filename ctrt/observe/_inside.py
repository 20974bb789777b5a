"""One process from two sides: what it is here, and what it takes itself to be.

Its pid, its ids, its paths and its cgroups have other names inside, and its capabilities count
there only. All of it follows from a scan; nothing has to look from inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrt.linux.capabilities import names
from ctrt.linux.namespaces import Key
from ctrt.observe._cgroups import cgroup_root, hierarchies, seen_from_inside
from ctrt.observe._difference import Change
from ctrt.observe._ids import translate_id
from ctrt.observe._mounts import covered, translate
from ctrt.observe._reach import reach
from ctrt.observe._values import Unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctrt.linux.processes import Status
    from ctrt.observe._system import System


def inside(system: System, pid: int) -> tuple[Change, ...]:
    """What has another name for a process than for the observer, from outside to inside.

    `system` is a scan with details, KeyError for a process that is not in it. What the observer
    may not know is left out.
    """
    status = system.processes[pid].status
    if status is None or isinstance(status, Unknown):
        return ()
    return tuple(
        change
        for change in (
            *_numbers(system, pid, status),
            *_ids(system, pid, status),
            *_rights(system, pid),
            *_cgroups(system, pid),
            *_paths(system, pid),
        )
        if change.before != change.after
    )


def _numbers(system: System, pid: int, status: Status) -> Iterator[Change]:
    depth = len(status.ns_pids)
    yield Change("~", "process", "pid", str(pid), str(status.ns_pids[-1]))
    parent = system.processes.get(status.parent)
    known = parent.status if parent else None
    if known is None or isinstance(known, Unknown):
        return
    # A parent from outside has no number in there: getppid(2) says 0.
    seen = known.ns_pids[depth - 1] if len(known.ns_pids) >= depth else 0
    yield Change("~", "process", "parent", str(status.parent), str(seen))


def _ids(system: System, pid: int, status: Status) -> Iterator[Change]:
    here = system.processes[system.me].namespace("user")
    there = system.processes[pid].namespace("user")
    if isinstance(here, Unknown) or isinstance(there, Unknown):
        return
    sides = (("uid", "user ids", status.uids), ("gid", "group ids", status.gids))
    for kind, what, numbers in sides:
        found = [translate_id(system, number, here, there, kind) for number in numbers]
        told = [str(one.value) for one in found if not isinstance(one, Unknown)]
        if len(told) == len(numbers):
            yield Change("~", "credential", what, ", ".join(map(str, numbers)), ", ".join(told))


def _rights(system: System, pid: int) -> Iterator[Change]:
    """What it holds over the observer's user namespace, and over its own."""
    here = system.processes[system.me].namespace("user")
    held: dict[str, int] = {}
    for one in reach(system, pid):
        side = "own" if one.relation == "own" else "here" if one.space == here else ""
        if side and all(answer.holds is not None for answer in one.answers):
            held[side] = sum(bool(a.holds) << bit for bit, a in enumerate(one.answers))
    if len(held) == 2:
        before, after = ", ".join(names(held["here"])), ", ".join(names(held["own"]))
        if before != after:
            yield Change("~", "capability", "that count", before or "none", after or "none")


def _cgroups(system: System, pid: int) -> Iterator[Change]:
    groups = system.processes[pid].cgroups
    if groups is None or isinstance(groups, Unknown):
        return
    for tree in hierarchies():
        if tree.version != 2:
            continue
        root = cgroup_root(system, pid, tree)
        for group in groups:
            if group.hierarchy == 0 and not isinstance(root, Unknown):
                yield Change("~", "cgroup", "v2", group.path, seen_from_inside(group.path, root))


def _paths(system: System, pid: int) -> Iterator[Change]:
    """Its mounts, by the names that their directories have for the observer."""
    here = system.processes[system.me].namespace("mnt")
    there = system.processes[pid].namespace("mnt")
    if not isinstance(here, Key) or not isinstance(there, Key) or here == there:
        return
    table = system.tables[there]
    if isinstance(table, Unknown):
        return
    hidden = covered(table.mounts)
    for mount in table.mounts:
        if mount.id in hidden:
            continue
        found = translate(system, mount.target, space=there, into=here)
        if not isinstance(found, Unknown) and found.path and not found.covered:
            yield Change("~", "path", mount.target, found.path, mount.target, there)
