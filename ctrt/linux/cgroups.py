"""Where cgroups are on this machine, and what can be done with one by its files.

A machine has cgroup v2 alone, v1 alone, or both side by side (hybrid). On a hybrid one each
controller is with one of the two: memory may be a v1 hierarchy while hugetlb is v2's. So
nothing here asks "which version is this machine"; a `Layout` says where each controller is.
Source: cgroups(7), the kernel's admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1.
"""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: ospath.py
import time

from ctrt.linux import ospath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_EPERM, _EACCES, _EBUSY = 1, 13, 16
_V1_CONTROLLERS = frozenset(
    "blkio cpu cpuacct cpuset devices freezer hugetlb memory misc net_cls net_prio perf_event pids "
    "rdma".split()
)
_FREEZE_SECONDS = 10


class Layout:
    """Where this machine's cgroups are.

    `v2` is the directory where cgroup v2 is mounted, or None; `v1` maps a controller, or the
    name of a hierarchy without one ("name=systemd"), to the directory of its hierarchy.
    """

    __slots__ = ("own", "v1", "v2")

    def __init__(self, v2: str | None, v1: dict[str, str], own: dict[str, str]) -> None:
        self.v2 = v2
        self.v1 = v1
        self.own = own
        """The caller's cgroup in each hierarchy; v2's has the name ""."""

    def writable(self, path: str) -> bool:
        """Whether a cgroup can be made at a path: its nearest ancestor takes new ones."""
        return os.access(_existing(path), os.W_OK)

    def offers(self, path: str) -> frozenset[str]:
        """The controllers that a v2 cgroup at this path has or can be given.

        Each cgroup on the way passes on what it has enabled, or may enable: one with processes of
        its own may not, the root excepted.
        """
        at = self.v2 or ""
        offered = frozenset(read(f"{at}/cgroup.controllers").split())
        for name in path[len(at) :].strip("/").split("/"):
            if not ospath.is_directory(at):
                return offered  # what is not there yet can pass on all that it gets
            offered |= frozenset(read(f"{at}/cgroup.controllers").split())
            file = f"{at}/cgroup.subtree_control"
            if not os.access(file, os.W_OK) or not _passes_on(at):
                offered = frozenset(read(file).split())
            at = f"{at}/{name}"
        return offered


def _passes_on(directory: str) -> bool:
    """Whether controllers can be enabled for the cgroups below one: it is the root, or empty."""
    is_root = not ospath.exists(f"{directory}/cgroup.type")
    return is_root or not read(f"{directory}/cgroup.procs")


def _existing(path: str) -> str:
    path = path.rstrip("/")
    while path and not ospath.is_directory(path):
        path = path.rpartition("/")[0]
    return path or "/"


def layout(mountinfo: str = "/proc/self/mountinfo", own: str = "/proc/self/cgroup") -> Layout:
    """Read where cgroups are: the mounts of the caller's mount namespace."""
    v2: str | None = None
    v1: dict[str, str] = {}
    roots: dict[str, str] = {}
    for line in read(mountinfo).splitlines():
        before, _, after = line.partition(" - ")
        fields, (fstype, _, options) = before.split(" "), after.split(" ", 2)
        if fstype == "cgroup2":
            # The one at the well-known place, else the first; containers may have more.
            if v2 is None or fields[4] in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
                v2, roots[""] = fields[4], fields[3]
        elif fstype == "cgroup":
            for option in options.split(","):
                if option in _V1_CONTROLLERS or option.startswith("name="):
                    v1.setdefault(option, fields[4])
                    roots.setdefault(option, fields[3])
    paths = {}
    for line in read(own).splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            root = roots.get(name, "/").rstrip("/")
            paths[name] = path.removeprefix(root) or "/" if path.startswith(root) else path
    return Layout(v2, v1, paths)


def unified_mount() -> str | None:
    """The directory where cgroup v2 is mounted, or None: cgroups(7).

    On a machine with v1 hierarchies too, systemd's place for it is /sys/fs/cgroup/unified.
    """
    for path in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if ospath.exists(f"{path}/cgroup.procs") and ospath.exists(
            f"{path}/cgroup.subtree_control"
        ):
            return path
    return None


def unified_path(process: int | str = "self") -> str | None:
    """A process's cgroup v2, as a path below the mount: the line `0::` of /proc/PID/cgroup."""
    for line in read(f"/proc/{process}/cgroup").splitlines():
        if line.startswith("0::"):
            return line[3:]
    return None


# --- files --------------------------------------------------------------------------------


def read(path: str) -> str:
    """A small file as text; "" where it is missing or cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        parts = []
        while part := os.read(descriptor, 65536):
            parts.append(part)
    except OSError:  # ENODEV: the cgroup was removed meanwhile
        return ""
    finally:
        os.close(descriptor)
    return b"".join(parts).decode(errors="replace")


def write(path: str, text: str) -> None:
    """Write to a file of a cgroup, which must be there. Raises OSError with the path."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(descriptor)


def number(path: str) -> int | None:
    """The number in a file; None where there is none, or where it is "max"."""
    text = read(path).strip()
    return int(text) if text.lstrip("-").isdecimal() else None


def fields(path: str) -> dict[str, int]:
    """A flat keyed file such as memory.stat."""
    found = {}
    for line in read(path).splitlines():
        name, _, value = line.partition(" ")
        if value.lstrip("-").isdecimal():
            found[name] = int(value)
    return found


# --- making and removing ----------------------------------------------------------------------


def make(directory: str, top: str, *, controllers: frozenset[str] = frozenset()) -> bool:
    """Make a cgroup and those above it up to `top`; whether it was not there before.

    `controllers` are enabled for it on the way (v2). A v1 cpuset without CPUs or memory nodes,
    whose ever it is, gets those of the one above it: without any it takes no process.
    """
    made = False
    path = top.rstrip("/")
    for name in directory.removeprefix(path).strip("/").split("/"):
        if controllers:
            enable(path, controllers)
        above, path = path, f"{path}/{name}"
        try:
            os.mkdir(path, 0o755)
            made = True
        except FileExistsError:
            made = False
        if not controllers and ospath.exists(f"{path}/cpuset.cpus"):
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not read(f"{path}/{file}").strip() and not _is_v2(path):
                    write(f"{path}/{file}", read(f"{above}/{file}").strip())
    return made


def _is_v2(directory: str) -> bool:
    return ospath.exists(f"{directory}/cgroup.controllers")


def enable(directory: str, controllers: frozenset[str]) -> None:
    """Pass controllers on to the cgroups below one (v2), as far as it has them and may.

    One that has processes may not, the root excepted: most controllers would be refused, and the
    others would make what is below it cgroups for threads, into which no process can be born.
    """
    if not _passes_on(directory):
        return
    available = frozenset(read(f"{directory}/cgroup.controllers").split())
    enabled = frozenset(read(f"{directory}/cgroup.subtree_control").split())
    for controller in sorted(controllers & available - enabled):
        # One by one: a controller that cannot be had must not keep the others away. A limit that
        # needs it finds no file.
        try:
            write(f"{directory}/cgroup.subtree_control", f"+{controller}")
        except OSError as error:
            if error.errno not in (_EBUSY, _EACCES, _EPERM):
                raise


def below(directory: str) -> Iterator[str]:
    """The cgroups below one, deepest first, and then itself."""
    try:
        with os.scandir(directory) as scan:
            names = [entry.name for entry in scan if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for name in names:
        yield from below(f"{directory}/{name}")
    yield directory


def processes(directory: str) -> list[int]:
    """The processes of a cgroup and of those below it, in the order of their numbers."""
    found: set[int] = set()
    for path in below(directory):
        found.update(int(line) for line in read(f"{path}/cgroup.procs").split())
    # 0 stands for a process of another pid namespace.
    found.discard(0)
    return sorted(found)


def remove(directory: str) -> None:
    """Remove a cgroup and those below it; waits for what has just ended in it.

    Raises OSError (EBUSY) when it still has processes after five seconds.
    """
    pause, until = 0.001, time.monotonic() + 5
    while True:
        busy: OSError | None = None
        for path in below(directory):
            try:
                os.rmdir(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno != _EBUSY:
                    raise
                busy = error
        if busy is None:
            return
        if time.monotonic() > until:
            raise busy
        time.sleep(pause)
        pause = min(pause * 2, 0.1)


# --- freezing and killing ---------------------------------------------------------------------


def freeze(directory: str, frozen: bool) -> None:
    """Freeze or thaw a cgroup and those below it, and wait until it is done.

    By cgroup.freeze (v2) or freezer.state (v1). Raises OSError, ETIMEDOUT after ten seconds.
    """
    until = time.monotonic() + _FREEZE_SECONDS
    if not _is_v2(directory):
        _freeze_v1(directory, frozen, until)
        return
    events = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        write(f"{directory}/cgroup.freeze", "1" if frozen else "0")
        wanted = f"frozen {int(frozen)}"
        import select

        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while wanted not in os.pread(events, 4096, 0).decode():
            left = until - time.monotonic()
            if left <= 0:
                write(f"{directory}/cgroup.freeze", "0")
                raise TimeoutError(110, "its processes did not stop in ten seconds", directory)
            poll.poll(min(left, 0.1) * 1000)
    finally:
        os.close(events)


def _freeze_v1(directory: str, frozen: bool, until: float) -> None:
    path = f"{directory}/freezer.state"
    wanted = "FROZEN" if frozen else "THAWED"
    while True:
        # Written again and again: a process that is forking meanwhile escapes one attempt.
        write(path, wanted)
        if read(path).strip() == wanted:
            return
        if time.monotonic() > until:
            write(path, "THAWED")
            raise TimeoutError(110, "its processes did not stop in ten seconds", directory)
        time.sleep(0.002)


def is_frozen(directory: str) -> bool:
    """Whether all processes of a cgroup are stopped, or about to be."""
    if _is_v2(directory):
        return read(f"{directory}/cgroup.freeze").strip() == "1"
    return read(f"{directory}/freezer.state").strip() in ("FROZEN", "FREEZING")


def signal(directory: str, number: int) -> None:
    """Send a signal to each process of a cgroup and of those below it."""
    for pid in processes(directory):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def kill(directory: str) -> None:
    """End all that is in a cgroup: cgroup.kill (v2, Linux 5.14), or signals until none is left."""
    try:
        write(f"{directory}/cgroup.kill", "1")
    except FileNotFoundError:
        pass
    else:
        return
    # New processes may be made between listing and killing; so again until there are none.
    until = time.monotonic() + _FREEZE_SECONDS
    while processes(directory) and time.monotonic() < until:
        signal(directory, 9)
        time.sleep(0.001)
