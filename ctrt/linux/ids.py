"""Subordinate ids: the ranges of /etc/subuid and /etc/subgid (subuid(5))."""

from __future__ import annotations


def subordinate(
    kind: str, user: str, uid: int, *, directory: str = "/etc"
) -> tuple[tuple[int, int], ...]:
    """The (start, count) ranges that a user may map; `kind` is "uid" or "gid".

    Lines are found by name or by number, as newuidmap(1) does it. A file that is missing or
    cannot be read is one without ranges.
    """
    try:
        with open(f"{directory}/sub{kind}", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return ()
    ranges = []
    for line in lines:
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] in (user, str(uid)):
            if not (fields[1].isdecimal() and fields[2].isdecimal()):
                continue
            start, count = int(fields[1]), int(fields[2])
            if count > 0:
                ranges.append((start, count))
    return tuple(ranges)


def all_mapped() -> bool:
    """Whether every id is mapped to itself, as in the initial user namespace."""
    try:
        with open("/proc/self/uid_map") as file:
            return file.read().split() == ["0", "0", "4294967295"]
    except OSError:
        return False


def mapped(kind: str) -> tuple[tuple[int, int, int], ...]:
    """The id map of this process's user namespace: (inside, outside, count) of each extent.

    `kind` is "uid" or "gid". Source: user_namespaces(7).
    """
    try:
        with open(f"/proc/self/{kind}_map") as file:
            rows = [line.split() for line in file.read().splitlines()]
    except OSError:
        return ()
    return tuple((int(row[0]), int(row[1]), int(row[2])) for row in rows if len(row) == 3)


def setgroups_allowed() -> bool:
    """Whether setgroups(2) may be called in this process's user namespace."""
    try:
        with open("/proc/self/setgroups") as file:
            return file.read().strip() == "allow"
    except OSError:
        return True


def user_name(uid: int) -> str:
    """The name of a user id, or its number where it has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def map_helper(kind: str) -> str | None:
    """The path of newuidmap or newgidmap, or None where it is not installed."""
    import os

    name = f"new{kind}map"
    for directory in [*os.environ.get("PATH", "").split(":"), "/usr/bin", "/usr/sbin"]:
        path = f"{directory}/{name}"
        if directory and os.access(path, os.X_OK):
            return path
    return None
