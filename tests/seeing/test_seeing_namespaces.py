"""Every way in which a namespace can be there, made with plain tools and found by the scan."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest
from seeing_tools import SHELL, answer, as_user, child, inode, python, running, unshared

from ctrt.linux.namespaces import INITIAL, KINDS
from ctrt.observe import System, Unknown, scan

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

HOLD = """
import ctypes, os, socket, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def done(line="ready"):
    print(line, flush=True); sys.stdin.read()
"""


def holders(space, how):
    return [holder for holder in space.holders if holder.how == how]


def test_all_eight_kinds_by_their_process():
    with unshared("-UrmpniuCT", "-f", "--mount-proc") as pid:
        system = scan()
        for kind in KINDS:
            space = system.space(pid, kind)
            assert space.key.inode == inode(pid, kind)
            assert not space.initial
            assert pid in space.processes
        user = system.space(pid, "user")
        assert {s.kind for s in system.owned(user.key)} == set(KINDS) - {"user"}
        assert user.parent == system.space(os.getpid(), "user").key
        assert user.owner_uid == 0
        assert [tuple(line) for line in user.uid_map] == [(0, 0, 1)]
        assert system.space(pid, "pid").parent == system.space(os.getpid(), "pid").key
        assert system.processes[pid].status.ns_pids == (pid, 1)
        assert not system.space(pid, "mnt").hidden
        assert user.id != system.space(os.getpid(), "user").id or user.id == 0


def test_this_machines_own_namespaces():
    system = scan()
    for kind in KINDS:
        space = system.space(os.getpid(), kind)
        assert space.initial == (space.key.inode == INITIAL[kind])
        assert os.getpid() in space.processes
    user = system.space(os.getpid(), "user")
    if user.initial:
        assert user.parent is None
        assert user.owner is None


def test_namespaces_only_finds_the_same_members():
    with unshared("-mn") as pid:
        less, more = scan(details=False), scan()
        assert less.processes[pid].status is None
        assert less.processes[pid].namespaces == more.processes[pid].namespaces
        assert less.space(pid, "net")[:7] == more.space(pid, "net")[:7]


def test_a_thread_alone_in_a_namespace():
    script = HOLD + (
        "ok = threading.Event()\n"
        "def work():\n"
        "    assert libc.unshare(0x04000000) == 0\n"
        "    print(os.stat('/proc/thread-self/ns/uts').st_ino, threading.get_native_id(),"
        " file=sys.stderr, flush=True)\n"
        "    ok.set(); threading.Event().wait()\n"
        "threading.Thread(target=work, daemon=True).start(); ok.wait(); done()\n"
    )
    with running(*python(script), stderr=subprocess.PIPE) as pid:
        system = scan()
        ((tid, spaces),) = system.processes[pid].threads
        key = spaces[KINDS.index("uts")]
        space = system.spaces[key]
        assert key.inode == os.stat(f"/proc/{pid}/task/{tid}/ns/uts").st_ino
        assert [(h.pid, h.number) for h in holders(space, "thread")] == [(pid, tid)]
        assert space.processes == ()
        assert not space.hidden
        assert space.owner == system.space(pid, "user").key


def kept(kind, flag):
    """The script of a process that has nothing but a descriptor of a namespace."""
    return HOLD + (
        f"p = subprocess.Popen(['unshare', {flag!r}, 'sh', '-c', 'echo; read x'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "p.stdout.readline()\n"
        f"fd = os.open(f'/proc/{{p.pid}}/ns/{kind}', os.O_RDONLY)\n"
        "p.kill(); p.wait(); p.stdin.close(); p.stdout.close()\n"
        "done()\n"
    )


@pytest.mark.parametrize(
    ("kind", "flag"), [("net", "-n"), ("mnt", "-m"), ("uts", "-u"), ("ipc", "-i"), ("cgroup", "-C")]
)
def test_a_descriptor_alone_keeps_a_namespace(kind, flag):
    with running(*python(kept(kind, flag))) as pid:
        system = scan()
        mine = [
            (space, holder)
            for space in system.of_kind(kind)
            for holder in holders(space, "descriptor")
            if holder.pid == pid
        ]
        ((space, holder),) = mine
        assert space.key.inode == os.stat(f"/proc/{pid}/fd/{holder.number}").st_ino
        assert space.processes == ()
        if kind == "mnt":
            table = system.tables[space.key]
            assert table.source == "statmount"
            assert [m.target for m in table.mounts][:1] == ["/"]
            # Without looking at descriptors the kernel's list of mount namespaces has it.
            assert space.key in scan(details=False).spaces


def test_a_bind_mount_in_another_mount_namespace_keeps_a_namespace(tmp_path):
    place = tmp_path / "kept net"
    place.touch()
    script = 'unshare --net="$0" true && echo ready && read line'
    with unshared("-m", command=("sh", "-c", script, str(place))) as pid:
        system = scan()
        within = system.space(pid, "mnt").key
        ((space, holder),) = [
            (space, holder)
            for space in system.of_kind("net")
            for holder in holders(space, "mount")
            if holder.path == str(place)
        ]
        assert holder.within == within
        assert space.processes == ()
        assert space.owner == system.space(pid, "user").key
        assert space.key.inode == os.stat(f"/proc/{pid}/root{place}").st_ino
        assert space.key in scan(details=False).spaces


def test_ip_netns_is_a_bind_mount():
    script = "mount -t tmpfs none /run && ip netns add lesson && echo ready && read line"
    with unshared("-m", command=("sh", "-c", script)) as pid:
        system = scan()
        names = {h.path for s in system.of_kind("net") for h in holders(s, "mount")}
        assert "/run/netns/lesson" in names
        assert pid in system.processes


def test_a_socket_alone_keeps_a_network_namespace():
    script = HOLD + (
        "home = os.open('/proc/self/ns/net', os.O_RDONLY)\n"
        "assert libc.unshare(0x40000000) == 0\n"
        "s = socket.socket()\n"
        "assert libc.setns(home, 0) == 0\n"
        "os.close(home); done()\n"
    )
    with running(*python(script)) as pid:
        system = scan()
        mine = [
            space
            for space in system.of_kind("net")
            for holder in holders(space, "socket")
            if holder.pid == pid
        ]
        (space,) = mine
        assert space.processes == ()
        assert space.key != system.processes[pid].namespace("net")
        assert space.owner == system.space(pid, "user").key


def test_a_pid_namespace_that_waits_for_children():
    with unshared("-p", command=("sh", "-c", "sleep 600 & echo ready; read line")) as pid:
        system = scan()
        key = system.processes[pid].pid_for_children
        assert key.inode == inode(pid, "pid_for_children")
        space = system.spaces[key]
        assert [h.pid for h in holders(space, "for children")] == [pid]
        assert space.processes == (child(pid),)
        assert system.processes[child(pid)].pid_for_children is None


def test_a_pid_namespace_before_its_first_process_is_said_to_be_there():
    with unshared("-p", command=("sh", "-c", "echo ready; read line")) as pid:
        system = scan()
        assert isinstance(system.processes[pid].pid_for_children, Unknown)
        assert any(u.what == "pid namespace for children" and pid in u.pids for u in system.unseen)


def test_a_time_namespace_for_children():
    with unshared("-T", command=("sh", "-c", "echo ready; read line")) as pid:
        system = scan()
        # unshare(1) has not forked: it and what it executes stay, their children go.
        key = system.processes[pid].time_for_children
        if key is None:  # since Linux 6.x execve moves the process itself
            assert system.space(pid, "time").key != system.space(os.getpid(), "time").key
        else:
            assert [h.pid for h in holders(system.spaces[key], "for children")] == [pid]


def test_hidden_parents_between_user_namespaces():
    inner = ("unshare", "-Ur", "unshare", "-Ur", *SHELL)
    with unshared("-Ur", command=inner) as pid:
        system = scan()
        chain = list(system.ancestors(system.space(pid, "user").key))
        assert len(chain) == 4
        assert [space.hidden for space in chain] == [False, True, True, False]
        assert [len(holders(space, "child")) >= 1 for space in chain] == [False, True, True, True]
        assert isinstance(chain[1].uid_map, Unknown)
        depths = {space.key: depth for space, depth in system.tree("user")}
        assert [depths[space.key] for space in chain] == [3, 2, 1, 0]


def test_a_zombie_and_a_process_that_has_gone():
    with running(
        *python(HOLD + "p = os.posix_spawn('/bin/true', ['true'], {})\nos.waitid(os.P_PID, p,"
                " os.WEXITED | os.WNOWAIT)\ndone()\n")
    ) as pid:  # fmt: skip
        dead = child(pid)
        for details in (True, False):
            process = scan(details=details).processes[dead]
            reason = "the process has ended, and its parent has not waited for it yet"
            assert process.namespaces == (Unknown(reason),) * 8


def test_processes_that_come_and_go_all_the_time():
    over = threading.Event()

    def churn():
        while not over.is_set():
            subprocess.run(["unshare", "-mnu", "true"], check=True)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(15):
            system = scan()
            assert isinstance(system, System)
            assert system.processes[os.getpid()].status.pid == os.getpid()
            for process in system.processes.values():
                for key in process.namespaces:
                    assert isinstance(key, Unknown) or key in system.spaces
    finally:
        over.set()
        thread.join()


SEEN = """
import json, os
from ctrt.observe import Unknown, scan
system = scan()
target = int(sys.argv[1])
process = system.processes[target]
user = system.space(os.getpid(), "user")
print(json.dumps({
    "namespaces": [k.reason if isinstance(k, Unknown) else k.inode for k in process.namespaces],
    "name": process.name,
    "unseen": sorted({u.what for u in system.unseen}),
    "hidden_from": [u.pids for u in system.unseen if u.what == "namespaces"],
    "parent": user.parent.reason if isinstance(user.parent, Unknown) else user.parent,
    "kinds": sorted({s.kind for s in system.spaces.values()}),
    "own": [k.inode for k in system.processes[os.getpid()].namespaces],
    "mounts": len(system.tables[system.space(os.getpid(), "mnt").key].mounts),
}))
"""


def test_from_inside_what_lies_outside_is_unknown():
    with unshared("-Urmpn", "-f", "--mount-proc") as pid:
        seen = answer("nsenter", "-t", str(pid), "-U", "-m", "-p", "-n", "--preserve-credentials",
                      *python(SEEN, "1"))  # fmt: skip
        assert seen["namespaces"] == [inode(pid, kind) for kind in KINDS]
        assert seen["parent"] == "it lies outside what may be seen from here"
        assert seen["kinds"] == sorted(KINDS)


def test_an_ordinary_user_sees_their_own_and_is_told_of_the_rest():
    with running(*as_user("unshare", "-Urmn", *SHELL)) as own, unshared("-mn") as foreign:
        seen = answer(*as_user(*python(SEEN, str(own))))
        assert seen["namespaces"] == [inode(own, kind) for kind in KINDS]
        assert "namespaces" in seen["unseen"]
        assert "mount namespaces without a process" in seen["unseen"]
        seen = answer(*as_user(*python(SEEN, str(foreign))))
        assert seen["namespaces"] == ["no permission to look into that process"] * 8
        assert seen["name"] == "sh"
        assert foreign in seen["hidden_from"][0]


def test_a_system_is_a_value():
    system = scan()
    with pytest.raises(AttributeError):
        system.me = 1
    assert repr(system).startswith("<System of ")
