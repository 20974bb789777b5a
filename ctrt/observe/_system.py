"""The values of the whole system: every namespace, what keeps it alive, and every process.

Keys (`ctrt.linux.namespaces.Key`) join the parts: a process names its namespaces by them, a
namespace its owner and parent, a mount table the namespace it belongs to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctrt.linux.namespaces import KINDS
from ctrt.observe._values import Unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctrt.linux.mountinfo import Mount
    from ctrt.linux.namespaces import Key
    from ctrt.linux.processes import Cgroup, IdRange, Status


class Holder(NamedTuple):
    """Something that keeps a namespace alive, besides the processes in it (namespaces(7)).

    `how` is one of

    - "thread": thread `number` of process `pid` is in it, while the process is elsewhere;
    - "descriptor", "socket": descriptor `number` of process `pid` is of it;
    - "for children": it waits for the children of process `pid`;
    - "mount": it is mounted at `path` in the mount namespace `within`;
    - "child": the user or pid namespace `within` is below it;
    - "owned": the namespace `within` belongs to it (user namespaces).
    """

    how: str
    pid: int = 0
    number: int = 0
    path: str = ""
    within: Key | None = None


class Space(NamedTuple):
    """One namespace.

    `id` is the number that is never used again (0 before Linux 6.18). `owner` is the user
    namespace that it belongs to, `parent` is for user and pid namespaces; None says that there
    is none, `Unknown` that it may not be seen from here. `owner_uid` and the maps are for user
    namespaces only, ids outside being the observer's. `processes` are the pids in it, and
    `holders` whatever else keeps it alive; a namespace whose only holders are "child" or
    "owned" is one of the hidden ones between two others.
    """

    kind: str
    key: Key
    id: int
    initial: bool
    owner: Key | Unknown | None
    parent: Key | Unknown | None
    owner_uid: int | Unknown | None
    uid_map: tuple[IdRange, ...] | Unknown | None
    gid_map: tuple[IdRange, ...] | Unknown | None
    processes: tuple[int, ...]
    holders: tuple[Holder, ...]

    @property
    def hidden(self) -> bool:
        """Whether nothing is in it and nothing points to it: only what is below keeps it."""
        return not self.processes and all(h.how in ("child", "owned") for h in self.holders)


class Process(NamedTuple):
    """One process.

    `namespaces` are in the order of `ctrt.linux.namespaces.KINDS`. `status`, `command` and
    `cgroups` are None in a scan without details. `threads` are those of its threads that are
    not in all of its namespaces, as (thread id, namespaces). `pid_for_children` and
    `time_for_children` are None unless they differ from where the process itself is.
    """

    pid: int
    namespaces: tuple[Key | Unknown, ...]
    status: Status | Unknown | None
    command: tuple[str, ...] | Unknown | None
    cgroups: tuple[Cgroup, ...] | Unknown | None
    threads: tuple[tuple[int, tuple[Key | Unknown, ...]], ...]
    pid_for_children: Key | Unknown | None
    time_for_children: Key | Unknown | None

    def namespace(self, kind: str) -> Key | Unknown:
        """The namespace of a kind that it is in."""
        return self.namespaces[KINDS.index(kind)]

    @property
    def name(self) -> str:
        """Its short name; its number in a scan without details."""
        known = self.status is not None and not isinstance(self.status, Unknown)
        return self.status.name if known else str(self.pid)  # type: ignore[union-attr]


class MountTable(NamedTuple):
    """The mounts of one mount namespace.

    `source` says how they were read: "mountinfo" (with `pid`), or "statmount". `complete` is
    False where only a process with a smaller root could be asked, so that mounts are missing.
    `id` is the number of the mount namespace for listmount(2), 0 when unknown.
    """

    key: Key
    id: int
    mounts: tuple[Mount, ...]
    source: str
    pid: int
    complete: bool


class Unseen(NamedTuple):
    """What the scan could not look at: of which processes (none: in general), and why."""

    what: str
    pids: tuple[int, ...]
    reason: str


class System(NamedTuple):
    """The whole system at one moment, as far as the observer (process `me`) may see it.

    `spaces` are all namespaces that were found, `processes` all processes by pid, `tables`
    the mounts by mount namespace. `gone` are pids that ended during the scan. `unseen` says
    what is missing and why. `moment` is in seconds since the epoch.
    """

    me: int
    moment: float
    spaces: dict[Key, Space]
    processes: dict[int, Process]
    tables: dict[Key, MountTable | Unknown]
    gone: tuple[int, ...]
    unseen: tuple[Unseen, ...]

    def of_kind(self, kind: str) -> tuple[Space, ...]:
        """The namespaces of a kind, the initial one first, then by their first process."""
        return tuple(
            sorted(
                (space for space in self.spaces.values() if space.kind == kind),
                key=lambda s: (not s.initial, s.processes[:1] or (1 << 31,), s.id, s.key.inode),
            )
        )

    def space(self, pid: int, kind: str) -> Space | Unknown:
        """The namespace of a kind that a process is in; KeyError for an unknown pid."""
        key = self.processes[pid].namespace(kind)
        return key if isinstance(key, Unknown) else self.spaces[key]

    def children(self, key: Key) -> tuple[Space, ...]:
        """The user or pid namespaces right below one."""
        kind = self.spaces[key].kind
        return tuple(space for space in self.of_kind(kind) if space.parent == key)

    def owned(self, key: Key) -> tuple[Space, ...]:
        """The namespaces, user ones aside, that belong to a user namespace."""
        return tuple(
            space
            for kind in KINDS
            if kind != "user"
            for space in self.of_kind(kind)
            if space.owner == key
        )

    def ancestors(self, key: Key) -> Iterator[Space]:
        """A user or pid namespace and all that are visible above it, innermost first."""
        at: Key | Unknown | None = key
        while at is not None and not isinstance(at, Unknown):
            space = self.spaces[at]
            yield space
            at = space.parent

    def tree(self, kind: str) -> tuple[tuple[Space, int], ...]:
        """The user or pid namespaces in the order of a walk through them, with their depth."""
        below: dict[object, list[Space]] = {}
        for space in self.of_kind(kind):
            below.setdefault(space.parent if space.parent in self.spaces else None, []).append(
                space
            )
        walk = []
        waiting = [(space, 0) for space in reversed(below.get(None, []))]
        while waiting:
            space, depth = waiting.pop()
            walk.append((space, depth))
            waiting += [(child, depth + 1) for child in reversed(below.get(space.key, []))]
        return tuple(walk)

    def __repr__(self) -> str:
        return f"<System of {len(self.spaces)} namespaces and {len(self.processes)} processes>"
