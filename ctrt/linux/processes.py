"""What /proc says about one process: its names, numbers, credentials and cgroups.

Every read is bounded, and a process may end between two of them: that is `Gone`, an ordinary
answer, while a file that may not be read is a PermissionError.

Source: proc_pid_status(5), proc_pid_cgroup(5), user_namespaces(7).
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from ctrt.linux.values import NamedTuple

LARGEST = 1 << 20
"""No other file of a process is read beyond this many bytes."""


class Gone(ProcessLookupError):  # noqa: N818  (an ordinary answer, more than an error)
    """The process has ended (or never was)."""


class Status(NamedTuple):
    """The lines of /proc/PID/status that tell who a process is and what it may do.

    `ns_pids` are its pids from the reader's pid namespace down to its own; uids and gids are
    real, effective, saved and file system ones; the capability sets are bit masks.
    """

    name: str
    state: str
    pid: int
    parent: int
    ns_pids: tuple[int, ...]
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int
    no_new_privs: bool
    seccomp: int
    seccomp_filters: int
    groups: tuple[int, ...] = ()
    threads: int = 1


class IdRange(NamedTuple):
    """A line of uid_map or gid_map: `length` ids from `inside` on are those from `outside` on.

    Outside ids are as the reader's user namespace has them (user_namespaces(7)).
    """

    inside: int
    outside: int
    length: int


class Cgroup(NamedTuple):
    """A line of /proc/PID/cgroup: hierarchy 0 is cgroup v2, and has no controllers listed."""

    hierarchy: int
    controllers: tuple[str, ...]
    path: str


def read_file(path: str, largest: int = LARGEST, *, single: bool = False) -> bytes:
    """The whole of a file of /proc; OSError (EFBIG) rather than more than `largest` bytes.

    `single` is for a file that the kernel writes in one piece, and saves the read that finds
    its end; it gives no more than the first 256 KiB.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            pieces = []
            size = 0
            # A mount table is consistent within one read only, so each is large.
            while data := os.read(descriptor, 1 << 18):
                pieces.append(data)
                size += len(data)
                if size > largest:
                    raise OSError(errno.EFBIG, f"longer than {largest} bytes", path)
                if single:
                    break
            return b"".join(pieces)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise process_error(error, path) from None


def process_error(error: OSError, path: str) -> OSError:
    """`Gone`, when that is what the error means: no such process, as opposed to no such file."""
    process = "/".join(path.split("/", 3)[:3])
    if error.errno == errno.ESRCH or (
        error.errno in (errno.ENOENT, errno.EINVAL) and _ended(process)
    ):
        return Gone(errno.ESRCH, "the process has ended", process)
    return error


def _ended(process: str) -> bool:
    """Whether a directory of /proc has gone, or is that of a zombie, which has no files left."""
    try:
        with open(process + "/stat", "rb") as file:
            return file.read(4096).rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (OSError, IndexError):
        return not os.path.isdir(process)


def _fields(text: str) -> dict[str, str]:
    """The lines of a status file by their names."""
    split = (line.partition(":\t") for line in text.split("\n"))
    return {key: value for key, colon, value in split if colon}


def parse_status(text: str) -> Status:
    """The text of a status file; a line that this kernel does not have counts as empty or 0."""
    fields = _fields(text)

    def numbers(key: str) -> tuple[int, ...]:
        return tuple(int(word) for word in fields.get(key, "").split())

    def number(key: str, base: int = 10, default: str = "0") -> int:
        return int(fields.get(key) or default, base)

    pid = number("Pid")
    return Status(
        fields.get("Name", ""),
        fields.get("State", "?")[:1],
        pid,
        number("PPid"),
        numbers("NSpid") or (pid,),
        numbers("Uid"),
        numbers("Gid"),
        number("CapInh", 16),
        number("CapPrm", 16),
        number("CapEff", 16),
        number("CapBnd", 16),
        number("CapAmb", 16),
        number("NoNewPrivs") == 1,
        number("Seccomp"),
        number("Seccomp_filters"),
        numbers("Groups"),
        number("Threads", default="1"),
    )


def status(pid: int | str = "self") -> Status:
    """Who a process is and what it may do; the name is without control characters."""
    return named(parse_status(os.fsdecode(read_file(f"/proc/{pid}/status"))))


def of_thread(tid: int) -> int:
    """The process that a thread is of, by the thread's number; 0 where there is none."""
    try:
        lines = read_file(f"/proc/{tid}/status", single=True).split(b"\n")
    except OSError:
        return 0
    return next((int(line[6:]) for line in lines if line.startswith(b"Tgid:")), 0)


def named(parsed: Status) -> Status:
    """A status whose name can be shown: unescaped, and without control characters."""
    if parsed.name.isprintable() and "\\" not in parsed.name:
        return parsed
    return parsed._replace(name=_printable(_unescape(parsed.name)))


def comm(pid: int | str = "self") -> str:
    """The short name of a process (15 bytes at most), which it may have chosen itself."""
    return _printable(os.fsdecode(read_file(f"/proc/{pid}/comm")).removesuffix("\n"))


def cmdline(pid: int | str = "self") -> tuple[str, ...]:
    """The arguments of a process; empty for a kernel thread."""
    data = os.fsdecode(read_file(f"/proc/{pid}/cmdline"))
    return tuple(data.removesuffix("\0").split("\0")) if data else ()


def uid_map(pid: int | str = "self") -> tuple[IdRange, ...]:
    """How the user ids of a process's user namespace are those of the reader's."""
    return parse_id_map(os.fsdecode(read_file(f"/proc/{pid}/uid_map")))


def gid_map(pid: int | str = "self") -> tuple[IdRange, ...]:
    """How the group ids of a process's user namespace are those of the reader's."""
    return parse_id_map(os.fsdecode(read_file(f"/proc/{pid}/gid_map")))


def parse_id_map(text: str) -> tuple[IdRange, ...]:
    """The lines of a uid_map or gid_map file; none before a map is written."""
    ranges = []
    for line in text.splitlines():
        inside, outside, length = line.split()
        ranges.append(IdRange._make((int(inside), int(outside), int(length))))
    return tuple(ranges)


def cgroups(pid: int | str = "self") -> tuple[Cgroup, ...]:
    """The cgroups of a process; paths are as seen from the reader's cgroup namespace."""
    return parse_cgroups(os.fsdecode(read_file(f"/proc/{pid}/cgroup")))


def parse_cgroups(text: str) -> tuple[Cgroup, ...]:
    """The lines of a cgroup file; a path may hold colons."""
    found = []
    for line in text.split("\n"):
        if line:
            hierarchy, controllers, path = line.split(":", 2)
            found.append(Cgroup(int(hierarchy), tuple(filter(None, controllers.split(","))), path))
    return tuple(found)


def pids() -> list[int]:
    """All processes of the reader's pid namespace that /proc shows, in order of their numbers."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def _unescape(name: str) -> str:
    r"""The Name line of a status file writes a newline as \n and a backslash as \\."""
    if "\\" not in name:
        return name
    return name.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\")


def _printable(name: str) -> str:
    """A name that a process gave itself may hold terminal escapes: show them, do not send them."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


def is_dropped(pid: int, number: int) -> bool:
    """Whether a signal would end this process, were it not the first of its pid namespace.

    The kernel drops signals that such a process has no handler for (pid_namespaces(7)), so
    `sleep` in a container could not be interrupted at all.
    """
    try:
        fields = _fields(os.fsdecode(read_file(f"/proc/{pid}/status")))
    except OSError:
        return False
    handled = int(fields["SigCgt"], 16) | int(fields["SigIgn"], 16)
    within = fields["NSpid"].split()
    return len(within) > 1 and within[-1] == "1" and not handled >> (number - 1) & 1
