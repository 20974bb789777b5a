"""One moment of one process: its namespaces, its mounts, and who shares them.

"Host" is the process that looks (or the one named as `host`): what the target has in common
with it is not interesting, what differs is the container.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from ctrt.errors import CtrtError
from ctrt.linux import mountinfo, namespaces, processes
from ctrt.linux.namespaces import Key
from ctrt.observe._capabilities import CapabilitySets, look_up, of_status
from ctrt.observe._inner import Inner, look
from ctrt.observe._mounts import covered
from ctrt.observe._values import ABSENT, Unknown, attempt, without

if TYPE_CHECKING:
    from ctrt.linux.mountinfo import Mount
    from ctrt.linux.namespaces import Namespace
    from ctrt.linux.processes import Cgroup, IdRange, Status


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
    groups of `mounts` that the host's mount namespace has members of as well. `inner` is what
    the target's own namespaces hold, where others were looked through too.
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
    inner: Inner = Inner()

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
    to look through all processes for those that share its namespaces, and to ask for what these
    hold; without, the answer takes a fraction of a millisecond however busy the machine is.

    Raises CtrtError when there is no such process. What this process may not read
    (ptrace(2), PTRACE_MODE_READ) becomes an `Unknown` in its place.
    """
    status = look_up(pid)
    number = status.pid if pid == "self" else pid
    try:
        return _look(number, status, command or status.name, host, others)
    except processes.Gone:
        if status.state == "Z":
            raise CtrtError(
                f"process {number} ({status.name}) has ended, and its parent, process "
                f"{status.parent}, has not waited for it yet: it is in no namespaces any more"
            ) from None
        raise CtrtError(f"process {number} ended while it was being looked at") from None


def _look(pid: int | str, status: Status, command: str, host: int | str, others: bool) -> Snapshot:
    found: dict[str, Namespace | Unknown] = {}
    keys = _keys(pid)
    same = str(pid) == str(host) or (host == "self" and status.pid == os.getpid())
    hosts = keys if same else _keys(host)
    chains: dict[str, tuple[Namespace, ...]] = {}
    for kind, key in keys.items():
        if isinstance(key, Unknown):
            found[kind] = key
        elif host == "self" and key == hosts[kind]:
            found[kind] = _own(pid, kind, key)
        elif kind in ("user", "pid") and key != hosts[kind]:
            # Those above are wanted too, and the chain begins with this one.
            chain = attempt(namespaces.ancestors, pid, kind)
            if isinstance(chain, Unknown):
                found[kind] = chain
            else:
                found[kind], chains[kind] = chain[0], chain
        else:
            found[kind] = attempt(namespaces.read, pid, kind)
    apart = {
        kind: space.key
        for kind, space in found.items()
        if not isinstance(space, Unknown) and space.key != hosts[kind]
    }
    fellows = [Fellow(status.pid, command, status.ns_pids, frozenset(apart))]
    if others and apart:
        fellows += _fellows(status.pid, apart)
    mounts = attempt(mountinfo.read, pid)
    hidden: frozenset[int] = frozenset()
    known: frozenset[int] = frozenset()
    if not isinstance(mounts, Unknown):
        hidden = _covered(mounts)
        known = _host_groups(mounts, host, "mnt" in apart)
    pids = _until(chains["pid"], hosts["pid"]) if "pid" in chains else ()
    return Snapshot(
        status,
        command,
        found,
        hosts,
        _users(pid, status, chains["user"], hosts["user"], host) if "user" in chains else (),
        pids,
        tuple(fellows),
        mounts,
        hidden,
        known,
        of_status(status),
        attempt(_cgroups, pid),
        look(pid, apart, mounts) if others and apart else Inner(),
    )


# The kinds, and where the number begins in the text of their links, as "mnt:[4026531832]".
_LINKS = tuple((kind, len(kind) + 2) for kind in namespaces.KINDS)


def _keys(pid: int | str) -> dict[str, Key | Unknown]:
    """The identities of a process's namespaces, by one walk to its directory."""
    try:
        place = os.open(f"/proc/{pid}/ns", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise processes.process_error(error, f"/proc/{pid}/ns") from None
    device = namespaces.device()
    try:
        return {
            kind: Key._make((device, int(os.readlink(kind, dir_fd=place)[length:-1])))
            for kind, length in _LINKS
        }
    except OSError:
        # Something is refused or missing: what, and why, is asked one by one.
        found = {kind: attempt(namespaces.identify, pid, kind) for kind in namespaces.KINDS}
        return {kind: without(kind) if key is ABSENT else key for kind, key in found.items()}
    finally:
        os.close(place)


_described: dict[str, Namespace] = {}


def _own(pid: int | str, kind: str, key: Key) -> Namespace | Unknown:
    """A namespace that this process is in too: it stays as it is, and is asked for once."""
    known = _described.get(kind)
    if known is not None and known.key == key:
        return known
    answer = attempt(namespaces.read, pid, kind)
    if not isinstance(answer, Unknown):
        _described[kind] = answer
    return answer


_last_covered: tuple[tuple[Mount, ...], frozenset[int]] | None = None


def _covered(mounts: tuple[Mount, ...]) -> frozenset[int]:
    """What is hidden of a table; the same table again has the same answer."""
    global _last_covered
    if _last_covered is None or _last_covered[0] is not mounts:
        _last_covered = (mounts, covered(mounts))
    return _last_covered[1]


_last_cgroups: tuple[bytes, tuple[Cgroup, ...]] = (b"", ())


def _cgroups(pid: int | str) -> tuple[Cgroup, ...]:
    """The cgroups of a process; the same text again has the same answer."""
    global _last_cgroups
    data = processes.read_file(f"/proc/{pid}/cgroup", single=True)
    known, answer = _last_cgroups
    if data != known or not data:
        answer = processes.parse_cgroups(os.fsdecode(data))
        _last_cgroups = data, answer
    return answer


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
    pid: int | str,
    status: Status,
    chain: tuple[Namespace, ...],
    host_key: Key | Unknown,
    host: int | str,
) -> tuple[UserNamespace, ...]:
    """The user namespaces from the host's down to the target's, whose ancestors are `chain`."""
    chain = _until(chain, host_key)
    askable: dict[Key, int | str] = {chain[0].key: pid}
    if not isinstance(host_key, Unknown):
        askable.setdefault(host_key, host)
    parent = status.parent
    # Who made a nested user namespace is most often the parent, so it is asked for the maps
    # of those in between; the number of generations is bounded by the kernel's nesting limit.
    # Whom that does not find is looked for among all processes.
    for _ in range(33):
        if parent <= 0 or all(space.key in askable for space in chain):
            break
        try:
            askable.setdefault(namespaces.identify(parent, "user"), parent)
            parent = processes.status(parent).parent
        except OSError:
            break
    lacking = {space.key for space in chain} - askable.keys()
    for other in processes.pids() if lacking else ():
        try:
            key = namespaces.identify(other, "user")
        except OSError:
            continue
        if key in lacking:
            askable[key] = other
            lacking.discard(key)
            if not lacking:
                break
    users = []
    for space in reversed(chain):
        uid_map: tuple[IdRange, ...] | Unknown = Unknown("no process of it could be asked")
        gid_map = uid_map
        member = askable.get(space.key)
        if member is not None:
            uid_map = attempt(processes.uid_map, member)
            gid_map = attempt(processes.gid_map, member)
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
    if not apart:
        return frozenset()
    groups = {group for mount in mounts for group in (mount.shared, mount.master) if group}
    if not groups:
        return frozenset()
    try:
        host_mounts = mountinfo.read(host)
    except (OSError, ValueError):
        return frozenset()
    return frozenset(groups.intersection(mount.shared for mount in host_mounts))
