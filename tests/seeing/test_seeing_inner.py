"""What only members of a namespace are told: host names, IPC objects, clocks, and networks.

Asked by root and by ordinary users of their own containers; each answer is what a member says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import drawings
import pytest
from seeing_tools import SHELL, answer, as_user, child, running, unshared

from ctrt import draw, observe
from ctrt.observe import Names, Objects, Offset, Unknown, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

MAKE = """
hostname box.example
if test -w /proc/sys/kernel/domainname; then echo example.org > /proc/sys/kernel/domainname; fi
ipcmk -M 100 -M 200 >/dev/null && ipcmk -M 100 >/dev/null && ipcmk -S 2 >/dev/null
mount -t tmpfs tmpfs /mnt && mkdir /mnt/q && mount -t mqueue mqueue /mnt/q && : > /mnt/q/one
PATH=$PATH:/sbin; ip link set lo up; ip link add left type veth peer name right
ip addr add 10.9.8.7/24 dev left
echo ready; read line
"""
MADE = ("-mnuipT", "-f", "--boottime", "-3600", "--monotonic", "86400")
LOOK = """
import json
from ctrt import draw, observe
pid = int(sys.argv[1])
system = observe.scan()
network = observe.networks(system)[system.processes[pid].namespace("net")]
seen = observe.snapshot(pid)
print(json.dumps({
    "inner": seen.inner, "text": draw.container(seen).text(), "missing": network.missing,
    "links": {l.name: [l.kind, [a.address for a in l.addresses]] for l in network.links},
    "tables": isinstance(network.tables, tuple), "me": os.readlink("/proc/self/ns/net"),
}))
"""


def own_script(user_bin: Path, script: str, *arguments: str) -> tuple[str, ...]:
    """The script, run by the environment that ordinary users have (with pyroute2)."""
    begin = "import os, sys\n"
    return (str(user_bin / "python"), "-B", "-I", "-c", begin + script, *arguments)


def test_root_is_told_what_a_member_is() -> None:
    with unshared(*MADE, command=("sh", "-ec", MAKE)) as pid:
        before = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("uts", "ipc", "net")}
        seen = snapshot(pid)
        assert {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in before} == before
        count = subprocess.run(
            ["nsenter", "-t", str(pid), "-i", "ipcs", "-m"],
            check=True, stdout=subprocess.PIPE, text=True,
        ).stdout.count("0x")  # fmt: skip
        shown = draw.container(seen)
        without = snapshot(pid, others=False)
    assert seen.inner.names == Names("box.example", "example.org")
    assert seen.inner.objects == Objects(count, 1, 0, 1)
    assert count >= 2
    assert seen.inner.offsets == (Offset("monotonic", 86400, 0), Offset("boottime", -3600, 0))
    assert without.inner == observe.Inner(), "a quick look asks for nothing"
    text = shown.text(160)
    assert "its own host name: box.example, NIS domain example.org" in text
    assert f"its own IPC: {count} memory segments, 1 semaphore set, 1 POSIX queue" in text
    assert "its own clocks: monotonic +86400 s, boottime -3600 s" in text
    labels = {node.id: node.sub for node in shown.scene.nodes}
    assert labels["uts:1"] == "box.example"
    assert labels["ipc:1"] == f"{count + 2} IPC objects"
    raw = [one.line for one in shown.scene.details["time:1"].raw]
    assert raw[1:] == ["monotonic 86400 0", "boottime -3600 0"]
    drawings.sound(shown)


def test_what_is_the_host_s_is_not_told() -> None:
    with unshared("-n") as pid:
        seen = snapshot(pid)
    assert seen.inner == observe.Inner()
    assert os.uname().nodename not in draw.container(seen).text()


def test_an_ordinary_user_is_told_of_containers_of_their_own(user_bin: Path) -> None:
    made = ("unshare", "-Ur", *MADE, "sh", "-ec", MAKE)
    with running(*as_user(*made)) as outer:
        pid = child(outer)
        seen = answer(*as_user(*own_script(user_bin, LOOK, str(pid))))
        mine = os.readlink("/proc/self/ns/net")
        theirs = snapshot(pid)
    assert seen["me"] == mine, "who asks stays where it is"
    assert seen["inner"][0] == ["box.example", "", False]
    assert seen["inner"][1] == list(theirs.inner.objects or ())
    assert seen["inner"][2] == [["monotonic", 86400, 0], ["boottime", -3600, 0]]
    assert "its own host name: box.example" in seen["text"]
    assert seen["missing"] == ""
    assert seen["links"]["left"] == ["veth", ["10.9.8.7"]]
    assert "127.0.0.1" in seen["links"]["lo"][1]
    assert seen["tables"]


def test_what_may_not_be_joined_says_so(user_bin: Path) -> None:
    """A child of root's namespaces that belongs to the user, and a container of another user."""
    look = (
        "import json\nfrom ctrt import observe\n"
        "print(json.dumps(observe.snapshot(int(sys.argv[1])).inner))"
    )
    with unshared("-u", command=as_user(*SHELL)) as pid:
        told = answer(*as_user(*own_script(user_bin, look, str(pid))))
    reason = "joining it takes CAP_SYS_ADMIN in the user namespace that owns it"
    assert told == [[reason], None, None]
    with unshared("-U", "-r", "-u", "-i") as pid:
        told = answer(*as_user(*own_script(user_bin, look, str(pid))))
    # Its namespaces cannot even be told from one's own.
    assert told == [None, None, None]


def test_who_asks_cannot_be_traced_from_inside(user_bin: Path) -> None:
    """Whoever shares the pid namespace and is root in the user namespace sees the one that asks."""
    spy = """
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
print("ready", flush=True)
end, found = time.monotonic() + 20, []
while time.monotonic() < end and not found:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            same = os.readlink(f"/proc/{pid}/ns/user") == os.readlink("/proc/self/ns/user")
        except OSError:
            continue
        found += [pid] if same and int(pid) not in (os.getpid(), os.getppid()) else []
print(json.dumps(found), flush=True)
"""
    script = "import json\n" + spy
    command = ("unshare", "-Urui", "/usr/bin/python3", "-c", script)
    with subprocess.Popen(as_user(*command), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        look = (
            "from ctrt import observe\n"
            "for _ in range(9): print(observe.snapshot(int(sys.argv[1])).inner)"
        )
        done = subprocess.run(
            as_user(*own_script(user_bin, look, str(process.pid))),
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        process.terminate()
        seen = process.stdout.read()
    assert done.stdout.count("Names(") == 9
    assert seen == "", "its links were not shown to anybody in there"


def test_names_that_are_new_each_time_are_not_shown() -> None:
    name = "0123456789ab"
    with unshared("-u", command=("sh", "-c", f"hostname {name}; echo ready; read line")) as pid:
        seen = snapshot(pid)
        assert seen.inner.names == Names(name, "")
    assert name not in draw.container(seen).text()
    assert "its own host name: …" in draw.container(seen).text()
    assert name in draw.container(seen, ids=True).text()


def test_a_name_that_was_never_changed_is_the_host_s() -> None:
    with unshared("-u") as pid:
        seen = snapshot(pid)
    own = os.uname().nodename
    assert seen.inner.names is not None
    assert not isinstance(seen.inner.names, Unknown)
    assert (seen.inner.names.host, seen.inner.names.copied) == (own, True)
    shown = draw.container(seen)
    assert "its own host name: still the host's" in shown.text()
    assert f"host name: {own}" not in shown.text()
    assert json.dumps(own) not in json.dumps(shown.json())
    assert f"host name: {own}" in draw.container(seen, ids=True).text()


def test_a_name_of_a_stranger_does_no_harm() -> None:
    script = (
        "import socket; socket.sethostname('\\x1b[31m' + 'x' * 50)\n"
        "print('ready', flush=True); input()"
    )
    with unshared("-u", command=(sys.executable, "-c", script)) as pid:
        shown = draw.container(snapshot(pid))
    assert "\x1b" not in shown.text()
    assert "\x1b" not in json.dumps(shown.json())
    drawings.sound(shown)


def test_a_mqueue_file_system_that_leads_elsewhere_is_not_counted() -> None:
    """What is mounted over it, and a link in its place, are not what it has."""
    script = """
mount -t tmpfs tmpfs /mnt && mkdir /mnt/q && mount -t mqueue mqueue /mnt/q
mount -t tmpfs over /mnt/q && : > /mnt/q/file
echo ready; read line
"""
    with unshared("-mi", command=("sh", "-ec", script)) as pid:
        assert snapshot(pid).inner.objects == Objects(0, 0, 0, None)


def test_what_cannot_be_read_is_drawn() -> None:
    with unshared("-ui") as pid:
        seen = snapshot(pid)
    reason = Unknown("that is forbidden")
    shown = draw.container(seen._replace(inner=observe.Inner(reason, reason, reason)))
    assert "its own host name: could not be read: that is forbidden" in shown.text(140)
    drawings.sound(shown)
