"""Properties of Linux that are no limits: seen from inside and from outside of the container."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, in_user_namespace
from property_tools import compiled_probe, refusal, seen

NAME = f"property-linux-{os.getpid()}"
SLEEP = ("sleep", "1000")
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def probe(place: Path) -> Path:
    directory = place / "linux-probe"
    directory.mkdir()
    return compiled_probe(directory)


def linux(**changes: Any) -> Change:
    return lambda config: config["linux"].update(changes)


def started(runtime: Runtime, change: Change) -> int:
    runtime.config(*SLEEP, change=change)
    runtime.quiet("run", "--detach", NAME)
    return runtime.pid(NAME)


# --- memory policy and personality ----------------------------------------------------------------

STATIC, RELATIVE, BALANCING = 1 << 15, 1 << 14, 1 << 13
POLICIES = {
    "default": ({"mode": "MPOL_DEFAULT"}, 0, "default"),
    "bind": ({"mode": "MPOL_BIND", "nodes": "0"}, 2, "bind:0"),
    "static": (
        {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
        2 | STATIC,
        "bind=static:0",
    ),
    "relative": (
        {"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]},
        3 | RELATIVE,
        "interleave=relative:0",
    ),
    "balancing": (
        {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING"]},
        2 | BALANCING,
        "bind=balancing:0",
    ),
    "interleave": ({"mode": "MPOL_INTERLEAVE", "nodes": "0"}, 3, "interleave:0"),
    "weighted": (
        {"mode": "MPOL_WEIGHTED_INTERLEAVE", "nodes": "0"},
        6,
        "weighted interleave:0",
    ),
    "preferred": ({"mode": "MPOL_PREFERRED", "nodes": "0"}, 1, "prefer:0"),
    "many": ({"mode": "MPOL_PREFERRED_MANY", "nodes": "0"}, 5, "prefer (many):0"),
    "local": ({"mode": "MPOL_LOCAL"}, 4, "local"),
}


@pytest.mark.skipif(not os.path.exists("/proc/self/numa_maps"), reason="a kernel without NUMA")
@pytest.mark.parametrize("name", POLICIES)
def test_memory_policies(both: Runtime, probe: Path, name: str) -> None:
    policy, mode, shown = POLICIES[name]
    pid, inside = seen(both, NAME, probe, linux(memoryPolicy=policy))
    found = inside["memory"]
    assert int(found[0]) == mode
    assert int(found[1]) == (1 if policy.get("nodes") else 0)
    lines = Path(f"/proc/{pid}/numa_maps").read_text().splitlines()
    assert any(f" {shown} " in f"{line} ".replace("=static|", "=") for line in lines), lines[:3]


def test_a_memory_policy_of_a_node_that_is_not_there_names_the_call(runtime: Runtime) -> None:
    if not os.path.exists("/proc/self/numa_maps"):
        pytest.skip("a kernel without NUMA")
    policy = {"mode": "MPOL_BIND", "nodes": "900"}
    runtime.config("true", change=linux(memoryPolicy=policy))
    words = refusal(runtime, NAME)
    assert "set_mempolicy(MPOL_BIND, [900])" in words
    assert "Invalid argument" in words


def test_memory_policies_that_make_no_sense_are_refused(runtime: Runtime) -> None:
    for policy, words in (
        (
            {"mode": "MPOL_LOCAL", "nodes": "0"},
            "linux.memoryPolicy.nodes does not go with MPOL_LOCAL",
        ),
        (
            {"mode": "MPOL_BIND"},
            "linux.memoryPolicy.nodes is missing; MPOL_BIND needs nodes",
        ),
        ({"nodes": "0"}, "linux.memoryPolicy.mode is missing"),
    ):
        runtime.config("true", change=linux(memoryPolicy=policy))
        assert words in refusal(runtime, NAME)


@pytest.mark.parametrize(("domain", "number"), [("LINUX", 0), ("LINUX32", 8)])
def test_execution_domains(both: Runtime, probe: Path, domain: str, number: int) -> None:
    pid, inside = seen(both, NAME, probe, linux(personality={"domain": domain}))
    assert inside["personality"] == [str(number)]
    # As root: the file is for who may trace the process.
    assert int(Path(f"/proc/{pid}/personality").read_text(), 16) == number


def test_flags_of_execution_domains_are_refused(runtime: Runtime) -> None:
    change = linux(personality={"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]})
    runtime.config("true", change=change)
    words = refusal(runtime, NAME)
    assert "linux.personality.flags has flags, of which none is defined" in words


# --- Intel RDT --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rdt",
    [
        {"closID": "box"},
        {"schemata": ["L3:0=f"]},
        {"l3CacheSchema": "L3:0=f"},
        {"memBwSchema": "MB:0=50"},
        {"enableCMT": True},
        {"enableMBM": True},
        {"enableMonitoring": True},
    ],
    ids=lambda rdt: next(iter(rdt)),
)
def test_resource_director_technology_is_refused_with_these_words(
    runtime: Runtime, rdt: dict[str, Any]
) -> None:
    runtime.config("true", change=linux(intelRdt=rdt))
    assert refusal(runtime, NAME) == (
        "linux.intelRdt: ctrt does not set up Intel RDT (cache and memory bandwidth); "
        "remove it from the configuration"
    )


# --- namespaces and names ------------------------------------------------------------------------


def entered(pid: int, *words: str) -> str:
    """What a program of the host's says in a container's namespaces."""
    line = ["nsenter", "--target", str(pid), *words]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def test_names_from_outside_and_inside(both: Runtime) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hostname"] = "in-here"
        config["domainname"] = "example.org"

    pid = started(both, change)
    for file, name in (("hostname", "in-here"), ("domainname", "example.org")):
        path = f"/proc/sys/kernel/{file}"
        assert entered(pid, "--uts", "cat", path) == f"{name}\n"
        assert both.call("exec", NAME, "cat", path).stdout == f"{name}\n"
        assert Path(path).read_text() != f"{name}\n"


def test_clocks_from_outside_and_inside(both: Runtime) -> None:
    offsets = {"monotonic": {"secs": 3600}, "boottime": {"secs": 7200, "nanosecs": 250}}

    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = offsets

    pid = started(both, change)
    wanted = ["monotonic", "3600", "0", "boottime", "7200", "250"]
    assert Path(f"/proc/{pid}/timens_offsets").read_text().split() == wanted
    inside = both.call("exec", NAME, "cat", "/proc/1/timens_offsets", "/proc/uptime").stdout.split()
    assert inside[:6] == wanted
    here = float(Path("/proc/uptime").read_text().split()[0])
    assert 7200 - 60 < float(inside[6]) - here < 7200 + 5
    assert os.readlink(f"/proc/{pid}/ns/time") != os.readlink("/proc/self/ns/time")


def test_offsets_without_a_time_namespace_are_refused(runtime: Runtime) -> None:
    runtime.config("true", change=linux(timeOffsets={"boottime": {"secs": 5}}))
    words = refusal(runtime, NAME)
    assert "linux.timeOffsets is set, but namespaces has no new time namespace" in words


def test_id_maps_from_outside_and_inside(runtime: Runtime) -> None:
    uids = [
        {"containerID": 0, "hostID": 524288, "size": 10},
        {"containerID": 10, "hostID": 600000, "size": 5},
    ]
    gids = [{"containerID": 0, "hostID": 700000, "size": 20}]

    def change(config: dict[str, Any]) -> None:
        in_user_namespace(config, uids, gids)
        config["process"]["user"] = {"uid": 12, "gid": 3}

    pid = started(runtime, change)
    for name, maps in (("uid", uids), ("gid", gids)):
        wanted = [[str(e[k]) for k in ("containerID", "hostID", "size")] for e in maps]
        for text in (
            Path(f"/proc/{pid}/{name}_map").read_text(),
            runtime.call("exec", NAME, "cat", f"/proc/1/{name}_map").stdout,
        ):
            assert [line.split() for line in text.splitlines()] == wanted
    assert os.stat(f"/proc/{pid}/task").st_uid in (0, 600002)
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Uid:\t600002\t600002\t600002\t600002\n" in status
    assert "Gid:\t700003\t" in status
    assert runtime.call("exec", NAME, "id", "-u").stdout == "12\n"


def test_kernel_parameters_from_outside_and_inside(both: Runtime) -> None:
    parameters = {
        "net.ipv4.ip_default_ttl": "33",
        "net/ipv4/conf/lo/forwarding": "1",
        "kernel.msgmax": "4321",
        "kernel.sem": "100 200 300 40",
    }
    pid = started(both, linux(sysctl=parameters))
    kinds = ("--net", "--ipc")
    for key, value in parameters.items():
        path = "/proc/sys/" + (key if "/" in key else key.replace(".", "/"))
        inside = both.call("exec", NAME, "cat", path).stdout.split()
        assert inside == value.split()
        if key.startswith("net"):
            assert entered(pid, *kinds, "cat", path).split() == value.split()
        assert Path(path).read_text().split() != value.split()


def test_network_devices_are_for_root(rootless: Runtime) -> None:
    rootless.config("true", change=linux(netDevices={"eth7": {}}))
    assert refusal(rootless, NAME) == (
        "linux.netDevices: moving network devices is for root (network devices are not "
        "supported in rootless containers)"
    )


def test_a_network_device_keeps_its_name_and_leaves_the_host(runtime: Runtime) -> None:
    name = f"ctrtp{os.getpid() % 10000}"
    add = ["ip", "link", "add", name, "type", "veth", "peer", f"{name}p"]
    subprocess.run(add, check=True)
    try:
        pid = started(runtime, linux(netDevices={name: {}}))
        assert not os.path.exists(f"/sys/class/net/{name}")
        assert f"{name}@" in entered(pid, "--net", "ip", "-o", "link")
        assert name in runtime.call("exec", NAME, "ls", "/sys/class/net").stdout.split()
        assert f"{name}:" in Path(f"/proc/{pid}/net/dev").read_text()
    finally:
        subprocess.run(["ip", "link", "del", f"{name}p"], check=True)


# --- the root and its paths ----------------------------------------------------------------------


def _mounts(pid: int) -> dict[str, str]:
    """Lines of a process's mountinfo by mount point."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return {line.split()[4]: line for line in lines}


def test_a_relative_root_is_below_the_bundle(both: Runtime) -> None:
    (both.bundle / "rootfs").symlink_to(both.rootfs)

    def change(config: dict[str, Any]) -> None:
        config["root"] = {"path": "rootfs", "readonly": True}

    pid = started(both, change)
    root = os.stat(f"/proc/{pid}/root/bin")
    assert (root.st_dev, root.st_ino) == _identity(both.rootfs / "bin")
    assert " ro," in _mounts(pid)["/"]
    assert both.call("exec", NAME, "touch", "/x", check=False).returncode == 1


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def test_masked_and_read_only_paths_are_mounts(both: Runtime) -> None:
    paths = {"maskedPaths": ["/proc/keys", "/usr"], "readonlyPaths": ["/proc/sys", "/etc"]}
    pid = started(both, linux(**paths))
    found = _mounts(pid)
    for path in (*paths["maskedPaths"], *paths["readonlyPaths"]):
        assert path in found, path
    assert " ro," in found["/etc"]
    assert " ro," in found["/proc/sys"]
    assert " ro," in found["/usr"]
    assert os.stat(f"/proc/{pid}/root/proc/keys").st_rdev == os.makedev(1, 3)
    assert both.call("exec", NAME, "cat", "/proc/keys").stdout == ""
    script = "echo 1 > /proc/sys/kernel/hostname"
    assert both.call("exec", NAME, "sh", "-c", script, check=False).returncode == 1


def test_devices_of_every_type(runtime: Runtime) -> None:
    devices = [
        {"path": "/dev/c", "type": "c", "major": 1, "minor": 5, "fileMode": 0o604, "uid": 3},
        {"path": "/dev/u", "type": "u", "major": 1, "minor": 3, "gid": 4},
        {"path": "/dev/b", "type": "b", "major": 7, "minor": 1, "fileMode": 0o640},
        {"path": "/dev/p", "type": "p", "fileMode": 0o600, "uid": 5, "gid": 6},
    ]
    pid = started(runtime, linux(devices=devices))
    wanted = {
        "c": (stat.S_IFCHR | 0o604, os.makedev(1, 5), 3, 0),
        "u": (stat.S_IFCHR | 0o666, os.makedev(1, 3), 0, 4),
        "b": (stat.S_IFBLK | 0o640, os.makedev(7, 1), 0, 0),
        "p": (stat.S_IFIFO | 0o600, 0, 5, 6),
    }
    for name, values in wanted.items():
        found = os.lstat(f"/proc/{pid}/root/dev/{name}")
        assert (found.st_mode, found.st_rdev, found.st_uid, found.st_gid) == values, name
        said = runtime.call("exec", NAME, "stat", "-c", "%f %u %g", f"/dev/{name}").stdout
        assert said.split() == [f"{values[0]:x}", str(values[2]), str(values[3])]
    assert runtime.call("exec", NAME, "sh", "-c", "head -c 3 /dev/c | wc -c").stdout == "3\n"


def test_devices_in_a_user_namespace_are_owned_as_the_maps_say(runtime: Runtime) -> None:
    """They are made by who may make devices, outside, and given to the mapped ids."""
    maps = [{"containerID": 0, "hostID": 524288, "size": 1000}]
    device = {"type": "c", "major": 1, "minor": 5, "fileMode": 0o604, "uid": 3, "gid": 4}

    def change(config: dict[str, Any]) -> None:
        linux(devices=[{"path": "/dev/c", **device}])(config)
        in_user_namespace(config, maps)
        runtime.rootfs.chmod(0o755)

    pid = started(runtime, change)
    found = os.lstat(f"/proc/{pid}/root/dev/c")
    assert (found.st_mode, found.st_rdev) == (stat.S_IFCHR | 0o604, os.makedev(1, 5))
    assert (found.st_uid, found.st_gid) == (524291, 524292)
    assert runtime.call("exec", NAME, "stat", "-c", "%u %g", "/dev/c").stdout == "3 4\n"
    assert runtime.call("exec", NAME, "sh", "-c", "head -c 3 /dev/c | wc -c").stdout == "3\n"


def test_a_device_without_its_number_is_refused(runtime: Runtime) -> None:
    runtime.config("true", change=linux(devices=[{"path": "/dev/x", "type": "c", "major": 1}]))
    assert 'linux.devices[0].minor is missing; a device of type "c" needs it' in refusal(
        runtime, NAME
    )


# --- versions and features ------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0.0", "1.2.1", "1.3.0", "1.9.9-dev"])
def test_every_version_of_1_is_taken(runtime: Runtime, version: str) -> None:
    runtime.config("sh", "-c", "echo it runs", change=lambda c: c.update(ociVersion=version))
    assert runtime.call("run", NAME).stdout == "it runs\n"


def test_versions_of_another_number_are_refused(runtime: Runtime) -> None:
    runtime.config("true", change=lambda config: config.update(ociVersion="2.0.0"))
    words = refusal(runtime, NAME)
    assert 'ociVersion is "2.0.0", but only versions 1.x are known here' in words


def test_features_name_what_a_configuration_may_have(both: Runtime) -> None:
    """features-linux.md: what is named there is recognised in a config.json."""
    found = json.loads(both.call("features").stdout)["linux"]
    assert found["netDevices"] == {"enabled": True}
    assert found["intelRdt"] == {"enabled": False}
    assert set(found["memoryPolicy"]["modes"]) == {
        policy["mode"] for policy, *_ in POLICIES.values()
    }
    flags = {flag for policy, *_ in POLICIES.values() for flag in policy.get("flags", ())}
    assert set(found["memoryPolicy"]["flags"]) == flags
    sets = dict.fromkeys(("bounding", "permitted", "effective"), found["capabilities"])
    log = both.home / "log"
    both.config("true", change=lambda config: config["process"].update(capabilities=sets))
    both.quiet("--log", str(log), "run", NAME)
    assert not log.exists() or "there is none of that name" not in log.read_text()
    pid = started(both, lambda config: config["linux"]["namespaces"].append({"type": "time"}))
    links = {"network": "net", "mount": "mnt"}
    for kind in found["namespaces"]:
        link = f"ns/{links.get(kind, kind)}"
        same = os.readlink(f"/proc/{pid}/{link}") == os.readlink(f"/proc/self/{link}")
        assert same == (kind == "user" and both.user is None), kind
