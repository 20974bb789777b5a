"""Resources of a configuration as values for the files of cgroups.

A pure function: resources in, settings out. Each setting says which property asked for it, which
controller it belongs to, and what to write where in v1 and in v2: the same list serves a
new cgroup, a running one (`update`) and the plan that a person reads. Source: config-linux.md of
the OCI runtime specification; admin-guide/cgroup-v1 and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.linux.bpf import Rule

    Resources = dict[str, Any]
    Files = tuple[tuple[str, str], ...]

PLACE = "linux.resources"


class Setting:
    """One value: `files` are (name, text) pairs, of which the first that is there is written.

    `needed` says whether it is an error when none is there.
    """

    __slots__ = ("controller", "files", "needed", "place")

    def __init__(self, place: str, controller: str, files: Files, *, needed: bool = True) -> None:
        self.place = place
        self.controller = controller
        self.files = files
        self.needed = needed

    def __repr__(self) -> str:
        return f"Setting({self.place}, {self.controller}, {self.files})"


def asked(resources: Resources) -> dict[str, str]:
    """The controllers that resources ask for, with the property that does."""
    found: dict[str, str] = {}
    cpu = resources.get("cpu") or {}
    for name in cpu:
        found.setdefault("cpuset" if name in ("cpus", "mems") else "cpu", f"{PLACE}.cpu.{name}")
    for name in resources.get("memory") or {}:
        if name not in ("useHierarchy", "checkBeforeUpdate", "kernel"):
            found.setdefault("memory", f"{PLACE}.memory.{name}")
    for name, controller in (("pids", "pids"), ("blockIO", "blkio"), ("rdma", "rdma")):
        if resources.get(name):
            found[controller] = f"{PLACE}.{name}"
    if resources.get("hugepageLimits"):
        found["hugetlb"] = f"{PLACE}.hugepageLimits"
    network = resources.get("network") or {}
    if network.get("classID"):
        found["net_cls"] = f"{PLACE}.network.classID"
    if network.get("priorities"):
        found["net_prio"] = f"{PLACE}.network.priorities"
    if resources.get("devices"):
        found["devices"] = f"{PLACE}.devices"
    return found


def settings(resources: Resources, controller: str, *, v2: bool) -> list[Setting]:
    """What resources set in one controller. Raises CtrtError for what v2 cannot do."""
    make = _V2.get(controller) if v2 else _V1.get(controller)
    return make(resources) if make else []


def _text(value: int) -> str:
    """A limit as v2 has it: -1 is "max"."""
    return "max" if value < 0 else str(value)


def _only_v1(place: str, why: str) -> CtrtError:
    return CtrtError(f"{PLACE}.{place} cannot be set with cgroup v2: {why}")


# --- cpu and cpuset ---------------------------------------------------------------------------


def weight_of_shares(shares: int) -> int:
    """The cpu.weight (1 to 10000) for cpu.shares (2 to 262144); 1024 becomes 100.

    The curve of runc 1.4 and crun 1.23: 2, 1024 and 262144 become 1, 100 and 10000.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    from math import ceil, log2

    exponent = log2(shares)
    return ceil(10 ** ((exponent**2 + 125 * exponent) / 612 - 7 / 34))


def _cpu_v1(resources: Resources) -> list[Setting]:
    cpu = resources.get("cpu") or {}
    found = []
    # The period before the quota and the quota before the burst, which must fit into them.
    for name, file in (
        ("idle", "cpu.idle"),
        ("shares", "cpu.shares"),
        ("period", "cpu.cfs_period_us"),
        ("quota", "cpu.cfs_quota_us"),
        ("burst", "cpu.cfs_burst_us"),
        ("realtimePeriod", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu.rt_runtime_us"),
    ):
        value = cpu.get(name)
        # 0 stands for "unset" in what callers write, but for what has a zero of its own.
        if value is None or (value == 0 and name not in ("idle", "burst")):
            continue
        if name == "shares" and cpu.get("idle"):
            continue  # an idle cgroup has no share
        found.append(Setting(f"cpu.{name}", "cpu", ((file, str(value)),)))
    return found


def _cpu_v2(resources: Resources) -> list[Setting]:
    cpu = resources.get("cpu") or {}
    found = []
    for name in ("realtimePeriod", "realtimeRuntime"):
        if cpu.get(name):
            raise _only_v1(f"cpu.{name}", "v2 has no realtime bandwidth")
    if cpu.get("idle") is not None:
        found.append(Setting("cpu.idle", "cpu", (("cpu.idle", str(cpu["idle"])),)))
    if cpu.get("shares") and not cpu.get("idle"):
        weight = weight_of_shares(cpu["shares"])
        found.append(Setting("cpu.shares", "cpu", (("cpu.weight", str(weight)),)))
    if cpu.get("quota") or cpu.get("period"):
        quota, period = cpu.get("quota") or -1, cpu.get("period") or 100000
        place = "cpu.quota" if cpu.get("quota") else "cpu.period"
        found.append(Setting(place, "cpu", (("cpu.max", f"{_text(quota)} {period}"),)))
    if cpu.get("burst") is not None:
        found.append(Setting("cpu.burst", "cpu", (("cpu.max.burst", str(cpu["burst"])),)))
    return found


def _cpuset(resources: Resources) -> list[Setting]:
    cpu = resources.get("cpu") or {}
    return [
        Setting(f"cpu.{name}", "cpuset", ((f"cpuset.{name}", cpu[name]),))
        for name in ("cpus", "mems")
        if cpu.get(name)
    ]


# --- memory --------------------------------------------------------------------------------


def _memory_v1(resources: Resources) -> list[Setting]:
    memory = resources.get("memory") or {}
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if limit == -1 and not swap:
        swap = -1
    values: list[tuple[str, str, int]] = [
        ("limit", "memory.limit_in_bytes", limit),
        ("swap", "memory.memsw.limit_in_bytes", swap),
        ("reservation", "memory.soft_limit_in_bytes", memory.get("reservation") or 0),
        ("kernelTCP", "memory.kmem.tcp.limit_in_bytes", memory.get("kernelTCP") or 0),
    ]
    found = [
        # An unlimited swap is what there is anyway where swap is not accounted.
        Setting(
            f"memory.{name}",
            "memory",
            ((file, str(value)),),
            needed=not (name == "swap" and value == -1),
        )
        for name, file, value in values
        if value
    ]
    if memory.get("swappiness") is not None:
        file = ("memory.swappiness", str(memory["swappiness"]))
        found.append(Setting("memory.swappiness", "memory", (file,)))
    if memory.get("disableOOMKiller") is not None:
        file = ("memory.oom_control", str(int(memory["disableOOMKiller"])))
        found.append(Setting("memory.disableOOMKiller", "memory", (file,)))
    return found


def _memory_v2(resources: Resources) -> list[Setting]:
    memory = resources.get("memory") or {}
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if memory.get("swappiness"):
        raise _only_v1("memory.swappiness", "v2 has no swappiness of a cgroup")
    if memory.get("disableOOMKiller"):
        raise _only_v1("memory.disableOOMKiller", "v2 cannot switch the OOM killer off")
    found = []
    if limit == -1 and not swap:
        swap = -1
    if swap:
        if swap > 0 and limit <= 0:
            raise CtrtError(
                f"{PLACE}.memory.swap is {swap}, but memory.limit is not set: with cgroup v2 the "
                "limit of swap alone is the difference of the two"
            )
        # No more memory than before is used meanwhile, when the limit of swap comes first.
        text = _text(-1 if swap < 0 else swap - limit)
        found.append(
            Setting("memory.swap", "memory", (("memory.swap.max", text),), needed=swap > limit)
        )
    if limit:
        found.append(Setting("memory.limit", "memory", (("memory.max", _text(limit)),)))
    if memory.get("reservation"):
        text = _text(memory["reservation"])
        found.append(Setting("memory.reservation", "memory", (("memory.low", text),)))
    return found


# --- the rest --------------------------------------------------------------------------------


def _pids(resources: Resources) -> list[Setting]:
    limit = pids_limit(resources)
    if limit is None:
        return []
    return [Setting("pids.limit", "pids", (("pids.max", _text(limit)),))]


def pids_limit(resources: Resources) -> int | None:
    """The limit of processes, None where there is none to set.

    With 0 nothing could start, and systemd would take it for any number: it is 1, as with runc
    1.4.
    """
    limit: int | None = (resources.get("pids") or {}).get("limit")
    return 1 if limit == 0 else limit


_RATES = (
    ("throttleReadBpsDevice", "read_bps", "rbps"),
    ("throttleWriteBpsDevice", "write_bps", "wbps"),
    ("throttleReadIOPSDevice", "read_iops", "riops"),
    ("throttleWriteIOPSDevice", "write_iops", "wiops"),
)


def _blkio_v1(resources: Resources) -> list[Setting]:
    block = resources.get("blockIO") or {}
    found = []
    for name, files in (
        ("weight", ("blkio.weight", "blkio.bfq.weight")),
        ("leafWeight", ("blkio.leaf_weight",)),
    ):
        if block.get(name):
            pairs = tuple((file, str(block[name])) for file in files)
            found.append(Setting(f"blockIO.{name}", "blkio", pairs))
    for index, entry in enumerate(block.get("weightDevice") or ()):
        device = f"{entry['major']}:{entry['minor']}"
        for name, files in (
            ("weight", ("blkio.weight_device", "blkio.bfq.weight_device")),
            ("leafWeight", ("blkio.leaf_weight_device",)),
        ):
            if entry.get(name):
                pairs = tuple((file, f"{device} {entry[name]}") for file in files)
                found.append(Setting(f"blockIO.weightDevice[{index}].{name}", "blkio", pairs))
    for name, file, _ in _RATES:
        for index, entry in enumerate(block.get(name) or ()):
            text = f"{entry['major']}:{entry['minor']} {entry['rate']}"
            pair = (f"blkio.throttle.{file}_device", text)
            found.append(Setting(f"blockIO.{name}[{index}]", "blkio", (pair,)))
    return found


def io_weight(weight: int) -> int:
    """io.weight (1 to 10000) for a weight of blkio (10 to 1000), as runc and crun convert it."""
    return 1 + (max(weight, 10) - 10) * 9999 // 990


def _blkio_v2(resources: Resources) -> list[Setting]:
    block = resources.get("blockIO") or {}
    found = []
    if block.get("leafWeight"):
        raise _only_v1("blockIO.leafWeight", "v2 has no leaf weights")
    if block.get("weight"):
        weight = block["weight"]
        pairs = (("io.bfq.weight", str(weight)), ("io.weight", f"default {io_weight(weight)}"))
        found.append(Setting("blockIO.weight", "io", pairs))
    for index, entry in enumerate(block.get("weightDevice") or ()):
        device = f"{entry['major']}:{entry['minor']}"
        if entry.get("leafWeight"):
            raise _only_v1(f"blockIO.weightDevice[{index}].leafWeight", "v2 has no leaf weights")
        pairs = (
            ("io.bfq.weight", f"{device} {entry['weight']}"),
            ("io.weight", f"{device} {io_weight(entry['weight'])}"),
        )
        found.append(Setting(f"blockIO.weightDevice[{index}].weight", "io", pairs))
    for name, _, key in _RATES:
        for index, entry in enumerate(block.get(name) or ()):
            rate = entry["rate"] or "max"
            pair = ("io.max", f"{entry['major']}:{entry['minor']} {key}={rate}")
            found.append(Setting(f"blockIO.{name}[{index}]", "io", (pair,)))
    return found


def _hugetlb(resources: Resources, ending: str) -> list[Setting]:
    found = []
    for index, entry in enumerate(resources.get("hugepageLimits") or ()):
        place, size = f"hugepageLimits[{index}]", entry["pageSize"]
        # Reservations, where the kernel counts them (Linux 5.7), and use.
        for kind, needed in ((f"{size}.rsvd", False), (size, True)):
            pair = (f"hugetlb.{kind}.{ending}", str(entry["limit"]))
            found.append(Setting(place, "hugetlb", (pair,), needed=needed))
    return found


def _rdma(resources: Resources) -> list[Setting]:
    found = []
    for device, entry in (resources.get("rdma") or {}).items():
        words = [device]
        for name, key in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
            if entry.get(name) is not None:
                words.append(f"{key}={entry[name]}")
        found.append(Setting(f"rdma.{device}", "rdma", (("rdma.max", " ".join(words)),)))
    return found


def _net_class(resources: Resources) -> list[Setting]:
    value = (resources.get("network") or {}).get("classID")
    file = ("net_cls.classid", str(value))
    return [Setting("network.classID", "net_cls", (file,))] if value else []


def _net_priorities(resources: Resources) -> list[Setting]:
    return [
        Setting(
            f"network.priorities[{index}]",
            "net_prio",
            (("net_prio.ifpriomap", f"{entry['name']} {entry['priority']}"),),
        )
        for index, entry in enumerate((resources.get("network") or {}).get("priorities") or ())
    ]


def _devices_v1(resources: Resources) -> list[Setting]:
    return [
        Setting(
            "devices",
            "devices",
            (("devices.allow" if rule[0] else "devices.deny", _device_text(rule)),),
        )
        for rule in device_rules(resources)
    ]


_V1 = {
    "blkio": _blkio_v1,
    "cpu": _cpu_v1,
    "cpuset": _cpuset,
    "devices": _devices_v1,
    "hugetlb": lambda resources: _hugetlb(resources, "limit_in_bytes"),
    "memory": _memory_v1,
    "net_cls": _net_class,
    "net_prio": _net_priorities,
    "pids": _pids,
    "rdma": _rdma,
}
_V2 = {
    "blkio": _blkio_v2,
    "cpu": _cpu_v2,
    "cpuset": _cpuset,
    "hugetlb": lambda resources: _hugetlb(resources, "max"),
    "memory": _memory_v2,
    "pids": _pids,
    "rdma": _rdma,
}

# --- devices --------------------------------------------------------------------------------

_DEFAULT_DEVICES: tuple[Rule, ...] = (
    (True, "c", -1, -1, "m"),
    (True, "b", -1, -1, "m"),
    (True, "c", 1, 3, "rwm"),  # null
    (True, "c", 1, 5, "rwm"),  # zero
    (True, "c", 1, 7, "rwm"),  # full
    (True, "c", 1, 8, "rwm"),  # random
    (True, "c", 1, 9, "rwm"),  # urandom
    (True, "c", 5, 0, "rwm"),  # tty
    (True, "c", 5, 1, "rwm"),  # console
    (True, "c", 5, 2, "rwm"),  # ptmx
    (True, "c", 136, -1, "rwm"),  # pts/*
)
"""What every container may use; making a node of any device is no access to it yet."""


def device_rules(resources: Resources) -> tuple[Rule, ...]:
    """The rules of a configuration, then the devices of every container; () if it has none."""
    listed = resources.get("devices")
    if not listed:
        return ()
    rules: list[Rule] = []
    for entry in listed:
        kind, letters = entry.get("type") or "a", entry.get("access") or "rwm"
        access = "".join(letter for letter in "rwm" if letter in letters)
        major, minor = (
            -1 if entry.get(name) is None else entry[name] for name in ("major", "minor")
        )
        # v1 takes "a" for everything, whatever follows it.
        every = kind == "a" and (major >= 0 or minor >= 0 or len(access) < 3)
        kinds = ("b", "c") if every else (kind,)
        rules += [(entry["allow"], one, major, minor, access) for one in kinds]
    return (*rules, *_DEFAULT_DEVICES)


def _device_text(rule: Rule) -> str:
    _, kind, major, minor, access = rule
    if kind == "a":
        return "a"
    major_text, minor_text = ("*" if n < 0 else str(n) for n in (major, minor))
    return f"{kind} {major_text}:{minor_text} {access}"
