"""Mounts and devices of a configuration, as steps."""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py

from ctrt.errors import CtrtError
from ctrt.linux import calls as k
from ctrt.linux import ospath
from ctrt.runtime.plan import INSIDE, OUTSIDE, Step
from ctrt.runtime.planner.namespaces import SPEC, Spaces, extents
from ctrt.runtime.planner.roots import ADMIN, PROPAGATION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.runtime.host import Host

    Call = tuple[Any, ...]
    Config = dict[str, Any]

_ATIME = k.MOUNT_ATTR__ATIME
_ATTRIBUTES = {
    "ro": (k.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, k.MOUNT_ATTR_RDONLY),
    "nosuid": (k.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, k.MOUNT_ATTR_NOSUID),
    "nodev": (k.MOUNT_ATTR_NODEV, 0),
    "dev": (0, k.MOUNT_ATTR_NODEV),
    "noexec": (k.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, k.MOUNT_ATTR_NOEXEC),
    "nodiratime": (k.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, k.MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (k.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, k.MOUNT_ATTR_NOSYMFOLLOW),
    # The three ways to keep access times are one field: who sets it clears it first.
    "noatime": (k.MOUNT_ATTR_NOATIME, _ATIME),
    "strictatime": (k.MOUNT_ATTR_STRICTATIME, _ATIME),
    "relatime": (0, _ATIME),
    "atime": (0, _ATIME),
    "norelatime": (k.MOUNT_ATTR_STRICTATIME, _ATIME),
    "nostrictatime": (0, _ATIME),
}
"""Options of mount(8) as (set, cleared) attributes of mount_setattr(2).

Each has a recursive form with an r before it: rro, rnosuid, ...
"""
_SUPERBLOCK = ("sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand")
"""Options that every file system takes: fsconfig(2) has them as flags."""
_NOTHING = (
    "defaults",
    "bind",
    "rbind",
    "remount",
    "silent",
    "loud",
    "iversion",
    "noiversion",
    "acl",
    "noacl",
)
"""Options that say nothing more about the mount here, or are the kernel's to decide."""

_DEVICES = (
    ("null", (1, 3)),
    ("zero", (1, 5)),
    ("full", (1, 7)),
    ("random", (1, 8)),
    ("urandom", (1, 9)),
    ("tty", (5, 0)),
)
_DEVICE_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
_NODES = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}


_OVER_PROC = frozenset(
    f"/proc/{name}"
    for name in (
        *("cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime"),
        *("sys/kernel/ns_last_pid", "sys/crypto/fips_enabled"),
    )
)
"""Files of /proc that file systems such as lxcfs show a container in another way."""


def known_options() -> list[str]:
    """Every option of a mount that is not data for its file system."""
    return sorted(
        {
            *_ATTRIBUTES,
            *(f"r{name}" for name in _ATTRIBUTES),
            *PROPAGATION,
            *_SUPERBLOCK,
            *_NOTHING,
            *("tmpcopyup", "copy-symlink", "src-nofollow", "dest-nofollow"),
            *("idmap", "ridmap"),
        }
    )


def _check_proc(place: str, destination: str, kind: str, source: str, *, bind: bool) -> None:
    """Refuse mounts that would put files of somebody else's in the place of the kernel's /proc.

    The runtime, and programs in the container, trust what they read and write there.
    """
    path = ospath.normal(destination)
    if path.startswith("/proc/") and path not in _OVER_PROC:
        raise CtrtError(
            f"{place}.destination: {destination!r} cannot be mounted because it is inside /proc"
        )
    if path == "/proc" and kind != "proc" and not (bind and _is_proc(source)):
        raise CtrtError(
            f"{place}: what is mounted at /proc cannot be mounted because it is not of type proc"
        )


def _is_proc(source: str) -> bool:
    try:
        descriptor = os.open(source, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return True  # the kernel will say it
    try:
        return k.file_system_of(descriptor) == k.PROC_SUPER_MAGIC
    finally:
        os.close(descriptor)


class Options:
    """The options of one mount, taken apart."""

    __slots__ = (
        "attr_clr",
        "attr_set",
        "bind",
        "copy",
        "cover",
        "data",
        "idmap",
        "inline",
        "link",
        "propagation",
        "rec_clr",
        "rec_set",
        "recursive",
        "source_link",
    )

    def __init__(self, options: list[str]) -> None:
        self.bind = "bind" in options or "rbind" in options
        self.recursive = "rbind" in options
        self.attr_set = self.attr_clr = self.rec_set = self.rec_clr = 0
        self.propagation: list[tuple[int, bool]] = []
        self.data: list[tuple[str, str]] = []
        self.copy = False
        self.link = False
        self.source_link = False
        """The source may be a symbolic link, which is then mounted itself."""
        self.cover = False
        """A symbolic link in the place is covered, not followed."""
        self.idmap = ""
        self.inline = ""
        """The maps of `idmap` in the option itself."""
        for option in options:
            if option in _ATTRIBUTES:
                add, remove = _ATTRIBUTES[option]
                self.attr_set = self.attr_set & ~remove | add
                self.attr_clr = self.attr_clr & ~(0 if remove == _ATIME else add) | remove
            elif option in PROPAGATION:
                flag = PROPAGATION[option]
                self.propagation.append((flag & ~k.MS_REC, bool(flag & k.MS_REC)))
            elif option in _NOTHING:
                pass
            elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
                add, remove = _ATTRIBUTES[option[1:]]
                self.rec_set = self.rec_set & ~remove | add
                self.rec_clr = self.rec_clr & ~(0 if remove == _ATIME else add) | remove
            elif option == "tmpcopyup":
                self.copy = True
            elif option == "copy-symlink":
                self.link = True
            elif option == "src-nofollow":
                self.source_link = True
            elif option == "dest-nofollow":
                self.cover = True
            elif option.partition("=")[0] in ("idmap", "ridmap"):
                self.idmap, _, self.inline = option.partition("=")
            else:
                key, _, value = option.partition("=")
                self.data.append((key, value))


class Mounts:
    """The steps of all mounts: those that open sources, and those that attach them in order."""

    __slots__ = (
        *("_as_caller", "_bundle", "_maps", "_root"),
        *("after", "attach", "early", "notes", "sources"),
    )

    def __init__(
        self, config: Config, spaces: Spaces, host: Host, bundle: str, root: str = ""
    ) -> None:
        self._bundle = bundle
        self._root = ospath.normal(self._from_bundle(root)) if root else ""
        # In a new user namespace the child has none of the caller's rights on the way there.
        self._as_caller = host.capable and "user" in spaces.new
        self.sources: list[Call] = []
        self.early: list[Call] = []
        """Calls outside, which need the rights of who starts the container: id-mapped mounts."""
        self.attach: list[Step] = []
        self.notes: list[str] = []
        self.after: list[Call] = []
        """Calls that make mounts read-only when all others have their places."""
        linux = config.get("linux") or {}
        self._maps = {
            "uids": extents(linux.get("uidMappings"), "linux.uidMappings"),
            "gids": extents(linux.get("gidMappings"), "linux.gidMappings"),
        }
        label = linux.get("mountLabel")
        for index, entry in enumerate(config.get("mounts") or ()):
            self._add(entry, index, spaces, host, label)

    def _from_bundle(self, path: str) -> str:
        return path if path.startswith("/") else f"{self._bundle or '.'}/{path}"

    def _inside(self, path: str) -> str:
        """What a path of the host is called below the container's root; "" if it is not there."""
        if not self._root or self._root == "/":
            return ""
        path = ospath.normal(path)
        if path != self._root and not path.startswith(f"{self._root}/"):
            return ""
        return path[len(self._root) :] or "/"

    def _add(
        self, entry: Config, index: int, spaces: Spaces, host: Host, label: str | None
    ) -> None:
        place = f"mounts[{index}]"
        destination = entry.get("destination")
        if not isinstance(destination, str) or not destination:
            raise CtrtError(f"{place}.destination: {destination!r} is not an absolute path")
        if not destination.startswith("/"):
            # Once allowed, and said to be below the root: config.md, Mounts.
            destination = f"/{destination}"
        # Runtimes have always taken it with the root's own path before it, too.
        destination = self._inside(destination) or destination
        options = Options(list(entry.get("options") or ()))
        kind = entry.get("type") or ("bind" if options.bind else "")
        if kind == "bind":
            options.bind = True
        _check_proc(place, destination, kind, entry.get("source") or "", bind=options.bind)
        if options.bind:
            self._bind(entry, place, index, destination, options)
        elif kind == "cgroup" and host.cgroup_v1:
            self._cgroup_v1(destination, options, host, spaces)
        else:
            self._file_system(entry, place, kind, destination, options, spaces, label)

    def _bind(
        self,
        entry: Config,
        place: str,
        index: int,
        destination: str,
        options: Options,
    ) -> None:
        name = f"bind{index}"
        source = entry.get("source")
        if not source:
            raise CtrtError(f"{place}.source: a bind mount needs one")
        source = self._from_bundle(source)
        for key, _ in options.data:
            self.notes.append(f"{place}.options: {key!r} has no effect on a bind mount")
        changed = attribute_calls(name, options)
        attached = attach_call(name, destination, options)
        uid_map = extents(entry.get("uidMappings"), f"{place}.uidMappings")
        gid_map = extents(entry.get("gidMappings"), f"{place}.gidMappings")
        if options.inline and not (uid_map or gid_map):
            from ctrt.runtime.planner import inline_maps

            told = f"{place}.options: {options.idmap}"
            uid_map, gid_map = inline_maps.parse(options.inline, told, self._maps)
        mapped = bool(options.idmap or uid_map or gid_map)
        # In the mount namespace of a user namespace the kernel keeps what access times are kept.
        locked = self._as_caller and (options.attr_set | options.rec_set) & _ATIME
        inside = "" if options.link or locked else self._inside(source)
        idmap: Call = ("idmap", name, f"{name}-ids", options.idmap == "ridmap")
        calls: list[Call] = []
        follow = (False,) if options.source_link else ()
        if inside:
            # It may be in a mount that comes before this one.
            if mapped:
                changed[:0] = [("slave", name), idmap]
            if self._as_caller:
                opened: Call = ("bind_inside", self._root, inside, options.recursive, name, *follow)
                step = _as_caller(f"bind {destination}: its source", [opened, *changed])
                self.attach.append(step)
            else:
                calls.append(("open_inside", inside, name, *follow))
                calls += [("copy_tree", name, options.recursive), *changed]
            calls.append(attached)
        elif mapped or locked:
            # Opened from the caller's own mounts, it would be their peer.
            opened = ("bind", source, options.recursive, name, *follow)
            self.early += [opened, ("slave", name), *changed]
            calls = [attached]
        elif options.link:
            link = ("bind_link", source, options.recursive, name, tuple(changed))
            self.sources.append(link)
            calls = [("attach_link", *attached[1:])]
        else:
            self.sources.append(("open_source", source, name, *follow))
            calls = [("copy_tree", name, options.recursive), *changed, attached]
        if mapped:
            self.early.append(("open_id_maps", uid_map, gid_map, f"{name}-ids"))
            if not inside:
                self.early.append(idmap)
        why = "a part of the host's files, at a place in the container"
        if mapped:
            why += ", seen with other owners"
        self.attach.append(
            Step(
                f"bind {destination}",
                INSIDE,
                calls,
                why=why,
                source="open_tree(2), move_mount(2), mount(8)"
                + (", mount_setattr(2)" if mapped else ""),
            )
        )

    def _file_system(
        self,
        entry: Config,
        place: str,
        kind: str,
        destination: str,
        options: Options,
        spaces: Spaces,
        label: str | None,
    ) -> None:
        if not kind or kind == "none":
            raise CtrtError(
                f"{place}.type: {kind!r} goes with the options bind and rbind only; name the "
                "file system"
            )
        fstype = "cgroup2" if kind == "cgroup" else kind
        data = list(options.data)
        if fstype == "devpts" and not any(key == "newinstance" for key, _ in data):
            pass  # every mount of devpts is an instance of its own since Linux 4.7
        if label and fstype in ("tmpfs", "devpts", "ramfs"):
            data.append(("context", label))
        instead = ""
        if fstype == "sysfs" and "network" not in spaces.new:
            instead = "/sys"
        elif fstype == "mqueue" and "ipc" not in spaces.new:
            instead = "/dev/mqueue"
        elif fstype == "proc" and not spaces.has("pid"):
            instead = "/proc"
        elif fstype == "cgroup2":
            instead = "/sys/fs/cgroup"
        late = fstype == "tmpfs" and options.attr_set & k.MOUNT_ATTR_RDONLY
        attributes = options.attr_set & ~(k.MOUNT_ATTR_RDONLY if late else 0) | options.rec_set
        source = entry.get("source") or ""
        call: Call = ("file_system", fstype, tuple(data), attributes, "mount")
        named = "" if source in ("none", fstype, kind) else source
        if fstype == "tmpfs" and not any(key == "mode" for key, _ in data):
            call = (*call, named, instead, destination)
        elif instead or named:
            call = (*call, source or fstype, instead)
        calls: list[Call] = [call]
        if label and fstype == "mqueue":
            # Its files exist since the namespace does: the kernel takes no context= any more.
            calls.append(("label_top", "mount", label))
        if fstype == "tmpfs" and options.copy:
            calls.append(("like_target", "mount", destination))
        calls.append(attach_call("mount", destination, options, fstype in ("proc", "sysfs")))
        if late:
            # What is mounted below it still needs its mount point made.
            self.after.append(("attributes_below", destination, k.MOUNT_ATTR_RDONLY, 0, False))
        why = _WHY.get(fstype, f"a {fstype} of the container's own")
        if instead and fstype != "cgroup2":
            why += f"; where the kernel refuses a new one, the host's {instead} takes its place"
        self.attach.append(
            Step(
                f"mount {destination}",
                INSIDE,
                calls,
                why=why,
                source=_SOURCE.get(fstype, "mount(2)"),
                needs=ADMIN,
            )
        )

    def _cgroup_v1(self, destination: str, options: Options, host: Host, spaces: Spaces) -> None:
        """All hierarchies below one tmpfs, as every machine with cgroup v1 has them."""
        attributes = options.attr_set & ~k.MOUNT_ATTR_RDONLY
        calls: list[Call] = [
            ("file_system", "tmpfs", (("mode", "755"),), attributes, "mount"),
            ("attach", "mount", destination),
        ]
        links: list[tuple[str, str]] = []
        for directory, fstype, data in host.cgroup_v1:
            if spaces.has("cgroup"):
                call: Call = ("file_system", fstype, data, options.attr_set, "mount")
            else:
                call = ("bind_cgroup", fstype, data, options.attr_set, "mount")
            calls += [call, ("attach", "mount", f"{destination}/{directory}")]
            names = [key for key, value in data if not value and key != "none"]
            if len(names) > 1:
                links += [(name, directory) for name in names]
        if links:
            calls.append(("symlinks", destination, tuple(links)))
        if options.attr_set & k.MOUNT_ATTR_RDONLY:
            self.after.append(("attributes_below", destination, k.MOUNT_ATTR_RDONLY, 0, False))
        self.attach.append(
            Step(
                f"mount {destination}",
                INSIDE,
                calls,
                why="a directory for each cgroup v1 hierarchy, beginning at the container's own "
                "cgroup",
                source="cgroups(7), cgroup_namespaces(7)",
                needs=ADMIN,
            )
        )

    def mapped_steps(self) -> list[Step]:
        """The step that opens mounts which only the caller may open as they are asked for."""
        return [_as_caller("id-mapped mounts", self.early)] if self.early else []

    def open_steps(self) -> list[Step]:
        """The steps that open sources of bind mounts."""
        steps = []
        if self.sources and self._as_caller:
            opened = tuple(call[1:] for call in self.sources if call[0] == "open_source")
            links = [call for call in self.sources if call[0] != "open_source"]
            steps.append(
                Step(
                    "sources of bind mounts",
                    OUTSIDE,
                    [("sources_as_caller", opened), *links],
                    why="in the container's mount namespace, but with the rights of who starts it",
                    source="setns(2), open_tree(2), mount(8)",
                    needs="CAP_SYS_ADMIN in the user namespace that owns the mount namespace",
                )
            )
        elif self.sources:
            steps.append(
                Step(
                    "sources of bind mounts",
                    INSIDE,
                    self.sources,
                    why="they are opened while the process may still go where its caller may go",
                    source="open_tree(2), mount(8)",
                )
            )
        return steps

    def late_steps(self) -> list[Step]:
        """The step that makes mounts read-only that others were made in."""
        if not self.after:
            return []
        return [
            Step(
                "read-only mounts",
                INSIDE,
                self.after,
                why="not before the mounts below them have their places",
                source="mount_setattr(2)",
            )
        ]


def _as_caller(name: str, calls: list[Call]) -> Step:
    return Step(
        name,
        OUTSIDE,
        calls,
        why="the way there is walked, owners mapped, and access times kept by who may do so",
        source="open_tree(2), mount_setattr(2)",
        needs="CAP_SYS_ADMIN in the user namespace where the file system was mounted",
    )


def attribute_calls(name: str, options: Options) -> list[Call]:
    """The calls that set and clear attributes of an open mount."""
    calls: list[Call] = []
    if options.rec_set or options.rec_clr:
        calls.append(("attributes", name, options.rec_set, options.rec_clr, True))
    if options.attr_set or options.attr_clr:
        calls.append(("attributes", name, options.attr_set, options.attr_clr, False))
    return calls


def attach_call(name: str, path: str, options: Options, ordinary: bool = False) -> Call:
    """The call that attaches a mount, with its propagation types."""
    call: Call = ("attach", name, path)
    if options.propagation or ordinary or options.cover:
        call = (*call, tuple(options.propagation))
    if options.cover:
        return (*call, ordinary, False)
    return (*call, True) if ordinary else call


_WHY = {
    "proc": "/proc shows the processes of the container's pid namespace",
    "sysfs": "/sys shows the devices of the container's network namespace",
    "tmpfs": "an empty place in memory",
    "devpts": "pseudo-terminals of the container's own",
    "mqueue": "message queues of the container's IPC namespace",
    "cgroup2": "/sys/fs/cgroup begins at the container's own cgroup",
}
_SOURCE = {
    "proc": "proc(5)",
    "sysfs": "sysfs(5)",
    "tmpfs": "tmpfs(5)",
    "devpts": "pts(4)",
    "mqueue": "mq_overview(7)",
    "cgroup2": "cgroup_namespaces(7)",
}


def devices(config: Config, spaces: Spaces, host: Host) -> list[Step]:
    """The step that makes the default devices, those of the configuration, and the links.

    Where /dev is the host's, a bind mount, it is left as it is.
    """
    for entry in config.get("mounts") or ():
        if (entry.get("destination") or "").rstrip("/") == "/dev" and (
            entry.get("type") == "bind" or {"bind", "rbind"} & set(entry.get("options") or ())
        ):
            return []
    may = host.privileged and not spaces.user
    linux = config.get("linux") or {}
    listed = linux.get("devices") or ()
    outside: list[Call] = []
    calls: list[Call] = []
    made = {entry["path"] for entry in listed}
    for name, number in _DEVICES:
        path = f"/dev/{name}"
        if path in made:
            continue
        if may:
            calls.append(("node", path, 0o020666, number, (0, 0)))
        else:
            calls += _bound(path)
    for index, entry in enumerate(listed):
        path, kind = entry["path"], entry["type"]
        if ospath.normal(path) == "/dev/ptmx":
            continue  # always the link to that of the container's own devpts: config-linux.md
        number = (int(entry.get("major") or 0), int(entry.get("minor") or 0))
        mode = _NODES[kind] | (0o666 if entry.get("fileMode") is None else entry["fileMode"])
        owner = (int(entry.get("uid") or 0), int(entry.get("gid") or 0))
        if kind == "p" or may:
            calls.append(("node", path, mode, number, owner))
        elif host.has("CAP_MKNOD") and "user" in spaces.new:
            name = f"device{index}"
            mapped = _outside_owner(owner, linux)
            outside.append(("node_outside", path, mode, number, mapped, name))
            calls.append(("attach", name, path))
        else:
            calls += _bound(path)
    calls.append(("symlinks", "/dev", _DEVICE_LINKS))
    if (config.get("process") or {}).get("terminal"):
        # What the terminal is mounted on: later /dev may be read-only.
        calls.append(("make_below", "/dev/console", "file"))
    why = "the devices that every program expects"
    if listed:
        why += ", and those of the configuration"
    if not may:
        why += "; mknod(2) is refused in a user namespace, so the host's nodes are bind-mounted"
    steps = []
    if outside:
        steps.append(
            Step(
                "device nodes",
                OUTSIDE,
                outside,
                why="mknod(2) is refused in a user namespace; here they get their owner and mode",
                source="mknod(2), open_tree(2)",
                needs="CAP_MKNOD",
            )
        )
    return [
        *steps,
        Step(
            "devices",
            INSIDE,
            calls,
            why=why,
            source=SPEC + "config-linux.md, Devices and Default Devices",
            needs="CAP_MKNOD" if may else "",
        ),
    ]


def _outside_owner(owner: tuple[int, int], linux: Config) -> tuple[int, int]:
    """The ids of the host that ids of the container are mapped to; 0 where they are not."""
    found = []
    for number, key in zip(owner, ("uidMappings", "gidMappings"), strict=True):
        mapped = 0
        for inside, outside, count in extents(linux.get(key), f"linux.{key}"):
            if inside <= number < inside + count:
                mapped = outside + number - inside
        found.append(mapped)
    return found[0], found[1]


def _bound(path: str) -> list[Call]:
    return [("bind", path, False, "mount"), ("attach", "mount", path)]


def paths(linux: Config) -> list[Step]:
    """The steps that make paths read-only and hide others."""
    steps = []
    if linux.get("readonlyPaths"):
        steps.append(
            Step(
                "read-only paths",
                INSIDE,
                [("read_only", tuple(linux["readonlyPaths"]))],
                why="parts of /proc that change the whole kernel may be read but not written",
                source=SPEC + "config-linux.md, Readonly Paths",
            )
        )
    if linux.get("maskedPaths"):
        steps.append(
            Step(
                "masked paths",
                INSIDE,
                [("mask", tuple(linux["maskedPaths"]))],
                why="parts of /proc and /sys that tell of the host are hidden",
                source=SPEC + "config-linux.md, Masked Paths",
            )
        )
    return steps
