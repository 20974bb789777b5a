"""The model beside lsns, findmnt, getpcaps and ip on a machine full of containers.

Containers of podman, of ctrt and of unshare(1) are started; what the tools say of each of them is
in the model. Where the tools say less or otherwise, the reason is in docs/seeing.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from seeing_tools import SHELL, as_user, remove, running, unshared

from ctrt.linux.capabilities import NAMES
from ctrt.observe import Unknown, networks, scan

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

KINDS_OF_LSNS = {"mnt", "net", "uts", "ipc", "user", "pid", "cgroup", "time"}


def tool(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def busy():
    """Pids of containers of several makers, alive for the whole module."""
    from contextlib import ExitStack

    place = Path(tempfile.mkdtemp(prefix="ctrt-agree-"))
    place.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(remove, place)
        pids = []
        for options in (("-mnu",), ("-UrmpniuC", "-f", "--mount-proc"), ("-UrmT",), ("-i",)):
            pids.append(stack.enter_context(unshared(*options)))
        nested = ("unshare", "-Urmpn", "-f", "--mount-proc", *SHELL)
        pids.append(stack.enter_context(unshared("-Urn", command=nested)))
        pids.append(stack.enter_context(running(*as_user("unshare", "-Urmn", *SHELL))))
        if shutil.which("podman") and shutil.which("runc"):
            pids += podman(stack, place)
        pids += ours(stack, place)
        yield pids


def podman(stack, place):
    """Two containers of podman."""
    (place / "rootfs/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", place / "rootfs/bin/busybox")
    with tarfile.open(place / "rootfs.tar", "w") as tar:
        tar.add(place / "rootfs", "/")
    settings = place / "containers.conf"
    settings.write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024","nproc=1024:1024"]\n')
    command = [
        "podman", "--root", str(place / "podman"), "--runroot", str(place / "podman-run"),
        "--cgroup-manager=cgroupfs", "--events-backend=none", "--runtime=runc",
    ]  # fmt: skip

    def run(*words, check=True):
        return subprocess.run(
            [*command, *words], env={**os.environ, "CONTAINERS_CONF": str(settings)},
            check=check, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    run("import", "-q", str(place / "rootfs.tar"), "localhost/agree/box")
    pids = []
    for name, options in (("agree-1", ["--cap-add=net_admin"]), ("agree-2", ["--cap-drop=all"])):
        run("run", "-d", "--name", name, "--network=none", *options, "localhost/agree/box",
            "/bin/busybox", "sleep", "600")  # fmt: skip
        stack.callback(run, "rm", "-f", "-t", "0", name, check=False)
        pids.append(int(run("inspect", "-f", "{{.State.Pid}}", name)))
    return pids


def ours(stack, place):
    """Two containers of ctrt, by its engine."""
    from ctrt.engine import Engine
    from ctrt.images.hostimage import from_host

    engine = Engine(root=str(place / "store"))
    stack.callback(engine.destroy)
    from_host(engine.store, "localhost/agree/ours", ["busybox"])
    pids = []
    for _ in range(2):
        container = engine.start(
            engine.prepare("localhost/agree/ours", ["busybox", "sleep", "600"])
        )
        stack.callback(container.close)
        stack.callback(container.signal, 9)
        pids.append(container.pid)
    return pids


def test_lsns(busy):
    before = scan()
    told = json.loads(tool("lsns", "-J", "-o", "NS,TYPE,NPROCS,PID,UID,PNS,ONS"))
    system = scan()
    # Other processes come and go meanwhile: what counts is what was there all the time.
    alive = before.processes.keys() & system.processes.keys()
    listed = {entry["ns"]: entry for entry in told["namespaces"]}
    spaces = {
        key.inode: space
        for key, space in system.spaces.items()
        if key in before.spaces and before.spaces[key].id == space.id
    }
    assert len(spaces) > 30
    for number, entry in listed.items():
        if number not in spaces:
            continue
        space = spaces[number]
        assert space.kind == entry["type"]
        if entry["pid"] in alive:
            assert entry["pid"] in space.processes
        # lsns prints 0 where there is none, or none to be seen.
        owner = space.owner if isinstance(space.owner, tuple) and len(space.owner) == 2 else None
        if entry["ons"] and owner is not None:
            assert owner.inode == entry["ons"]
        if entry["pns"] and space.kind in ("user", "pid") and not space.initial:
            assert space.parent.inode == entry["pns"]
    # Whatever the model has beside has no process, or is one of a thread or for children.
    beside = [space for number, space in spaces.items() if number not in listed]
    assert [space for space in beside if alive & set(space.processes)] == []
    for pid in busy:
        for kind in KINDS_OF_LSNS:
            assert system.space(pid, kind).key.inode in listed


FINDMNT = "ID,PARENT,MAJ:MIN,FSROOT,TARGET,VFS-OPTIONS,FSTYPE,SOURCE,FS-OPTIONS,PROPAGATION"


def flattened(entries):
    for entry in entries:
        yield entry
        yield from flattened(entry.get("children", ()))


def test_findmnt(busy):
    system = scan()
    for pid in busy:
        table = system.tables[system.space(pid, "mnt").key]
        told = json.loads(tool("findmnt", "-J", "-N", str(pid), "-o", FINDMNT))
        listed = {entry["id"]: entry for entry in flattened(told["filesystems"])}
        assert {mount.id for mount in table.mounts} == set(listed)
        for mount in table.mounts:
            entry = listed[mount.id]
            assert entry["parent"] == mount.parent
            assert entry["maj:min"].strip() == mount.device
            assert entry["fsroot"] == mount.root
            assert entry["target"] == mount.target
            assert entry["fstype"] == mount.fstype
            assert set(entry["vfs-options"].split(",")) == set(mount.options)
            # findmnt shows SOURCE[/root] for a bind mount, and no lines' "none" as such.
            assert entry["source"].split("[")[0] == mount.source
            words = set(entry["propagation"].split(","))
            assert words == set(
                mount.propagation.replace("slave", "private,slave")
                .replace("shared+private,slave", "shared,slave")
                .replace("+", ",")
                .split(",")
            ), mount


def test_getpcaps(busy):
    system = scan()
    for pid in busy:
        told = subprocess.run(
            ["getpcaps", str(pid)], check=True, capture_output=True, text=True
        )  # which stream it writes to depends on its version
        text = (told.stdout + told.stderr).partition(":")[2]
        status = system.processes[pid].status
        assert parse_caps(text) == (
            status.effective, status.permitted, status.inheritable,
        ), text  # fmt: skip


def parse_caps(text):
    """The sets in a text of cap_from_text(3), as getpcaps writes it."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    every = (1 << last + 1) - 1
    sets = {"e": 0, "p": 0, "i": 0}
    for clause in text.split():
        names, operator, flags = re.match(r"([^=+-]*)([=+-])([eip]*)(.*)", clause).groups()[:3]
        rest = re.findall(r"([=+-])([eip]*)", clause[len(names) :])
        bits = every if names in ("", "all") else 0
        if not bits:
            for name in names.split(","):
                upper = name.upper()
                bits |= 1 << (NAMES.index(upper) if upper in NAMES else int(name))
        for operator, flags in rest:
            for flag in sets:
                if operator == "=" and flag in flags:
                    sets[flag] |= bits
                elif operator == "=":
                    sets[flag] &= ~bits
                elif flag in flags:
                    sets[flag] = sets[flag] | bits if operator == "+" else sets[flag] & ~bits
    return sets["e"], sets["p"], sets["i"]


def test_ip_link(busy):
    system = scan()
    found = networks(system)
    for pid in busy:
        net = found[system.space(pid, "net").key]
        assert not isinstance(net, Unknown)
        told = json.loads(tool("nsenter", "-t", str(pid), "-n", "ip", "-j", "-d", "link"))
        assert {entry["ifname"]: entry["ifindex"] for entry in told} == {
            link.name: link.number for link in net.links
        }
        for entry in told:
            (link,) = [one for one in net.links if one.name == entry["ifname"]]
            assert entry["mtu"] == link.mtu
            assert ("UP" in entry["flags"]) == link.up
            assert entry.get("linkinfo", {}).get("info_kind", "") == link.kind
        told = json.loads(tool("nsenter", "-t", str(pid), "-n", "ip", "-j", "addr"))
        for entry in told:
            (link,) = [one for one in net.links if one.name == entry["ifname"]]
            assert {(a["local"], a["prefixlen"]) for a in entry["addr_info"]} == set(link.addresses)


def test_every_container_is_seen_from_all_sides(busy):
    """Nothing about them is unknown to root, and each namespace says who is in it."""
    system = scan()
    for pid in busy:
        process = system.processes[pid]
        assert not any(isinstance(key, Unknown) for key in process.namespaces)
        assert not isinstance(process.status, Unknown)
        assert not isinstance(process.cgroups, Unknown)
        for key in process.namespaces:
            assert pid in system.spaces[key].processes
        assert system.tables[process.namespace("mnt")].complete
