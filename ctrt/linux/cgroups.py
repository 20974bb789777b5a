"""Where cgroups are on this machine: cgroup v2 alone, v1 alone, or both (hybrid)."""

from __future__ import annotations

import os


def unified_mount() -> str | None:
    """The directory where cgroup v2 is mounted, or None: cgroups(7).

    On a machine with v1 hierarchies too, systemd's place for it is /sys/fs/cgroup/unified.
    """
    for path in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if os.path.exists(f"{path}/cgroup.procs") and os.path.exists(
            f"{path}/cgroup.subtree_control"
        ):
            return path
    return None


def own_unified_path() -> str | None:
    """The caller's cgroup v2, as a path below the mount: the line `0::` of /proc/self/cgroup."""
    try:
        with open("/proc/self/cgroup") as file:
            for line in file:
                if line.startswith("0::"):
                    return line[3:].rstrip("\n")
    except OSError:
        pass
    return None
