"""What this host allows, as a value: the second argument of every plan.

`Host.probe()` reads it from the live system; tests make other hosts by hand. A field that
says no carries its reason in `reasons`, so that a plan can tell what it leaves out and why.
"""

from __future__ import annotations

import os

from ctrt.linux import calls, capabilities, cgroups, ids

ID_RANGE_START = 524288
"""The first id of the range that systemd sets aside for containers (UIDS-GIDS.md of systemd).

Root's containers are mapped here unless /etc/subuid gives the user `containers` a range.
"""
ID_RANGE_COUNT = 65536


class Host:
    """The abilities of a host, and of the user who asks.

    `cgroup` is the cgroup v2 directory below which containers' cgroups can be made, or None;
    `idmapped_overlay` says whether overlayfs takes id-mapped layers by descriptor.
    """

    __slots__ = (
        "cgroup",
        "gid",
        "gid_ranges",
        "idmapped_overlay",
        "machine",
        "newgidmap",
        "newuidmap",
        "privileged",
        "reasons",
        "uid",
        "uid_ranges",
    )

    def __init__(
        self,
        *,
        uid: int,
        gid: int,
        privileged: bool,
        uid_ranges: tuple[tuple[int, int], ...] = (),
        gid_ranges: tuple[tuple[int, int], ...] = (),
        newuidmap: str | None = None,
        newgidmap: str | None = None,
        cgroup: str | None = None,
        idmapped_overlay: bool = False,
        machine: str = "x86_64",
        reasons: dict[str, str] | None = None,
    ) -> None:
        self.uid = uid
        self.gid = gid
        self.privileged = privileged
        self.uid_ranges = uid_ranges
        self.gid_ranges = gid_ranges
        self.newuidmap = newuidmap
        self.newgidmap = newgidmap
        self.cgroup = cgroup
        self.idmapped_overlay = idmapped_overlay
        self.machine = machine
        self.reasons = reasons or {}

    @classmethod
    def probe(cls, *, idmapped_overlay: bool = False) -> Host:
        """Read the live system; costs well under a millisecond."""
        uid, gid = os.geteuid(), os.getegid()
        admin = capabilities.mask(("CAP_SYS_ADMIN",))
        privileged = uid == 0 and bool(calls.capget()[0] & admin) and ids.all_mapped()
        user = "containers" if privileged else ids.user_name(uid)
        uid_ranges = ids.subordinate("uid", user, uid if not privileged else -1)
        gid_ranges = ids.subordinate("gid", user, uid if not privileged else -1)
        reasons = {}
        newuidmap = newgidmap = None
        if privileged:
            if not (uid_ranges and gid_ranges):
                uid_ranges = gid_ranges = ((ID_RANGE_START, ID_RANGE_COUNT),)
        elif uid_ranges and gid_ranges:
            newuidmap, newgidmap = ids.map_helper("uid"), ids.map_helper("gid")
            if newuidmap is None or newgidmap is None:
                reasons["ids"] = (
                    "newuidmap and newgidmap are not installed (package uidmap), "
                    "so only your own id is mapped"
                )
        else:
            reasons["ids"] = (
                f"/etc/subuid and /etc/subgid have no range for {user}, "
                "so only your own id is mapped"
            )
        cgroup, reason = _cgroup_base(privileged)
        if reason:
            reasons["cgroup"] = reason
        return cls(
            uid=uid,
            gid=gid,
            privileged=privileged,
            uid_ranges=uid_ranges,
            gid_ranges=gid_ranges,
            newuidmap=newuidmap,
            newgidmap=newgidmap,
            cgroup=cgroup,
            idmapped_overlay=privileged and idmapped_overlay,
            machine=os.uname().machine,
            reasons=reasons,
        )

    @property
    def maps_subordinate_ids(self) -> bool:
        """Whether an ordinary user's containers get more than the user's own id."""
        return self.newuidmap is not None and self.newgidmap is not None

    def id_maps(self) -> tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int, int], ...]]:
        """The uid and gid maps of a new container: tuples of (inside, outside, count).

        For root: its container range. For others: their own id as 0, then the subordinate
        ranges, as podman maps them; only their own id where there are none.
        """
        if self.privileged:
            (uid_start, uid_count), (gid_start, gid_count) = self.uid_ranges[0], self.gid_ranges[0]
            return (
                ((0, uid_start, min(uid_count, ID_RANGE_COUNT)),),
                ((0, gid_start, min(gid_count, ID_RANGE_COUNT)),),
            )
        if not self.maps_subordinate_ids:
            return ((0, self.uid, 1),), ((0, self.gid, 1),)

        def extents(
            own: int, ranges: tuple[tuple[int, int], ...]
        ) -> tuple[tuple[int, int, int], ...]:
            mapped = [(0, own, 1)]
            inside = 1
            for start, count in ranges:
                mapped.append((inside, start, count))
                inside += count
            return tuple(mapped)

        return extents(self.uid, self.uid_ranges), extents(self.gid, self.gid_ranges)


def _cgroup_base(privileged: bool) -> tuple[str | None, str]:
    """The directory for containers' cgroups, or None with the reason."""
    mount = cgroups.unified_mount()
    if mount is None:
        return None, "cgroup v2 is not mounted, so the container stays in the caller's cgroup"
    if privileged:
        if os.access(mount, os.W_OK):
            return f"{mount}/ctrt", ""
        return None, f"{mount} is read-only here, so the container stays in the caller's cgroup"
    own = cgroups.own_unified_path()
    base = f"{mount}{own}".rstrip("/") if own else None
    if base and os.access(base, os.W_OK) and os.access(f"{base}/cgroup.procs", os.W_OK):
        return f"{base}/ctrt", ""
    return None, "no cgroup is delegated to you, so the container stays in the caller's cgroup"
