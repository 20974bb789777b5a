"""A pod as containerd's CRI plugin makes one for the kubelet: its calls and its documents.

A sandbox, whose namespaces the containers join by path; cgroups of systemd's below the slice of the
pod; resources, hosts files and a shared /dev/shm as the plugin writes them. crun is asked first.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from vm_bundle import config
from vm_image import ROOTFS
from vm_machine import Machine, Result, wait_until

MIB = 1 << 20
POD = "kubepods-burstable-podtest.slice"
CAPABILITIES = [
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW"),
    *("CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE"),
    *("CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"),
]
MASKED = [
    *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware"),
]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
DEVICES = [
    {"allow": False, "access": "rwm"},
    *(
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for major, minor in ((1, 3), (1, 8), (1, 7), (5, 0), (1, 5), (1, 9), (5, 1))
    ),
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},
    {"allow": True, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
]


class Shim:
    """The calls of containerd's shim for runc, with its flags, for one pod."""

    def __init__(self, machine: Machine, runtime: str) -> None:
        self.machine, self.runtime = machine, runtime
        self.name = uuid.uuid4().hex[:8]
        self.folder = f"/run/cri-{self.name}"
        log = f"{self.folder}/log.json"
        self.command = (
            f"{runtime} --root {self.folder}/runc/k8s.io --log {log} --log-format json"
            " --systemd-cgroup"
        )
        self.ids: list[str] = []

    def call(self, words: str, **options: Any) -> Result:
        return self.machine.run(f"{self.command} {words}", **options)

    def check(self, words: str, **options: Any) -> str:
        done = self.call(words, **options)
        assert done.status == 0, (words, done, self.machine.run(f"cat {self.folder}/*/out"))
        return done.out

    def create(self, kind: str, document: dict[str, Any]) -> tuple[str, int]:
        """Create and start: the id, and the pid that the pid file names."""
        identifier = f"{kind}{self.name}"
        bundle = f"{self.folder}/{identifier}"
        document = copy.deepcopy(document)
        document["linux"]["cgroupsPath"] = f"{POD}:cri-containerd:{identifier}"
        document["annotations"] = {
            "io.kubernetes.cri.container-type": "sandbox" if kind == "sandbox" else "container",
            "io.kubernetes.cri.sandbox-id": f"sandbox{self.name}",
            "io.kubernetes.cri.sandbox-name": "pod",
        }
        self.machine.put(f"{bundle}/config.json", json.dumps(document))
        self.ids.append(identifier)
        words = f"create --bundle {bundle} --pid-file {bundle}/init.pid {identifier}"
        self.check(f"{words} </dev/null >{bundle}/out 2>&1")
        self.check(f"start {identifier}")
        return identifier, int(self.machine.check(f"cat {bundle}/init.pid"))

    def output(self, identifier: str) -> str:
        return self.machine.check(f"cat {self.folder}/{identifier}/out")


def document(*args: str, **process: Any) -> dict[str, Any]:
    """What all documents of the plugin have in common."""
    made = config(*args, **process)
    sets = ("bounding", "effective", "permitted")
    made["process"]["capabilities"] = dict.fromkeys(sets, CAPABILITIES)
    made["linux"]["maskedPaths"] = MASKED
    made["linux"]["readonlyPaths"] = READ_ONLY
    made["linux"]["resources"] = {"devices": DEVICES, "cpu": {"shares": 2}}
    return made


@pytest.fixture(params=["crun", "ctrt-runtime"])
def shim(request: pytest.FixtureRequest, systemd_vm: Machine) -> Iterator[Shim]:
    made = Shim(systemd_vm, request.param)
    systemd_vm.check(f"ip netns add cri-{made.name}")
    yield made
    for identifier in reversed(made.ids):
        made.call(f"delete --force {identifier}")
    systemd_vm.check(f"""
        ip netns del cri-{made.name}
        if mountpoint -q {made.folder}/shm; then umount {made.folder}/shm; fi
        rm -rf {made.folder}
    """)


def sandbox(shim: Shim) -> dict[str, Any]:
    made = document("sleep", "1000", oomScoreAdj=-998)
    made["root"] = {"path": ROOTFS, "readonly": True}
    made["hostname"] = "pod"
    for space in made["linux"]["namespaces"]:
        if space["type"] == "network":
            space["path"] = f"/run/netns/cri-{shim.name}"
    made["linux"]["sysctl"] = {
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": "0 2147483647",
    }
    return made


def member(shim: Shim, pid: int, *args: str, **process: Any) -> dict[str, Any]:
    """A container of the pod: with the sandbox's namespaces, and files that the plugin made."""
    machine = shim.machine
    made = document(*args, oomScoreAdj=985, **process)
    del made["hostname"]
    paths = {"network": "net", "ipc": "ipc", "uts": "uts"}
    for space in made["linux"]["namespaces"]:
        if space["type"] in paths:
            space["path"] = f"/proc/{pid}/ns/{paths[space['type']]}"
    for name, text in (("hosts", "10.0.0.1 pod\n"), ("termination-log", "")):
        machine.put(f"{shim.folder}/{name}", text)
    machine.check(f"mkdir -p {shim.folder}/shm && (mountpoint -q {shim.folder}/shm ||"
                  f" mount -t tmpfs -o size=64m shm {shim.folder}/shm)")  # fmt: skip
    made["mounts"] = [m for m in made["mounts"] if m["destination"] != "/dev/shm"]
    for source, destination in (
        ("hosts", "/etc/hosts"),
        ("termination-log", "/dev/termination-log"),
        ("shm", "/dev/shm"),
    ):
        made["mounts"].append({
            "destination": destination, "type": "bind", "source": f"{shim.folder}/{source}",
            "options": ["rbind", "rprivate", "rw"],
        })  # fmt: skip
    made["linux"]["resources"] = {
        "devices": DEVICES,
        "memory": {"limit": 64 * MIB, "swap": 64 * MIB},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000},
        "unified": {"memory.oom.group": "1"},
    }
    return made


def test_a_pod_s_life(shim: Shim) -> None:
    machine = shim.machine
    first, pid = shim.create("sandbox", sandbox(shim))
    script = "hostname; cat /etc/hosts; echo shared >/dev/shm/file; sleep 1000"
    one, one_pid = shim.create("one", member(shim, pid, "sh", "-c", script))
    two, two_pid = shim.create("two", member(shim, pid, "sleep", "1000"))

    # The namespaces are the sandbox's, but for files and processes.
    kinds = "net ipc uts mnt pid cgroup"
    links = {
        number: machine.check(
            f"cd /proc/{number}/ns && readlink {kinds}"
        ).split()
        for number in (pid, one_pid, two_pid)
    }  # fmt: skip
    assert links[pid][:3] == links[one_pid][:3] == links[two_pid][:3]
    assert len({links[number][3] for number in links}) == 3
    assert len({links[number][4] for number in links}) == 3
    namespace = machine.check(f"stat -Lc %i /run/netns/cri-{shim.name}").strip()
    assert links[pid][0] == f"net:[{namespace}]"
    wait_until(machine, f"grep -q pod {shim.folder}/{one}/out")
    assert shim.output(one) == "pod\n10.0.0.1 pod\n"

    # The cgroups are systemd's, below the slice of the pod.
    slices = "/kubepods.slice/kubepods-burstable.slice/" + POD
    for identifier, number in ((first, pid), (one, one_pid)):
        group = machine.check(f"cat /proc/{number}/cgroup").strip()
        assert group.removesuffix("/container") == (
            f"0::{slices}/cri-containerd-{identifier}.scope"
        )
    group = machine.check(f"cat /proc/{one_pid}/cgroup").strip().removeprefix("0::")
    scope = f"/sys/fs/cgroup{group}"
    found = machine.check(f"cd {scope} && cat memory.max memory.swap.max cpu.max").split()
    assert found == [str(64 * MIB), "0", "50000", "100000"]
    scores = machine.check(f"cat /proc/{pid}/oom_score_adj /proc/{one_pid}/oom_score_adj").split()
    assert scores == ["-998", "985"]
    port = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    assert machine.check(f"nsenter -t {two_pid} -n cat {port}") == "0\n"

    # A probe: exec with a document, detached, as the shim does it.
    probe = {
        "args": ["sh", "-c", "cat /dev/shm/file; echo probed >/dev/termination-log"],
        "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
        "noNewPrivileges": True,
    }  # fmt: skip
    machine.put(f"{shim.folder}/probe.json", json.dumps(probe))
    words = f"exec --process {shim.folder}/probe.json --detach --pid-file {shim.folder}/probe.pid"
    shim.check(f"{words} {two} </dev/null >{shim.folder}/probe.out 2>&1")
    wait_until(machine, f"grep -q probed {shim.folder}/termination-log")
    assert machine.check(f"cat {shim.folder}/probe.out") == "shared\n"

    # A resize in place: other limits while it runs.
    change = {"memory": {"limit": 96 * MIB, "swap": 96 * MIB}, "cpu": {"shares": 1024}}
    shim.check(f"update --resources - {one}", stdin=json.dumps(change))
    assert machine.check(f"cat {scope}/memory.max") == f"{96 * MIB}\n"

    # The end, one container after the other, and the sandbox last.
    shim.check(f"kill {one} 15")
    shim.check(f"kill --all {one} 9")
    wait_until(machine, f"{shim.command} state {one} | grep -q stopped")
    shim.check(f"delete {one}")
    assert machine.check(f"cat /proc/{two_pid}/comm /proc/{pid}/comm").split() == ["sleep"] * 2
    for identifier in (two, first):
        shim.check(f"delete --force {identifier}")
    gone = machine.run(f"ls -d /sys/fs/cgroup{slices}/*.scope {shim.folder}/runc/k8s.io/*")
    assert gone.out == ""
    missing = shim.call(f"state {one}")
    assert missing.status == 1
    if shim.runtime != "crun":
        log = machine.check(f"tail -n1 {shim.folder}/log.json")
        assert "does not exist" in json.loads(log)["msg"]


@pytest.mark.parametrize("shim", ["ctrt-runtime"], indirect=True)
def test_processes_of_a_pod_that_are_shared(shim: Shim) -> None:
    """shareProcessNamespace: every container is in the pid namespace of the sandbox."""
    first, pid = shim.create("sandbox", sandbox(shim))
    made = member(shim, pid, "sh", "-c", "sleep 2345 & echo $$; wait")
    for space in made["linux"]["namespaces"]:
        if space["type"] == "pid":
            space["path"] = f"/proc/{pid}/ns/pid"
    one, _ = shim.create("one", made)
    wait_until(shim.machine, f"test -s {shim.folder}/{one}/out")
    assert int(shim.output(one)) > 1
    seen = shim.check(f"exec {one} sh -c 'cat /proc/[0-9]*/cmdline'").replace("\0", " ")
    assert "sleep 1000" in seen
    assert "sleep 2345" in seen
    # The shim ends the others too, which no pid namespace of the container's own would.
    shim.check(f"kill --all {one} 9")
    wait_until(shim.machine, "! pgrep -f '^sleep 2345'")
    wait_until(shim.machine, f"{shim.command} state {one} | grep -q stopped")
    shim.check(f"delete {one}")
    assert shim.machine.check(f"cat /proc/{pid}/comm") == "sleep\n"
    shim.check(f"delete --force {first}")
