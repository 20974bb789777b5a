"""cgroup v2 as a container divides it, as `update` changes it, and as it tells that memory ran out.

What crun knows too is asked of it first.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from vm_bundle import Bundle, config, rootless
from vm_image import USER
from vm_machine import Machine, wait_until

MIB = 1 << 20
TOP = "/sys/fs/cgroup"
WRITABLE = {
    "destination": TOP,
    "type": "cgroup",
    "source": "cgroup",
    "options": ["nosuid", "noexec", "nodev", "relatime", "rw"],
}


@pytest.fixture(params=["crun", "ctrt-runtime"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def divided(document: dict[str, Any], path: str) -> dict[str, Any]:
    """With its cgroup writable inside, at a path of the host's."""
    document["mounts"] = [m for m in document["mounts"] if m["destination"] != TOP]
    document["mounts"].append(WRITABLE)
    document["linux"]["cgroupsPath"] = path
    return document


DIVIDE = f"""
cd {TOP} && mkdir -p inner/deep side && echo $$ >inner/deep/cgroup.procs
echo +pids +memory >cgroup.subtree_control && echo +pids >inner/cgroup.subtree_control
sleep 1234 & echo $! >side/cgroup.procs
echo divided; exec sleep 1234
"""


def test_a_container_that_has_divided_its_cgroup(vm: Machine, runtime: str) -> None:
    """A cgroup that passes controllers on has no processes: cgroups(7)."""
    document = divided(config("sh", "-c", DIVIDE), f"/tests/divided-{runtime}")
    document["linux"]["resources"] = {"pids": {"limit": 30}}
    box = Bundle(vm, runtime, document)
    pid = box.start()
    group = f"{TOP}/tests/divided-{runtime}"
    wait_until(vm, f"grep divided {box.path}/out")
    # Another process goes where the first one is.
    entered = box.say("exec ID cat /proc/self/cgroup")
    assert (entered.status, entered.out) == (0, "0::/inner/deep\n"), entered
    # All the processes are the container's, wherever they are.
    pids = vm.check(f"cat {group}/side/cgroup.procs {group}/inner/deep/cgroup.procs").split()
    assert str(pid) in pids
    if runtime != "crun":
        listed = json.loads(box.say("ps --format json ID").out)
        assert sorted(map(str, listed)) == sorted(pids)
    assert box.say("update --resources - ID", stdin='{"pids": {"limit": 40}}').status == 0
    assert vm.check(f"cat {group}/pids.max") == "40\n"
    # The whole tree is frozen, and goes on.
    assert box.say("pause ID").status == 0
    assert box.state()["status"] == "paused"
    events = (
        f"cat {group}/cgroup.freeze {group}/side/cgroup.events {group}/inner/deep/cgroup.events"
    )
    assert vm.check(events).split().count("frozen") == 2
    assert "frozen 0" not in vm.check(events)
    assert box.say("resume ID").status == 0
    assert "frozen 1" not in vm.check(events)
    # The whole tree is killed, and taken away.
    assert box.say("kill --all ID KILL").status == 0
    wait_until(vm, f"! grep -q . {group}/side/cgroup.procs {group}/inner/deep/cgroup.procs")
    box.delete()
    assert vm.run(f"ls {group}").status != 0


def test_processes_that_are_frozen_are_killed(vm: Machine) -> None:
    """`kill --all` and `delete --force` reach who stands still, by cgroup.kill."""
    document = divided(config("sh", "-c", DIVIDE), "/tests/frozen")
    box = Bundle(vm, "ctrt-runtime", document)
    pid = box.start()
    group = f"{TOP}/tests/frozen"
    wait_until(vm, f"grep divided {box.path}/out")
    assert box.say("pause ID").status == 0
    assert box.say("kill --all ID 9").status == 0
    wait_until(vm, f"! grep -q . {group}/side/cgroup.procs {group}/inner/deep/cgroup.procs")
    assert vm.run(f"test -d /proc/{pid}/fd/0").status != 0
    assert box.state()["status"] == "stopped"
    assert box.say("delete ID").status == 0
    assert vm.run(f"ls {group}").status != 0


# --- memory runs out ------------------------------------------------------------------------------


EAT = "dd if=/dev/zero of=/dev/shm/file bs=1M count=24"
SMALL = {"memory": {"limit": 16 * MIB, "swap": 16 * MIB}}


def test_events_tell_that_memory_ran_out(vm: Machine) -> None:
    document = config("sleep", "100")
    document["linux"]["resources"] = SMALL
    box = Bundle(vm, "ctrt-runtime", document)
    box.start()
    line = f"setsid {box.command} events --interval 200ms {box.id} >{box.path}/events 2>&1 &"
    vm.check(line)
    wait_until(vm, f'grep -q \'"type":"stats"\' {box.path}/events')
    assert box.say(f"exec ID {EAT}").status != 0
    wait_until(vm, f'grep -q \'"type":"oom"\' {box.path}/events')
    assert box.state()["status"] == "running"
    stats = json.loads(box.say("events --stats ID").out)["data"]
    assert stats["memory"]["usage"]["limit"] == 16 * MIB
    box.delete()
    wait_until(vm, f"! pgrep -f 'events --interval [2]00ms {box.id}'")
    told = vm.check(f"cat {box.path}/events").splitlines()
    assert {"type": "oom", "id": box.id} in map(json.loads, told)


def test_a_container_whose_first_process_is_killed_for_memory(vm: Machine, runtime: str) -> None:
    document = config(*EAT.split())
    document["linux"]["resources"] = SMALL
    document["linux"]["cgroupsPath"] = f"/tests/oom-{runtime}"
    box = Bundle(vm, runtime, document)
    box.start()
    group = f"{TOP}/tests/oom-{runtime}"
    wait_until(vm, f"grep -q 'oom_kill [1-9]' {group}/memory.events")
    # The one who reaps it is the machine's first process, once a second.
    wait_until(vm, f"{box.command} state {box.id} | grep stopped")
    said = box.say("kill ID 9")
    assert said.status != 0
    assert "not running" in said.err or runtime == "crun"
    box.delete()
    assert vm.run(f"ls {group}").status != 0


# --- update ---------------------------------------------------------------------------------------

BEFORE: dict[str, Any] = {
    "memory": {"limit": 64 * MIB, "reservation": 32 * MIB, "swap": 96 * MIB},
    "pids": {"limit": 17},
    "cpu": {"shares": 1024, "quota": 20000, "period": 100000, "cpus": "0"},
}
CHANGE: dict[str, Any] = {
    "memory": {"limit": 48 * MIB, "reservation": 16 * MIB, "swap": 128 * MIB},
    "pids": {"limit": 9},
    "cpu": {"shares": 2048, "quota": 30000, "period": 50000, "cpus": "1"},
}
AFTER = {
    "memory.max": str(48 * MIB),
    "memory.low": str(16 * MIB),
    "memory.swap.max": str(80 * MIB),
    "pids.max": "9",
    "cpu.max": "30000 50000",
    "cpuset.cpus": "1",
}
WEIGHTS = {"79", "174"}  # of 2048 shares: linear, or as newer runtimes have it


@pytest.mark.parametrize("manager", ["direct", "systemd"])
def test_update_changes_every_limit(
    vm: Machine, systemd_vm: Machine, runtime: str, manager: str
) -> None:
    machine, flags, path = vm, "", "/tests/every"
    if manager == "systemd":
        machine, flags, path = systemd_vm, "--systemd-cgroup", "system.slice:tests:every"
    document = config("sleep", "100")
    document["linux"]["cgroupsPath"] = path
    document["linux"]["resources"] = BEFORE
    box = Bundle(machine, runtime, document, flags=flags)
    pid = box.start()
    group = machine.check(f"cat /proc/{pid}/cgroup").strip().removeprefix("0::")
    major, minor = machine.check("cat /sys/block/vda/dev").strip().split(":")
    rate = [{"major": int(major), "minor": int(minor), "rate": MIB}]
    change = {**CHANGE, "blockIO": {"throttleReadBpsDevice": rate}}
    changed = box.say("update --resources - ID", stdin=json.dumps(change))

    def files() -> dict[str, str]:
        names = f"{' '.join(AFTER)} cpu.weight io.max"
        told = machine.check(f"cd {TOP}{group} && grep . {names}")
        return dict(line.split(":", 1) for line in told.splitlines())

    found = files()
    if manager == "systemd":
        # What systemd was told stays when it sets everything anew.
        machine.check("systemctl daemon-reload; systemctl set-property --runtime"
                      " tests-every.scope IOWeight=77")  # fmt: skip
        again = files()
    box.delete()
    assert changed.status == 0, changed
    assert found.pop("cpu.weight") in WEIGHTS
    io = found.pop("io.max", "")
    assert io == f"{major}:{minor} rbps={MIB} wbps=max riops=max wiops=max" or runtime == "crun"
    assert found == AFTER
    if manager == "systemd" and runtime != "crun":
        assert {name: again[name] for name in AFTER} == AFTER
        assert again["cpu.weight"] in WEIGHTS


# --- delegation -----------------------------------------------------------------------------------


def test_an_ordinary_user_s_container_divides_its_cgroup(systemd_vm: Machine, runtime: str) -> None:
    script = f"""
        cd {TOP} && mkdir inner && echo $$ >inner/cgroup.procs &&
        echo +pids >cgroup.subtree_control && echo 5 >inner/pids.max && cat inner/pids.max
        echo max >pids.max || echo refused
        cat /proc/self/cgroup
    """
    document = divided(rootless("sh", "-c", script), "user.slice:tests:dividing")
    document["linux"]["resources"] = {"pids": {"limit": 50}}
    box = Bundle(systemd_vm, runtime, document, flags="--systemd-cgroup", user=USER)
    result = box.say("run ID")
    assert result.out.splitlines() == ["5", "refused", "0::/inner"], result
