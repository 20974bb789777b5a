"""From a configuration and a host to a plan: a pure function.

`container()` takes the OCI runtime specification's config.json as a dict; `unshare()` takes
what the options of unshare(1) say. Both give a `Plan` for the same executor. Nothing here
reads the system: what the host allows comes in as a `Host`.
"""

from __future__ import annotations

from ctrt.errors import CtrtError
from ctrt.linux import calls as k
from ctrt.linux import capabilities
from ctrt.runtime.plan import INSIDE, OUTSIDE, Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.runtime.host import Host

    Extents = tuple[tuple[int, int, int], ...]
    Config = dict[str, Any]

_SPEC = "OCI runtime specification, "
_ATTRIBUTES = {
    "ro": (k.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, k.MOUNT_ATTR_RDONLY),
    "nosuid": (k.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, k.MOUNT_ATTR_NOSUID),
    "nodev": (k.MOUNT_ATTR_NODEV, 0),
    "dev": (0, k.MOUNT_ATTR_NODEV),
    "noexec": (k.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, k.MOUNT_ATTR_NOEXEC),
    "noatime": (k.MOUNT_ATTR_NOATIME, k.MOUNT_ATTR__ATIME),
    "strictatime": (k.MOUNT_ATTR_STRICTATIME, k.MOUNT_ATTR__ATIME),
    "relatime": (0, 0),
    "nosymfollow": (k.MOUNT_ATTR_NOSYMFOLLOW, 0),
}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
_NAMESPACE_WHY = {
    "user": "ids and capabilities of its own",
    "mount": "a list of mounts of its own",
    "pid": "process numbers that begin at 1",
    "network": "network devices, addresses and routes of its own",
    "uts": "a host name of its own",
    "ipc": "System V IPC and message queues of its own",
    "cgroup": "its cgroup as the root of what it sees",
    "time": "clocks of its own",
}


class Layers:
    """A root file system made of image layers by overlayfs.

    `lowers` are directories, topmost first; `directory` holds (or will hold) the container's
    own "upper" and "work" directories, and the root file system is mounted over it.
    """

    __slots__ = ("directory", "lowers")

    def __init__(self, lowers: tuple[str, ...], directory: str) -> None:
        self.lowers = lowers
        self.directory = directory


def container(
    config: Config,
    host: Host,
    layers: Layers,
    *,
    subject: str,
    seccomp: bytes | None = None,
    trace: bool = False,
) -> Plan:
    """The plan of a container's start.

    `config` is an OCI runtime configuration, `seccomp` the compiled filter of its profile,
    `subject` what the root file system is called in errors.
    With `trace` the program stops at its first instruction, to be looked at. Raises CtrtError
    for what cannot be planned, naming the place in the configuration.
    """
    linux = config.get("linux", {})
    process = config["process"]
    cwd = process.get("cwd", "/")
    kinds = _namespaces(linux)
    flags = 0
    for kind in kinds:
        flags |= k.NAMESPACE_FLAGS[kind]
    uid_map = _extents(linux.get("uidMappings"), "linux.uidMappings")
    gid_map = _extents(linux.get("gidMappings"), "linux.gidMappings")
    in_userns = "user" in kinds
    notes = list(host.reasons.values())
    idmapped = in_userns and host.idmapped_overlay
    owner = (uid_map[0][1], gid_map[0][1]) if idmapped and uid_map and gid_map else None
    steps = [
        _container_directory(layers, config.get("hostname", ""), owner, uid_map, gid_map, host)
    ]
    cgroup = linux.get("cgroupsPath")
    if cgroup:
        steps.append(_cgroup(cgroup))
    steps.append(_clone(kinds, flags, "cgroup" if cgroup else None))
    if in_userns:
        steps.append(_id_maps(uid_map, gid_map, host))
    if idmapped:
        steps.append(_overlay(layers, OUTSIDE, host, in_userns, idmapped=True))
    steps.append(
        Step(
            "propagation",
            INSIDE,
            [("propagation", "/", k.MS_PRIVATE)],
            why="no mount made here reaches the host, and none of the host comes in",
            source="mount_namespaces(7)",
            needs="CAP_SYS_ADMIN in the user namespace that owns the mount namespace",
        )
    )
    if not idmapped:
        steps.append(_overlay(layers, INSIDE, host, in_userns, idmapped=False))
    entries = [
        _mount(entry, f"mounts[{index}]", kinds, f"bind{index}")
        for index, entry in enumerate(config.get("mounts", []))
    ]
    sources = [call for opened, _ in entries for call in opened]
    if sources:
        steps.append(
            Step(
                "sources of bind mounts",
                INSIDE,
                sources,
                why="they are opened while the process may still go where its caller may go",
                source="open_tree(2), mount(8)",
            )
        )
    steps.append(
        Step(
            "root",
            INSIDE,
            [("attach_root", "layers", layers.directory)],
            why="the image becomes a mount of the container; all paths are resolved below it",
            source="move_mount(2), openat2(2)",
        )
    )
    if in_userns:
        groups: tuple[int, ...] | None = () if _can_set_groups(host) else None
        steps.append(
            Step(
                "become root inside",
                INSIDE,
                [("become", 0, 0, groups)],
                why="files made from here on belong to the container's root, not to the caller",
                source="user_namespaces(7)",
                needs="id 0 to be mapped",
            )
        )
    for entry, (_, step) in zip(config.get("mounts", []), entries, strict=True):
        steps.append(step)
        if entry["destination"].rstrip("/") == "/dev":
            steps.append(_devices())
    if linux.get("sysctl"):
        steps.append(
            Step(
                "kernel parameters",
                INSIDE,
                [
                    ("write_below", f"/proc/sys/{key.replace('.', '/')}", str(value))
                    for key, value in linux["sysctl"].items()
                ],
                why="parameters of the container's own namespaces",
                source=_SPEC + "config-linux.md, Sysctl",
            )
        )
    if linux.get("readonlyPaths"):
        steps.append(
            Step(
                "read-only paths",
                INSIDE,
                [("read_only", tuple(linux["readonlyPaths"]))],
                why="parts of /proc that change the whole kernel may be read but not written",
                source=_SPEC + "config-linux.md, Readonly Paths",
            )
        )
    if linux.get("maskedPaths"):
        steps.append(
            Step(
                "masked paths",
                INSIDE,
                [("mask", tuple(linux["maskedPaths"]))],
                why="parts of /proc and /sys that tell of the host are hidden",
                source=_SPEC + "config-linux.md, Masked Paths",
            )
        )
    if "network" in kinds:
        steps.append(
            Step(
                "loopback",
                INSIDE,
                [("loopback_up",)],
                why="a new network namespace has only lo, and it is down",
                source="network_namespaces(7)",
                needs="CAP_NET_ADMIN in the user namespace that owns the network namespace",
            )
        )
    if config.get("hostname"):
        steps.append(
            Step(
                "host name",
                INSIDE,
                [("hostname", config["hostname"])],
                why="the container is known by its own name",
                source="uts_namespaces(7)",
                needs="CAP_SYS_ADMIN in the user namespace that owns the UTS namespace",
            )
        )
    if config.get("root", {}).get("readonly"):
        steps.append(
            Step(
                "read-only root",
                INSIDE,
                [("read_only_root",)],
                why="the image cannot be written to",
                source="mount_setattr(2)",
            )
        )
    steps.append(
        Step(
            "pivot root",
            INSIDE,
            [("make_below", cwd), ("pivot",), ("chdir", cwd)],
            why="the image becomes the root, and the host's file systems are let go",
            source="pivot_root(2)",
            needs="CAP_SYS_ADMIN in the user namespace that owns the mount namespace",
        )
    )
    steps += _process(process, host, in_userns, seccomp=seccomp, trace=trace)
    return Plan(steps, tuple(notes), subject)


def unshare(
    kinds: tuple[str, ...],
    arguments: tuple[str, ...],
    environment: tuple[str, ...],
    host: Host,
    *,
    fork: bool = False,
    uid_map: Extents = (),
    gid_map: Extents = (),
    deny_setgroups: bool = False,
    propagation: str = "private",
    mount_proc: str | None = None,
    directory: str | None = None,
    die_with_parent: bool = True,
    trace: bool = False,
) -> Plan:
    """The plan of unshare(1): a program in new namespaces, on the host's files.

    `kinds` are namespace types as the OCI specification names them. Without `fork` the program
    itself stays in the old pid and time namespaces, and its children are in the new ones: that
    is what unshare(2) does. `uid_map` and `gid_map` are tuples of (inside, outside, count).
    """
    flags = 0
    for kind in kinds:
        flags |= k.NAMESPACE_FLAGS[kind]
    steps = []
    if fork or not flags & (k.CLONE_NEWPID | k.CLONE_NEWTIME):
        steps.append(_clone(kinds, flags, None))
    else:
        steps.append(
            Step(
                "clone",
                OUTSIDE,
                [("clone", 0, None)],
                why="a child does the rest, so that the caller's namespaces stay as they are",
                source="clone(2)",
            )
        )
        steps.append(
            Step(
                "unshare",
                INSIDE,
                [("unshare", flags)],
                why="without --fork only the children of the program enter the new pid namespace",
                source="unshare(2)",
                needs=_clone_needs(kinds),
            )
        )
    if uid_map or gid_map:
        steps.append(_id_maps(uid_map, gid_map, host, deny_setgroups=deny_setgroups))
        # Credentials are taken anew, so that the ids inside are the mapped ones from the start.
        groups: tuple[int, ...] | None = (
            () if _maps_many(gid_map) and _can_set_groups(host) else None
        )
        if uid_map and gid_map:
            steps.append(
                Step(
                    "become the mapped user",
                    INSIDE,
                    [("become", uid_map[0][0], gid_map[0][0], groups)],
                    why="the program starts as the first id of the map",
                    source="user_namespaces(7)",
                )
            )
    if "mount" in kinds and propagation != "unchanged":
        flag = {"private": k.MS_PRIVATE, "slave": k.MS_SLAVE, "shared": k.MS_SHARED}[propagation]
        steps.append(
            Step(
                "propagation",
                INSIDE,
                [("propagation", "/", flag)],
                why=f"every mount becomes {propagation}, as unshare(1) does it",
                source="mount_namespaces(7)",
            )
        )
    if mount_proc is not None:
        steps.append(
            Step(
                f"mount {mount_proc}",
                INSIDE,
                [
                    ("file_system", "proc", (), _NO_SUID_DEV_EXEC, "mount"),
                    ("attach", "mount", mount_proc),
                ],
                why="/proc shows the processes of the pid namespace that it was mounted in",
                source="pid_namespaces(7)",
                needs="a pid namespace of one's own, and no masked path below the old /proc",
            )
        )
    if directory is not None:
        steps.append(
            Step("directory", INSIDE, [("chdir", directory)], why="--wd", source="unshare(1)")
        )
    calls: list[tuple[Any, ...]] = [("own_descriptors",), ("stdio",), ("session",), ("signals",)]
    if die_with_parent:
        calls.append(("die_with_parent",))
    if trace:
        calls.append(("trace",))
    calls.append(("exec", arguments, environment))
    steps.append(
        Step(
            "exec",
            INSIDE,
            calls,
            why="the program takes the place of the prepared process",
            source="execve(2)",
        )
    )
    return Plan(steps)


_NO_SUID_DEV_EXEC = k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC


def _maps_many(extents: Extents) -> bool:
    return sum(count for _, _, count in extents) > 1


def _can_set_groups(host: Host) -> bool:
    """Setgroups is denied where an unprivileged user maps the one id it has."""
    return host.privileged or host.maps_subordinate_ids


def _namespaces(linux: Config) -> tuple[str, ...]:
    kinds = []
    for index, entry in enumerate(linux.get("namespaces", [])):
        kind = entry.get("type")
        if kind not in k.NAMESPACE_FLAGS:
            raise CtrtError(
                f"linux.namespaces[{index}].type: {kind!r} is not a namespace type; "
                f"they are {', '.join(k.NAMESPACE_FLAGS)}"
            )
        if kind in kinds:
            raise CtrtError(f"linux.namespaces[{index}]: {kind} is listed twice")
        if entry.get("path"):
            raise CtrtError(
                f"linux.namespaces[{index}].path: joining a namespace is not offered yet"
            )
        kinds.append(kind)
    if "mount" not in kinds:
        raise CtrtError("linux.namespaces: a container needs a mount namespace of its own")
    return tuple(kinds)


def _extents(entries: list[dict[str, int]] | None, place: str) -> Extents:
    extents = []
    for index, entry in enumerate(entries or []):
        try:
            extents.append((entry["containerID"], entry["hostID"], entry["size"]))
        except KeyError as error:
            raise CtrtError(f"{place}[{index}]: {error.args[0]} is missing") from None
    return tuple(extents)


def _container_directory(
    layers: Layers,
    hostname: str,
    owner: tuple[int, int] | None,
    uid_map: Extents,
    gid_map: Extents,
    host: Host,
) -> Step:
    base = layers.directory
    calls: list[tuple[Any, ...]] = [
        ("mkdir", f"{base}/upper", 0o755),
        ("mkdir", f"{base}/work", 0o700),
    ]
    hosts = f"127.0.0.1\tlocalhost {hostname}".rstrip() + "\n::1\tlocalhost ip6-localhost\n"
    calls.append(("write", f"{base}/hosts", hosts))
    if owner:
        # The root directory that the container sees is the upper one.
        calls.append(("chown", f"{base}/upper", *owner))
    removal = None
    if not host.privileged and _maps_many(uid_map):
        removal = removal_plan(base, uid_map, gid_map, host).wire()
    return Step(
        "container directory",
        OUTSIDE,
        calls,
        why="what the container writes has a place of its own above the image's layers",
        source="Documentation/filesystems/overlayfs.rst of the kernel",
        undo=(("remove_tree", base, removal),),
    )


def removal_plan(path: str, uid_map: Extents, gid_map: Extents, host: Host) -> Plan:
    """The plan that empties a directory of files that belong to subordinate ids."""
    program = ("/bin/sh", "-c", 'cd "$1" && rm -rf upper work', "sh", path)
    return in_user_namespace(program, ("PATH=/usr/bin:/bin",), uid_map, gid_map, host)


def in_user_namespace(
    arguments: tuple[str, ...],
    environment: tuple[str, ...],
    uid_map: Extents,
    gid_map: Extents,
    host: Host,
) -> Plan:
    """The plan of a program of the host's that runs as root of a user namespace."""
    return unshare(
        ("user",), arguments, environment, host, fork=True, uid_map=uid_map, gid_map=gid_map
    )


def _cgroup(path: str) -> Step:
    parent = path.rsplit("/", 1)[0]
    return Step(
        "cgroup",
        OUTSIDE,
        [("make_directory", parent), ("mkdir", path, 0o755), ("open_directory", path, "cgroup")],
        why="all processes of the container can be counted, limited and killed as one",
        source="cgroups(7)",
        needs="write access to the parent cgroup",
        undo=(("remove_cgroup", path),),
    )


def _clone_needs(kinds: tuple[str, ...]) -> str:
    if "user" in kinds:
        return "the kernel to allow user namespaces (user.max_user_namespaces > 0)"
    return "CAP_SYS_ADMIN" if kinds else ""


def _clone(kinds: tuple[str, ...], flags: int, cgroup: str | None) -> Step:
    why = "; ".join(f"{kind}: {_NAMESPACE_WHY[kind]}" for kind in kinds)
    return Step(
        "clone",
        OUTSIDE,
        [("clone", flags, cgroup)],
        why=f"one call makes the first process in its new namespaces ({why})"
        if kinds
        else "a child does the rest",
        source="clone(2), namespaces(7)",
        needs=_clone_needs(kinds),
    )


def _id_maps(
    uid_map: Extents, gid_map: Extents, host: Host, *, deny_setgroups: bool = False
) -> Step:
    calls: list[tuple[Any, ...]] = []
    own = not host.privileged
    uid_helper = host.newuidmap if own and _maps_many(uid_map) else None
    gid_helper = host.newgidmap if own and _maps_many(gid_map) else None
    if gid_map and (deny_setgroups or (own and gid_helper is None)):
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


def _overlay(layers: Layers, where: str, host: Host, in_userns: bool, *, idmapped: bool) -> Step:
    # trusted.* attributes are for the initial user namespace only; others use user.*.
    options = (("userxattr", ""),) if in_userns and not idmapped else ()
    if idmapped:
        why = "the layers are one tree, seen through the container's id maps: no file is copied"
    else:
        why = "the layers are one tree; what the container writes goes to its own upper layer"
    return Step(
        "layers",
        where,
        [("overlay", layers.lowers, layers.directory, options, idmapped, "layers")],
        why=why,
        source="Documentation/filesystems/overlayfs.rst of the kernel"
        + (", mount_setattr(2)" if idmapped else ""),
        needs="Linux 5.11" if in_userns and not host.privileged else "CAP_SYS_ADMIN",
    )


def _mount(
    entry: Config, place: str, kinds: tuple[str, ...], name: str
) -> tuple[list[tuple[Any, ...]], Step]:
    """The calls that open a bind mount's source under `name`, and the step that mounts."""
    destination = entry.get("destination")
    if not isinstance(destination, str) or not destination.startswith("/"):
        raise CtrtError(f"{place}.destination: {destination!r} is not an absolute path")
    kind = entry.get("type", "bind")
    options = list(entry.get("options", []))
    recursive = "rbind" in options
    attr_set = attr_clr = 0
    data = []
    for option in options:
        if option in ("bind", "rbind", "private", "rprivate"):
            continue
        if option in _ATTRIBUTES:
            add, remove = _ATTRIBUTES[option]
            attr_set = attr_set & ~remove | add
            attr_clr = attr_clr & ~add | remove
        else:
            key, _, value = option.partition("=")
            data.append((key, value))
    source = entry.get("source", "none")
    if kind == "bind" or "bind" in options or recursive:
        if data:
            raise CtrtError(f"{place}.options: {data[0][0]!r} does not go with a bind mount")
        opened = [("bind", source, recursive, attr_set, attr_clr & ~k.MOUNT_ATTR__ATIME, name)]
        return opened, Step(
            f"bind {destination}",
            INSIDE,
            [("attach", name, destination)],
            why="a part of the host's files, at a place in the container",
            source="move_mount(2), mount(8)",
        )
    fstype = kind
    if kind == "cgroup":
        fstype = "cgroup2"
    if fstype == "sysfs" and "network" not in kinds:
        raise CtrtError(f"{place}: sysfs needs a network namespace of the container's own")
    return [], Step(
        f"mount {destination}",
        INSIDE,
        [
            ("file_system", fstype, tuple(data), attr_set, "mount"),
            ("attach", "mount", destination),
        ],
        why=_MOUNT_WHY.get(fstype, f"a {fstype} of the container's own"),
        source=_MOUNT_SOURCE.get(fstype, "mount(2)"),
        needs="CAP_SYS_ADMIN in the user namespace that owns the mount namespace",
    )


_MOUNT_WHY = {
    "proc": "/proc shows the processes of the container's pid namespace",
    "sysfs": "/sys shows the devices of the container's network namespace",
    "tmpfs": "an empty place in memory",
    "devpts": "pseudo-terminals of the container's own",
    "mqueue": "message queues of the container's IPC namespace",
    "cgroup2": "/sys/fs/cgroup begins at the container's own cgroup",
}
_MOUNT_SOURCE = {
    "proc": "proc(5)",
    "sysfs": "sysfs(5)",
    "tmpfs": "tmpfs(5)",
    "devpts": "pts(4)",
    "mqueue": "mq_overview(7)",
    "cgroup2": "cgroup_namespaces(7)",
}


def _devices() -> Step:
    calls: list[tuple[Any, ...]] = []
    for name in _DEVICES:
        calls.append(("bind", f"/dev/{name}", False, 0, 0, "mount"))
        calls.append(("attach", "mount", f"/dev/{name}"))
    calls.append(("symlinks", "/dev", _DEVICE_LINKS))
    return Step(
        "devices",
        INSIDE,
        calls,
        why="the devices that every program expects; mknod(2) is refused in a user namespace, "
        "so the host's nodes are bind-mounted",
        source=_SPEC + "config-linux.md, Default Devices",
    )


def _process(
    process: Config,
    host: Host,
    in_userns: bool,
    *,
    seccomp: bytes | None,
    trace: bool,
) -> list[Step]:
    user = process.get("user", {})
    uid, gid = user.get("uid", 0), user.get("gid", 0)
    groups: tuple[int, ...] | None = tuple(user.get("additionalGids", ()))
    if in_userns and not _can_set_groups(host):
        groups = None
    sets = process.get("capabilities", {})
    masks = {}
    for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        try:
            masks[name] = capabilities.mask(sets.get(name, []))
        except ValueError as error:
            raise CtrtError(f"process.capabilities.{name}: {error}") from None
    steps = [
        Step(
            "descriptors",
            INSIDE,
            [("own_descriptors",), ("stdio",), ("session",), ("signals",)],
            why="the program gets standard input, output and error, and no other descriptor",
            source="clone(2), CLONE_FILES; close_range(2)",
        )
    ]
    no_new_privileges = bool(process.get("noNewPrivileges"))
    filter_step = (
        Step(
            "seccomp",
            INSIDE,
            [("seccomp", seccomp)],
            why="calls that a container has no business with are refused",
            source="seccomp(2)",
            needs="no_new_privs or CAP_SYS_ADMIN",
        )
        if seccomp
        else None
    )
    # Without no_new_privs only CAP_SYS_ADMIN may load a filter, so it goes before the drop.
    if filter_step and not no_new_privileges:
        steps.append(filter_step)
    steps.append(
        Step(
            "capabilities",
            INSIDE,
            [
                ("limit_bounding", masks["bounding"]),
                (
                    "capabilities",
                    uid,
                    gid,
                    groups,
                    masks["effective"],
                    masks["permitted"],
                    masks["inheritable"],
                    masks["ambient"],
                ),
            ],
            why="root of the container keeps what containers need and loses the rest",
            source="capabilities(7)",
            needs="CAP_SETPCAP, CAP_SETUID and CAP_SETGID inside",
        )
    )
    if no_new_privileges:
        steps.append(
            Step(
                "no new privileges",
                INSIDE,
                [("no_new_privileges",)],
                why="no set-user-ID program or file capability gives more than there is now",
                source="PR_SET_NO_NEW_PRIVS(2const)",
            )
        )
        if filter_step:
            steps.append(filter_step)
    calls: list[tuple[Any, ...]] = [("die_with_parent",)]
    if trace:
        calls.append(("trace",))
    calls.append(("exec", tuple(process["args"]), tuple(process.get("env", ()))))
    steps.append(
        Step(
            "exec",
            INSIDE,
            calls,
            why="the program takes the place of the prepared process",
            source="execve(2)",
        )
    )
    return steps
