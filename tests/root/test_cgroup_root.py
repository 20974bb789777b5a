"""Cgroups on this machine: the kernel's files and what a program inside meets.

Every cgroup is below one of this test's own, in each hierarchy.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

import pytest

from ctrt.errors import CtrtError
from ctrt.linux import calls as k
from ctrt.linux import cgroups
from ctrt.runtime import cgroup, group
from ctrt.runtime.executor import StartError, execute
from ctrt.runtime.host import Host
from ctrt.runtime.operations import undo
from ctrt.runtime.plan import INSIDE, OUTSIDE, Plan, Step

LAYOUT = cgroups.layout()
BASE = f"/ctrt-test-{os.getpid()}"
PYTHON = os.path.realpath(sys.executable)

pytestmark = pytest.mark.skipif(not LAYOUT.v1 and not LAYOUT.v2, reason="there are no cgroups here")


def text(path):
    with open(path) as file:
        return file.read()


def needs(*controllers):
    lacking = [c for c in controllers if c not in LAYOUT.v1]
    return pytest.mark.skipif(bool(lacking), reason=f"not with cgroup v1 here: {lacking}")


hybrid = pytest.mark.skipif(not (LAYOUT.v1 and LAYOUT.v2), reason="not a hybrid machine")


@pytest.fixture(scope="module", autouse=True)
def own_base():
    yield
    for top in {*LAYOUT.v1.values(), *([LAYOUT.v2] if LAYOUT.v2 else [])}:
        if os.path.isdir(f"{top}{BASE}"):
            cgroups.remove(f"{top}{BASE}")


class Box:
    """A program of this machine in a cgroup of its own."""

    def __init__(self, code, *, name="box", layout=LAYOUT, joined=None, namespace=False, **res):
        self.config = {"linux": {"cgroupsPath": f"{BASE}/{name}", "resources": res}}
        self.planned = joined or cgroup.plan(self.config, Host.probe(), layout=layout)
        self.group = group.Group(self.planned.state)
        steps = [*self.planned.before]
        clone = ("clone", 0, self.planned.descriptor)
        steps.append(Step("clone", OUTSIDE, [clone], why="", source=""))
        steps += self.planned.after
        unshare = [("unshare", k.CLONE_NEWCGROUP)] if namespace else []
        program = (PYTHON, "-I", "-S", "-c", code)
        inside = [*unshare, ("own_descriptors",), ("stdio",), ("session",), ("signals",)]
        inside.append(("exec", program, ("PATH=/bin",)))
        steps.append(Step("exec", INSIDE, inside, why="", source=""))
        self.plan = Plan(steps)
        self.joined = joined is not None

    def __enter__(self):
        read, write = os.pipe()
        null = os.open("/dev/null", os.O_RDWR)
        try:
            self.started = execute(
                self.plan.wire(), {"stdin": null, "stdout": write, "stderr": write}
            )
        except BaseException:
            os.close(read)
            undo(self.plan.undo())
            raise
        finally:
            os.close(write)
            os.close(null)
        self.output = os.fdopen(read)
        self.pid = self.started.pid
        self.status = None
        return self

    def wait(self):
        """(exit status, what it said)"""
        said = self.output.read()
        self.status = os.waitpid(self.pid, 0)[1]
        return os.waitstatus_to_exitcode(self.status), said

    def ready(self):
        """The first line that it says."""
        return self.output.readline().strip()

    def __exit__(self, *_):
        try:
            if self.status is None:
                k.pidfd_send_signal(self.started.pidfd, 9)
                if not self.joined and self.group.frozen():
                    self.group.thaw()
                os.waitpid(self.pid, 0)
        finally:
            self.output.close()
            os.close(self.started.pidfd)
            if not self.joined:
                self.group.remove()
        if not self.joined:
            state = self.planned.state
            for path in (*state["v1"].values(), *([state["v2"]] if state["v2"] else [])):
                assert not os.path.exists(path)


def run(code, **resources):
    with Box(code, **resources) as box:
        return box.wait()


WAIT = "import time; print('ready', flush=True); time.sleep(60)"


# --- limits, met from inside ------------------------------------------------------------------


def test_a_fork_bomb_ends_at_the_limit_of_processes():
    code = """
import os, time
made = 0
while made < 50:
    try:
        pid = os.fork()
    except OSError as error:
        print(made, error.errno)
        break
    if pid == 0:
        time.sleep(60)
    made += 1
"""
    with Box(code, pids={"limit": 6}) as box:
        assert box.ready() == "5 11"  # EAGAIN
        assert len(box.group.processes()) <= 6


@needs("memory")
def test_who_uses_more_memory_than_allowed_is_killed():
    code = "data = bytearray(200 << 20); print(sum(data[::4096]))"
    status, said = run(code, memory={"limit": 40 << 20, "swap": 40 << 20})
    assert (status, said) == (-signal.SIGKILL, "")
    status, said = run(code)
    assert (status, said) == (0, "0\n")


@needs("cpuset")
def test_the_cpus_of_a_container_are_those_that_it_may_use():
    code = "print([l.split()[1] for l in open('/proc/self/status') if '_allowed_list' in l])"
    status, said = run(code, cpu={"cpus": "0", "mems": "0"})
    assert (status, said) == (0, "['0', '0']\n")


@needs("cpu")
def test_a_quota_throttles():
    code = """
import time
end = time.process_time() + 0.1
start = time.monotonic()
while time.process_time() < end:
    pass
print(time.monotonic() - start > 0.3)
"""
    assert run(code, cpu={"quota": 10000, "period": 50000, "shares": 200}) == (0, "True\n")


DEVICES = """
import os
for path, flags in (('/dev/null', os.O_RDWR), ('/dev/kmsg', os.O_RDONLY), ('/dev/zero', 0)):
    try:
        os.close(os.open(path, flags))
        print(path, 'ok')
    except OSError as error:
        print(path, error.errno)
"""
DENIED = [{"allow": False, "access": "rwm"}]
WITHOUT_V1_DEVICES = cgroups.Layout(
    LAYOUT.v2, {c: d for c, d in LAYOUT.v1.items() if c != "devices"}, LAYOUT.own
)


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(LAYOUT, id="v1", marks=needs("devices")),
        pytest.param(
            WITHOUT_V1_DEVICES,
            id="v2",
            marks=pytest.mark.skipif(not LAYOUT.v2, reason="there is no cgroup v2 here"),
        ),
    ],
)
def test_devices_that_are_not_allowed_are_denied(layout):
    everything = "/dev/null ok\n/dev/kmsg ok\n/dev/zero ok\n"
    assert run(DEVICES, layout=layout) == (0, everything)
    denied = "/dev/null ok\n/dev/kmsg 1\n/dev/zero ok\n"
    assert run(DEVICES, layout=layout, devices=DENIED) == (0, denied)
    allowed = [*DENIED, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]
    assert run(DEVICES, layout=layout, devices=allowed) == (0, everything)


@needs("blkio", "memory", "cpu", "pids")
def test_every_limit_is_in_the_kernel_s_file():
    disk = next((e for e in sorted(os.listdir("/sys/block")) if e.startswith(("vd", "sd"))), None)
    block = {}
    if disk:
        with open(f"/sys/block/{disk}/dev") as file:
            major, minor = map(int, file.read().split(":"))
        entry = [{"major": major, "minor": minor, "rate": 1 << 20}]
        block = {"blockIO": {"throttleReadBpsDevice": entry, "throttleWriteIOPSDevice": entry}}
    resources = {
        "memory": {"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20, "swappiness": 7},
        "cpu": {"shares": 300, "quota": 5000, "period": 20000, "burst": 1000},
        "pids": {"limit": 33},
        **block,
    }
    with Box(WAIT, **resources) as box:
        box.ready()
        own = {
            name: path
            for _, names, path in (
                line.split(":", 2) for line in text(f"/proc/{box.pid}/cgroup").splitlines()
            )
            for name in names.split(",")
        }
        assert set(own.values()) == {f"{BASE}/box"}

        def value(controller, file):
            return cgroups.read(f"{LAYOUT.v1[controller]}{own[controller]}/{file}").strip()

        assert value("memory", "memory.limit_in_bytes") == str(64 << 20)
        assert value("memory", "memory.memsw.limit_in_bytes") == str(128 << 20)
        assert value("memory", "memory.soft_limit_in_bytes") == str(32 << 20)
        assert value("memory", "memory.swappiness") == "7"
        assert value("cpu", "cpu.shares") == "300"
        assert value("cpu", "cpu.cfs_quota_us") == "5000"
        assert value("cpu", "cpu.cfs_period_us") == "20000"
        assert value("cpu", "cpu.cfs_burst_us") == "1000"
        assert value("pids", "pids.max") == "33"
        if block:
            assert value("blkio", "blkio.throttle.read_bps_device") == f"{major}:{minor} {1 << 20}"


@needs("blkio")
def test_what_the_kernel_does_not_have_is_told_with_the_reason():
    with Box(WAIT, pids={"limit": 50}) as box:
        box.ready()
        has = any(
            os.path.exists(f"{box.group.v1['blkio']}/{name}")
            for name in ("blkio.weight", "blkio.bfq.weight")
        )
        if has:
            pytest.skip("a disk here has a scheduler that knows weights")
        with pytest.raises(CtrtError) as caught:
            box.group.update({"blockIO": {"weight": 100}})
    sentence = "no disk here has an I/O scheduler that knows weights (bfq)"
    assert str(caught.value) == f"linux.resources.blockIO.weight cannot be set: {sentence}"
    with pytest.raises(StartError) as failed, Box(WAIT, blockIO={"weight": 100}):
        pass
    assert failed.value.words.startswith(sentence)


@hybrid
def test_huge_pages_are_v2_s_on_this_machine():
    if "hugetlb" not in LAYOUT.offers(f"{LAYOUT.v2}{BASE}"):
        pytest.skip("cgroup v2 has no hugetlb controller here")
    enabled = "hugetlb" in cgroups.read(f"{LAYOUT.v2}/cgroup.subtree_control")
    try:
        with Box(WAIT, hugepageLimits=[{"pageSize": "2MB", "limit": 4 << 20}]) as box:
            box.ready()
            assert cgroups.number(f"{box.group.v2}/hugetlb.2MB.max") == 4 << 20
            assert box.group.v1 == {}
        cgroups.remove(f"{LAYOUT.v2}{BASE}")
    finally:
        if not enabled:
            cgroups.write(f"{LAYOUT.v2}/cgroup.subtree_control", "-hugetlb")


def test_a_refused_value_names_the_file():
    with pytest.raises(StartError) as caught, Box(WAIT, pids={"limit": 2**40}):
        pass
    assert "pids.max" in caught.value.words
    assert not os.path.exists(f"{LAYOUT.v1['pids']}{BASE}/box")


# --- where it is ------------------------------------------------------------------------------


@pytest.mark.skipif(not LAYOUT.v2, reason="there is no cgroup v2 here")
def test_below_a_cgroup_with_processes_nothing_is_enabled():
    """Else what is below would be for threads only, and no process could be born there."""
    top = f"{LAYOUT.v2}{BASE}"
    os.makedirs(f"{top}/busy")
    child = subprocess.Popen(["sleep", "60"])
    try:
        cgroups.write(f"{top}/busy/cgroup.procs", str(child.pid))
        cgroups.enable(f"{top}/busy", frozenset(("cpu", "pids", "hugetlb")))
        assert text(f"{top}/busy/cgroup.subtree_control").strip() == ""
        with Box(WAIT, name="busy/below") as box:
            assert box.ready() == "ready"
            assert text(f"{top}/busy/below/cgroup.type") == "domain\n"
    finally:
        child.kill()
        child.wait()
        cgroups.remove(f"{top}/busy")


@hybrid
def test_without_limits_the_process_is_born_in_v2_and_stays_out_of_v1():
    with Box(WAIT) as box:
        box.ready()
        lines = text(f"/proc/{box.pid}/cgroup").splitlines()
    assert f"0::{BASE}/box" in lines
    assert sum(BASE in line for line in lines) == 1


def test_a_cgroup_namespace_begins_at_the_container_s_cgroups():
    code = "print({l.rstrip().split(':', 2)[2] for l in open('/proc/self/cgroup')})"
    assert run(code, namespace=True, pids={"limit": 50}) == (0, "{'/'}\n")


def test_another_process_joins():
    with Box(WAIT, pids={"limit": 50}) as box:
        box.ready()
        other = subprocess.Popen(["sleep", "60"])
        try:
            box.group.attach(other.pid)
            assert set(box.group.processes()) == {box.pid, other.pid}
            own = text(f"/proc/{box.pid}/cgroup")
            assert text(f"/proc/{other.pid}/cgroup") == own
        finally:
            other.kill()
            other.wait()


def test_a_cgroup_in_use_is_refused_and_its_processes_live():
    with Box(WAIT, pids={"limit": 50}) as box:
        box.ready()
        with (
            pytest.raises(StartError, match=r"cgroup is not empty: 1 process"),
            Box(WAIT, name="other/../box"),
        ):
            pass
        assert box.group.processes() == [box.pid]


def test_another_s_cgroup_is_not_emptied_by_an_undo():
    top = LAYOUT.v2 or LAYOUT.v1["pids"]
    path = f"{top}{BASE}/foreign"
    os.makedirs(path)
    child = subprocess.Popen(["sleep", "60"])
    try:
        cgroups.write(f"{path}/cgroup.procs", str(child.pid))
        with pytest.raises(StartError, match="cgroup is not empty"), Box(WAIT, name="foreign"):
            pass
        assert cgroups.processes(path) == [child.pid]
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
        cgroups.remove(path)


# --- what can be done with it -----------------------------------------------------------------

WITHOUT_V2 = cgroups.Layout(None, LAYOUT.v1, LAYOUT.own)
BOTH = [
    pytest.param(LAYOUT, id="v2" if LAYOUT.v2 else "v1"),
    pytest.param(WITHOUT_V2, id="v1-alone", marks=needs("freezer")),
]
COUNT = """
import sys, time
while True:
    print('.', flush=True)
    time.sleep(0.005)
"""


def said_within(box, seconds):
    return bool(select.select([box.output], [], [], seconds)[0])


@pytest.mark.parametrize("layout", BOTH)
def test_a_frozen_container_stands_still_and_goes_on(layout):
    with Box(COUNT, layout=layout) as box:
        box.ready()
        assert not box.group.frozen()
        box.group.freeze()
        assert box.group.frozen()
        while said_within(box, 0):
            os.read(box.output.fileno(), 4096)
        assert not said_within(box, 0.05)
        box.group.thaw()
        assert not box.group.frozen()
        assert said_within(box, 5)


FAMILY = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)
print('ready', flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("layout", BOTH)
@pytest.mark.parametrize("frozen", [False, True])
def test_kill_ends_all_processes_frozen_or_not(layout, frozen):
    with Box(FAMILY, layout=layout) as box:
        box.ready()
        assert len(box.group.processes()) == 6
        if frozen:
            box.group.freeze()
        box.group.kill(9)
        assert box.wait()[0] == -9
        deadline = time.monotonic() + 5
        while box.group.processes():
            assert time.monotonic() < deadline


def test_other_signals_reach_all_processes():
    with Box(FAMILY) as box:
        box.ready()
        box.group.kill(signal.SIGTERM)
        assert box.wait()[0] == -signal.SIGTERM


@pytest.mark.parametrize("layout", BOTH)
def test_removal_takes_what_the_container_made_below(layout):
    with Box(WAIT, layout=layout) as box:
        box.ready()
        for path in (*box.group.v1_directories(), *([box.group.v2] if box.group.v2 else [])):
            os.makedirs(f"{path}/a/b")
            os.mkdir(f"{path}/c")
        directory = box.group.v2 or box.group.v1["freezer"]
        child = subprocess.Popen(["sleep", "60"])
        cgroups.write(f"{directory}/a/b/cgroup.procs", str(child.pid))
        assert set(box.group.processes()) == {box.pid, child.pid}
        box.group.remove()
        assert child.wait() == -9
        assert not os.path.exists(directory)


@needs("memory", "pids", "cpu")
def test_limits_can_be_changed_in_any_order():
    with Box(WAIT, memory={"limit": 64 << 20, "swap": 64 << 20}, pids={"limit": 50}) as box:
        box.ready()
        box.group.update({"memory": {"limit": 256 << 20, "swap": 512 << 20}})
        memory = box.group.v1["memory"]
        assert cgroups.number(f"{memory}/memory.limit_in_bytes") == 256 << 20
        box.group.update({"memory": {"limit": 128 << 20, "swap": 128 << 20}})
        assert cgroups.number(f"{memory}/memory.memsw.limit_in_bytes") == 128 << 20
        box.group.update({"pids": {"limit": -1}, "cpu": {"quota": 5000, "period": 8000}})
        assert cgroups.read(f"{box.group.v1['pids']}/pids.max") == "max\n"
        assert cgroups.number(f"{box.group.v1['cpu']}/cpu.cfs_period_us") == 8000
        with pytest.raises(CtrtError) as caught:
            box.group.update({"memory": {"limit": 4096, "swap": 1}})
        assert str(caught.value).startswith("linux.resources.memory.")


@hybrid
def test_a_limit_of_a_controller_that_was_not_joined_is_one_sentence():
    with Box(WAIT) as box:
        box.ready()
        with pytest.raises(CtrtError, match=r"^linux\.resources\.pids cannot be set: "):
            box.group.update({"pids": {"limit": 5}})


@needs("memory", "pids", "cpuacct")
def test_statistics_count_what_the_program_uses():
    code = "import time; data = bytearray(30 << 20); print('ready', flush=True); time.sleep(60)"
    with Box(code, memory={"limit": 100 << 20}, pids={"limit": 9}) as box:
        box.ready()
        found = box.group.stats()
    assert found["cpu"]["usage"]["total"] > 1_000_000
    assert found["memory"]["usage"]["usage"] > 30 << 20
    assert found["memory"]["usage"]["limit"] == 100 << 20
    assert found["pids"] == {"current": 1, "limit": 9}


def test_a_user_of_a_namespace_divides_its_cgroup_but_keeps_its_limits(tmp_path):
    if not LAYOUT.v2:
        pytest.skip("cgroup v1 is not delegated")
    config = {
        "process": {"user": {"uid": 5}},
        "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}],
        "linux": {
            "cgroupsPath": f"{BASE}/delegated",
            "namespaces": [{"type": "user"}, {"type": "cgroup"}],
            "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 10}],
        },
    }
    box = Box(WAIT, joined=cgroup.plan(config, Host.probe(), layout=LAYOUT))
    with box:
        box.ready()
        path = box.group.v2
        assert os.stat(path).st_uid == 100005
        assert os.stat(f"{path}/cgroup.procs").st_uid == 100005
        assert os.stat(f"{path}/cgroup.freeze").st_uid == 0
    box.group.remove()
