"""Namespaces of a configuration: made, joined, mapped, and given their clocks and names."""

from __future__ import annotations

from ctrt.errors import CtrtError
from ctrt.linux import calls as k
from ctrt.runtime.plan import INSIDE, OUTSIDE, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.runtime.host import Host

    Call = tuple[Any, ...]
    Config = dict[str, Any]
    Extents = tuple[tuple[int, int, int], ...]

SPEC = "OCI runtime specification, "
_WHY = {
    "user": "ids and capabilities of its own",
    "mount": "a list of mounts of its own",
    "pid": "process numbers that begin at 1",
    "network": "network devices, addresses and routes of its own",
    "uts": "a host name of its own",
    "ipc": "System V IPC and message queues of its own",
    "cgroup": "its cgroup as the root of what it sees",
    "time": "clocks of its own",
}


class Spaces:
    """The namespaces of a configuration: `new` kinds, and `joined` ones as (kind, path)."""

    __slots__ = ("joined", "late", "new")

    def __init__(self, linux: Config) -> None:
        new: list[str] = []
        joined: list[tuple[str, str]] = []
        for index, entry in enumerate(linux.get("namespaces") or ()):
            kind = entry.get("type")
            if kind not in k.NAMESPACE_FLAGS:
                raise CtrtError(
                    f"linux.namespaces[{index}].type: {kind!r} is not a namespace type; "
                    f"they are {', '.join(k.NAMESPACE_FLAGS)}"
                )
            if kind in new or any(kind == other for other, _ in joined):
                raise CtrtError(f"linux.namespaces[{index}]: {kind} is listed twice")
            if entry.get("path"):
                joined.append((kind, entry["path"]))
            else:
                new.append(kind)
        self.new = tuple(new)
        self.joined = tuple(joined)
        self.late: tuple[str, ...] = ()
        """New ones that the child makes itself, for they depend on what is done to it first."""

    def has(self, kind: str) -> bool:
        """Whether the container is not in the caller's namespace of this kind."""
        return kind in self.new or any(kind == other for other, _ in self.joined)

    @property
    def user(self) -> bool:
        """Whether the container's user namespace is not the caller's."""
        return self.has("user")


def flags_of(kinds: tuple[str, ...]) -> int:
    """The clone(2) flags of some kinds."""
    flags = 0
    for kind in kinds:
        flags |= k.NAMESPACE_FLAGS[kind]
    return flags


def extents(entries: list[dict[str, int]] | None, place: str) -> Extents:
    """Id mappings of a configuration as tuples of (inside, outside, count)."""
    found = []
    for index, entry in enumerate(entries or ()):
        try:
            found.append((entry["containerID"], entry["hostID"], entry["size"]))
        except KeyError as error:
            raise CtrtError(f"{place}[{index}]: {error.args[0]} is missing") from None
    return tuple(found)


def first_id(extents: Extents) -> int:
    """Who to be inside: root, or where root is not mapped the first id that is."""
    if any(inside == 0 for inside, _, _ in extents) or not extents:
        return 0
    return extents[0][0]


def maps_many(extents: Extents) -> bool:
    """Whether a map has more than one id."""
    return sum(count for _, _, count in extents) > 1


def _beyond(extents: Extents, own: int) -> bool:
    """Whether a map has another id than the caller's own, which any process may map."""
    return any(outside != own or count > 1 for _, outside, count in extents)


def can_set_groups(host: Host, gid_map: Extents = ()) -> bool:
    """Setgroups is denied where an unprivileged user maps just the one id that it has."""
    return host.can_set_groups or (
        host.maps_subordinate_ids and (not gid_map or _beyond(gid_map, host.gid))
    )


def clone_needs(kinds: tuple[str, ...]) -> str:
    """What new namespaces cannot do without, in words."""
    if "user" in kinds:
        return "the kernel to allow user namespaces (user.max_user_namespaces > 0)"
    return "CAP_SYS_ADMIN" if kinds else ""


def open_joined(spaces: Spaces) -> list[Step]:
    """The step that opens the namespaces to be joined, by the names join-KIND."""
    if not spaces.joined:
        return []
    return [
        Step(
            "namespaces to join",
            OUTSIDE,
            [("open_namespace", kind, path, f"join-{kind}") for kind, path in spaces.joined],
            why="opened before anything is made, so that a wrong path costs nothing",
            source="namespaces(7), setns(2)",
        )
    ]


def joins(kinds: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """What the operations "clone" and "join" take for joined kinds."""
    return tuple((f"join-{kind}", k.NAMESPACE_FLAGS[kind]) for kind in kinds)


def clone(spaces: Spaces, cgroup: str | None) -> list[Step]:
    """The steps that make the first process in its namespaces."""
    joined = tuple(kind for kind, _ in spaces.joined)
    # A process can join for its children only (pid), or cannot come back (user), or would have
    # no right to any more (in a new user namespace): then one in between does it.
    early = joined if "user" in spaces.new or {"user", "pid"} & set(joined) else ()
    at_once = tuple(kind for kind in spaces.new if kind not in spaces.late)
    steps = [made(at_once, cgroup, joins(early))]
    if joined and not early:
        steps.append(join(joined))
    return steps


def made(
    kinds: tuple[str, ...], cgroup: str | None, early: tuple[tuple[str, int], ...] = ()
) -> Step:
    """The step of the clone."""
    why = "; ".join(f"{kind}: {_WHY[kind]}" for kind in kinds)
    call: Call = ("clone", flags_of(kinds), cgroup)
    between = ""
    if early:
        call = (*call, early)
        between = "; a process in between joins the others, which for a pid or user namespace "
        between += "cannot be taken back"
    if kinds:
        reason = f"one call makes the first process in its new namespaces ({why}){between}"
    else:
        reason = f"a child does the rest{between}"
    return Step(
        "clone",
        OUTSIDE,
        [call],
        why=reason,
        source="clone(2), namespaces(7)" + (", setns(2)" if early else ""),
        needs=clone_needs(kinds),
    )


def join(kinds: tuple[str, ...]) -> Step:
    """The step that joins namespaces, in the child."""
    return Step(
        "join namespaces",
        INSIDE,
        [("join", joins(kinds))],
        why=f"the container shares these with others: {', '.join(kinds)}",
        source="setns(2)",
        needs="CAP_SYS_ADMIN in the user namespaces that own them",
    )


def id_maps(
    uid_map: Extents, gid_map: Extents, host: Host, *, deny_setgroups: bool = False
) -> Step:
    """The step that writes the id maps of a new user namespace."""
    calls: list[Call] = []
    # Who has CAP_SETUID and CAP_SETGID may map any id that is mapped here: user_namespaces(7).
    own = not host.capable
    uid_helper = host.newuidmap if own and _beyond(uid_map, host.uid) else None
    gid_helper = host.newgidmap if own and _beyond(gid_map, host.gid) else None
    if deny_setgroups or (gid_map and own and gid_helper is None):
        calls.append(("deny_setgroups",))
    if uid_map:
        calls.append(("map_ids", "uid", uid_map, uid_helper))
    if gid_map:
        calls.append(("map_ids", "gid", gid_map, gid_helper))
    return Step(
        "id maps",
        OUTSIDE,
        calls,
        why="root inside is an ordinary id outside",
        source="user_namespaces(7)" + (", newuidmap(1)" if uid_helper else ""),
        needs="a range in /etc/subuid and /etc/subgid" if uid_helper else "",
    )


def time_offsets(linux: Config) -> Step:
    """The step that makes a time namespace whose clocks differ."""
    offsets = tuple(
        (clock, int(offset.get("secs") or 0), int(offset.get("nanosecs") or 0))
        for clock, offset in linux["timeOffsets"].items()
    )
    return clocks_set(offsets)


def clocks_set(offsets: tuple[tuple[str, int, int], ...]) -> Step:
    """The step that makes a time namespace with these offsets: (clock, seconds, nanoseconds)."""
    return Step(
        "clocks",
        INSIDE,
        [("unshare", k.CLONE_NEWTIME), ("time_offsets", offsets)],
        why="clocks can be set only while no process is in the time namespace",
        source="time_namespaces(7)",
        needs="CAP_SYS_TIME in the user namespace that owns the time namespace",
    )


def cgroup_namespace() -> Step:
    """The step that makes the container's own cgroup the root of what it sees."""
    return Step(
        "cgroup namespace",
        INSIDE,
        [("unshare", k.CLONE_NEWCGROUP)],
        why="made when the process is in its cgroup, which then is the root of what it sees",
        source="cgroup_namespaces(7)",
    )


def ipc_namespace() -> Step:
    """The step that makes an IPC namespace whose message queues are root's of the container."""
    return Step(
        "ipc namespace",
        INSIDE,
        [("unshare", k.CLONE_NEWIPC)],
        why=f"{_WHY['ipc']}; the directory of the queues belongs to who makes it, here root inside",
        source="ipc_namespaces(7), mq_overview(7)",
    )


def names(config: Config) -> list[Step]:
    """The steps that set the names of the UTS namespace."""
    steps = []
    for key, operation, words in (
        ("hostname", "hostname", "host name"),
        ("domainname", "domainname", "domain name"),
    ):
        if not config.get(key):
            continue
        steps.append(
            Step(
                words,
                INSIDE,
                [(operation, config[key])],
                why="the container is known by its own name",
                source="uts_namespaces(7)",
                needs="CAP_SYS_ADMIN in the user namespace that owns the UTS namespace",
            )
        )
    return steps


def sysctls(linux: Config) -> list[Step]:
    """The step that sets kernel parameters of the container's namespaces."""
    parameters = tuple(
        (_sysctl_path(key), str(value)) for key, value in (linux.get("sysctl") or {}).items()
    )
    if not parameters:
        return []
    return [
        Step(
            "kernel parameters",
            INSIDE,
            [("sysctl", parameters)],
            why="parameters of the container's own namespaces",
            source=SPEC + "config-linux.md, Sysctl; sysctl(8)",
        )
    ]


def _sysctl_path(key: str) -> str:
    """A parameter's file below /proc/sys: the first separator tells how it is written.

    net.ipv4.conf.eth0/100.mtu and net/ipv4/conf/eth0.100/mtu are the same: sysctl.d(5).
    """
    for character in key:
        if character == "/":
            return key
        if character == ".":
            return key.translate({ord("."): "/", ord("/"): "."})
    return key


def loopback(spaces: Spaces) -> list[Step]:
    """The step that sets lo up in a new network namespace."""
    if "network" not in spaces.new:
        return []
    return [
        Step(
            "loopback",
            INSIDE,
            [("loopback_up",)],
            why="a new network namespace has only lo, and it is down",
            source="network_namespaces(7)",
            needs="CAP_NET_ADMIN in the user namespace that owns the network namespace",
        )
    ]


def net_devices(linux: Config, host: Host) -> list[Step]:
    """The step that moves network devices of the host into the container."""
    devices = linux.get("netDevices")
    if not devices:
        return []
    if not host.capable:
        raise CtrtError(
            "linux.netDevices: moving network devices is for root (network devices are not "
            "supported in rootless containers)"
        )
    return [
        Step(
            "network devices",
            OUTSIDE,
            [
                ("move_device", device, (entry or {}).get("name") or device)
                for device, entry in devices.items()
            ],
            why="a device is in one network namespace at a time; its addresses come with it",
            source=SPEC + "config-linux.md, Network Devices; network_namespaces(7)",
            needs="CAP_NET_ADMIN on both sides",
        )
    ]
