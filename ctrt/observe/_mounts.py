"""What follows from mount tables: the tree, what is hidden, who shares with whom, what is locked.

Source: mount_namespaces(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctrt.linux.namespaces import Key
from ctrt.observe._values import Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctrt.linux.mountinfo import Mount
    from ctrt.linux.mounttree import NumberedMount
    from ctrt.observe._system import MountTable, System


class Member(NamedTuple):
    """A mount, and the mount namespace that it is in."""

    space: Key
    mount: Mount


class PeerGroup(NamedTuple):
    """The mounts, in whichever mount namespaces, that share their mount events.

    `members` both send and receive; `receivers` ("slaves") only receive from the group.
    `masters` are the groups that the members receive from: one at most is the rule, where a
    shared mount was made a slave and then shared again. A group without members is one that
    this observer cannot see into, or whose `receivers` outlived it.
    """

    id: int
    members: tuple[Member, ...]
    receivers: tuple[Member, ...]
    masters: tuple[int, ...]


class IdMapping(NamedTuple):
    """The ids that an id-mapped mount shows: as on disk inside -> as seen through the mount."""

    mount: Mount
    uid_map: tuple[tuple[int, int, int], ...]
    gid_map: tuple[tuple[int, int, int], ...]


class Mounted(NamedTuple):
    """The mounts of a mount namespace as a whole, also of one that no process is in.

    `covered` are the ids of those that another mount hides, `host_groups` the peer groups that
    the observer's own mount namespace is in as well.
    """

    key: Key
    mounts: tuple[Mount, ...] | Unknown
    covered: frozenset[int]
    host_groups: frozenset[int]


class HostPath(NamedTuple):
    """A path of one mount namespace, as another one has it.

    `path` is None where the other namespace has no mount of that file system with the file
    in it; `device` and `inside` (the path in the file system itself) hold anyway. `covered`
    says that the mount at `path` is hidden by another one.
    """

    path: str | None
    device: str
    inside: str
    covered: bool


def tree(mounts: Iterable[Mount]) -> list[tuple[Mount, int]]:
    """The mounts in the order of a walk through their tree, each with its depth.

    Siblings are in the order of their targets, so that the same mounts give the same tree
    whatever the order they were made in. A mount whose parent is not in the table starts a
    tree: that is how the root of a process that has changed its root looks.
    """
    listed = list(mounts)
    known = {mount.id for mount in listed}
    children: dict[int, list[Mount]] = {}
    for mount in sorted(listed, key=lambda mount: (mount.target, mount.id)):
        # 0 stands above all; the root of the first mount namespace is its own parent.
        above = mount.parent if mount.parent in known and mount.parent != mount.id else 0
        children.setdefault(above, []).append(mount)
    walk: list[tuple[Mount, int]] = []
    waiting = [(mount, 0) for mount in reversed(children.get(0, []))]
    while waiting:
        mount, depth = waiting.pop()
        walk.append((mount, depth))
        waiting += [(child, depth + 1) for child in reversed(children.get(mount.id, []))]
    return walk


def covered(mounts: Iterable[Mount]) -> frozenset[int]:
    """The ids of the mounts that cannot be reached by path, because another one covers them.

    A mount is covered by one on its own root, or by a sibling nearer to the parent's root
    (which must be younger: otherwise it would have become the parent). Whatever is mounted
    below a covered mount is covered too. At "/" it is the other way round: the root
    directory of a process stays what it is, so a mount over it is the one out of reach.
    """
    by_id = {mount.id: mount for mount in mounts}
    children: dict[int, list[Mount]] = {}
    for mount in by_id.values():
        if mount.parent in by_id and mount.parent != mount.id:
            children.setdefault(mount.parent, []).append(mount)
    hidden: set[int] = set()
    out_of_reach: list[int] = []
    for number, siblings in children.items():
        below = by_id[number].target
        nearest = "\0"
        # Sorted like this, all that lies below a target comes straight after it.
        for path, mount in sorted((mount.target + "/", mount) for mount in siblings):
            if mount.target == below == "/" or (path != nearest and path.startswith(nearest)):
                out_of_reach.append(mount.id)
            else:
                nearest = path
                if mount.target == below:
                    hidden.add(number)
    while out_of_reach:
        number = out_of_reach.pop()
        hidden.add(number)
        out_of_reach += [mount.id for mount in children.get(number, ())]
    return frozenset(hidden)


def mounted(system: System, space: Key) -> Mounted:
    """What is mounted in a mount namespace of a scan."""
    table = system.tables[space]
    if isinstance(table, Unknown):
        return Mounted(space, table, frozenset(), frozenset())
    own = system.processes[system.me].namespace("mnt")
    host = own if isinstance(own, Unknown) or own == space else system.tables[own]
    groups = frozenset[int]()
    if not isinstance(host, (Unknown, Key)):
        mine = {mount.shared for mount in host.mounts}
        groups = frozenset(
            group
            for mount in table.mounts
            for group in (mount.shared, mount.master)
            if group and group in mine
        )
    return Mounted(space, table.mounts, covered(table.mounts), groups)


def peer_groups(system: System) -> dict[int, PeerGroup]:
    """The peer groups of all mount tables, joined by their numbers: mount_namespaces(7).

    The numbers are those of mountinfo; they hold for the machine, in every namespace.
    """
    members: dict[int, list[Member]] = {}
    receivers: dict[int, list[Member]] = {}
    masters: dict[int, set[int]] = {}
    for key, table in system.tables.items():
        if isinstance(table, Unknown):
            continue
        for mount in table.mounts:
            if mount.shared:
                members.setdefault(mount.shared, []).append(Member(key, mount))
                masters.setdefault(mount.shared, set())
                if mount.master:
                    masters[mount.shared].add(mount.master)
            if mount.master:
                receivers.setdefault(mount.master, []).append(Member(key, mount))
    return {
        number: PeerGroup(
            number,
            tuple(members.get(number, ())),
            tuple(receivers.get(number, ())),
            tuple(sorted(masters.get(number, ()))),
        )
        for number in sorted({*members, *receivers})
    }


def reached(groups: dict[int, PeerGroup], mount: Mount) -> tuple[Member, ...]:
    """Where a mount made below this one appears as well: its peers, and all that receive.

    Empty for a mount that is not shared. The mount itself is among its peers.
    """
    found: dict[tuple[Key, int], Member] = {}
    waiting = [mount.shared] if mount.shared else []
    seen: set[int] = set()
    while waiting:
        number = waiting.pop()
        if number in seen or number not in groups:
            continue
        seen.add(number)
        for member in (*groups[number].members, *groups[number].receivers):
            found[member.space, member.mount.id] = member
            if member.mount.shared:
                waiting.append(member.mount.shared)
    return tuple(found.values())


def holding(table: MountTable, path: str) -> Mount | None:
    """The mount that a path of a mount table leads to, as far as mounts decide it.

    Symbolic links are not followed; a covered mount is never the answer.
    """
    hidden = covered(table.mounts)
    best = None
    for mount in table.mounts:
        if mount.id in hidden:
            continue
        under = mount.target == "/" or path == mount.target or path.startswith(mount.target + "/")
        if under and (best is None or len(mount.target) >= len(best.target)):
            best = mount
    return best


def translate(system: System, path: str, *, space: Key, into: Key) -> HostPath | Unknown:
    """A path of the mount namespace `space`, as the mount namespace `into` has it.

    The path is absolute and without symbolic links. What joins the two is the file system:
    the same device, and a mount of it whose root contains the file.
    """
    here, there = system.tables[space], system.tables[into]
    if isinstance(here, Unknown):
        return here
    if isinstance(there, Unknown):
        return there
    mount = holding(here, path)
    if mount is None:
        return Unknown("no mount of that namespace holds this path")
    rest = path[len(mount.target) :] if mount.target != "/" else path
    inside = _joined(mount.root, rest)
    hidden = covered(there.mounts)
    candidates = [
        (other.id in hidden, -len(other.root), other.id, other)
        for other in there.mounts
        if other.device == mount.device
        and (other.root == "/" or inside == other.root or inside.startswith(other.root + "/"))
    ]
    if not candidates:
        return HostPath(None, mount.device, inside, False)
    is_covered, _, _, other = min(candidates)
    below = inside if other.root == "/" else inside[len(other.root) :]
    return HostPath(_joined(other.target, below), mount.device, inside, is_covered)


def _joined(head: str, rest: str) -> str:
    joined = f"{head.rstrip('/')}/{rest.strip('/')}".rstrip("/")
    return joined or "/"


def id_mappings(system: System, space: Key) -> tuple[IdMapping, ...] | Unknown:
    """The id-mapped mounts of a mount namespace with their maps (statmount(2), Linux 6.15).

    That a mount is id-mapped stands in mountinfo (the option "idmapped"); the maps are empty
    where the kernel does not tell them to this observer.
    """
    table = system.tables[space]
    if isinstance(table, Unknown):
        return table
    mapped = [mount for mount in table.mounts if "idmapped" in mount.options]
    if not mapped:
        return ()
    numbered: dict[int, NumberedMount] = {}
    if table.id:
        from ctrt.linux import mounttree

        try:
            numbered = {found.mount.id: found for found in mounttree.read(table.id)}
        except OSError:
            numbered = {}
    answers = []
    for mount in mapped:
        found = numbered.get(mount.id)
        if found is None:
            answers.append(IdMapping(mount, (), ()))
        else:
            answers.append(
                IdMapping(
                    mount,
                    tuple((r.inside, r.outside, r.length) for r in found.uid_map),
                    tuple((r.inside, r.outside, r.length) for r in found.gid_map),
                )
            )
    return tuple(answers)


def locked(system: System, space: Key) -> frozenset[int] | Unknown:
    """The ids of the mounts that are locked in a mount namespace, as far as it can be told.

    A less privileged mount namespace gets its copies of the mounts as one unit: none of them
    can be unmounted or made writable alone (mount_namespaces(7)). The kernel does not tell
    which, so it is inferred: mountinfo is in the order in which the mounts came (Linux 6.8),
    so the copies are those at its beginning that a more privileged namespace has as well.
    What was propagated from there later is locked too. The first mount carries the unit and
    is not counted. Where the namespace that the copies were made of has ended, those of its
    mounts that no other namespace has are missing in the answer.
    """
    table = system.tables[space]
    if isinstance(table, Unknown):
        return table
    owner = system.spaces[space].owner
    if not isinstance(owner, Key):
        return owner or Unknown("nobody owns that namespace")
    above = {user.key for user in system.ancestors(owner)} - {owner}
    originals: dict[tuple[str, str, str], list[Mount]] = {}
    outer_groups: set[int] = set()
    for key, other in system.tables.items():
        if not isinstance(other, Unknown) and system.spaces[key].owner in above:
            for mount in other.mounts:
                originals.setdefault((mount.device, mount.root, mount.target), []).append(mount)
                if mount.shared:
                    outer_groups.add(mount.shared)
    answer = set()
    copying = True
    for index, mount in enumerate(table.mounts):
        copying = copying and (mount.device, mount.root, mount.target) in originals
        received = mount.master in outer_groups
        if index and (copying or received):
            answer.add(mount.id)
    return frozenset(answer)
