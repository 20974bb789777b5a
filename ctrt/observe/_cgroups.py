"""cgroups: the trees of both versions, with limits, use, pressure, and who may write.

Numbers are in bytes, seconds and counts, whatever the file's own unit is. A limit that is not
set ("max", or the largest number of version 1) is None. Source: the kernel's cgroup-v2 and
cgroup-v1 documents, cgroups(7), cgroup_namespaces(7).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from ctrt.errors import CtrtError
from ctrt.linux import mountinfo, processes
from ctrt.observe._values import Unknown
from ctrt.words import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctrt.linux.mountinfo import Mount
    from ctrt.observe._system import System

_UNLIMITED_V1 = 1 << 62  # PAGE_COUNTER_MAX is a little more than this
_LARGEST = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Hierarchy(NamedTuple):
    """A mounted tree of cgroups.

    `version` is 1 or 2. `controllers` are those that it has (on v2: those of its root);
    `name` is that of a version-1 tree without controllers ("systemd").
    """

    version: int
    controllers: tuple[str, ...]
    name: str
    mount: str


class Pressure(NamedTuple):
    """Time lost waiting for a resource: shares (0 to 100) of 10, 60, 300 s; totals in seconds."""

    some: tuple[float, float, float]
    some_total: float
    full: tuple[float, float, float]
    full_total: float


class Cgroup(NamedTuple):
    """One cgroup.

    `path` is below the hierarchy's mount. `processes` are the pids in it (not below it).
    `limits` and `use` are by what they are of: "memory" (bytes), "memory high", "swap",
    "processes", "cpus" (how many processors' time), "cpu weight", "cpu set", "memory nodes",
    "io" (the lines of io.max), and of use only "cpu time" and "throttled" (seconds) and "killed"
    (how many processes, for lack of memory). `raw` are the files of the limits, with the kernel's
    words. `owner` is the uid of its directory, and `delegated`
    says that it is another than the parent's: that user may make cgroups below and move
    processes between them. `type` is v2's "domain", "threaded", ...; "" on v1.
    """

    path: str
    processes: tuple[int, ...] | Unknown
    limits: dict[str, float | str | None]
    use: dict[str, float]
    pressure: dict[str, Pressure]
    frozen: bool | None
    type: str
    owner: int
    delegated: bool
    writable: bool
    controllers: tuple[str, ...]
    raw: tuple[tuple[str, str], ...] = ()


def hierarchies() -> tuple[Hierarchy, ...]:
    """The cgroup trees that are mounted where this process can see them, version 2 first."""
    found: dict[tuple[object, ...], Hierarchy] = {}
    for mount in mountinfo.read():
        if mount.fstype == "cgroup2":
            names = _read(f"{mount.target}/cgroup.controllers").split()
            found.setdefault(("v2",), Hierarchy(2, tuple(names), "", mount.target))
        elif mount.fstype == "cgroup":
            flags = {"rw", "ro", "xattr", "clone_children", "noprefix", "release_agent", "seclabel"}
            words = [w for w in mount.super_options if w.partition("=")[0] not in flags | {"name"}]
            name = next((w[5:] for w in mount.super_options if w.startswith("name=")), "")
            found.setdefault((name, *words), Hierarchy(1, tuple(words), name, mount.target))
    return tuple(sorted(found.values(), key=lambda h: (-h.version, h.controllers, h.name)))


def hierarchy(what: str = "") -> Hierarchy:
    """The tree of a controller ("memory"), of a name ("systemd"), or version 2 ("").

    Raises CtrtError when there is none.
    """
    for found in hierarchies():
        if (found.version == 2 and not what) or what in (*found.controllers, found.name or None):
            return found
    raise CtrtError(
        f"no cgroup tree {'of version 2' if not what else f'with {what}'} is mounted here"
    )


class _Place(NamedTuple):
    """An open directory of a cgroup: its path in words, its files, and the cgroups in it."""

    descriptor: int
    path: str
    files: frozenset[str]
    below: list[str]

    def read(self, file: str) -> str:
        """A file of it; nothing where there is none, or none that may be read."""
        try:
            return self.text(file) if file in self.files else ""
        except OSError:
            return ""

    def text(self, file: str) -> str:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.descriptor)
        try:
            parts = []
            while part := os.read(descriptor, _LARGEST):
                parts.append(part)
        finally:
            os.close(descriptor)
        return os.fsdecode(b"".join(parts))


def cgroup(tree: Hierarchy, path: str = "/") -> Cgroup:
    """One cgroup by its path below the mount; CtrtError when there is none."""
    place = f"{tree.mount}{path}".rstrip("/")
    try:
        # The root of the tree is nobody's gift.
        giver = os.stat(os.path.dirname(place)).st_uid if path.strip("/") else None
        directory = os.open(place, _DIRECTORY)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CtrtError(f"cgroup {path}: {reason}") from None
    try:
        return _cgroup(tree, path, _place(directory, place), giver)
    finally:
        os.close(directory)


def cgroup_tree(tree: Hierarchy, path: str = "/") -> Iterator[tuple[Cgroup, int]]:
    """A cgroup and all below it, in the order of a walk, each with its depth.

    One that is removed meanwhile is left out.
    """
    try:
        top = cgroup(tree, path)
        at = os.open(f"{tree.mount}{path}", _DIRECTORY)
    except (CtrtError, OSError):
        return
    # Names are looked up from the directory that the walk is in, one descriptor at a time: a
    # path from the mount would take the kernel longer with each level, and has a greatest length.
    way = [(path.rstrip("/"), top.owner)]
    try:
        yield top, 0
        waiting = [(name, 1) for name in _place(at, "").below]
        while waiting:
            name, depth = waiting.pop()
            while len(way) > depth:
                at = _moved(at, "..")
                way.pop()
            above, giver = way[-1]
            own = f"{above}/{name}"
            try:
                at = _moved(at, name)
            except OSError:
                continue
            place = _place(at, f"{tree.mount}{own}")
            group = _cgroup(tree, own, place, giver)
            way.append((own, group.owner))
            yield group, depth
            waiting += [(one, depth + 1) for one in place.below]
    except OSError:
        return  # its tree was unmounted
    finally:
        os.close(at)


def _moved(directory: int, name: str) -> int:
    """A descriptor of what is next to a directory, in place of its own; that stays on OSError."""
    other = os.open(name, _DIRECTORY, dir_fd=directory)
    os.close(directory)
    return other


def _place(directory: int, path: str) -> _Place:
    """What is in an open directory, its cgroups from the last to the first."""
    files: list[str] = []
    below: list[str] = []
    try:
        with os.scandir(directory) as scan:
            for entry in scan:
                (below if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
    except OSError:
        pass  # it has been removed
    return _Place(directory, path, frozenset(files), sorted(below, key=in_order, reverse=True))


def _cgroup(tree: Hierarchy, path: str, place: _Place, giver: int | None) -> Cgroup:
    """The cgroup of a directory; `giver` is who owns the one above, None at the root."""
    owner = os.fstat(place.descriptor).st_uid
    pids: tuple[int, ...] | Unknown
    try:
        pids = tuple(map(int, place.text("cgroup.procs").split()))
    except OSError as error:
        # A threaded cgroup has threads of processes, not processes: EOPNOTSUPP.
        pids = Unknown((error.strerror or str(error)).lower())
    limits, use, frozen, raw = _look(place, tree.version)
    pressure = {}
    for resource in ("cpu", "memory", "io"):
        found = _pressure(place.read(f"{resource}.pressure"))
        if found is not None:
            pressure[resource] = found
    return Cgroup(
        path,
        pids,
        limits,
        use,
        pressure,
        frozen,
        place.read("cgroup.type").strip(),
        owner,
        giver is not None and owner != giver,
        os.access("cgroup.procs", os.W_OK, dir_fd=place.descriptor),
        tuple(place.read("cgroup.controllers").split()) or tree.controllers,
        raw,
    )


def cgroup_branch(tree: Hierarchy, pid: int) -> list[tuple[Cgroup, int]]:
    """The cgroup that a process is in, those above it, and those below, with their depths.

    Of the root itself nothing below is told.
    """
    own = "/"
    try:
        for line in processes.cgroups(pid):
            words = {f"name={tree.name}"} if tree.name else set(tree.controllers)
            if line.hierarchy == 0 if tree.version == 2 else set(line.controllers) == words:
                own = line.path
    except OSError:
        return []
    parts = own.strip("/").split("/") if own != "/" else []
    found = []
    for depth in range(len(parts)):
        try:
            found.append((cgroup(tree, "/" + "/".join(parts[:depth])), depth))
        except CtrtError:
            break
    if not parts:
        # All of the machine is below the root: that is another question.
        return [(cgroup(tree, own), 0)]
    return found + [(group, depth + len(parts)) for group, depth in cgroup_tree(tree, own)]


def cgroup_root(system: System, pid: int, tree: Hierarchy) -> str | Unknown:
    """The cgroup that a process's cgroup namespace has as its root, as this process names it.

    The kernel does not tell it outright: it is the root of the cgroup mount that was made in
    that namespace (cgroup_namespaces(7)). A process in this process's own namespace has "/".
    """
    own = system.processes[system.me].namespace("cgroup")
    theirs = system.processes[pid].namespace("cgroup")
    if isinstance(theirs, Unknown):
        return theirs
    if theirs == own:
        return "/"
    key = system.processes[pid].namespace("mnt")
    table = key if isinstance(key, Unknown) else system.tables[key]
    if isinstance(table, Unknown):
        return table
    for mount in reversed(table.mounts):
        if _is_of(mount, tree) and mount.root != "/":
            return mount.root
    return Unknown("nobody has mounted that cgroup tree in there")


def seen_from_inside(path: str, root: str) -> str:
    """What a cgroup's path is for a process whose cgroup namespace has the given root.

    Paths outside of it begin with "/..", as in /proc/PID/cgroup: cgroup_namespaces(7).
    """
    if root == "/":
        return path
    relative = os.path.relpath(path, root)
    return "/" if relative == "." else f"/{relative}"


def members(system: System, tree: Hierarchy) -> dict[str, tuple[int, ...]]:
    """The pids of a scan by their cgroup in a tree (paths as this process names them)."""
    found: dict[str, list[int]] = {}
    for pid, process in system.processes.items():
        if process.cgroups is None or isinstance(process.cgroups, Unknown):
            continue
        for line in process.cgroups:
            if tree.version == 2:
                same = line.hierarchy == 0
            else:
                words = {f"name={tree.name}"} if tree.name else set(tree.controllers)
                same = set(line.controllers) == words
            if same:
                found.setdefault(line.path, []).append(pid)
    return {path: tuple(pids) for path, pids in found.items()}


def _is_of(mount: Mount, tree: Hierarchy) -> bool:
    if tree.version == 2:
        return mount.fstype == "cgroup2"
    words = {f"name={tree.name}"} if tree.name else set(tree.controllers)
    return mount.fstype == "cgroup" and words <= set(mount.super_options)


Limits = dict[str, "float | str | None"]

# By version: of what, and the file that tells it.
_LIMITS = {
    1: (
        ("memory", "memory.limit_in_bytes"),
        ("memory high", "memory.soft_limit_in_bytes"),
        ("memory and swap", "memory.memsw.limit_in_bytes"),
        ("processes", "pids.max"),
        ("cpu shares", "cpu.shares"),
    ),
    2: (
        ("memory", "memory.max"),
        ("memory high", "memory.high"),
        ("swap", "memory.swap.max"),
        ("processes", "pids.max"),
        ("cpu weight", "cpu.weight"),
    ),
}
_USE = {
    1: (
        ("memory", "memory.usage_in_bytes"),
        ("memory and swap", "memory.memsw.usage_in_bytes"),
        ("processes", "pids.current"),
    ),
    2: (
        ("memory", "memory.current"),
        ("swap", "memory.swap.current"),
        ("processes", "pids.current"),
    ),
}
_WORDS = (("cpu set", "cpuset.cpus"), ("memory nodes", "cpuset.mems"), ("io", "io.max"))
# By version: the file, the line in it and its unit, for what a limit has done.
_DONE = {
    1: (
        ("throttled", "cpu.stat", "throttled_time", 1e9),
        ("killed", "memory.oom_control", "oom_kill", 1),
    ),
    2: (
        ("throttled", "cpu.stat", "throttled_usec", 1e6),
        ("killed", "memory.events", "oom_kill", 1),
    ),
}


def _look(
    place: _Place, version: int
) -> tuple[Limits, dict[str, float], bool | None, tuple[tuple[str, str], ...]]:
    """What a cgroup may use, what it uses, whether it is frozen, and the files of the limits."""
    limits: Limits = {}
    raw: list[tuple[str, str]] = []

    def read(file: str) -> str:
        text = place.read(file).strip()
        if text:
            raw.append((f"{place.path}/{file}", text))
        return text

    for name, file in _LIMITS[version]:
        text = read(file)
        if text:
            limits[name] = None if text == "max" or int(text) >= _UNLIMITED_V1 else int(text)
    stat = place.read("cpu.stat")
    if version == 2:
        quota = read("cpu.max").split()
        frozen = _named_line(place.read("cgroup.events"), "frozen")
        spent, second = _named_line(stat, "usage_usec"), 1e6
    else:
        quota = [read(f"cpu.cfs_{part}_us") for part in ("quota", "period")]
        frozen = {"": "", "THAWED": "0"}.get(place.read("freezer.state").strip(), "1")
        spent, second = place.read("cpuacct.usage").strip(), 1e9
    if len(quota) == 2 and all(quota):
        unlimited = quota[0] in ("max", "-1")
        limits["cpus"] = None if unlimited else int(quota[0]) / int(quota[1])
    for name, file in _WORDS:
        text = read(file)
        if text:
            limits[name] = text.replace("\n", "; ")
    use: dict[str, float] = {}
    for name, file in _USE[version]:
        text = place.read(file).strip()
        if text:
            use[name] = int(text)
    if spent:
        use["cpu time"] = int(spent) / second
    for name, file, line, unit in _DONE[version]:
        text = stat if file == "cpu.stat" else place.read(file)
        count = int(_named_line(text, line) or 0)
        if count:
            use[name] = count / unit
    return limits, use, frozen == "1" if frozen else None, tuple(raw)


def _named_line(text: str, name: str) -> str:
    """The value of a line of a text that has one on each, after its name."""
    for line in text.splitlines():
        word, _, value = line.partition(" ")
        if word == name:
            return value
    return ""


def _pressure(text: str) -> Pressure | None:
    """A pressure file: accounting/psi of the kernel's documentation."""
    rows = {}
    for line in text.splitlines():
        word, *pairs = line.split()
        values = [float(pair.partition("=")[2]) for pair in pairs]
        rows[word] = ((values[0], values[1], values[2]), values[3] / 1e6)
    if "some" not in rows:
        return None
    full = rows.get("full", ((0.0, 0.0, 0.0), 0.0))
    return Pressure(rows["some"][0], rows["some"][1], full[0], full[1])


def _read(path: str) -> str:
    """A small file; nothing where there is none, or none that this process may read."""
    try:
        with open(path) as file:
            return file.read(_LARGEST)
    except OSError:
        return ""
