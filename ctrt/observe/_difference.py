"""What differs: between two processes, or between two moments of the whole system.

A difference is a list of changes, each naming one thing by its place in the model and its two
values. What is the same is not in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctrt.linux.capabilities import names
from ctrt.linux.namespaces import KINDS
from ctrt.observe._snapshot import Snapshot
from ctrt.observe._system import MountTable, Space, System
from ctrt.observe._values import ENDING, ZOMBIE, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ctrt.linux.mountinfo import Mount
    from ctrt.linux.namespaces import Key


class Change(NamedTuple):
    """One difference.

    `sign` is "+" (only in the second), "-" (only in the first) or "~" (in both, but not the
    same). `kind` is "namespace", "process", "mount", "path", "capability", "id map", "cgroup",
    "credential" or "holder"; `what` names the thing. `before` and `after` are the two values in
    words ("" where there is none). `key` is the namespace it is about, if any.
    """

    sign: str
    kind: str
    what: str
    before: str
    after: str
    key: Key | None = None


def difference(a: Snapshot | System, b: Snapshot | System) -> tuple[Change, ...]:
    """What differs from `a` to `b`: two processes (snapshots) or two moments (scans).

    Two snapshots of the same process give what has changed in it meanwhile. Raises TypeError
    when one is a snapshot and the other a scan.
    """
    if isinstance(a, System) and isinstance(b, System):
        return tuple(_systems(a, b))
    if isinstance(a, Snapshot) and isinstance(b, Snapshot):
        return tuple(_snapshots(a, b))
    raise TypeError("a difference is between two snapshots or between two scans")


def _snapshots(a: Snapshot, b: Snapshot) -> Iterator[Change]:
    for kind in KINDS:
        one, other = a.namespaces[kind], b.namespaces[kind]
        if isinstance(one, Unknown) or isinstance(other, Unknown):
            if one != other:
                yield Change("~", "namespace", kind, _of_host(a, kind), _of_host(b, kind))
        elif (one.key, one.id) != (other.key, other.id):
            words = _of_host(a, kind), _of_host(b, kind)
            yield Change("~", "namespace", kind, *words, other.key)
    for what, before, after in (
        ("user ids", a.status.uids, b.status.uids),
        ("group ids", a.status.gids, b.status.gids),
        ("no_new_privs", a.status.no_new_privs, b.status.no_new_privs),
        ("seccomp", a.capabilities.seccomp, b.capabilities.seccomp),
        ("seccomp filters", a.status.seccomp_filters, b.status.seccomp_filters),
        ("label", a.capabilities.label, b.capabilities.label),
    ):
        if before != after:
            yield Change("~", "credential", what, _words(before), _words(after))
    for name in ("inheritable", "permitted", "effective", "bounding", "ambient"):
        one_set, other_set = getattr(a.capabilities, name), getattr(b.capabilities, name)
        lost, gained = one_set & ~other_set, other_set & ~one_set
        if lost:
            yield Change("-", "capability", name, ", ".join(names(lost)), "")
        if gained:
            yield Change("+", "capability", name, "", ", ".join(names(gained)))
    maps = [
        {user.key: (user.uid_map, user.gid_map) for user in snapshot.users} for snapshot in (a, b)
    ]
    for key in maps[0].keys() & maps[1].keys():
        for what, old, new in zip(("uid", "gid"), maps[0][key], maps[1][key], strict=True):
            if old != new:
                yield Change("~", "id map", what, _words(old), _words(new), key)
    if a.cgroups != b.cgroups:
        groups = [
            {} if isinstance(s.cgroups, Unknown) else {g.hierarchy: g for g in s.cgroups}
            for s in (a, b)
        ]
        for number in sorted(groups[0].keys() | groups[1].keys()):
            one_group, other_group = groups[0].get(number), groups[1].get(number)
            if one_group != other_group:
                which = one_group or other_group
                label = ",".join(which.controllers) or "v2" if which else ""
                before = one_group.path if one_group else ""
                after = other_group.path if other_group else ""
                yield Change(_sign(before, after), "cgroup", label, before, after)
    same = a.namespaces["mnt"] == b.namespaces["mnt"] and a.pid == b.pid
    yield from _tables(a.mounts, b.mounts, None, same)


def _systems(a: System, b: System) -> Iterator[Change]:
    spaces = [{_lasting(space): space for space in system.spaces.values()} for system in (a, b)]
    for key, gone in spaces[0].items():
        if key not in spaces[1]:
            yield Change("-", "namespace", gone.kind, _space_words(gone), "", gone.key)
    for key, new in spaces[1].items():
        if key not in spaces[0]:
            yield Change("+", "namespace", new.kind, "", _space_words(new), new.key)
    for key, one in spaces[0].items():
        if key not in spaces[1]:
            continue
        other = spaces[1][key]
        for what, before, after in (
            ("uid", one.uid_map, other.uid_map),
            ("gid", one.gid_map, other.gid_map),
        ):
            if before != after and not isinstance(after, Unknown) and after is not None:
                yield Change("~", "id map", what, _words(before), _words(after), other.key)
        yield from _holders(one, other)
    for pid in sorted(a.processes.keys() | b.processes.keys()):
        yield from _process(a, b, pid)
    for table_key in a.tables:
        if table_key in b.tables and _lasting(a.spaces[table_key]) == _lasting(b.spaces[table_key]):
            yield from _tables(a.tables[table_key], b.tables[table_key], table_key, True)


def _process(a: System, b: System, pid: int) -> Iterator[Change]:
    before, after = a.processes.get(pid), b.processes.get(pid)
    if after is None and before is not None:
        yield Change("-", "process", str(pid), before.name, "")
    elif before is None and after is not None:
        yield Change("+", "process", str(pid), "", after.name)
    elif before is not None and after is not None:
        for reason in (ZOMBIE, ENDING):
            if reason in after.namespaces and reason not in before.namespaces:
                # It loses all the rest with it.
                yield Change("~", "process", str(pid), _command(before), reason.reason)
                return
        # The kernel's own threads, which have no command, say by their names what they do now.
        renamed = before.name != after.name and before.command != ()
        if renamed or before.command != after.command:
            yield Change("~", "process", str(pid), _command(before), _command(after))
        for kind, one, other in zip(KINDS, before.namespaces, after.namespaces, strict=True):
            if one != other:
                key = None if isinstance(other, Unknown) else other
                words = [
                    k.reason if isinstance(k, Unknown) else f"{kind}:[{k.inode}]"
                    for k in (one, other)
                ]
                yield Change("~", "process", f"{pid} {kind}", words[0], words[1], key)
        one_status, other_status = before.status, after.status
        if (
            one_status is not None
            and other_status is not None
            and not isinstance(one_status, Unknown)
            and not isinstance(other_status, Unknown)
        ):
            for name in ("inheritable", "permitted", "effective", "bounding", "ambient"):
                lost = getattr(one_status, name) & ~getattr(other_status, name)
                gained = getattr(other_status, name) & ~getattr(one_status, name)
                if lost:
                    yield Change("-", "capability", f"{pid} {name}", ", ".join(names(lost)), "")
                if gained:
                    yield Change("+", "capability", f"{pid} {name}", "", ", ".join(names(gained)))
            if one_status.uids != other_status.uids:
                yield Change(
                    "~", "credential", f"{pid} user ids", _words(one_status.uids),
                    _words(other_status.uids),
                )  # fmt: skip
        if before.cgroups != after.cgroups:
            paths = [
                " ".join(dict.fromkeys(g.path for g in p.cgroups))
                if p.cgroups and not isinstance(p.cgroups, Unknown)
                else ""
                for p in (before, after)
            ]
            if paths[0] != paths[1]:
                yield Change("~", "cgroup", str(pid), paths[0], paths[1])


def _holders(one: Space, other: Space) -> Iterator[Change]:
    kept = [{h for h in space.holders if h.how not in ("child", "owned")} for space in (one, other)]
    for holder in sorted(kept[0] - kept[1], key=str):
        yield Change("-", "holder", one.kind, _holder_words(holder), "", one.key)
    for holder in sorted(kept[1] - kept[0], key=str):
        yield Change("+", "holder", one.kind, "", _holder_words(holder), one.key)


def _holder_words(holder: object) -> str:
    how, pid, number, path, _ = holder  # type: ignore[misc]
    return f"{how} {path}" if path else f"{how} {number} of process {pid}"  # type: ignore[has-type]


def _tables(
    a: MountTable | tuple[Mount, ...] | Unknown,
    b: MountTable | tuple[Mount, ...] | Unknown,
    key: Key | None,
    same: bool,
) -> Iterator[Change]:
    """The mounts of two tables: by their numbers in one namespace, by their targets in two."""
    one = a.mounts if isinstance(a, MountTable) else a
    other = b.mounts if isinstance(b, MountTable) else b
    if isinstance(one, Unknown) or isinstance(other, Unknown):
        if one != other:
            yield Change("~", "mount", "all", _words(one), _words(other), key)
        return
    if one is other:
        return
    name = _by_number if same else _by_place
    before, after = _named(one, name), _named(other, name)
    for place, mount in before.items():
        if place not in after:
            yield Change("-", "mount", mount.target, _mount_words(mount, same), "", key)
    for place, mount in after.items():
        old = before.get(place)
        if old is None:
            yield Change("+", "mount", mount.target, "", _mount_words(mount, same), key)
            continue
        words = _mount_words(old, same), _mount_words(mount, same)
        another = (old.device, old.root) != (mount.device, mount.root)
        if same and old.target != mount.target:
            words = f"{words[0]} at {old.target}", f"{words[1]} at {mount.target}"
        if another and words[0] == words[1]:
            what = "root" if old.device == mount.device else "file system"
            words = words[0], f"{words[1]}, of another {what}"
        if words[0] != words[1]:
            yield Change("~", "mount", mount.target, *words, key)


def _by_number(mount: Mount) -> tuple[object, ...]:
    return (mount.id, mount.device, mount.root)


def _by_place(mount: Mount) -> tuple[object, ...]:
    return (mount.target,)


def _named(
    mounts: Iterable[Mount], name: Callable[[Mount], tuple[object, ...]]
) -> dict[tuple[object, ...], Mount]:
    """The mounts by a name; a second one of the same name is another thing than the first."""
    found: dict[tuple[object, ...], Mount] = {}
    for mount in mounts:
        place = name(mount)
        number = 0
        while (*place, number) in found:
            number += 1
        found[(*place, number)] = mount
    return found


def _mount_words(mount: Mount, numbers: bool) -> str:
    """A mount in words; its peer groups by number within one namespace, by type otherwise."""
    spread = mount.propagation
    if numbers and mount.shared:
        spread += f" shared:{mount.shared}"
    if numbers and mount.master:
        spread += f" master:{mount.master}"
    source = mount.source.replace(" ", r"\040")  # as in mountinfo: a blank ends it
    return f"{mount.fstype} {source} {','.join(mount.options)} {spread}"


def _lasting(space: Space) -> tuple[object, ...]:
    """What no other namespace ever has: its 64-bit number, or the inode where there is none."""
    return (space.kind, space.id or space.key)


def _space_words(space: object) -> str:
    if isinstance(space, Unknown):
        return space.reason
    return f"{space.kind}:[{space.key.inode}]"  # type: ignore[attr-defined]


def _of_host(snapshot: Snapshot, kind: str) -> str:
    """The namespace of a process in words, with a word where it is the host's own."""
    words = _space_words(snapshot.namespaces[kind])
    return f"{words} of the host" if kind in snapshot.shared else words


def _command(process: object) -> str:
    words = process.command  # type: ignore[attr-defined]
    return " ".join(words) if words and not isinstance(words, Unknown) else process.name  # type: ignore[attr-defined]


def _sign(before: str, after: str) -> str:
    return "~" if before and after else "+" if after else "-"


def _words(value: object) -> str:
    if isinstance(value, Unknown):
        return value.reason
    if isinstance(value, tuple):
        return ", ".join(
            " ".join(map(str, item)) if isinstance(item, tuple) else str(item) for item in value
        )
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else str(value)
