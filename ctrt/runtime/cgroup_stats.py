"""What a container uses, read from its cgroup, in the form of runc's `events --stats`.

The form is one for v1 and v2: what a kernel does not count is 0 or left out. Times are in
nanoseconds, sizes in bytes.
"""

from __future__ import annotations

import os

from ctrt.linux import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UNLIMITED = 2**64 - 1


def collect(v2: str | None, v1: dict[str, str]) -> dict[str, Any]:
    """The statistics of a cgroup: its directory in v2, and those in v1 by controller."""
    unified = v2 if v2 and not v1.get("memory") and not v1.get("cpu") else None
    cpu = _cpu_v2(unified) if unified else _cpu_v1(v1)
    if not unified and not v1.get("cpuacct") and v2:
        # On a hybrid machine v2 still counts the time, without a controller.
        cpu["usage"] = _cpu_v2(v2)["usage"]
    found: dict[str, Any] = {
        "cpu": cpu,
        "cpuset": _cpuset(unified or v1.get("cpuset")),
        "memory": _memory_v2(unified) if unified else _memory_v1(v1.get("memory")),
        "pids": _pids(unified or v1.get("pids") or v2),
        "blkio": _io_v2(unified) if unified else _blkio_v1(v1.get("blkio")),
        "hugetlb": _hugetlb(v1.get("hugetlb") or v2),
        "intel_rdt": {},
        "network_interfaces": None,
    }
    for name, file in (("cpu", "cpu"), ("memory", "memory"), ("blkio", "io")):
        if pressure := _pressure(f"{v2}/{file}.pressure" if v2 else ""):
            found[name]["psi"] = pressure
    return found


def _pressure(path: str) -> dict[str, dict[str, float]]:
    """How long processes had to wait for a resource: the kernel's accounting/psi.rst."""
    found = {}
    for line in cgroups.read(path).splitlines():
        kind, *words = line.split()
        values = dict(word.split("=") for word in words)
        numbers = {name: float(values[name]) for name in ("avg10", "avg60", "avg300")}
        found[kind] = {**numbers, "total": int(values["total"])}
    return found


def _cpu_v1(v1: dict[str, str]) -> dict[str, Any]:
    account, cpu = v1.get("cpuacct", ""), v1.get("cpu", "")
    stat = cgroups.fields(f"{cpu}/cpu.stat")
    return {
        "usage": {
            "total": cgroups.number(f"{account}/cpuacct.usage") or 0,
            "percpu": [int(n) for n in cgroups.read(f"{account}/cpuacct.usage_percpu").split()],
            "kernel": cgroups.number(f"{account}/cpuacct.usage_sys") or 0,
            "user": cgroups.number(f"{account}/cpuacct.usage_user") or 0,
        },
        "throttling": {
            "periods": stat.get("nr_periods", 0),
            "throttledPeriods": stat.get("nr_throttled", 0),
            "throttledTime": stat.get("throttled_time", 0),
        },
    }


def _cpu_v2(directory: str) -> dict[str, Any]:
    stat = cgroups.fields(f"{directory}/cpu.stat")
    return {
        "usage": {
            "total": stat.get("usage_usec", 0) * 1000,
            "kernel": stat.get("system_usec", 0) * 1000,
            "user": stat.get("user_usec", 0) * 1000,
        },
        "throttling": {
            "periods": stat.get("nr_periods", 0),
            "throttledPeriods": stat.get("nr_throttled", 0),
            "throttledTime": stat.get("throttled_usec", 0) * 1000,
        },
    }


def _cpuset(directory: str | None) -> dict[str, Any]:
    if not directory:
        return {}
    found: dict[str, Any] = {}
    for name in ("cpus", "mems"):
        text = cgroups.read(f"{directory}/cpuset.{name}.effective").strip()
        text = text or cgroups.read(f"{directory}/cpuset.effective_{name}").strip()
        numbers: list[int] = []
        for part in text.split(",") if text else ():
            first, _, last = part.partition("-")
            numbers += range(int(first), int(last or first) + 1)
        found[name] = numbers
    return found


def _use(limit: int | None, usage: int | None, most: int | None, failures: int) -> dict[str, int]:
    return {
        "limit": _UNLIMITED if limit is None else limit,
        "usage": usage or 0,
        "max": most or 0,
        "failcnt": failures,
    }


def _memory_v1(directory: str | None) -> dict[str, Any]:
    if not directory:
        return {}
    stat = cgroups.fields(f"{directory}/memory.stat")

    def part(prefix: str) -> dict[str, int]:
        base = f"{directory}/memory{prefix}"
        return _use(
            cgroups.number(f"{base}.limit_in_bytes"),
            cgroups.number(f"{base}.usage_in_bytes"),
            cgroups.number(f"{base}.max_usage_in_bytes"),
            cgroups.number(f"{base}.failcnt") or 0,
        )

    return {
        "cache": stat.get("cache", 0),
        "usage": part(""),
        "swap": part(".memsw"),
        "kernel": part(".kmem"),
        "kernelTCP": part(".kmem.tcp"),
        "raw": stat,
    }


def _memory_v2(directory: str) -> dict[str, Any]:
    stat = cgroups.fields(f"{directory}/memory.stat")
    events = cgroups.fields(f"{directory}/memory.events")

    def part(name: str, failures: int) -> dict[str, int]:
        base = f"{directory}/memory{name}"
        return _use(
            cgroups.number(f"{base}.max"),
            cgroups.number(f"{base}.current"),
            cgroups.number(f"{base}.peak"),
            failures,
        )

    memory, swap = part("", events.get("max", 0)), part(".swap", 0)
    # The form's swap is memory and swap together, as v1 counts it.
    swap["usage"] += memory["usage"]
    if _UNLIMITED not in (swap["limit"], memory["limit"]):
        swap["limit"] += memory["limit"]
    return {
        "cache": stat.get("file", 0),
        "usage": memory,
        "swap": swap,
        "kernel": _use(None, stat.get("kernel", 0), 0, 0),
        "kernelTCP": _use(None, stat.get("sock", 0), 0, 0),
        "raw": stat,
    }


def _pids(directory: str | None) -> dict[str, int]:
    if not directory:
        return {}
    current = cgroups.number(f"{directory}/pids.current")
    if current is None:
        current = len(cgroups.processes(directory))
    return {"current": current, "limit": cgroups.number(f"{directory}/pids.max") or 0}


_BLKIO = (
    ("ioServiceBytesRecursive", "io_service_bytes_recursive"),
    ("ioServicedRecursive", "io_serviced_recursive"),
)


def _blkio_v1(directory: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, file in _BLKIO if directory else ():
        for prefix in ("blkio.bfq", "blkio.throttle"):
            rows = []
            for line in cgroups.read(f"{directory}/{prefix}.{file}").splitlines():
                words = line.split()
                if len(words) == 3:
                    rows.append(_row(words[0], words[1], int(words[2])))
            if rows:
                found[name] = rows
                break
    return found


def _io_v2(directory: str) -> dict[str, Any]:
    found: dict[str, Any] = {name: [] for name, _ in _BLKIO}
    keys = {
        "rbytes": ("ioServiceBytesRecursive", "Read"),
        "wbytes": ("ioServiceBytesRecursive", "Write"),
        "rios": ("ioServicedRecursive", "Read"),
        "wios": ("ioServicedRecursive", "Write"),
    }
    for line in cgroups.read(f"{directory}/io.stat").splitlines():
        device, *words = line.split()
        for word in words:
            key, _, value = word.partition("=")
            if key in keys:
                name, operation = keys[key]
                found[name].append(_row(device, operation, int(value)))
    return found


def _row(device: str, operation: str, value: int) -> dict[str, Any]:
    major, _, minor = device.partition(":")
    return {"major": int(major), "minor": int(minor), "op": operation, "value": value}


def _hugetlb(directory: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        names = os.listdir(directory) if directory else []
    except OSError:
        names = []
    for name in sorted(names):
        words = name.split(".")
        if (
            len(words) != 3
            or words[0] != "hugetlb"
            or words[2] not in ("current", "usage_in_bytes")
        ):
            continue
        base = f"{directory}/hugetlb.{words[1]}"
        events = cgroups.fields(f"{base}.events")
        found[words[1]] = {
            "usage": cgroups.number(f"{directory}/{name}") or 0,
            "max": cgroups.number(f"{base}.max_usage_in_bytes") or 0,
            "failcnt": cgroups.number(f"{base}.failcnt") or events.get("max", 0),
        }
    return found
