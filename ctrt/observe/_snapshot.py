"""One moment of one process: its namespaces, its mounts, and who shares them.

"Host" is the process that looks (or the one named as `host`): what the target has in common
with it is not interesting, what differs is the container.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from ctrt.errors import CtrtError
from ctrt.linux import mountinfo, namespaces, processes
from ctrt.observe._capabilities import CapabilitySets, look_up, of_status
from ctrt.observe._mounts import covered

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctrt.linux.mountinfo import Mount
    from ctrt.linux.namespaces import Key, Namespace
    from ctrt.linux.processes import Cgroup, IdRange, Status


_P = ParamSpec("_P")
_T = TypeVar("_T")


class Unknown(NamedTuple):
    """Something that could not be read, and why, in words that fit behind "could not be read"."""

    reason: str


class UserNamespace(NamedTuple):
    """A user namespace on the way from the host's to the target's, with its id maps.

    Ids outside are as the observer has them. The maps are `Unknown` where no process of that
    namespace could be asked.
    """

    key: Key
    initial: bool
    parent: Key | None
    owner_uid: int | None
    uid_map: tuple[IdRange, ...] | Unknown
    gid_map: tuple[IdRange, ...] | Unknown


class Fellow(NamedTuple):
    """A process in at least one of the namespaces that set the target apart from the host.

    `shares` are the kinds of those namespaces; `ns_pids` its pids from the observer's pid
    namespace down to its own.
    """

    pid: int
    name: str
    ns_pids: tuple[int, ...]
    shares: frozenset[str]


class Snapshot(NamedTuple):
    """What `snapshot()` saw.

    `namespaces` and `host` have one entry for each kind of `ctrt.linux.namespaces.KINDS`.
    `users` are the user namespaces involved, the host's first, the target's last; `pids` the
    pid namespaces from the target's outward to the host's. `processes` begins with the
    target. `covered` are ids of mounts that another mount hides; `host_groups` are those peer
    groups of `mounts` that the host's mount namespace has members of as well.
    """

    status: Status
    command: str
    namespaces: dict[str, Namespace | Unknown]
    host: dict[str, Key | Unknown]
    users: tuple[UserNamespace, ...]
    pids: tuple[Namespace, ...]
    processes: tuple[Fellow, ...]
    mounts: tuple[Mount, ...] | Unknown
    covered: frozenset[int]
    host_groups: frozenset[int]
    capabilities: CapabilitySets
    cgroups: tuple[Cgroup, ...] | Unknown

    @property
    def pid(self) -> int:
        """The target's pid, as the observer has it."""
        return self.status.pid

    @property
    def differing(self) -> tuple[str, ...]:
        """The kinds of namespaces in which the target is not where the host is."""
        return tuple(
            kind
            for kind, found in self.namespaces.items()
            if not isinstance(found, Unknown) and found.key != self.host[kind]
        )

    @property
    def shared(self) -> tuple[str, ...]:
        """The kinds of namespaces that the target has in common with the host."""
        return tuple(
            kind
            for kind, found in self.namespaces.items()
            if not isinstance(found, Unknown) and found.key == self.host[kind]
        )

    def __repr__(self) -> str:
        apart = ", ".join(self.differing) or "none"
        return f"<Snapshot of {self.command!r}: own namespaces: {apart}>"


def snapshot(
    pid: int | str = "self",
    *,
    command: str | None = None,
    host: int | str = "self",
    others: bool = True,
) -> Snapshot:
    """Look at a process, once.

    `command` is the name to show for it (its own short name if None). `others` says whether
    to look through all processes for those that share its namespaces; without, the answer
    takes less than half a millisecond however busy the machine is.

    Raises CtrtError when there is no such process. What this process may not read
    (ptrace(2), PTRACE_MODE_READ) becomes an `Unknown` in its place.
    """
    status = look_up(pid)
    number = status.pid if pid == "self" else pid
    try:
        return _look(number, status, command or status.name, host, others)
    except processes.Gone:
        raise CtrtError(f"process {number} ended while it was being looked at") from None


def _look(pid: int | str, status: Status, command: str, host: int | str, others: bool) -> Snapshot:
    found: dict[str, Namespace | Unknown] = {}
    hosts: dict[str, Key | Unknown] = {}
    for kind in namespaces.KINDS:
        found[kind] = _try(namespaces.read, pid, kind)
        hosts[kind] = _try(namespaces.identify, host, kind)
    apart = {
        kind: space.key
        for kind, space in found.items()
        if not isinstance(space, Unknown) and space.key != hosts[kind]
    }
    fellows = [Fellow(status.pid, command, status.ns_pids, frozenset(apart))]
    if others and apart:
        fellows += _fellows(status.pid, apart)
    mounts = _try(mountinfo.read, pid)
    hidden: frozenset[int] = frozenset()
    known: frozenset[int] = frozenset()
    if not isinstance(mounts, Unknown):
        hidden = covered(mounts)
        known = _host_groups(mounts, host, "mnt" in apart)
    pids: tuple[Namespace, ...] = ()
    if "pid" in apart:
        pids = _until(namespaces.ancestors(pid, "pid"), hosts["pid"])
    return Snapshot(
        status,
        command,
        found,
        hosts,
        _users(pid, status, hosts["user"], host) if "user" in apart else (),
        pids,
        tuple(fellows),
        mounts,
        hidden,
        known,
        of_status(status),
        _try(processes.cgroups, pid),
    )


def _try(read: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T | Unknown:
    """The answer, or why there is none; a process that ended ends the whole look."""
    try:
        return read(*arguments, **named)
    except processes.Gone:
        raise
    except PermissionError:
        return Unknown("no permission to look into that process")
    except FileNotFoundError:
        return Unknown("this kernel does not have it")
    except OSError as error:
        return Unknown((error.strerror or str(error)).lower())
    except ValueError as error:
        return Unknown(str(error))


def _fellows(target: int, apart: dict[str, Key]) -> list[Fellow]:
    """The processes that share a namespace with the target, by their pids inside."""
    fellows = []
    for pid in processes.pids():
        if pid == target:
            continue
        try:
            shares = frozenset(
                kind for kind, key in apart.items() if namespaces.identify(pid, kind) == key
            )
            if shares:
                status = processes.status(pid)
                fellows.append(Fellow(pid, status.name, status.ns_pids, shares))
        except OSError:
            continue  # it has ended, or is somebody else's and so not in the target's namespaces
    return sorted(fellows, key=lambda fellow: (fellow.ns_pids[-1], fellow.name, fellow.pid))


def _users(
    pid: int | str, status: Status, host_key: Key | Unknown, host: int | str
) -> tuple[UserNamespace, ...]:
    """The user namespaces from the host's down to the target's."""
    chain = _until(namespaces.ancestors(pid, "user"), host_key)
    askable: dict[Key, int | str] = {chain[0].key: pid}
    if not isinstance(host_key, Unknown):
        askable.setdefault(host_key, host)
    parent = status.parent
    # Who made a nested user namespace is most often the parent, so it is asked for the maps
    # of those in between; the number of generations is bounded by the kernel's nesting limit.
    for _ in range(33):
        if parent <= 0 or all(space.key in askable for space in chain):
            break
        try:
            askable.setdefault(namespaces.identify(parent, "user"), parent)
            parent = processes.status(parent).parent
        except OSError:
            break
    users = []
    for space in reversed(chain):
        uid_map: tuple[IdRange, ...] | Unknown = Unknown("no process of it could be asked")
        gid_map = uid_map
        member = askable.get(space.key)
        if member is not None:
            uid_map = _try(processes.uid_map, member)
            gid_map = _try(processes.gid_map, member)
        users.append(
            UserNamespace(space.key, space.initial, space.parent, space.owner_uid, uid_map, gid_map)
        )
    return tuple(users)


def _until(chain: tuple[Namespace, ...], last: Key | Unknown) -> tuple[Namespace, ...]:
    """The part of a chain of ancestors that ends with the host's namespace."""
    for index, space in enumerate(chain):
        if space.key == last:
            return chain[: index + 1]
    return chain


def _host_groups(mounts: tuple[Mount, ...], host: int | str, apart: bool) -> frozenset[int]:
    """The peer groups of some mounts that the host's mount namespace is in as well."""
    groups = {group for mount in mounts for group in (mount.shared, mount.master) if group}
    if not apart or not groups:
        return frozenset()
    try:
        host_mounts = mountinfo.read(host)
    except (OSError, ValueError):
        return frozenset()
    return frozenset(groups.intersection(mount.shared for mount in host_mounts))
