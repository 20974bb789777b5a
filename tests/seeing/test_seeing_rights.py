"""The same situations as root and as an ordinary user, from outside and from inside.

And what becomes of what may not be seen, or ends meanwhile: unknown with its reason, never missing.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from seeing_tools import SHELL, USER, answer, as_user, child, python, running, unshared
from seeing_world import ID, in_cgroup

from ctrt.observe import Unknown, capabilities, hierarchy, scan, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

NOT_ALLOWED = "no permission to look into that process"
KERNEL_CAPABILITIES = (1 << int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1) - 1

# A container of plain tools: mounts of every propagation, one over another, and a pair of links.
MADE = """
mount -t tmpfs lesson "$0" && cd "$0" && mkdir shared slave private over
mount -t tmpfs common shared && mount --make-shared shared
mount --bind shared slave && mount --make-slave slave
mount --bind shared private && mount --make-private private
mount -t tmpfs below over && mount -t tmpfs above over
ip link add left type veth peer name right && ip link set lo up
sleep 600 &
echo ready; read line
"""
LOOK = """
import json, os
from ctrt import observe
from ctrt.observe import Unknown
system, target, place = observe.scan(), int(sys.argv[1]), sys.argv[2]
process, me = system.processes[target], system.processes[os.getpid()]
mnt, net, user = (process.namespace(kind) for kind in ("mnt", "net", "user"))
table, network = system.tables[mnt], observe.networks(system)[net]
locked, hidden = observe.locked(system, mnt), observe.covered(table.mounts)
groups = observe.peer_groups(system)
print(json.dumps({
    "pids": process.status.ns_pids,
    "namespaces": [key.inode for key in process.namespaces],
    "members": [target in system.spaces[key].processes for key in process.namespaces],
    "fellows": sorted(system.processes[pid].name for pid in system.space(target, "pid").processes),
    "sets": list(observe.capabilities(target)[:5]),
    "mounts": {
        mount.target.removeprefix(place): [mount.propagation, mount.id in hidden,
            None if isinstance(locked, Unknown) else mount.id in locked]
        for mount in table.mounts if mount.target.startswith(place)
    },
    "receives": sorted(mount.target.removeprefix(place) for mount in table.mounts
        if mount.shared and mount.target == place + "/shared"
        for mount in (m.mount for m in observe.reached(groups, mount))),
    "links": {link.name: [link.kind, bool(link.peer and link.peer[0] == net)]
        for link in network.links},
    "missing": network.missing,
    "map": observe.id_map(system, user, me.namespace("user")),
    "kill": observe.rules.holds(system, target, "kill", user).holds,
    "groups": [group.path for group in process.cgroups],
}))
"""


@pytest.fixture(scope="module")
def place():
    """A directory that every user may reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="ctrt-rights-") as directory:
        os.chmod(directory, 0o755)
        yield directory


def by(who, *command):
    return as_user(*command) if who == "user" else command


@pytest.mark.parametrize("where", ["outside", "inside"])
@pytest.mark.parametrize("who", ["root", "user"])
def test_a_container_is_seen_by_its_maker_from_both_sides(place, who, where):
    made = ("unshare", "-Urmpn", "-f", "--mount-proc", "sh", "-c", f"PATH=$PATH:/sbin\n{MADE}")
    with running(*by(who, *made, place)) as outer:
        pid = child(outer)
        inside = ("nsenter", "-t", str(pid), "-U", "-m", "-p", "-n", "--preserve-credentials")
        number, within = (str(pid), ()) if where == "outside" else ("1", inside)
        interpreter, *script = python(LOOK, number, place)
        if who == "root":
            interpreter = sys.executable  # it has pyroute2, but others may not reach it
        seen = answer(*by(who, *within, interpreter, *script))
        assert seen["namespaces"] == [
            os.stat(f"/proc/{pid}/ns/{kind}").st_ino
            for kind in ("user", "pid", "mnt", "net", "uts", "ipc", "cgroup", "time")
        ]
        assert all(seen["members"])
    assert seen["pids"] == ([pid, 1] if where == "outside" else [1])
    # From inside the one that looks is there, too.
    assert [name for name in seen["fellows"] if not name.startswith("python")] == ["sh", "sleep"]
    assert seen["sets"] == [0, KERNEL_CAPABILITIES, KERNEL_CAPABILITIES, KERNEL_CAPABILITIES, 0]
    told = {target: kinds[:2] for target, kinds in seen["mounts"].items() if target != "/over"}
    assert told == {
        "": ["private", False],
        "/shared": ["shared", False],
        "/slave": ["slave", False],
        "/private": ["private", False],
    }
    assert seen["receives"] == ["/shared", "/slave"]
    assert {locked for *_, locked in seen["mounts"].values()} <= {False, None}
    if who == "root":
        assert seen["links"]["left"] == seen["links"]["right"] == ["veth", True]
        assert seen["missing"] == ""
    else:
        assert {"lo", "left", "right"} <= seen["links"].keys()
        assert seen["missing"]
    uid = pwd.getpwnam(USER).pw_uid if who == "user" else 0
    assert seen["map"] == [[0, uid, 1] if where == "outside" else [0, 0, 4294967295]]
    assert seen["kill"] is True
    assert seen["groups"]


# --- what keeps a namespace, as an ordinary user ------------------------------------------------

HOLD = """
import ctypes, os, socket, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def done():
    print("ready", flush=True); sys.stdin.read()
"""
KEEPERS = {
    "thread": (
        "uts",
        (
            "ok = threading.Event()\n"
            "def work():\n"
            "    assert libc.unshare(0x04000000) == 0\n"
            "    ok.set(); threading.Event().wait()\n"
            "threading.Thread(target=work, daemon=True).start(); ok.wait(); done()\n"
        ),
    ),
    "descriptor": (
        "net",
        (
            "home = os.open('/proc/self/ns/net', os.O_RDONLY)\n"
            "assert libc.unshare(0x40000000) == 0\n"
            "kept = os.open('/proc/self/ns/net', os.O_RDONLY)\n"
            "assert libc.setns(home, 0) == 0\n"
            "os.close(home); done()\n"
        ),
    ),
    "socket": (
        "net",
        (
            "home = os.open('/proc/self/ns/net', os.O_RDONLY)\n"
            "assert libc.unshare(0x40000000) == 0\n"
            "s = socket.socket()\n"
            "assert libc.setns(home, 0) == 0\n"
            "os.close(home); done()\n"
        ),
    ),
    "mount": (
        "uts",
        (
            "open(sys.argv[1], 'w').close()\n"
            "subprocess.run(['unshare', '--uts=' + sys.argv[1], 'true'], check=True); done()\n"
        ),
    ),
    "for children": (
        "pid",
        "assert libc.unshare(0x20000000) == 0\np = subprocess.Popen(['sleep', '600']); done()\n",
    ),
}
FIND = """
import json
from ctrt import observe
system, pid, how, path = observe.scan(), int(sys.argv[1]), sys.argv[2], sys.argv[3]
within = system.processes[pid].namespace("mnt")
print(json.dumps([
    [space.kind, [system.processes[p].name for p in space.processes], space.hidden]
    for space in system.spaces.values() for holder in space.holders
    if holder.how == how
    and (holder.pid == pid or (holder.path == path and holder.within == within))
]))
"""


@pytest.mark.parametrize("who", ["root", "user"])
@pytest.mark.parametrize("how", KEEPERS)
def test_what_keeps_a_namespace_is_found_by_its_maker(place, how, who):
    kind, script = KEEPERS[how]
    path = f"{place}/tree/file"
    Path(place, "tree").mkdir(exist_ok=True)
    mount = ("sh", "-ec", 'mount -t tmpfs none "$0"; exec "$@"', f"{place}/tree")
    command = ("unshare", "-Urmn", *mount, *python(HOLD + script, path))
    with running(*by(who, *command)) as pid:
        found = answer(*by(who, *python(FIND, str(pid), how, path)))
        [(seen, members, hidden)] = [one for one in found if one[0] == kind]
        assert seen == kind
        assert members == (["sleep"] if how == "for children" else [])
        assert not hidden


def test_a_user_sees_the_hidden_namespaces_between():
    script = (
        "import json\nfrom ctrt import observe\ns = observe.scan()\n"
        "chain = list(s.ancestors(s.space(int(sys.argv[1]), 'user').key))\n"
        "print(json.dumps([one.hidden for one in chain]))"
    )
    inner = ("unshare", "-Ur", "unshare", "-Ur", "unshare", "-Ur", *SHELL)
    with running(*as_user(*inner)) as pid:
        assert answer(*as_user(*python(script, str(pid)))) == [False, True, True, False]


# --- cgroups and owners, as an ordinary user ----------------------------------------------------


def test_a_user_s_cgroup_and_the_view_from_its_inside():
    tree = hierarchy()
    name = f"/ctrt-seeing-rights-{os.getpid()}"
    os.mkdir(tree.mount + name)
    try:
        os.chown(tree.mount + name, pwd.getpwnam(USER).pw_uid, -1)
        join = f'echo $$ > "{tree.mount}{name}/cgroup.procs"; exec "$@"'
        script = (
            "import json, os\nfrom ctrt import observe\n"
            "tree = observe.hierarchy()\npid = int(sys.argv[1])\nsystem = observe.scan()\n"
            "[path] = [g.path for g in system.processes[pid].cgroups if g.hierarchy == 0]\n"
            "seen = observe.cgroup(tree, sys.argv[2])\n"
            "print(json.dumps([path, seen.delegated, seen.owner, seen.processes]))"
        )
        own = as_user("unshare", "-UrC", *SHELL)
        with running("sh", "-c", join, "sh", *own) as pid:
            told = answer(*as_user(*python(script, str(pid), name)))
            assert told == [name, True, pwd.getpwnam(USER).pw_uid, [pid]]
            inside = ("nsenter", "-t", str(pid), "-U", "-C", "--preserve-credentials")
            path, *_ = answer(*as_user(*inside, *python(script, str(pid), name)))
            assert path == "/"
    finally:
        os.rmdir(tree.mount + name)


def test_a_user_is_told_whose_a_container_is():
    script = (
        "import json\nfrom ctrt import observe\ns = observe.scan()\n"
        "print(json.dumps(observe.owners(s)[int(sys.argv[1])][:2]))"
    )
    with in_cgroup(f"/docker/{ID}") as pid:
        assert answer(*as_user(*python(script, str(pid)))) == ["docker", ID]


# --- what else is read of a process -------------------------------------------------------------

FILTERED = """
import ctypes
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
allow = ctypes.create_string_buffer(b"\\6" + bytes(5) + b"\\xff\\x7f")  # BPF_RET, allow
program = Program(1, ctypes.addressof(allow))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
print("ready", flush=True); sys.stdin.read()
"""


@pytest.mark.parametrize("who", ["root", "user"])
def test_seccomp_and_no_new_privs(who):
    script = (
        "import json\nfrom ctrt import observe\nc = observe.capabilities(int(sys.argv[1]))\n"
        "print(json.dumps([c.seccomp, c.seccomp_filters, c.no_new_privs]))"
    )
    with running(*by(who, *python(FILTERED))) as pid:
        assert answer(*by(who, *python(script, str(pid)))) == ["filter", 1, True]


def test_securebits_are_those_that_capsh_sets():
    script = (
        "import json\nfrom ctrt import observe\n"
        "print(json.dumps(observe.capabilities().securebits))"
    )
    told = answer("capsh", "--secbits=0x2f", "--", "-c", shlex.join(python(script)))
    assert told == 0x2F


def test_sets_that_capsh_drops():
    shell = ("-c", "echo ready; read line")
    with running("capsh", "--drop=cap_net_raw,cap_kill", "--", *shell) as pid:
        held = capabilities(pid)
        lost = capabilities().bounding & ~held.bounding
        assert lost == 1 << 13 | 1 << 5
        assert held.permitted == capabilities().permitted & ~lost


# --- what may not be seen, and what ends --------------------------------------------------------


def test_a_process_that_is_about_to_end_is_no_lack_of_the_kernel():
    """The first process of a pid namespace waits, at its end, for one that nobody reaps."""
    with contextlib.ExitStack() as stack:
        outer = stack.enter_context(running("unshare", "-pmf", "--mount-proc", *SHELL))
        pid = child(outer)
        sleeper = subprocess.Popen(["nsenter", "-t", str(pid), "-p", "sleep", "600"])
        stack.callback(sleeper.wait)
        stack.callback(sleeper.kill)
        wait_for(lambda: child(sleeper.pid))
        os.kill(sleeper.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{sleeper.pid}/stat")
        wait_for(lambda: ") T " in stat.read_text())  # from here on it reaps nobody
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not os.path.exists(f"/proc/{pid}/ns/mnt"))
        left = "the process is about to end, and has left it"
        process = scan().processes[pid]
        assert process.status.state != "Z"
        assert process.namespace("net") == Unknown(left)
        assert snapshot(pid).namespaces["net"] == Unknown(left)


def wait_for(what):
    import time

    for _ in range(200):
        with contextlib.suppress(OSError, IndexError):
            if what():
                return
        time.sleep(0.02)
    raise AssertionError("it did not come")


HIDDEN = """
import json
from ctrt import observe
system = observe.scan()
process = system.processes.get(int(sys.argv[1]))
print(json.dumps([
    process and [str(getattr(process.status, "reason", "")), process.namespaces[0].reason],
    [one.reason for one in system.unseen if one.what == "processes of other users"],
]))
"""


@pytest.mark.parametrize("hidepid", ["noaccess", "invisible"])
def test_processes_that_proc_hides(hidepid):
    script = f'mount -t proc -o hidepid={hidepid} none /proc && exec "$@"'
    with running(*SHELL) as foreign:
        told = answer(
            "unshare", "-m", "sh", "-c", script, "sh", *as_user(*python(HIDDEN, str(foreign)))
        )
    if hidepid == "noaccess":
        assert told == [[NOT_ALLOWED, NOT_ALLOWED], []]
    else:
        assert told == [None, ["/proc is mounted with hidepid, and does not show them"]]


def test_root_without_the_right_to_trace_is_told_so():
    script = (
        "import json\nfrom ctrt import observe\ns = observe.scan()\n"
        "p = s.processes[int(sys.argv[1])]\n"
        "print(json.dumps([p.namespaces[0].reason, p.name, p.status.effective > 0]))"
    )
    with unshared("-mn") as pid:
        weak = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-all")
        told = answer(*weak, *python(script, str(pid)))
    assert told == [NOT_ALLOWED, "sh", True]
