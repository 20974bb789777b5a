"""Cgroups as values: where a container's cgroup is, and what is written there, on any machine.

The machines here are directories of plain files: what is read of a cgroup file system before
anything is done.
"""

from __future__ import annotations

import os

import pytest

from ctrt.errors import CtrtError
from ctrt.linux import bpf, cgroups
from ctrt.runtime import cgroup, cgroup_stats, limits
from ctrt.runtime.group import Group
from ctrt.runtime.host import Host

ROOT = Host(uid=0, gid=0, privileged=True)
USER = Host(uid=1000, gid=1000, privileged=False)
ALL = "cpuset cpu io memory hugetlb pids rdma misc"
V1 = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "name=systemd")

MOUNTS = """\
25 20 0:22 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
28 25 0:25 / /sys/fs/cgroup/systemd rw,relatime shared:5 - cgroup cgroup rw,xattr,name=systemd
29 25 0:26 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
30 20 0:26 /box /srv/box rw,relatime - cgroup2 cgroup2 rw
"""
OWN = "4:cpu,cpuacct:/\n3:memory:/service/one\n1:name=systemd:/box\n0::/box\n"


def test_the_layout_is_read_from_the_mounts(tmp_path):
    (tmp_path / "mountinfo").write_text(MOUNTS)
    (tmp_path / "cgroup").write_text(OWN)
    found = cgroups.layout(str(tmp_path / "mountinfo"), str(tmp_path / "cgroup"))
    assert found.v2 == "/sys/fs/cgroup/unified"
    assert found.v1 == {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/memory",
        "name=systemd": "/sys/fs/cgroup/systemd",
    }
    assert found.own["memory"] == "/service/one"
    assert found.own[""] == "/box"


def directory(path, *, controllers=None, enabled="", procs="", top=False):
    """A directory with the files of a cgroup v2."""
    path.mkdir(parents=True, exist_ok=True)
    if controllers is not None:
        (path / "cgroup.controllers").write_text(controllers + "\n")
        (path / "cgroup.subtree_control").write_text(enabled + "\n")
        (path / "cgroup.procs").write_text(procs)
        if not top:
            (path / "cgroup.type").write_text("domain\n")


@pytest.fixture
def unified(tmp_path):
    """A machine with cgroup v2 alone."""
    directory(tmp_path, controllers=ALL, top=True)
    return cgroups.Layout(str(tmp_path), {}, {"": "/"})


@pytest.fixture
def hybrid(tmp_path):
    """A machine whose controllers are with v1, and hugetlb with v2."""
    v1 = {}
    for name in V1:
        directory(tmp_path / name)
        v1[name] = str(tmp_path / name)
    directory(tmp_path / "unified", controllers="hugetlb", top=True)
    return cgroups.Layout(str(tmp_path / "unified"), v1, dict.fromkeys((*V1, ""), "/"))


@pytest.fixture
def legacy(hybrid):
    """A machine with cgroup v1 alone."""
    return cgroups.Layout(None, hybrid.v1, hybrid.own)


def config(path="/box/one", **resources):
    linux = {"resources": resources} if resources else {}
    return {"linux": {"cgroupsPath": path, **linux}}


def calls(steps, *names):
    return [call for step in steps for call in step.calls if not names or call[0] in names]


def writes(planned, layout):
    """What the plan writes, by the path below the machine's directory."""
    base = os.path.commonpath([*(layout.v1.values()), *([layout.v2] if layout.v2 else [])])
    return {
        os.path.relpath(call[1], base): call[2]
        for call in calls(planned.before + planned.after, "cgroup_write")
    }


# --- where -----------------------------------------------------------------------------------


def test_without_limits_a_hybrid_machine_is_left_to_v2(hybrid):
    """Joining v1 would cost more than the whole start."""
    planned = cgroup.plan(config(), ROOT, layout=hybrid)
    assert planned.state["v1"] == {}
    assert planned.state["v2"] == f"{hybrid.v2}/box/one"
    assert planned.after == []
    assert not planned.late
    assert planned.descriptor == "cgroup"
    assert calls(planned.before) == [
        ("cgroup_make", f"{hybrid.v2}/box/one", hybrid.v2, planned.state["mark"], ()),
        ("open_directory", f"{hybrid.v2}/box/one", "cgroup"),
    ]
    assert planned.before[0].undo == (
        ("cgroup_remove", f"{hybrid.v2}/box/one", planned.state["mark"]),
    )


def test_one_limit_of_v1_joins_all_its_hierarchies(hybrid):
    planned = cgroup.plan(config(pids={"limit": 5}), ROOT, layout=hybrid)
    assert set(planned.state["v1"]) == set(V1)
    assert planned.late
    (attach,) = calls(planned.after)
    assert attach == ("cgroup_attach", tuple(f"{hybrid.v1[name]}/box/one" for name in V1))
    assert writes(planned, hybrid) == {"pids/box/one/pids.max": "5"}


def test_on_a_hybrid_machine_a_controller_of_v2_is_used_there(hybrid):
    planned = cgroup.plan(
        config(hugepageLimits=[{"pageSize": "2MB", "limit": 0}]), ROOT, layout=hybrid
    )
    assert planned.state["v1"] == {}
    assert calls(planned.before, "cgroup_make") == [
        ("cgroup_make", f"{hybrid.v2}/box/one", hybrid.v2, planned.state["mark"], ("hugetlb",))
    ]
    assert writes(planned, hybrid) == {"unified/box/one/hugetlb.2MB.max": "0"}


def test_with_v1_alone_the_hierarchies_are_joined_in_any_case(legacy):
    planned = cgroup.plan(config(), ROOT, layout=legacy)
    assert planned.state["v2"] is None
    assert planned.descriptor is None
    assert planned.late
    assert set(planned.state["v1"]) == set(V1)


def test_with_v2_alone_all_controllers_that_engines_read_are_enabled(unified):
    planned = cgroup.plan(config(), ROOT, layout=unified)
    (make,) = calls(planned.before, "cgroup_make")
    assert make[4] == ("cpu", "cpuset", "hugetlb", "io", "memory", "pids", "rdma")
    assert planned.after == []


def test_the_root_of_the_hierarchies_is_no_place_for_a_container(unified):
    for path in ("/", "/..", "a/.."):
        with pytest.raises(CtrtError, match="which is the root; a container needs a cgroup of"):
            cgroup.plan(config(path), ROOT, layout=unified)


@pytest.mark.parametrize("path", ["/a/../../b/one", "b/one", "//b//one/", "/b/./one"])
def test_paths_stay_below_the_root(unified, path):
    planned = cgroup.plan(config(path), ROOT, layout=unified)
    assert planned.state["v2"] == f"{unified.v2}/b/one"


def test_a_container_without_a_path_has_its_name(unified):
    planned = cgroup.plan({"linux": {}}, ROOT, layout=unified, name="two")
    assert planned.state["path"] == "/ctrt/two"


# --- who may ------------------------------------------------------------------------------------


def unwritable(layout):
    found = cgroups.Layout(layout.v2, layout.v1, layout.own)
    return type("Layout", (cgroups.Layout,), {"writable": lambda self, path: False})(
        found.v2, found.v1, found.own
    )


def test_a_user_without_a_delegated_cgroup_has_none_and_is_told(hybrid):
    limits_asked = config(pids={"limit": 5}, devices=[{"allow": False}])
    planned = cgroup.plan(limits_asked, USER, layout=unwritable(hybrid))
    assert planned.state == {}
    assert planned.before == planned.after == []
    (note,) = planned.notes
    assert "no cgroup is delegated to you, so the container stays in the caller's cgroup" in note
    assert note.endswith("limits are ignored for what is not delegated to you: pids")
    group = Group(planned.state)
    assert group.processes() == []
    assert not group.frozen()
    group.kill(9)
    group.remove()


def test_a_user_s_cgroup_is_below_the_delegated_one(unified, tmp_path):
    own = tmp_path / "user"
    directory(own, controllers="memory pids", enabled="", procs="77\n")
    host = Host(uid=1000, gid=1000, privileged=False, cgroup=f"{own}/ctrt")
    planned = cgroup.plan(config(pids={"limit": 5}), host, layout=unwritable(unified))
    assert planned.state["v2"] == f"{own}/ctrt/box/one"
    # The caller is in the cgroup above, which therefore cannot pass controllers on.
    assert "limits are ignored for what is not delegated to you: pids" in planned.notes
    assert writes(planned, unified) == {}


def test_a_limit_that_cannot_be_had_is_an_error_for_root(hybrid):
    with pytest.raises(CtrtError) as caught:
        cgroup.plan(config(network={"classID": 5}), ROOT, layout=hybrid)
    assert str(caught.value).startswith("linux.resources.network.classID cannot be set: ")
    assert "net_cls" in str(caught.value)


def test_unified_settings_of_a_controller_of_v1_are_an_error(hybrid):
    with pytest.raises(CtrtError) as caught:
        cgroup.plan(config(unified={"memory.high": "5"}), ROOT, layout=hybrid)
    assert str(caught.value).startswith(
        'linux.resources.unified["memory.high"] cannot be set: the memory controller is with '
        "cgroup v1 here"
    )


def test_an_ancestor_with_processes_passes_nothing_on(unified, tmp_path):
    directory(tmp_path / "busy", controllers="memory pids", enabled="memory", procs="5\n")
    assert unified.offers(f"{tmp_path}/busy/one") == {"memory"}
    directory(tmp_path / "free", controllers="", enabled="")
    assert unified.offers(f"{tmp_path}/free/one") == set(ALL.split())
    assert unified.offers(f"{tmp_path}/one") == set(ALL.split())


DELEGATED = {
    "process": {"user": {"uid": 5}},
    "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}],
    "linux": {
        "cgroupsPath": "/box/one",
        "namespaces": [{"type": "user"}, {"type": "cgroup"}],
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 10}],
    },
}


def test_a_writable_cgroup_in_namespaces_of_its_own_is_the_container_s(unified):
    planned = cgroup.plan(DELEGATED, ROOT, layout=unified)
    assert calls(planned.before, "cgroup_delegate") == [
        ("cgroup_delegate", f"{unified.v2}/box/one", 100005)
    ]


@pytest.mark.parametrize("without", ["user", "cgroup", "rw"])
def test_else_it_stays_the_host_s(unified, without):
    linux = DELEGATED["linux"]
    kinds = [n for n in linux["namespaces"] if n["type"] != without]
    changed = {**DELEGATED, "linux": {**linux, "namespaces": kinds}}
    if without == "rw":
        changed["mounts"] = [{**DELEGATED["mounts"][0], "options": ["ro"]}]
    assert calls(cgroup.plan(changed, ROOT, layout=unified).before, "cgroup_delegate") == []


# --- limits ---------------------------------------------------------------------------------------

BLOCK = {
    "weight": 500,
    "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}],
    "throttleWriteIOPSDevice": [{"major": 8, "minor": 1, "rate": 300}],
}
LIMITS = [
    ({"pids": {"limit": -1}}, {"pids.max": "max"}, {"pids.max": "max"}),
    ({"pids": {}}, {}, {}),
    ({"pids": {"limit": 0}}, {"pids.max": "1"}, {"pids.max": "1"}),
    (
        {"memory": {"limit": 100, "swap": 300, "reservation": 50}},
        {
            "memory.limit_in_bytes": "100",
            "memory.memsw.limit_in_bytes": "300",
            "memory.soft_limit_in_bytes": "50",
        },
        {"memory.swap.max": "200", "memory.max": "100", "memory.low": "50"},
    ),
    (
        {"memory": {"limit": -1}},
        {"memory.limit_in_bytes": "-1", "memory.memsw.limit_in_bytes": "-1"},
        {"memory.max": "max", "memory.swap.max": "max"},
    ),
    ({"memory": {"limit": 5, "swap": 5}}, None, {"memory.max": "5", "memory.swap.max": "0"}),
    (
        {"memory": {"swappiness": 0, "disableOOMKiller": True}},
        {"memory.swappiness": "0", "memory.oom_control": "1"},
        None,
    ),
    (
        {"cpu": {"shares": 1024, "quota": 5000, "period": 10000, "burst": 100}},
        {
            "cpu.shares": "1024",
            "cpu.cfs_period_us": "10000",
            "cpu.cfs_quota_us": "5000",
            "cpu.cfs_burst_us": "100",
        },
        {"cpu.weight": "100", "cpu.max": "5000 10000", "cpu.max.burst": "100"},
    ),
    ({"cpu": {"quota": -1}}, {"cpu.cfs_quota_us": "-1"}, {"cpu.max": "max 100000"}),
    ({"cpu": {"idle": 1, "shares": 50}}, {"cpu.idle": "1"}, {"cpu.idle": "1"}),
    (
        {"cpu": {"realtimePeriod": 10, "realtimeRuntime": 5}},
        {"cpu.rt_period_us": "10", "cpu.rt_runtime_us": "5"},
        None,
    ),
    ({"cpu": {"cpus": "0-1", "mems": "0"}}, *[{"cpuset.cpus": "0-1", "cpuset.mems": "0"}] * 2),
    (
        {"blockIO": BLOCK},
        {
            "blkio.weight": "500",
            "blkio.weight_device": "8:0 10",
            "blkio.throttle.read_bps_device": "8:0 600",
            "blkio.throttle.write_iops_device": "8:1 300",
        },
        None,
    ),
    (
        {"rdma": {"mlx5": {"hcaHandles": 3, "hcaObjects": 10}}},
        *[{"rdma.max": "mlx5 hca_handle=3 hca_object=10"}] * 2,
    ),
    (
        {"hugepageLimits": [{"pageSize": "1GB", "limit": 5}]},
        {"hugetlb.1GB.limit_in_bytes": "5", "hugetlb.1GB.rsvd.limit_in_bytes": "5"},
        {"hugetlb.1GB.max": "5", "hugetlb.1GB.rsvd.max": "5"},
    ),
    ({"network": {"classID": 1048577}}, {"net_cls.classid": "1048577"}, {}),
    (
        {"network": {"priorities": [{"name": "eth0", "priority": 5}]}},
        {"net_prio.ifpriomap": "eth0 5"},
        {},
    ),
]


def files(resources, *, v2):
    return {
        setting.files[0][0]: setting.files[0][1]
        for controller in limits.asked(resources)
        for setting in limits.settings(resources, controller, v2=v2)
    }


@pytest.mark.parametrize(("resources", "v1", "v2"), LIMITS)
def test_resources_are_files_of_v1_and_of_v2(resources, v1, v2):
    if v1 is not None:
        assert files(resources, v2=False) == v1
    if v2 is not None:
        assert files(resources, v2=True) == v2


def test_block_io_of_v2_is_one_file_for_each_kind():
    found = [s.files for s in limits.settings({"blockIO": BLOCK}, "blkio", v2=True)]
    assert found == [
        (("io.bfq.weight", "500"), ("io.weight", "default 4950")),
        (("io.bfq.weight", "8:0 10"), ("io.weight", "8:0 1")),
        (("io.max", "8:0 rbps=600"),),
        (("io.max", "8:1 wiops=300"),),
    ]


@pytest.mark.parametrize(
    ("resources", "place"),
    [
        ({"memory": {"swappiness": 5}}, "memory.swappiness"),
        ({"memory": {"disableOOMKiller": True}}, "memory.disableOOMKiller"),
        ({"cpu": {"realtimeRuntime": 5}}, "cpu.realtimeRuntime"),
        ({"blockIO": {"leafWeight": 5}}, "blockIO.leafWeight"),
        ({"memory": {"swap": 5}}, "memory.swap"),
    ],
)
def test_what_v2_cannot_do_is_an_error(resources, place):
    with pytest.raises(CtrtError, match=rf"^linux\.resources\.{place} "):
        files(resources, v2=True)


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(0, 1), (2, 1), (1024, 100), (262144, 10000), (10**6, 10000), (512, 59), (2048, 174)],
)
def test_shares_become_weights(shares, weight):
    assert abs(limits.weight_of_shares(shares) - weight) <= 1


def test_more_shares_are_never_less_weight():
    weights = [limits.weight_of_shares(shares) for shares in range(2, 20000, 7)]
    assert weights == sorted(weights)


# --- devices --------------------------------------------------------------------------------------


def decide(program, kind, major, minor, access):
    """What a device program answers: the BPF machine for the instructions that it is made of."""
    bits = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    context = {0: bits << 16 | {"b": 1, "c": 2}[kind], 4: major, 8: minor}
    registers = [0] * 11
    at = 0
    while True:
        code, ends = program[at], program[at + 1]
        to, of = ends & 15, ends >> 4
        offset = int.from_bytes(program[at + 2 : at + 4], "little", signed=True)
        value = int.from_bytes(program[at + 4 : at + 8], "little")
        at += 8
        if code == 0x61:
            registers[to] = context[offset]
        elif code == 0xB4:
            registers[to] = value
        elif code == 0xBC:
            registers[to] = registers[of]
        elif code == 0x54:
            registers[to] &= value
        elif code == 0x74:
            registers[to] >>= value
        elif code == 0x95:
            return bool(registers[0])
        else:
            equal = registers[to] == value
            if equal == (code == 0x16):
                at += offset * 8


def meant(rules, kind, major, minor, access):
    """What the rules mean: the last one that fits decides."""
    for allow, of, a, b, letters in reversed(rules):
        if of not in ("a", kind) or (a >= 0 and a != major) or (b >= 0 and b != minor):
            continue
        if allow and set(access) <= set(letters):
            return True
        if not allow and set(access) & set(letters):
            return False
    return False


RULES = [
    [],
    [(False, "a", -1, -1, "rwm")],
    [(True, "a", -1, -1, "rwm")],
    [(False, "a", -1, -1, "rwm"), (True, "c", 1, 3, "rw")],
    [(True, "a", -1, -1, "rwm"), (False, "c", 1, -1, "w"), (True, "c", 1, 5, "w")],
    [(False, "a", -1, -1, "rwm"), (True, "b", -1, 3, "r"), (True, "c", 1, -1, "m")],
    [(True, "c", 1, 3, "rwm"), (False, "a", -1, -1, "rwm")],
]


@pytest.mark.parametrize("rules", RULES)
def test_the_device_program_decides_as_the_rules_mean(rules):
    program = bpf.device_program(tuple(rules))
    for kind in "bc":
        for major in (1, 2):
            for minor in (3, 5):
                for access in ("r", "w", "m", "rw", "rwm"):
                    asked = (kind, major, minor, access)
                    assert decide(program, *asked) == meant(rules, *asked), asked


def test_the_default_devices_come_after_the_configuration_s_rules():
    rules = limits.device_rules({"devices": [{"allow": False, "access": "rwm"}]})
    program = bpf.device_program(rules)
    assert decide(program, "c", 1, 3, "rw")
    assert decide(program, "c", 136, 9, "rw")
    assert decide(program, "b", 8, 0, "m")
    assert not decide(program, "b", 8, 0, "r")
    assert not decide(program, "c", 10, 229, "rw")


def test_without_rules_devices_are_left_alone(hybrid):
    assert limits.device_rules({}) == ()
    planned = cgroup.plan(config(devices=[]), ROOT, layout=hybrid)
    assert calls(planned.before, "cgroup_write", "cgroup_devices") == []


def test_a_rule_for_all_types_but_not_all_devices_is_two_in_v1():
    """The kernel takes "a" for everything, whatever follows it."""
    found = limits.settings(
        {"devices": [{"allow": False, "access": "w", "major": 8}]}, "devices", v2=False
    )
    texts = [setting.files[0] for setting in found][:2]
    assert texts == [("devices.deny", "b 8:* w"), ("devices.deny", "c 8:* w")]


def test_with_v2_alone_devices_are_a_program(unified):
    rules = [{"allow": False, "access": "rwm"}]
    planned = cgroup.plan(config(devices=rules), ROOT, layout=unified)
    (call,) = calls(planned.before, "cgroup_devices")
    assert call[1] == f"{unified.v2}/box/one"
    assert call[2][0] == (False, "a", -1, -1, "rwm")


# --- systemd --------------------------------------------------------------------------------


def test_systemd_makes_a_scope_in_the_slice(unified):
    planned = cgroup.plan(
        config("machine-box.slice:libpod:one", memory={"limit": 5}, pids={"limit": 7}),
        ROOT,
        layout=unified,
        systemd=True,
    )
    assert planned.before == []
    assert planned.late
    assert planned.descriptor is None
    path = "/machine.slice/machine-box.slice/libpod-one.scope"
    assert planned.state["v2"] == f"{unified.v2}{path}"
    (scope,) = calls(planned.after, "cgroup_scope")
    assert scope[1] == "libpod-one.scope"
    properties = {name: value for name, _, value in scope[2]}
    assert properties["Slice"] == "machine-box.slice"
    assert properties["Delegate"] is True
    assert properties["MemoryMax"] == 5
    assert properties["TasksMax"] == 7
    assert writes(planned, unified)[path[1:] + "/pids.max"] == "7"
    assert planned.after[0].undo[-1] == ("cgroup_stop_scope", "libpod-one.scope", False)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/box/one", 'not of the form "SLICE:PREFIX:NAME"'),
        ("a:b:", 'not of the form "SLICE:PREFIX:NAME"'),
        ("box:ctrt:one", '"box" is not the name of a slice'),
        ("a--b.slice:ctrt:one", '"a--b.slice" is not the name of a slice'),
        ("a.slice:ctrt:x/y", 'a unit has no "/" in its name'),
    ],
)
def test_a_path_of_another_form_is_one_sentence(unified, path, words):
    with pytest.raises(CtrtError, match=r"^linux\.cgroupsPath") as caught:
        cgroup.plan(config(path), ROOT, layout=unified, systemd=True)
    assert words in str(caught.value)


def test_quotas_of_systemd_are_hundredths_of_a_cpu():
    resources = {"cpu": {"quota": 12345, "period": 100000, "shares": 1024}}
    found = cgroup.unit_properties(resources, v2=True)
    properties = {name: value for name, _, value in found}
    assert properties["CPUQuotaPerSecUSec"] == 130000
    assert properties["CPUWeight"] == 100


# --- statistics -------------------------------------------------------------------------------


def test_the_statistics_of_v2_have_runc_s_form(tmp_path):
    texts = {
        "cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 7\nthrottled_usec 4\n",
        "memory.current": "100\n",
        "memory.max": "max\n",
        "memory.peak": "150\n",
        "memory.stat": "file 60\nkernel 10\n",
        "memory.events": "low 0\nmax 3\n",
        "pids.current": "2\n",
        "pids.max": "9\n",
        "io.stat": "8:0 rbytes=5 wbytes=6 rios=1 wios=2 dbytes=0 dios=0\n",
        "cpuset.cpus.effective": "0-1,3\n",
        "cpuset.mems.effective": "0\n",
        "io.pressure": "some avg10=1.50 avg60=0.20 avg300=0.00 total=77\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    found = cgroup_stats.collect(str(tmp_path), {})
    assert found["cpu"]["usage"] == {"total": 5000, "kernel": 2000, "user": 3000}
    assert found["cpu"]["throttling"]["throttledTime"] == 4000
    assert found["memory"]["usage"] == {
        "limit": 2**64 - 1,
        "usage": 100,
        "max": 150,
        "failcnt": 3,
    }
    assert found["pids"] == {"current": 2, "limit": 9}
    assert found["cpuset"] == {"cpus": [0, 1, 3], "mems": [0]}
    some = {"avg10": 1.5, "avg60": 0.2, "avg300": 0.0, "total": 77}
    assert found["blkio"]["psi"]["some"] == some
    assert "psi" not in found["cpu"]
    assert {"major": 8, "minor": 0, "op": "Write", "value": 6} in found["blkio"][
        "ioServiceBytesRecursive"
    ]
