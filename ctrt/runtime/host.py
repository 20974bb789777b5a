"""What this host allows, as a value: the second argument of every plan.

`Host.probe()` reads it from the live system; tests make other hosts by hand. A field that
says no carries its reason in `reasons`, so that a plan can tell what it leaves out and why.
"""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py

from ctrt.linux import calls, capabilities, cgroups, ids, ospath

ID_RANGE_START = 524288
"""The first id of the range that systemd sets aside for containers (UIDS-GIDS.md of systemd).

Root's containers are mapped here unless /etc/subuid gives the user `containers` a range.
"""
ID_RANGE_COUNT = 65536
_ALL = (1 << 64) - 1


class Host:
    """The abilities of a host, and of the user who asks.

    `privileged` is root of the initial user namespace with CAP_SYS_ADMIN; `capable` is one who has
    CAP_SYS_ADMIN in the user namespace that it is in, `initial` says whether that is the initial
    one (user_namespaces(7)). Root in somebody else's user namespace, as podman makes it for
    an ordinary user, is capable and not privileged. `can_set_groups` says whether setgroups(2) is
    allowed here. `capabilities` are the permitted ones as a mask, `limits` hard resource limits
    and "oom_score" by name, which are asked of the kernel where they are not given.
    `cgroup` is the cgroup v2 directory below which containers' cgroups can be made, or None;
    `idmapped_overlay` says whether overlayfs takes id-mapped layers by descriptor.
    """

    __slots__ = (
        "_cgroup_v1",
        "_modules",
        "can_set_groups",
        "capabilities",
        "capable",
        "cgroup",
        "gid",
        "gid_ranges",
        "idmapped_overlay",
        "initial",
        "limits",
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
        capable: bool | None = None,
        initial: bool = True,
        can_set_groups: bool | None = None,
        capabilities: int | None = None,
        limits: dict[str, int] | None = None,
        modules: tuple[str, ...] | None = None,
        cgroup_v1: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] | None = None,
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
        self.capable = privileged if capable is None else capable
        self.initial = initial
        self.can_set_groups = self.capable if can_set_groups is None else can_set_groups
        self.capabilities = (_ALL if privileged else 0) if capabilities is None else capabilities
        self.limits = limits
        self._modules = modules
        self._cgroup_v1 = cgroup_v1

    @classmethod
    def probe(cls, *, idmapped_overlay: bool = False) -> Host:
        """Read the live system; costs well under a millisecond."""
        uid, gid = os.geteuid(), os.getegid()
        admin = capabilities.mask(("CAP_SYS_ADMIN",))
        effective, held, _ = calls.capget()
        capable = bool(effective & admin)
        initial = ids.all_mapped()
        privileged = uid == 0 and capable and initial
        if capable and not initial:
            return cls._within(uid, gid)
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
            capable=capable,
            can_set_groups=privileged,
            capabilities=held,
        )

    @classmethod
    def _within(cls, uid: int, gid: int) -> Host:
        """One who has capabilities in a user namespace that is not the initial one."""
        uid_ranges = _mapped_beside_root("uid")
        gid_ranges = _mapped_beside_root("gid")
        cgroup, reason = _cgroup_base(privileged=False)
        return cls(
            uid=uid,
            gid=gid,
            privileged=False,
            uid_ranges=uid_ranges,
            gid_ranges=gid_ranges,
            cgroup=cgroup,
            machine=os.uname().machine,
            reasons={"cgroup": reason} if reason else {},
            capable=True,
            initial=False,
            can_set_groups=ids.setgroups_allowed(),
            # They count in this user namespace only, and not for what the whole machine shares.
            capabilities=0,
        )

    def has(self, capability: str) -> bool:
        """Whether the caller has a capability for what is the whole machine's."""
        return bool(self.capabilities & capabilities.mask((capability,)))

    def hard_limit(self, name: str) -> int:
        """The hard limit of a resource of getrlimit(2), such as RLIMIT_NOFILE."""
        from ctrt.linux import tasks

        if self.limits is not None:
            return self.limits.get(name, tasks.RLIM_INFINITY)
        return tasks.prlimit(0, tasks.RLIMITS[name])[1]

    @property
    def oom_score(self) -> int:
        """The caller's own out-of-memory score adjustment: proc_pid_oom_score_adj(5)."""
        if self.limits is not None:
            return self.limits.get("oom_score", 0)
        try:
            with open("/proc/self/oom_score_adj") as file:
                return int(file.read())
        except (OSError, ValueError):
            return 0

    @property
    def apparmor(self) -> bool:
        """Whether AppArmor confines programs here."""
        if self._modules is not None:
            return "apparmor" in self._modules
        try:
            with open("/sys/module/apparmor/parameters/enabled") as file:
                return file.read(1) == "Y"
        except OSError:
            return False

    @property
    def selinux(self) -> bool:
        """Whether SELinux is active here: its file system is mounted where it is."""
        if self._modules is not None:
            return "selinux" in self._modules
        return ospath.exists("/sys/fs/selinux/enforce")

    @property
    def cgroup_v1(self) -> tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]:
        """The hierarchies of cgroup v1, and v2 beside them: (directory, type, mount options).

        Empty on a machine that has cgroup v2 alone. Source: proc_pid_cgroup(5).
        """
        if self._cgroup_v1 is None:
            self._cgroup_v1 = _hierarchies()
        return self._cgroup_v1

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
        if not self.maps_subordinate_ids and not (self.capable and self.uid_ranges):
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


def _hierarchies() -> tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]:
    layout = cgroups.layout()
    if not layout.v1:
        return ()
    by_directory: dict[str, list[tuple[str, str]]] = {}
    for name, directory in layout.v1.items():
        options = by_directory.setdefault(ospath.last(directory), [])
        if name.startswith("name="):
            options += [("none", ""), ("name", name[5:])]
        else:
            options.append((name, ""))
    found = [(name, "cgroup", tuple(options)) for name, options in by_directory.items()]
    if layout.v2:
        found.append(("unified", "cgroup2", ()))
    return tuple(found)


def _mapped_beside_root(kind: str) -> tuple[tuple[int, int], ...]:
    """The ids that are mapped in this user namespace, except 0: (start, count)."""
    ranges = []
    for first, _, count in ids.mapped(kind):
        if first > 0:
            ranges.append((first, count))
        elif count > 1:
            ranges.append((1, count - 1))
    return tuple(ranges)


def _cgroup_base(privileged: bool) -> tuple[str | None, str]:
    """The directory for containers' cgroups, or None with the reason."""
    mount = cgroups.unified_mount()
    if mount is None:
        return None, "cgroup v2 is not mounted, so the container stays in the caller's cgroup"
    if privileged:
        if os.access(mount, os.W_OK):
            return f"{mount}/ctrt", ""
        return None, f"{mount} is read-only here, so the container stays in the caller's cgroup"
    own = cgroups.unified_path()
    base = f"{mount}{own}".rstrip("/") if own else None
    if base and os.access(base, os.W_OK) and os.access(f"{base}/cgroup.procs", os.W_OK):
        return f"{base}/ctrt", ""
    return None, "no cgroup is delegated to you, so the container stays in the caller's cgroup"
