"""Limits of the configuration: in the files of the kernel's cgroups, from outside and inside.

A machine has a controller in cgroup v1 or in v2; both names of a file are looked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from bundles import Runtime, until
from property_tools import groups, refusal

NAME = f"property-limits-{os.getpid()}"
SLEEP = ("sleep", "1000")
MIB = 1 << 20
OWN = groups("self")
V1 = {name for name in OWN if name}


def needs(*controllers: str) -> pytest.MarkDecorator:
    missing = [name for name in controllers if name not in V1]
    return pytest.mark.skipif(bool(missing), reason=f"cgroup v1 here has no {missing}")


needs_v2 = pytest.mark.skipif("" not in OWN, reason="there is no cgroup v2 here")


def limited(path: str | None = None, **resources: Any) -> Callable[[dict[str, Any]], None]:
    """Change a configuration to have limits, and its cgroups where a program looks for them."""

    def change(config: dict[str, Any]) -> None:
        config["linux"]["resources"] = resources
        if path:
            config["linux"]["cgroupsPath"] = path
        options = ["nosuid", "noexec", "nodev", "ro"]
        config["mounts"].append(
            {
                "destination": "/sys/fs/cgroup",
                "type": "cgroup",
                "source": "cgroup",
                "options": options,
            }
        )

    return change


class Seen(NamedTuple):
    """A running container, and what it sees of its cgroups."""

    runtime: Runtime
    pid: int

    def outside(self, controller: str, file: str) -> str:
        return (groups(self.pid)[controller] / file).read_text().strip()

    def inside(self, controller: str, file: str) -> str:
        directory = controller if controller in V1 else ("unified" if V1 else "")
        path = os.path.normpath(f"/sys/fs/cgroup/{directory}/{file}")
        return self.runtime.call("exec", NAME, "cat", path).stdout.strip()

    def both(self, controller: str, file: str) -> str:
        """A file's text, which is the same from both sides."""
        found = self.outside(controller, file)
        assert self.inside(controller, file) == found
        return found


def started(runtime: Runtime, change: Callable[[dict[str, Any]], None]) -> Seen:
    runtime.config(*SLEEP, change=change)
    runtime.quiet("run", "--detach", NAME)
    return Seen(runtime, runtime.pid(NAME))


@needs("memory")
def test_memory(runtime: Runtime) -> None:
    memory = {
        "limit": 64 * MIB,
        "swap": 96 * MIB,
        "reservation": 32 * MIB,
        "swappiness": 13,
        "disableOOMKiller": True,
    }
    seen = started(runtime, limited(memory=memory))
    assert seen.both("memory", "memory.limit_in_bytes") == str(64 * MIB)
    assert seen.both("memory", "memory.memsw.limit_in_bytes") == str(96 * MIB)
    assert seen.both("memory", "memory.soft_limit_in_bytes") == str(32 * MIB)
    assert seen.both("memory", "memory.swappiness") == "13"
    assert "oom_kill_disable 1" in seen.both("memory", "memory.oom_control")


@needs("memory")
def test_who_takes_more_memory_is_killed_unless_that_is_switched_off(runtime: Runtime) -> None:
    # Taken by the program itself: for the kernel, writing to its memory, nobody waits.
    take = ("awk", 'BEGIN { text = "letters!"; while (length(text) < 33554432) text = text text }')
    small = {"limit": 16 * MIB, "swap": 16 * MIB}
    runtime.config(*take, change=limited(memory=small))
    assert runtime.quiet("run", NAME, check=False) == 137
    runtime.config(*take, change=limited(memory={"limit": 256 * MIB, "swap": 256 * MIB}))
    assert runtime.quiet("run", NAME, check=False) == 0
    runtime.config(*take, change=limited(memory={**small, "disableOOMKiller": True}))
    runtime.quiet("run", "--detach", NAME)
    control = groups(runtime.pid(NAME))["memory"] / "memory.oom_control"
    until(lambda: "under_oom 1" in control.read_text(), "the program to wait for memory")
    assert runtime.status(NAME) == "running"


def test_limits_that_kernels_do_not_have_any_more_are_ignored_with_a_word(
    runtime: Runtime,
) -> None:
    memory = {"kernel": 8 * MIB, "kernelTCP": 4 * MIB, "useHierarchy": True}
    log = runtime.home / "log"
    runtime.config(*SLEEP, change=limited(memory=memory))
    runtime.quiet("--log", str(log), "run", "--detach", NAME)
    words = log.read_text()
    ignored = "is ignored: kernels count this memory with the rest"
    assert f"linux.resources.memory.kernel {ignored}" in words
    if "memory" not in V1:
        assert f"linux.resources.memory.kernelTCP {ignored}" in words
        return
    assert "kernelTCP" not in words
    own = groups(runtime.pid(NAME))["memory"]
    assert int((own / "memory.kmem.limit_in_bytes").read_text()) > 1 << 60
    assert (own / "memory.use_hierarchy").read_text() == "1\n", "there is no other way any more"


@needs("memory")
def test_buffers_of_tcp(runtime: Runtime) -> None:
    seen = started(runtime, limited(memory={"kernelTCP": 4 * MIB}))
    assert seen.both("memory", "memory.kmem.tcp.limit_in_bytes") == str(4 * MIB)
    runtime.call("update", "--kernel-memory-tcp", "8m", NAME)
    assert seen.both("memory", "memory.kmem.tcp.limit_in_bytes") == str(8 * MIB)


@needs("cpu", "cpuset")
def test_processor_time(runtime: Runtime) -> None:
    cpu = {"shares": 300, "quota": 7000, "period": 20000, "burst": 1000, "cpus": "0", "mems": "0"}
    seen = started(runtime, limited(cpu=cpu))
    assert seen.both("cpu", "cpu.shares") == "300"
    assert seen.both("cpu", "cpu.cfs_quota_us") == "7000"
    assert seen.both("cpu", "cpu.cfs_period_us") == "20000"
    assert seen.both("cpu", "cpu.cfs_burst_us") == "1000"
    assert seen.both("cpuset", "cpuset.cpus") == "0"
    assert seen.both("cpuset", "cpuset.mems") == "0"
    assert os.sched_getaffinity(seen.pid) == {0}
    inside = runtime.call("exec", NAME, "grep", "allowed_list", "/proc/1/status").stdout
    assert inside.split()[1::2] == ["0", "0"]


@needs("cpu")
def test_processor_time_that_nobody_else_wants(runtime: Runtime) -> None:
    seen = started(runtime, limited(cpu={"idle": 1, "shares": 512}))
    assert seen.both("cpu", "cpu.idle") == "1"
    runtime.call("update", "--cpu-idle", "0", NAME)
    assert seen.both("cpu", "cpu.idle") == "0"


@needs("cpu")
def test_realtime_processor_time(runtime: Runtime) -> None:
    if not (OWN["cpu"] / "cpu.rt_runtime_us").exists():
        runtime.config("true", change=limited(cpu={"realtimeRuntime": 1000}))
        assert "linux.resources.cpu.realtimeRuntime" in refusal(runtime, NAME)
        return
    cpu = {"realtimeRuntime": 10000, "realtimePeriod": 500000}
    # Below the root, whose time there is to share; below another it would have none to give.
    seen = started(runtime, limited(f"/{NAME}-realtime", cpu=cpu))
    assert seen.both("cpu", "cpu.rt_runtime_us") == "10000"
    assert seen.both("cpu", "cpu.rt_period_us") == "500000"
    runtime.call("update", "--cpu-rt-runtime", "20000", NAME)
    assert seen.both("cpu", "cpu.rt_runtime_us") == "20000"


def test_processes(runtime: Runtime) -> None:
    seen = started(runtime, limited(pids={"limit": 7}))
    controller = "pids" if "pids" in V1 else ""
    assert seen.both(controller, "pids.max") == "7"
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2 & done"
    full = runtime.call("exec", NAME, "sh", "-c", script, check=False)
    assert "Resource temporarily unavailable" in full.stderr
    assert int(seen.outside(controller, "pids.current")) <= 7
    runtime.call("delete", "--force", NAME)
    seen = started(runtime, limited(pids={"limit": -1}))
    assert seen.both(controller, "pids.max") == "max"


@needs_v2
def test_files_of_cgroup_v2_by_their_names(runtime: Runtime) -> None:
    unified = {"cgroup.max.descendants": "5", "cgroup.max.depth": "2"}
    seen = started(runtime, limited(unified=unified))
    assert seen.both("", "cgroup.max.descendants") == "5"
    assert seen.both("", "cgroup.max.depth") == "2"
    runtime.call("delete", "--force", NAME)
    runtime.config("true", change=limited(unified={"nosuch.max": "5"}))
    words = refusal(runtime, NAME)
    assert words.startswith('linux.resources.unified["nosuch.max"] cannot be set: ')


@needs_v2
def test_where_the_cgroup_is(runtime: Runtime) -> None:
    path = f"/{NAME}-place/below"
    seen = started(runtime, limited(path, pids={"limit": 50}))
    try:
        assert f"0::{path}" in Path(f"/proc/{seen.pid}/cgroup").read_text().splitlines()
        assert str(seen.pid) in seen.outside("", "cgroup.procs").split()
        inside = runtime.call("exec", NAME, "cat", "/proc/1/cgroup").stdout
        assert "0::/" in inside.splitlines(), "its own is the root of what it sees"
        directories = set(groups(seen.pid).values())
        runtime.call("delete", "--force", NAME)
        assert not [d for d in directories if str(d).endswith(path) and d.exists()]
    finally:
        for directory in set(OWN.values()):
            for top in (directory, *directory.parents):
                with contextlib.suppress(OSError):
                    (top / path.split("/")[1]).rmdir()


# --- devices -------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no device to be given")
def test_devices(runtime: Runtime) -> None:
    rules = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "r"},
        {"allow": True, "type": "b", "major": 7, "access": "m"},
    ]
    node = {"path": "/dev/given", "type": "c", "major": 10, "minor": 229}
    other = {"path": "/dev/memory", "type": "c", "major": 1, "minor": 1}

    def change(config: dict[str, Any]) -> None:
        limited(devices=rules)(config)
        config["linux"]["devices"] = [node, other]

    seen = started(runtime, change)
    script = (
        "true </dev/given && echo read; { true >/dev/given; } 2>&1; { true </dev/memory; } 2>&1;"
        "echo x >/dev/null && echo null"
    )
    said = runtime.call("exec", NAME, "sh", "-c", script).stdout.splitlines()
    assert (said[0], said[-1]) == ("read", "null")
    assert sum("Operation not permitted" in line for line in said) == 2
    if "devices" in V1:
        listed = seen.outside("devices", "devices.list").splitlines()
        assert {"c 10:229 r", "b *:* m", "c 1:3 rwm", "c 136:* rwm"} <= set(listed)
        assert not any(line.startswith("a") for line in listed)


# --- block devices --------------------------------------------------------------------------------


@pytest.fixture
def disk() -> Iterator[tuple[int, int]]:
    """A block device of our own: its numbers."""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(4 * MIB)
        words = ["losetup", "--find", "--show", file.name]
        made = subprocess.run(words, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            pytest.skip(f"no loop device: {made.stderr.strip()}")
        path = made.stdout.strip()
        try:
            number = os.stat(path).st_rdev
            yield os.major(number), os.minor(number)
        finally:
            subprocess.run(["losetup", "--detach", path], check=True)


RATES = {
    "throttleReadBpsDevice": "read_bps",
    "throttleWriteBpsDevice": "write_bps",
    "throttleReadIOPSDevice": "read_iops",
    "throttleWriteIOPSDevice": "write_iops",
}


@needs("blkio")
def test_rates_of_block_devices(runtime: Runtime, disk: tuple[int, int]) -> None:
    major, minor = disk
    rates = {name: 1000 * (number + 1) for number, name in enumerate(RATES)}
    block = {name: [{"major": major, "minor": minor, "rate": rate}] for name, rate in rates.items()}
    seen = started(runtime, limited(blockIO=block))
    for name, file in RATES.items():
        shown = seen.both("blkio", f"blkio.throttle.{file}_device")
        assert shown == f"{major}:{minor} {rates[name]}"


@contextlib.contextmanager
def _scheduled(disk: tuple[int, int], name: str) -> Iterator[None]:
    """A disk whose queue has a certain scheduler."""
    file = Path(f"/sys/dev/block/{disk[0]}:{disk[1]}/queue/scheduler")
    before = next(word.strip("[]") for word in file.read_text().split() if word[0] == "[")
    if name not in file.read_text():
        pytest.skip(f"this kernel has no scheduler {name}")
    file.write_text(name)
    try:
        yield
    finally:
        file.write_text(before)


@needs("blkio")
def test_weights_of_block_devices(runtime: Runtime, disk: tuple[int, int]) -> None:
    major, minor = disk
    block: dict[str, Any] = {"weight": 300}
    runtime.config("true", change=limited(blockIO=block))
    with _scheduled(disk, "bfq"):
        block["weightDevice"] = [{"major": major, "minor": minor, "weight": 400}]
        seen = started(runtime, limited(blockIO=block))
        assert seen.both("blkio", "blkio.bfq.weight") == "300"
        assert f"{major}:{minor} 400" in seen.both("blkio", "blkio.bfq.weight_device").splitlines()
        runtime.call("delete", "--force", NAME)


@needs("blkio")
def test_weights_of_leaves_are_refused_where_the_kernel_has_none(runtime: Runtime) -> None:
    for block in (
        {"leafWeight": 300},
        {"weightDevice": [{"major": 7, "minor": 0, "leafWeight": 300}]},
    ):
        runtime.config("true", change=limited(blockIO=block))
        words = refusal(runtime, NAME)
        assert "blkio.leaf_weight" in words
        assert "kernels have no leaf weights since Linux 5.0" in words


# --- the rest ------------------------------------------------------------------------------------


@needs_v2
def test_huge_pages(runtime: Runtime) -> None:
    """Limits of a controller that cgroup v2 has here; what was enabled for it is taken back."""
    top = next(d for d in (OWN[""], *OWN[""].parents) if not (d / "cgroup.type").exists())
    if "hugetlb" not in (top / "cgroup.controllers").read_text():
        pytest.skip("cgroup v2 has no hugetlb controller here")
    size = next(iter(Path("/sys/kernel/mm/hugepages").iterdir())).name
    unit = int(size.removeprefix("hugepages-").removesuffix("kB")) // 1024
    name = f"{unit}MB" if unit < 1024 else f"{unit // 1024}GB"
    enabled = "hugetlb" in (top / "cgroup.subtree_control").read_text()
    parent = top / f"{NAME}-pages"
    parent.mkdir()
    try:
        limit = 6 * unit * MIB
        change = limited(f"/{parent.name}/box", hugepageLimits=[{"pageSize": name, "limit": limit}])
        seen = started(runtime, change)
        assert seen.both("", f"hugetlb.{name}.max") == str(limit)
        assert seen.both("", f"hugetlb.{name}.rsvd.max") == str(limit)
        runtime.call("delete", "--force", NAME)
        pages = [{"pageSize": "3MB", "limit": MIB}]
        runtime.config("true", change=limited(f"/{parent.name}/box", hugepageLimits=pages))
        assert "hugetlb.3MB.max" in refusal(runtime, NAME)
    finally:
        (parent / "cgroup.subtree_control").write_text("-hugetlb")
        parent.rmdir()
        if not enabled:
            # Others may have come to use it meanwhile.
            with contextlib.suppress(OSError):
                (top / "cgroup.subtree_control").write_text("-hugetlb")


@pytest.fixture
def network_groups(runtime: Runtime) -> Iterator[Runtime]:
    """The runtime where net_cls and net_prio are mounted, in a mount namespace of its own."""
    known = Path("/proc/cgroups").read_text()
    if "net_cls" in V1 or "net_cls" not in known or "net_prio" not in known or not V1:
        pytest.skip("the controllers net_cls and net_prio are not to be had")
    top = runtime.home / "network-groups"
    top.mkdir()
    script = f'mount -t cgroup -o net_cls,net_prio none {top} && exec "$@"'
    before = runtime.command
    runtime.command = ["unshare", "--mount", "sh", "-c", script, "sh", *before]
    yield runtime
    runtime.clean()
    runtime.command = before
    # A hierarchy lives on, and shows in every /proc/PID/cgroup, as long as it has a cgroup; what
    # was removed counts for a while.
    script = f"mount -t cgroup -o net_cls,net_prio none {top}; rmdir {top}/*/; umount {top}"
    while "net_cls" in Path("/proc/self/cgroup").read_text():
        subprocess.run(["sh", "-c", script], stderr=subprocess.DEVNULL, check=True)
        time.sleep(0.1)


def test_classes_and_priorities_of_packets(network_groups: Runtime) -> None:
    network = {"classID": 0x100001, "priorities": [{"name": "lo", "priority": 7}]}

    def change(config: dict[str, Any]) -> None:
        limited(network=network)(config)
        spaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [s for s in spaces if s["type"] != "network"]

    top = network_groups.home / "network-groups"
    network_groups.config(*SLEEP, change=change)
    network_groups.quiet("run", "--detach", NAME)
    pid = network_groups.pid(NAME)
    (path,) = (
        line.split(":", 2)[2]
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        if "net_cls" in line
    )
    assert path.endswith(f"{NAME}.scope")
    look = f"cat {top}{path}/net_cls.classid; cat {top}{path}/net_prio.ifpriomap"
    line = [word.replace('exec "$@"', look) for word in network_groups.command]
    said = subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == str(0x100001)
    assert "lo 7" in said[1:]
    inside = network_groups.call("exec", NAME, "cat", "/proc/1/cgroup").stdout
    assert "net_cls,net_prio:/" in inside


@pytest.mark.parametrize(
    ("resources", "named", "controller"),
    [
        ({"rdma": {"mlx5_0": {"hcaHandles": 3, "hcaObjects": 9}}}, "rdma", "rdma"),
        ({"network": {"classID": 5}}, "network.classID", "net_cls"),
        (
            {"network": {"priorities": [{"name": "lo", "priority": 1}]}},
            "network.priorities",
            "net_prio",
        ),
    ],
)
def test_a_controller_that_is_not_here_is_named(
    both: Runtime, resources: dict[str, Any], named: str, controller: str
) -> None:
    offered = (OWN[""] / "cgroup.controllers").read_text() if "" in OWN else ""
    if controller in V1 or controller in offered:
        pytest.skip(f"this machine has {controller}")
    both.config("true", change=lambda config: config["linux"].update(resources=resources))
    if both.user:
        log = both.home / "log"
        both.quiet("--log", str(log), "run", NAME)
        assert f"not delegated to you: {controller}" in log.read_text()
        return
    words = refusal(both, NAME)
    assert words.startswith(f"linux.resources.{named} cannot be set: ")
    assert f"the {controller} controller" in words or f"no {controller} controller" in words


def test_limits_of_an_ordinary_user_without_a_cgroup_are_left_out_with_a_word(
    rootless: Runtime,
) -> None:
    resources = {"memory": {"limit": 64 * MIB}, "pids": {"limit": 9}, "cpu": {"shares": 2}}
    log = rootless.home / "log"
    rootless.config(*SLEEP, change=lambda config: config["linux"].update(resources=resources))
    rootless.quiet("--log", str(log), "run", "--detach", NAME)
    pid = rootless.pid(NAME)
    if NAME in Path(f"/proc/{pid}/cgroup").read_text():
        pytest.skip("a cgroup is delegated to the user of the tests")
    words = log.read_text()
    assert "limits are ignored for what is not delegated to you: cpu, memory, pids" in words
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()


def test_update_by_a_document_and_by_words_reaches_the_kernel(runtime: Runtime) -> None:
    seen = started(runtime, limited(pids={"limit": 20}, cpu={"shares": 512, "cpus": "0"}))
    if "pids" not in V1:
        pytest.skip("looks at files of cgroup v1")
    file = runtime.home / "resources.json"
    file.write_text(json.dumps({"pids": {"limit": 30}, "cpu": {"quota": 5000, "period": 10000}}))
    runtime.call("update", "--resources", str(file), NAME)
    assert seen.both("pids", "pids.max") == "30"
    assert seen.both("cpu", "cpu.cfs_quota_us") == "5000"
    assert seen.both("cpu", "cpu.shares") == "512", "what is not named stays"
    runtime.call("update", "--cpu-share", "700", "--cpuset-cpus", "0", "--cpu-burst", "100", NAME)
    assert seen.both("cpu", "cpu.shares") == "700"
    assert seen.both("cpu", "cpu.cfs_burst_us") == "100"
    wrong = runtime.call("update", "--l3-cache-schema", "L3:0=f", NAME, check=False)
    assert wrong.returncode == 1
    assert "intelRdt" in wrong.stderr
