"""Real namespaces, made with unshare(1), seen and drawn by root."""

from __future__ import annotations

import contextlib
import os
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest

from ctrt import draw
from ctrt.linux import mountinfo, namespaces
from ctrt.linux.capabilities import mask
from ctrt.observe import Unknown, capabilities, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@contextlib.contextmanager
def running(*command):
    """A command that says "ready" when it is; its pid, and the end of all it started."""
    # A session of its own, so that the whole group can be ended by the number we know.
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout.readline() == b"ready\n", command
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.stdin.close()
        process.stdout.close()
        process.wait()


def child(pid):
    """The first child of a process: what `unshare --fork` has started."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return int(file.read().split()[0])


SHELL = ("sh", "-c", "echo ready; read line")


@contextlib.contextmanager
def unshared(*options, command=SHELL):
    """The pid of a command in new namespaces."""
    with running("unshare", *options, *command) as pid:
        yield child(pid) if {"-f", "--fork"} & set(options) else pid


def test_each_kind_alone():
    flags = {"mnt": "-m", "net": "-n", "uts": "-u", "ipc": "-i", "cgroup": "-C", "user": "-U"}
    for kind, flag in flags.items():
        with unshared(flag) as pid:
            found = snapshot(pid)
            assert found.differing == (kind,)
            assert found.namespaces[kind].key.inode == os.stat(f"/proc/{pid}/ns/{kind}").st_ino
            assert not found.namespaces[kind].initial
    with unshared("-p", "-f") as pid:
        assert snapshot(pid).differing == ("pid",)
    with unshared("-T", "-f") as pid:
        assert snapshot(pid).differing == ("time",)


def test_a_rootless_container():
    with unshared("-UinpmrC", "-f", "--mount-proc") as pid:
        found = snapshot(pid)
        assert found.differing == ("user", "pid", "mnt", "net", "ipc", "cgroup")
        assert found.shared == ("uts", "time")
        assert [fellow.name for fellow in found.processes] == ["sh", "unshare"]
        assert found.processes[0].ns_pids == (pid, 1)
        assert found.processes[1].shares == {"user", "mnt", "net", "ipc", "cgroup"}
        host, own = found.users
        assert host.key == namespaces.identify("self", "user")
        assert own.parent == host.key
        assert own.owner_uid == 0
        assert [tuple(line) for line in own.uid_map] == [(0, 0, 1)]
        for kind in ("pid", "mnt", "net", "ipc", "cgroup"):
            assert found.namespaces[kind].owner == own.key
        assert found.mounts == mountinfo.read(pid)
        hidden = {mount.target for mount in found.mounts if mount.id in found.covered}
        assert "/proc" in hidden
        text = draw.container(found).text()
        assert "   ├─ pid[1]     its own process ids\n   │  └─ sh      pid 1 inside\n" in text
        assert "   └─ unshare    shares all but pid\nshared with the host: uts, time\n" in text


def test_the_same_situation_gives_the_same_bytes():
    pictures = []
    for _ in range(2):
        with unshared("-UinpmruC", "-f", "--mount-proc") as pid:
            pictures.append(draw.container(snapshot(pid)))
    one, other = pictures
    assert one.text() == other.text()
    assert one.svg() == other.svg()
    assert one.json() == other.json()
    ElementTree.fromstring(one.svg())


def test_processes_inside():
    inside = "sleep 600 & sleep 600 & sleep 0.1; echo ready; wait"
    with unshared("-pm", "-f", "--mount-proc", command=("sh", "-c", inside)) as pid:
        found = snapshot(pid, command="lesson")
        assert sorted(fellow.ns_pids[-1] for fellow in found.processes if "pid" in fellow.shares)[
            :3
        ] == [1, 2, 3]
        text = draw.namespaces(found).text()
        assert "│  ├─ lesson    pid 1 inside" in text
        assert "sleep ×2" in text
        alone = snapshot(pid, command="lesson", others=False)
        assert alone.processes == found.processes[:1]


def test_nested_user_namespaces():
    inner = ("unshare", "-Urpm", "-f", "--mount-proc", *SHELL)
    with unshared("-Urpm", "-f", "--mount-proc", command=inner) as middle:
        pid = child(middle)
        found = snapshot(pid)
        assert len(found.users) == 3
        assert len(found.pids) == 3
        assert all(not isinstance(user.uid_map, Unknown) for user in found.users)
        assert found.status.ns_pids[-1] == 1
        text = draw.namespaces(found).text()
        assert "└─ user[1]" in text
        assert "   ├─ pid[1]" in text
        assert "   └─ user[2]" in text
        assert "child of pid[1]" in text


PROPAGATION = """
set -e
mount --make-rprivate /
mount -t tmpfs lesson "$0"
cd "$0"
mkdir a b c d e f
mount -t tmpfs one a; mount --make-shared a
mount --bind a b
mount --bind a c; mount --make-slave c
mount --bind c d; mount --make-shared d
mount -t tmpfs two e; mount --make-unbindable e
mkdir a/sub; mount -t tmpfs three a/sub
mount --bind d f; mount --make-slave f
mount -t tmpfs over e
echo ready
exec sleep 600
"""


def test_propagation(tmp_path):
    with unshared("-m", command=("sh", "-c", PROPAGATION, str(tmp_path))) as pid:
        found = snapshot(pid)
        told = {
            row.cells[0].removeprefix(f"{tmp_path}/"): row.cells[4]
            for row in draw.mounts(found).scene.rows
            if row.cells[4]
        }
    assert told == {
        "a": "shared:1",
        "a/sub": "shared:2",
        "b": "shared:1",
        "b/sub": "shared:2",
        "c": "master:1",
        "c/sub": "master:2",
        "d": "shared:3 master:1",
        "d/sub": "shared:4 master:2",
        "e": "unbindable",
        "f": "master:3",
    }
    covered = [mount for mount in found.mounts if mount.id in found.covered]
    assert f"{tmp_path}/e" in {mount.target for mount in covered}


@pytest.mark.parametrize(
    ("propagation", "told"), [("unchanged", "shared:1 ⇄ host"), ("slave", "master:1 ← host")]
)
def test_groups_in_common_with_the_host(tmp_path, propagation, told):
    outer = 'mount -t tmpfs x "$0" && mount --make-shared "$0" && echo ready && exec sleep 600'
    with unshared("-m", command=("sh", "-c", outer, str(tmp_path))) as host:
        enter = ("nsenter", "-t", str(host), "-m", "unshare", "-m", "--propagation", propagation)
        with running(*enter, *SHELL) as pid:
            rows = draw.mounts(snapshot(pid, host=host)).scene.rows
            assert [row.cells[4] for row in rows if row.cells[0] == str(tmp_path)] == [told]
            rows = draw.mounts(snapshot(pid)).scene.rows
            alone = [row.cells[4] for row in rows if row.cells[0] == str(tmp_path)]
            assert alone == [told.rsplit(" ", 2)[0]]


def test_a_mount_over_the_root_is_the_one_out_of_reach():
    script = "mount -t tmpfs over / && echo ready && exec sleep 600"
    with unshared("-m", command=("sh", "-c", script)) as pid:
        found = snapshot(pid)
        over = [mount for mount in found.mounts if mount.source == "over"]
        assert [mount.id in found.covered for mount in over] == [True]
        assert os.listdir(f"/proc/{pid}/root")  # its root is still the full one
        root = next(m for m in found.mounts if m.target == "/" and m.source != "over")
        assert root.id not in found.covered


def test_a_process_elsewhere_does_not_count_as_a_fellow():
    with unshared("-n") as one, unshared("-n") as other:
        assert [fellow.pid for fellow in snapshot(one).processes] == [one]
        joined = ("nsenter", "-t", str(other), "-n", *SHELL)
        with running(*joined) as third:
            assert [fellow.pid for fellow in snapshot(other).processes] == [other, third]


def test_capability_sets():
    command = (
        "setpriv", "--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw",
        "--bounding-set=-all,+net_raw,+kill", "--no-new-privs", *SHELL,
    )  # fmt: skip
    with running(*command) as pid:
        found = capabilities(pid)
        assert found.bounding == mask(["net_raw", "kill"])
        assert found.inheritable == found.ambient == mask(["net_raw"])
        assert found.no_new_privs
        assert found.seccomp == "off"
        assert found.securebits is None
        assert found == snapshot(pid).capabilities
        text = draw.capabilities(found, before=capabilities()).text()
        assert "no_new_privs: on,  seccomp: off" in text


def test_the_kernels_numbers_for_a_namespace():
    with unshared("-m") as pid:
        own = namespaces.read(pid, "mnt")
        again = namespaces.read(pid, "mnt")
        assert own == again
        assert own.owner == namespaces.identify("self", "user")
        if own.id:
            assert own.id != namespaces.read("self", "mnt").id
