"""Names that stay the same: what a picture calls things whose numbers change with every run.

The host's namespaces are `mnt[host]`, the others are numbered from the host's inward
(`user[1]`, `user[2]`), peer groups by their first appearance in the tree. With `ids` the
kernel's own numbers take their place.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ctrt.linux.namespaces import KINDS
from ctrt.observe import Unknown

if TYPE_CHECKING:
    from ctrt.linux.namespaces import Key
    from ctrt.linux.processes import IdRange
    from ctrt.observe import Fellow, Snapshot, Space, UserNamespace


_FOUR = 4
HASH = re.compile(r"[0-9a-f]{12,}")
"""What engines name things by that are another each time."""


class Words(NamedTuple):
    """What is said about a kind of namespace."""

    icon: str
    short: str
    long: str
    meaning: str
    man: str


KIND_WORDS = {
    "user": Words(
        "U",
        "ids and capabilities",
        "its own ids and capabilities",
        "User and group ids, and what root may do, hold only inside it.",
        "user_namespaces(7)",
    ),
    "pid": Words(
        "P",
        "process ids",
        "its own process ids",
        "Processes are numbered from 1, and those outside cannot be seen or signalled.",
        "pid_namespaces(7)",
    ),
    "mnt": Words(
        "M",
        "mounts",
        "its own mounts",
        "What is mounted here is mounted for its members only, unless a peer group says otherwise.",
        "mount_namespaces(7)",
    ),
    "net": Words(
        "N",
        "network",
        "its own network",
        "Interfaces, addresses, routes, ports and firewall rules are its own.",
        "network_namespaces(7)",
    ),
    "uts": Words(
        "H",
        "host name",
        "its own host name",
        "The host name can be changed without anybody outside noticing.",
        "uts_namespaces(7)",
    ),
    "ipc": Words(
        "I",
        "IPC",
        "its own System V IPC and message queues",
        "System V objects and POSIX message queues outside cannot be seen.",
        "ipc_namespaces(7)",
    ),
    "cgroup": Words(
        "C",
        "cgroups",
        "its own root of the cgroup tree",
        "The cgroup that its first member was in looks like the root of the tree.",
        "cgroup_namespaces(7)",
    ),
    "time": Words(
        "T",
        "clocks",
        "its own clocks",
        "The monotonic and the boot-time clock may have an offset of their own.",
        "time_namespaces(7)",
    ),
}


def all_four(value: str) -> str:
    """The real, effective, saved and file system id in words; one where they are the same."""
    told = value.split(", ")
    return told[0] if len(told) == _FOUR and len(set(told)) == 1 else value


def name(snapshot: Snapshot, kind: str, ids: bool) -> str:
    """What the target's namespace of a kind is called."""
    return _name(kind, number(snapshot, kind), _inode(snapshot, kind) if ids else 0)


def number(snapshot: Snapshot, kind: str) -> str:
    """The stable part of a name: "host", the place counted from the host's inward, or "?"."""
    if isinstance(snapshot.namespaces[kind], Unknown):
        return "?"
    if kind not in snapshot.differing:
        return "host"
    if kind == "user":
        return str(max(len(snapshot.users) - 1, 1))
    if kind == "pid":
        return str(max(len(snapshot.pids) - 1, 1))
    return "1"


def user_name(user: UserNamespace, index: int, ids: bool) -> str:
    """What the user namespace at a place of `Snapshot.users` is called."""
    return _name("user", str(index) if index else "host", user.key.inode if ids else 0)


def pid_name(key: Key, depth: int, ids: bool) -> str:
    """What the pid namespace `depth` below the host's is called."""
    return _name("pid", str(depth) if depth else "host", key.inode if ids else 0)


def _name(kind: str, stable: str, inode: int) -> str:
    return f"{kind}[{inode or stable}]"


def _inode(snapshot: Snapshot, kind: str) -> int:
    found = snapshot.namespaces[kind]
    return 0 if isinstance(found, Unknown) else found.key.inode


def id_maps(user: UserNamespace) -> str:
    """The id maps of a user namespace in a few words."""
    if isinstance(user.uid_map, Unknown) or isinstance(user.gid_map, Unknown):
        return "id maps could not be read"
    if not user.uid_map and not user.gid_map:
        return "no ids mapped"
    if user.uid_map == user.gid_map:
        return _ranges("ids", user.uid_map) + " outside"
    return f"{_ranges('uid', user.uid_map)}, {_ranges('gid', user.gid_map)} outside"


def ranges_words(space: Space) -> str:
    """The id maps of a user namespace of a scan in a few words, without the ids outside."""
    uid = space.uid_map
    if uid is None or isinstance(uid, Unknown):
        return "id maps could not be read" if space.processes else "no process in it"
    count = sum(one.length for one in uid)
    return f"{count} ids mapped" if count > 1 else "1 id mapped" if count else "no ids mapped"


def _ranges(word: str, ranges: tuple[IdRange, ...]) -> str:
    if not ranges:
        return f"no {word}"
    if len(ranges) == 1 and ranges[0].inside == ranges[0].outside and ranges[0].length > 1 << 31:
        return f"all {word} as"
    shown = [
        (f"{r.inside}–{r.inside + r.length - 1}" if r.length > 1 else f"{r.inside}")
        + f" → {r.outside}"
        for r in ranges[:3]
    ]
    if len(ranges) > 3:
        shown.append(f"{len(ranges) - 3} more ranges")
    return f"{word} " + ", ".join(shown)


def pid_words(fellow: Fellow, apart: bool, ids: bool) -> str:
    """The pid of a process, as far as it is told: the inside one, the outside one with `ids`."""
    if not apart:
        return f"pid {fellow.pid}" if ids else ""
    inside = f"pid {fellow.ns_pids[-1]} inside"
    return f"{inside}, {fellow.pid} outside" if ids else inside


def shares_words(shares: frozenset[str], apart: tuple[str, ...]) -> str:
    """Which of the target's own namespaces another process is in, if not in all."""
    missing = [kind for kind in apart if kind not in shares]
    if not missing:
        return ""
    if len(missing) < len(shares):
        return "shares all but " + enumerated(missing)
    return "shares only " + enumerated([kind for kind in KINDS if kind in shares])


def enumerated(words: list[str] | tuple[str, ...]) -> str:
    """Words as a sentence has them: "a", "a and b", "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + " and " + words[-1]
