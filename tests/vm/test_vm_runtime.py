"""OCI runtimes on cgroup v2, AppArmor, systemd and with every capability.

Each test is done by crun too: what a runtime that engines trust does here is what is asked of ours.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from vm_bundle import Bundle, config, rootless
from vm_image import USER
from vm_machine import Machine, wait_until

MIB = 1 << 20
LIMITS = {
    "memory": {"limit": 64 * MIB, "reservation": 32 * MIB, "swap": 96 * MIB},
    "pids": {"limit": 17},
    "cpu": {"shares": 512, "quota": 20000, "period": 100000, "cpus": "1"},
}
SEEN = {
    "memory.max": str(64 * MIB),
    "memory.low": str(32 * MIB),
    "memory.swap.max": str(32 * MIB),
    "pids.max": "17",
    "cpu.max": "20000 100000",
    "cpuset.cpus": "1",
}
WEIGHTS = {"20", "59"}  # of 512 shares: linear, or as newer runtimes have it


@pytest.fixture(params=["crun", "ctrt-runtime"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def status_of(text: str) -> dict[str, str]:
    lines = [line.split(":\t", 1) for line in text.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) == 2}


def test_limits_are_in_the_cgroup_and_seen_from_inside(vm: Machine, runtime: str) -> None:
    document = config("sh", "-c", "cd /sys/fs/cgroup; grep . $0 cpu.weight", " ".join(SEEN))
    document["process"]["args"] = [
        "sh",
        "-c",
        f"cd /sys/fs/cgroup; grep . {' '.join(SEEN)} cpu.weight",
    ]
    document["linux"]["resources"] = LIMITS
    document["linux"]["cgroupsPath"] = "/tests/limits"
    box = Bundle(vm, runtime, document)
    found = dict(line.split(":", 1) for line in box.run().splitlines())
    assert found.pop("cpu.weight") in WEIGHTS
    assert found == SEEN
    assert vm.run("ls /sys/fs/cgroup/tests/limits").status != 0


def test_the_cgroup_is_where_the_configuration_says(vm: Machine, runtime: str) -> None:
    document = config("sleep", "100")
    document["linux"]["cgroupsPath"] = "/tests/place"
    box = Bundle(vm, runtime, document)
    pid = box.start()
    assert vm.check(f"cat /proc/{pid}/cgroup") == "0::/tests/place\n"
    assert str(pid) in vm.check("cat /sys/fs/cgroup/tests/place/cgroup.procs").split()
    box.delete()


def test_files_of_cgroup_v2_are_set_by_their_names(vm: Machine, runtime: str) -> None:
    document = config("cat", "/sys/fs/cgroup/memory.high")
    document["linux"]["resources"] = {"unified": {"memory.high": str(40 * MIB)}}
    assert Bundle(vm, runtime, document).run() == f"{40 * MIB}\n"


def test_the_other_limits_of_cgroup_v2(vm: Machine, runtime: str) -> None:
    major, minor = map(int, vm.check("cat /sys/block/vda/dev").split(":"))
    rates = {
        "throttleReadBpsDevice": ("rbps", 1 << 20),
        "throttleWriteBpsDevice": ("wbps", 2 << 20),
        "throttleReadIOPSDevice": ("riops", 300),
        "throttleWriteIOPSDevice": ("wiops", 400),
    }
    document = config("sleep", "100")
    document["linux"]["cgroupsPath"] = "/tests/others"
    document["linux"]["resources"] = {
        "cpu": {"quota": 20000, "period": 50000, "burst": 1000, "cpus": "0", "mems": "0"},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}],
        "blockIO": {
            name: [{"major": major, "minor": minor, "rate": rate}]
            for name, (_, rate) in rates.items()
        },
        "unified": {"pids.max": "33"},
    }
    box = Bundle(vm, runtime, document)
    box.start()
    names = ("cpu.max", "cpu.max.burst", "cpuset.cpus", "cpuset.mems", "hugetlb.2MB.max", "io.max",
             "pids.max")  # fmt: skip
    outside = vm.check(f"cd /sys/fs/cgroup/tests/others && cat {' '.join(names)}")
    inside = box.say(f"exec ID sh -c 'cd /sys/fs/cgroup && cat {' '.join(names)}'").out
    box.delete()
    shown = " ".join(f"{key}={rate}" for key, rate in rates.values())
    burst = "0" if runtime == "crun" else "1000"  # crun 1.8 does not know it yet
    assert outside.splitlines() == [
        *("20000 50000", burst, "0", "0", str(4 * MIB), f"{major}:{minor} {shown}", "33")
    ]
    assert inside == outside


def test_processor_time_that_nobody_else_wants_in_cgroup_v2(vm: Machine, runtime: str) -> None:
    document = config("cat", "/sys/fs/cgroup/cpu.idle")
    document["linux"]["resources"] = {"cpu": {"idle": 1}}
    assert Bundle(vm, runtime, document).run() == "1\n"


V1_ONLY: dict[str, tuple[dict[str, Any], str]] = {
    "memory.swappiness": ({"memory": {"swappiness": 10}}, "v2 has no swappiness of a cgroup"),
    "memory.disableOOMKiller": (
        {"memory": {"disableOOMKiller": True}},
        "v2 cannot switch the OOM killer off",
    ),
    "cpu.realtimeRuntime": ({"cpu": {"realtimeRuntime": 1000}}, "v2 has no realtime bandwidth"),
    "blockIO.leafWeight": ({"blockIO": {"leafWeight": 100}}, "v2 has no leaf weights"),
}


def refused(machine: Machine, **resources: Any) -> str:
    """The sentence with which limits are refused; nothing of the container is left."""
    document = config("true")
    document["linux"]["resources"] = resources
    box = Bundle(machine, "ctrt-runtime", document)
    result = box.say("run ID")
    assert result.status == 1
    assert result.err.count("\n") == 1
    assert box.id not in box.say("list -q").out
    return result.err.strip()


@pytest.mark.parametrize("name", V1_ONLY)
def test_limits_of_cgroup_v1_alone_are_refused(vm: Machine, name: str) -> None:
    resources, why = V1_ONLY[name]
    place = f"linux.resources.{name} cannot be set with cgroup v2"
    assert refused(vm, **resources) == f"ctrt-runtime: {place}: {why}"


def test_classes_of_packets_are_refused_with_cgroup_v2(vm: Machine) -> None:
    words = refused(vm, network={"classID": 5})
    assert words.startswith("ctrt-runtime: linux.resources.network.classID cannot be set: ")
    assert "net_cls" in words


@pytest.mark.parametrize("checked", [True, False])
def test_a_limit_below_what_is_in_use_is_refused_when_asked_for(
    vm: Machine, runtime: str, checked: bool
) -> None:
    script = "dd if=/dev/zero of=/dev/shm/file bs=1M count=24 2>/dev/null; echo done; sleep 100"
    document = config("sh", "-c", script)
    document["linux"]["cgroupsPath"] = "/tests/checked"
    memory = {"limit": 64 * MIB, "checkBeforeUpdate": checked}
    document["linux"]["resources"] = {"memory": memory}
    box = Bundle(vm, runtime, document)
    box.start()
    group = "/sys/fs/cgroup/tests/checked"
    wait_until(vm, f"grep -q done {box.path}/out")
    change = f'{{"memory": {{"limit": {8 * MIB}, "checkBeforeUpdate": {str(checked).lower()}}}}}'
    result = box.say("update --resources - ID", stdin=change)
    limit = vm.check(f"cat {group}/memory.max").strip()
    box.delete()
    if checked:
        assert result.status != 0
        assert limit == str(64 * MIB)
    else:
        assert limit == str(8 * MIB)


def test_what_a_configuration_asks_to_be_checked_is_checked_by_update(vm: Machine) -> None:
    script = "dd if=/dev/zero of=/dev/shm/file bs=1M count=24 2>/dev/null; echo done; sleep 100"
    document = config("sh", "-c", script)
    document["linux"]["resources"] = {"memory": {"limit": 64 * MIB, "checkBeforeUpdate": True}}
    box = Bundle(vm, "ctrt-runtime", document)
    box.start()
    wait_until(vm, f"grep -q done {box.path}/out")
    result = box.say("update --memory 8m ID")
    box.delete()
    assert result.status == 1
    assert f"linux.resources.memory.limit is {8 * MIB}, but " in result.err
    assert "bytes are in use; the kernel would kill processes" in result.err


def test_devices_that_are_not_allowed_cannot_be_opened(vm: Machine, runtime: str) -> None:
    script = (
        "mknod /tmp/mem c 1 1; mknod /tmp/full c 1 7; cat /dev/null && echo null;"
        "head -c1 /tmp/mem >/dev/null; head -c1 /tmp/full >/dev/null && echo full;"
        "rm -f /tmp/mem /tmp/full"
    )
    document = config("sh", "-c", script)
    document["linux"]["resources"]["devices"] = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "access": "m"},
        {"allow": True, "type": "c", "major": 1, "minor": 7, "access": "rwm"},
    ]
    result = Bundle(vm, runtime, document).say("run ID")
    assert result.out.split() == ["null", "full"]
    assert "/tmp/mem: Operation not permitted" in result.err


def test_update_changes_the_limits_of_a_running_container(vm: Machine, runtime: str) -> None:
    document = config("sleep", "100")
    document["linux"]["cgroupsPath"] = "/tests/update"
    document["linux"]["resources"] = LIMITS
    box = Bundle(vm, runtime, document)
    box.start()
    change = '{"memory": {"limit": 33554432, "swap": 67108864}, "pids": {"limit": 9}}'
    assert box.say("update --resources - ID", stdin=change).status == 0
    found = vm.check("cd /sys/fs/cgroup/tests/update; cat memory.max pids.max cpu.max").split()
    assert found == ["33554432", "9", "20000", "100000"]
    box.delete()


def test_pause_freezes_the_cgroup(vm: Machine, runtime: str) -> None:
    document = config("sleep", "100")
    document["linux"]["cgroupsPath"] = "/tests/pause"
    box = Bundle(vm, runtime, document)
    box.start()
    assert box.say("pause ID").status == 0
    events = "/sys/fs/cgroup/tests/pause/cgroup.events"
    wait_until(vm, f"grep -q 'frozen 1' {events}")
    assert box.state()["status"] == "paused"
    assert box.say("resume ID").status == 0
    wait_until(vm, f"grep -q 'frozen 0' {events}")
    assert box.state()["status"] == "running"
    box.delete()
    assert vm.run("ls /sys/fs/cgroup/tests/pause").status != 0


def test_delete_force_ends_every_process_of_the_cgroup(vm: Machine, runtime: str) -> None:
    document = config("sh", "-c", "sleep 1234 & sleep 1234 & wait")
    kept = [space for space in document["linux"]["namespaces"] if space["type"] != "pid"]
    document["linux"]["namespaces"] = kept  # so that no pid namespace does it
    document["linux"]["cgroupsPath"] = "/tests/end"
    box = Bundle(vm, runtime, document)
    box.start()
    wait_until(vm, "test $(pgrep -fc '^sleep 1234') = 2")
    box.delete()
    wait_until(vm, "! pgrep -f '^sleep 1234'")
    assert vm.run("ls /sys/fs/cgroup/tests/end").status != 0


def test_hard_limits_are_raised_with_sys_resource(vm: Machine, runtime: str) -> None:
    limits = [{"type": "RLIMIT_NOFILE", "soft": 1048576, "hard": 1048576}]
    document = config("sh", "-c", "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj",
                      rlimits=limits, oomScoreAdj=-500)  # fmt: skip
    assert Bundle(vm, runtime, document).run().split() == ["1048576", "1048576", "-500"]


PROFILE = """
profile ctrt-box flags=(attach_disconnected) {
  file,
  capability,
  mount,
  signal,
  deny /tmp/forbidden w,
}
"""


@pytest.fixture(scope="module")
def profile(vm: Machine) -> str:
    vm.check("apparmor_parser -r", stdin=PROFILE)
    return "ctrt-box"


def test_apparmor_confines_the_process(vm: Machine, runtime: str, profile: str) -> None:
    script = "cat /proc/self/attr/current; echo >/tmp/allowed && echo allowed; echo >/tmp/forbidden"
    document = config("sh", "-c", script, apparmorProfile=profile)
    result = Bundle(vm, runtime, document).say("run ID")
    assert result.out.splitlines() == ["ctrt-box (enforce)", "allowed"]
    assert "/tmp/forbidden: Permission denied" in result.err


def test_apparmor_is_seen_from_outside_and_kept_by_exec(
    vm: Machine, runtime: str, profile: str
) -> None:
    box = Bundle(vm, runtime, config("sleep", "100", apparmorProfile=profile))
    pid = box.start()
    assert vm.check(f"cat /proc/{pid}/attr/current") == "ctrt-box (enforce)\n"
    inside = box.say("exec ID cat /proc/self/attr/current")
    assert inside.out == "ctrt-box (enforce)\n", inside
    assert observed_label(vm, pid) == "ctrt-box (enforce)"
    box.delete()


# What a notebook's and a terminal's views are made of.
OBSERVED = """
import sys
from ctrt import observe
print(observe.capabilities(int(sys.argv[1])).label)
print(observe.snapshot(int(sys.argv[1])).capabilities.label)
"""


def observed_label(machine: Machine, pid: int) -> str:
    """What a security module calls a process, as `ctrt.observe` tells it."""
    lines = machine.check("/opt/ctrt/bin/python", "-c", OBSERVED, str(pid)).splitlines()
    assert lines[0] == lines[1]
    return lines[0]


def test_the_label_of_an_exec_is_given_by_the_host_s_proc(vm: Machine, profile: str) -> None:
    """CVE-2025-52881: the container has other files where a process is told its label."""
    document = config("sleep", "100", apparmorProfile=profile)
    document["mounts"] = [m for m in document["mounts"] if m["destination"] != "/proc"]
    tree = f"/tmp/decoy-{profile}"
    vm.check(f"cp -a /srv/rootfs {tree}")
    places = " ".join(f"{tree}/proc/{who}/attr/apparmor" for who in ("self", "thread-self"))
    vm.check(f"""
        for at in {places}; do
            mkdir -p $at; ln -s /real/sys/kernel/domainname $at/exec; cp -P $at/exec $at/..
        done
        mkdir {tree}/real
    """)
    document["root"]["path"] = tree
    document["mounts"].append({"destination": "/real", "type": "proc", "source": "proc"})
    box = Bundle(vm, "ctrt-runtime", document)
    pid = box.start()
    assert observed_label(vm, pid) == f"{profile} (enforce)"
    said = box.say("exec ID sh -c 'cat /real/self/attr/current; cat /real/sys/kernel/domainname'")
    assert said.out == f"{profile} (enforce)\n(none)\n", said
    box.delete()
    vm.check(f"rm -r {tree}")


INTERPRETED = """#!/proc/self/exe
import os
print(os.readlink("/proc/self/exe"))
try:
    os.open("/proc/self/exe", os.O_WRONLY)
except OSError as error:
    print(error.strerror)
print(open("/proc/self/attr/current").read().strip())
"""


def test_a_labelled_program_does_not_get_at_the_interpreter(vm: Machine, profile: str) -> None:
    """CVE-2019-5736, where a label keeps the small program away that stands in elsewhere."""
    tree = f"/tmp/evil-{profile}"
    vm.check(f"cp -a /srv/rootfs {tree}")
    vm.put(f"{tree}/evil", INTERPRETED, 0o755)
    document = config("/evil", apparmorProfile=profile)
    document["root"]["path"] = tree
    for path in ("/usr/lib", "/lib", "/lib64"):
        document["mounts"].append(
            {"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]}
        )
    shown = ["/memfd:interpreter (deleted)", "Text file busy", f"{profile} (enforce)"]
    assert Bundle(vm, "ctrt-runtime", document).run().splitlines() == shown
    document["process"]["args"] = ["sleep", "100"]
    box = Bundle(vm, "ctrt-runtime", document)
    box.start()
    said = box.say("exec ID /evil")
    box.delete()
    assert said.out.splitlines() == shown, said
    vm.check(f"rm -r {tree}")


def test_an_unknown_apparmor_profile_is_named(vm: Machine, runtime: str) -> None:
    box = Bundle(vm, runtime, config("true", apparmorProfile="ctrt-nowhere"))
    result = box.say("run ID")
    assert result.status != 0
    if runtime == "ctrt-runtime":
        assert "ctrt-nowhere" in result.err
        assert "Traceback" not in result.err
    assert box.id not in box.say("list").out


# --- systemd -------------------------------------------------------------------------------------


def test_systemd_makes_the_scope_of_a_container_of_root(systemd_vm: Machine, runtime: str) -> None:
    document = config("sleep", "100")
    document["linux"]["cgroupsPath"] = "system.slice:tests:scoped"
    document["linux"]["resources"] = LIMITS
    box = Bundle(systemd_vm, runtime, document, flags="--systemd-cgroup")
    pid = box.start()
    group = systemd_vm.check(f"cat /proc/{pid}/cgroup").strip().removeprefix("0::")
    shown = systemd_vm.check("systemctl show -p Delegate tests-scoped.scope")
    limits = systemd_vm.check(f"cd /sys/fs/cgroup{group}; cat memory.max pids.max cpu.max")
    box.delete()
    assert group.startswith("/system.slice/tests-scoped.scope")
    assert shown == "Delegate=yes\n"
    assert limits.split() == [str(64 * MIB), "17", "20000", "100000"]
    wait_until(systemd_vm, "! systemctl is-active -q tests-scoped.scope")


def test_annotations_are_properties_of_the_scope(systemd_vm: Machine, runtime: str) -> None:
    document = config("sleep", "100")
    document["linux"]["cgroupsPath"] = "system.slice:tests:annotated"
    document["annotations"] = {
        "org.systemd.property.TimeoutStopUSec": "uint64 123000000",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
        "org.example.other": "no property",
    }
    box = Bundle(systemd_vm, runtime, document, flags="--systemd-cgroup")
    box.start()
    names = "-p TimeoutStopUSec -p CollectMode"
    shown = systemd_vm.check(f"systemctl show {names} tests-annotated.scope").split("\n")
    told = box.state()["annotations"]
    box.delete()
    assert {"TimeoutStopUSec=2min 3s", "CollectMode=inactive-or-failed"} <= set(shown)
    assert told == document["annotations"]


def test_a_wrong_annotation_for_systemd_is_one_sentence(systemd_vm: Machine) -> None:
    document = config("true")
    document["annotations"] = {"org.systemd.property.CollectMode": "failed"}
    box = Bundle(systemd_vm, "ctrt-runtime", document, flags="--systemd-cgroup")
    result = box.say("run ID")
    assert result.status == 1
    assert "annotations[\"org.systemd.property.CollectMode\"] is 'failed'" in result.err
    assert result.err.count("\n") == 1
    assert box.id not in box.say("list").out


KILLED = """
cd $2
for after in $(seq $3 $4 $5); do
    ctrt-runtime --systemd-cgroup $1 $6 </dev/null >/dev/null 2>&1 &
    sleep $after
    kill -9 $! 2>/dev/null
    wait $! 2>/dev/null
    ctrt-runtime delete --force $6 || echo delete
    ctrt-runtime list -q | grep $6
    systemctl is-active -q tests-$6.scope && echo scope after $after
    ls -d /sys/fs/cgroup/system.slice/tests-$6.scope 2>/dev/null
    grep $2 /proc/mounts
    pgrep -f "[c]trt-runtime --systemd-cgroup $1"
    pgrep -f '[s]leep 3456'
done
true
"""


@pytest.mark.parametrize("verb", ["create", "run"])
def test_a_command_killed_at_any_moment_leaves_no_scope(systemd_vm: Machine, verb: str) -> None:
    document = config("sleep", "3456")
    box = Bundle(systemd_vm, "ctrt-runtime", document, flags="--systemd-cgroup")
    document["linux"]["cgroupsPath"] = f"system.slice:tests:{box.id}"
    document["linux"]["resources"] = LIMITS
    systemd_vm.put(f"{box.path}/config.json", json.dumps(document))
    times = ("0.15", "0.25", "1.4")
    words = ("bash", "-c", KILLED, "bash", verb, box.path, *times, box.id)
    assert systemd_vm.run(*words, timeout=110) == (0, "", "")


def test_an_ordinary_user_is_limited_through_its_own_systemd(
    systemd_vm: Machine, runtime: str
) -> None:
    document = rootless("sh", "-c", "cd /sys/fs/cgroup; cat memory.max pids.max cpu.max")
    document["linux"]["cgroupsPath"] = "user.slice:tests:rootless"
    limits: dict[str, Any] = {**LIMITS, "cpu": {"quota": 20000, "period": 100000}}
    document["linux"]["resources"] = limits
    box = Bundle(systemd_vm, runtime, document, flags="--systemd-cgroup", user=USER)
    assert box.run().split() == [str(64 * MIB), "17", "20000", "100000"]


def test_an_ordinary_user_runs_without_the_help_of_systemd(
    systemd_vm: Machine, runtime: str
) -> None:
    document = rootless("cat", "/proc/self/cgroup")
    assert Bundle(systemd_vm, runtime, document, user=USER).run() == "0::/\n"


# --- SELinux -------------------------------------------------------------------------------------

LABEL = "system_u:system_r:box_t:s0:c1,c2"
FILE_LABEL = "system_u:object_r:box_file_t:s0:c1,c2"


def test_selinux_confines_the_process_and_labels_its_mounts(
    selinux_vm: Machine, runtime: str
) -> None:
    script = (
        "cat /proc/self/attr/current; echo; grep ' /dev/shm ' /proc/self/mounts;"
        "echo >/dev/shm/allowed && echo allowed; echo >/tmp/forbidden"
    )
    document = config("sh", "-c", script, selinuxLabel=LABEL)
    document["linux"]["mountLabel"] = FILE_LABEL
    # Through pipes: the policy lets a box write to no file that the agent keeps its output in.
    out = Bundle(selinux_vm, runtime, document).say("run ID 2>&1 | cat").out.replace("\0", "")
    label, mount, allowed, *_ = out.splitlines()
    assert (label, allowed) == (LABEL, "allowed"), out
    assert FILE_LABEL in mount
    assert "/tmp/forbidden: Permission denied" in out


def test_selinux_label_is_seen_from_outside_and_kept_by_exec(
    selinux_vm: Machine, runtime: str
) -> None:
    document = config("sleep", "100", selinuxLabel=LABEL)
    document["linux"]["mountLabel"] = FILE_LABEL
    box = Bundle(selinux_vm, runtime, document)
    pid = box.start()
    assert selinux_vm.check(f"cat /proc/{pid}/attr/current").rstrip("\0") == LABEL
    assert observed_label(selinux_vm, pid) == LABEL
    inside = box.say("exec ID cat /proc/self/attr/current | cat")
    box.delete()
    assert inside.out.rstrip("\0") == LABEL, inside


def test_an_unknown_selinux_label_is_named(selinux_vm: Machine, runtime: str) -> None:
    label = "system_u:system_r:nowhere_t:s0"
    box = Bundle(selinux_vm, runtime, config("true", selinuxLabel=label))
    result = box.say("run ID")
    assert result.status != 0
    if runtime == "ctrt-runtime":
        assert "nowhere_t" in result.err
        assert "Traceback" not in result.err
