"""Namespaces of a configuration, looked at from outside and inside."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import IDS, Runtime, in_user_namespace, namespaces

SLEEP = ("sleep", "1000")
NAME = f"config-{os.getpid()}"
LINKS = {
    "network": "net",
    "pid": "pid",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "user": "user",
    "time": "time",
}


def link(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{LINKS[kind]}")


def shell(runtime: Runtime, script: str, change: Any = None, check: bool = True) -> str:
    """What a container's shell says."""
    runtime.config("sh", "-c", script, change=change)
    return runtime.call("run", NAME, check=check).stdout


def spaces(*kinds: str, **paths: str) -> Any:
    """Change a configuration to have just these namespaces, and these joined by path."""

    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [
            *({"type": kind} for kind in kinds),
            *({"type": kind, "path": path} for kind, path in paths.items()),
        ]
        if "uts" not in kinds and "uts" not in paths:
            config["hostname"] = ""

    return change


@pytest.fixture
def others() -> Iterator[dict[str, str]]:
    """Namespaces that a process of the host's holds: their paths by kind."""
    command = ["unshare", "--fork", "--pid", "--kill-child", "-niuC", "-T", "sleep", "1000"]
    process = subprocess.Popen(command)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        while not (found := children.read_text().split()):
            time.sleep(0.01)
        pid = int(found[0])
        while link(pid, "time") == link("self", "time"):
            time.sleep(0.01)
        kinds = ("network", "ipc", "uts", "pid", "cgroup", "time")
        yield {kind: f"/proc/{pid}/ns/{LINKS[kind]}" for kind in kinds}
    finally:
        process.kill()
        process.wait()


def test_the_namespaces_that_are_asked_for_are_new_and_no_others(runtime: Runtime) -> None:
    kinds = ("pid", "ipc", "mount", "time")
    runtime.config(*SLEEP, change=spaces(*kinds))
    runtime.quiet("run", "--detach", NAME)
    own, found = namespaces("self"), namespaces(runtime.pid(NAME))
    assert {kind for kind in own if own[kind] != found[kind]} == {"pid", "ipc", "mnt"}
    assert link(runtime.pid(NAME), "time") != link("self", "time")


@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "cgroup", "time"])
def test_a_namespace_is_joined_by_its_path(
    runtime: Runtime, others: dict[str, str], kind: str
) -> None:
    runtime.config(*SLEEP, change=spaces("pid", "mount", **{kind: others[kind]}))
    runtime.quiet("run", "--detach", NAME)
    assert link(runtime.pid(NAME), kind) == os.readlink(others[kind])


def test_a_pid_namespace_is_joined_by_its_path(runtime: Runtime, others: dict[str, str]) -> None:
    runtime.config(*SLEEP, change=spaces("mount", pid=others["pid"], network=others["network"]))
    runtime.quiet("run", "--detach", NAME)
    pid = runtime.pid(NAME)
    assert link(pid, "pid") == os.readlink(others["pid"])
    assert link(pid, "network") == os.readlink(others["network"])
    seen = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "NSpid" in line
    ]
    assert len(seen[0].split()) == 3, "it has a number in the namespace, too"
    # The other's first process is seen through the container's /proc.
    done = runtime.call("exec", NAME, "sh", "-c", "readlink /proc/self/ns/pid; ls /proc | head -1")
    assert done.stdout.split() == [os.readlink(others["pid"]), "1"]


def test_a_new_user_namespace_with_namespaces_of_the_host_joined(
    runtime: Runtime, others: dict[str, str], place: Path
) -> None:
    """The user namespace has no right to them: they are joined before."""

    def change(config: dict[str, Any]) -> None:
        spaces("user", "pid", "mount", "ipc", network=others["network"], uts=others["uts"])(config)
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = [IDS]
        config["hostname"] = ""

    runtime.config(*SLEEP, change=change)
    runtime.quiet("run", "--detach", NAME)
    pid = runtime.pid(NAME)
    assert link(pid, "network") == os.readlink(others["network"])
    assert link(pid, "uts") == os.readlink(others["uts"])
    assert link(pid, "user") != link("self", "user")
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", "524288", "65536"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Uid:\t524288\t524288\t524288\t524288\n" in status
    # sysfs of somebody else's network namespace cannot be mounted anew: it is the host's.
    assert os.listdir(f"/proc/{pid}/root/sys")


def test_a_user_namespace_is_joined_by_its_path(runtime: Runtime) -> None:
    def first(config: dict[str, Any]) -> None:
        spaces("user", "pid", "mount", "ipc", "network")(config)
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = [IDS]

    def second(config: dict[str, Any]) -> None:
        paths = {kind: f"/proc/{pid}/ns/{LINKS[kind]}" for kind in ("user", "network")}
        spaces("pid", "mount", "uts", "ipc", **paths)(config)

    runtime.config(*SLEEP, change=first)
    runtime.quiet("run", "--detach", "infra")
    pid = runtime.pid("infra")
    runtime.config("sh", "-c", "hostname; cat /proc/self/uid_map; sleep 1000", change=second)
    runtime.quiet("run", "--detach", "member")
    member = runtime.pid("member")
    for kind in ("user", "network"):
        assert link(member, kind) == link(pid, kind)
    assert link(member, "uts") != link("self", "uts"), "new, and owned by the joined one"
    assert "Uid:\t524288\t" in Path(f"/proc/{member}/status").read_text()


@pytest.mark.parametrize("joined", [False, True], ids=["new", "joined"])
def test_message_queues_belong_to_root_of_the_user_namespace(
    runtime: Runtime, joined: bool
) -> None:
    def mapped(config: dict[str, Any]) -> None:
        in_user_namespace(config)

    def member(config: dict[str, Any]) -> None:
        path = f"/proc/{runtime.pid('infra')}/ns/user"
        config["linux"]["namespaces"].append({"type": "user", "path": path})

    if joined:
        runtime.config(*SLEEP, change=mapped)
        runtime.quiet("run", "--detach", "infra")
    said = shell(
        runtime,
        "stat -c '%u %g' /dev/mqueue; readlink /proc/self/ns/ipc; echo 9 > /proc/sys/kernel/msgmni;"
        "cat /proc/sys/kernel/msgmni",
        member if joined else mapped,
        check=False,
    )
    owner, space = said.splitlines()[:2]
    assert owner == "0 0"
    assert space != link("self", "ipc")


def test_a_path_that_is_no_such_namespace_is_one_sentence(
    runtime: Runtime, others: dict[str, str]
) -> None:
    for path, words in (
        (others["uts"], "it is a namespace of another kind than network"),
        ("/etc/passwd", "it is not a namespace"),
        ("/run/nothing/here", "No such file or directory"),
    ):
        runtime.config("true", change=spaces("pid", "mount", "uts", network=path))
        done = runtime.call("run", NAME, check=False)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert words in line
        assert path in line


@pytest.mark.parametrize("readonly", [False, True])
def test_without_a_mount_namespace_mounts_are_the_host_s_until_the_delete(
    runtime: Runtime, readonly: bool
) -> None:
    def change(config: dict[str, Any]) -> None:
        spaces("pid", "uts")(config)
        config["root"]["readonly"] = readonly
        for name in ("maskedPaths", "readonlyPaths"):
            config["linux"].pop(name, None)

    def mounted() -> list[str]:
        return [line for line in Path("/proc/self/mounts").read_text().splitlines()
                if str(runtime.rootfs) in line]  # fmt: skip

    runtime.config("sleep", "1000", change=change)
    runtime.quiet("run", "--detach", NAME)
    pid = runtime.pid(NAME)
    assert os.stat(f"/proc/{pid}/ns/mnt").st_ino == os.stat("/proc/self/ns/mnt").st_ino
    assert os.readlink(f"/proc/{pid}/root") == str(runtime.rootfs)
    assert any(f" {runtime.rootfs}/proc proc " in line for line in mounted())
    for words in (["ls", "/"], ["cat", "/proc/1/cmdline"]):
        said = runtime.call("exec", NAME, *words).stdout
        assert "sleep" in said or sorted(said.split()) == sorted(os.listdir(runtime.rootfs))
    touched = runtime.call("exec", NAME, "touch", "/new", check=False)
    assert ("Read-only file system" in touched.stderr) == readonly
    runtime.call("delete", "--force", NAME)
    assert mounted() == []
    runtime.config("no-such-program", change=change)
    assert runtime.quiet("create", NAME, check=False) == 1
    assert mounted() == [], "nor does a start that fails leave any"


def test_clocks_are_offset(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {
            "boottime": {"secs": 604800, "nanosecs": 5},
            "monotonic": {"secs": 86400},
        }

    uptime = float(Path("/proc/uptime").read_text().split()[0])
    said = shell(runtime, "cat /proc/uptime /proc/self/timens_offsets", change)
    words = said.split()
    assert 0 <= float(words[0]) - uptime - 604800 < 60
    assert words[2:] == ["monotonic", "86400", "0", "boottime", "604800", "5"]


def test_names(runtime: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hostname"] = "inside"
        config["domainname"] = "example.org"

    before = os.uname().nodename
    script = "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname"
    assert shell(runtime, script, change) == "inside\nexample.org\n"
    assert os.uname().nodename == before


def test_kernel_parameters_of_the_container_s_own_namespaces(both: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["sysctl"] = {
            "net.ipv4.ip_forward": "1",
            "net/ipv4/ping_group_range": "0 0",
            "kernel.msgmax": "9999",
        }

    names = ("net/ipv4/ip_forward", "net/ipv4/ping_group_range", "kernel/msgmax")
    before = [Path(f"/proc/sys/{name}").read_text() for name in names]
    said = shell(both, "cd /proc/sys; cat " + " ".join(names), change)
    assert said.split() == ["1", "0", "0", "9999"]
    assert [Path(f"/proc/sys/{name}").read_text() for name in names] == before


def test_a_network_device_comes_with_its_addresses(runtime: Runtime) -> None:
    name = f"ctrtd{os.getpid() % 10000}"

    def change(config: dict[str, Any]) -> None:
        config["linux"]["netDevices"] = {name: {"name": "inside0"}}

    peer = f"{name}p"
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", peer], check=True)
    try:
        for address in ("10.77.0.5/24", "fd77::5/64"):
            subprocess.run(["ip", "addr", "add", address, "dev", name], check=True)
        said = shell(runtime, "ip addr show dev inside0", change)
        assert "inet 10.77.0.5/24 scope global inside0" in said
        assert "inet6 fd77::5/64 scope global" in said
        assert "UP" in said.splitlines()[0]
        runtime.config("true", change=change)
        done = runtime.call("run", NAME, check=False)
        assert f"the network device '{name}' of the host: No such device" in done.stderr
    finally:
        subprocess.run(["ip", "link", "del", peer], capture_output=True, check=False)


def test_a_new_network_has_its_loopback_up_and_one_that_is_joined_stays_as_it_was(
    both: Runtime, others: dict[str, str]
) -> None:
    assert shell(both, "cat /sys/class/net/lo/flags").strip() == "0x9"  # IFF_UP, IFF_LOOPBACK
    both.config(*SLEEP)
    both.quiet("run", "--detach", NAME)
    inside = ["nsenter", "--target", str(both.pid(NAME)), "--net", "ip", "-brief", "address"]
    shown = subprocess.run(inside, capture_output=True, text=True, check=True).stdout.split()
    assert shown[:3] == ["lo", "UNKNOWN", "127.0.0.1/8"]
    both.call("delete", "--force", NAME)
    if both.user is None:
        change = spaces("mount", "uts", network=others["network"])
        assert shell(both, "ip link show lo | grep -c UP", change, check=False).strip() == "0"
