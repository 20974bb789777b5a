"""Ids, cgroups and networks, made with plain tools and found in the model."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest
from seeing_tools import SHELL, answer, as_user, python, running, unshared

from ctrt import draw
from ctrt.errors import CtrtError
from ctrt.linux.processes import IdRange
from ctrt.observe import (
    Forward,
    RuleTable,
    Unknown,
    cgroup,
    cgroup_root,
    cgroup_tree,
    hierarchies,
    hierarchy,
    id_map,
    members,
    networks,
    scan,
    seen_from_inside,
    snapshot,
    translate_id,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# --- ids ----------------------------------------------------------------------------------------


def write_maps(pid, text, through=0):
    for kind in ("uid", "gid"):
        command = ["sh", "-c", f"echo '{text}' > /proc/{pid}/{kind}_map"]
        if through:
            command = ["nsenter", "-t", str(through), "-U", "-S", "0", "-G", "0", *command]
        subprocess.run(command, check=True)


@pytest.fixture
def place():
    """A directory that every user may reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="ctrt-seeing-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def test_ids_from_any_namespace_to_any_other(place):
    with unshared("-U") as a, unshared("-U") as sibling:
        write_maps(a, "0 100000 2000")
        write_maps(sibling, "0 101500 1000")
        inner = ("nsenter", "-t", str(a), "-U", "-S", "0", "-G", "0", "unshare", "-U", *SHELL)
        with running(*inner) as b:
            write_maps(b, "10 500 100", through=a)
            system = scan()
            host = system.space(os.getpid(), "user").key
            key = {pid: system.space(pid, "user").key for pid in (a, b, sibling)}
            assert id_map(system, key[a], host) == (IdRange(0, 100000, 2000),)
            assert id_map(system, key[b], host) == (IdRange(10, 100500, 100),)
            assert id_map(system, key[b], key[a], "gid") == (IdRange(10, 500, 100),)
            assert id_map(system, key[a], key[b]) == (IdRange(500, 10, 100),)
            assert id_map(system, key[a], key[sibling]) == (IdRange(1500, 0, 500),)
            assert id_map(system, key[b], key[sibling]) == ()
            assert translate_id(system, 12, key[b], host) == (100502, True)
            assert translate_id(system, 0, host, key[b]) == (65534, False)
            assert id_map(system, host, host) == (IdRange(0, 0, 4294967295),)
            # The kernel agrees: a file of id 12 inside, looked at from each of them.
            file = place / "file"
            file.touch()
            os.chown(file, 100502, 100502)
            for pid, there in key.items():
                told = subprocess.run(
                    ["nsenter", "-t", str(pid), "-U", "--preserve-credentials",
                     "stat", "-c", "%u", file],
                    capture_output=True, text=True, check=True,
                ).stdout  # fmt: skip
                assert translate_id(system, 100502, host, there).value == int(told)


def test_a_namespace_between_is_asked_for_its_maps_through_whoever_is_in_it():
    """Not a parent or child of the process, but a stranger."""
    with unshared("-U") as a:
        write_maps(a, "0 100000 2000")
        inner = ("nsenter", "-t", str(a), "-U", "-S", "0", "-G", "0", "unshare", "-U", *SHELL)
        with running(*inner) as b:
            write_maps(b, "10 500 100", through=a)
            seen = snapshot(b, others=False)
            assert [user.uid_map for user in seen.users[1:]] == [
                (IdRange(0, 100000, 2000),),
                (IdRange(10, 100500, 100),),
            ]
            assert "left out" not in draw.ids(seen).text()


def test_a_map_that_nobody_has_written_or_can_be_asked_for():
    with unshared("-U") as pid, unshared("-Ur", command=("unshare", "-Ur", *SHELL)) as nested:
        system = scan()
        host = system.space(os.getpid(), "user").key
        assert id_map(system, system.space(pid, "user").key, host) == ()
        hidden = system.space(nested, "user").parent
        assert isinstance(id_map(system, hidden, host), Unknown)
        assert isinstance(id_map(system, system.space(pid, "net").key, host), Unknown)


def test_ids_as_an_ordinary_user_has_them():
    script = (
        "import json, os\nfrom ctrt.observe import id_map, scan\ns = scan()\n"
        "own = s.space(os.getpid(), 'user').key\n"
        "print(json.dumps(id_map(s, s.space(int(sys.argv[1]), 'user').key, own)))"
    )
    with running(*as_user("unshare", "-Ur", *SHELL)) as pid:
        uid = os.stat(f"/proc/{pid}").st_uid
        assert answer(*as_user(*python(script, str(pid)))) == [[0, uid, 1]]
        # From inside its own map is no riddle: what it calls 0 is 0.
        inside = ("nsenter", "-t", str(pid), "-U", "--preserve-credentials")
        assert answer(*as_user(*inside, *python(script, str(pid)))) == [[0, 0, 4294967295]]


# --- cgroups ------------------------------------------------------------------------------------


@contextlib.contextmanager
def made_cgroup(tree, name=""):
    path = f"/ctrt-seeing-{uuid.uuid4().hex[:8]}{name}"
    os.mkdir(tree.mount + path)
    try:
        yield path
    finally:
        for place, _, _ in os.walk(tree.mount + path, topdown=False):
            os.rmdir(place)


def write(tree, path, file, text):
    with open(f"{tree.mount}{path}/{file}", "w") as opened:
        opened.write(text)


def controller(name):
    try:
        return hierarchy(name)
    except CtrtError:
        pytest.skip(f"no {name} controller of cgroup v1 here")


def test_the_trees_that_are_mounted():
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    told = {word for line in lines for word in line.split(":")[1].split(",")}
    shown = set()
    for tree in hierarchies():
        shown |= {""} if tree.version == 2 else set(tree.controllers)
        shown |= {f"name={tree.name}"} if tree.name else set()
    assert shown <= told
    with pytest.raises(CtrtError, match="no cgroup tree with nothing is mounted here"):
        hierarchy("nothing")


def test_limits_and_use():
    memory = controller("memory")
    with made_cgroup(memory) as path, running(*SHELL) as pid:
        version = memory.version
        limit = "memory.max" if version == 2 else "memory.limit_in_bytes"
        assert cgroup(memory, path).limits["memory"] is None
        write(memory, path, limit, str(64 << 20))
        write(memory, path, "cgroup.procs", str(pid))
        seen = cgroup(memory, path)
        assert seen.limits["memory"] == 64 << 20
        assert seen.processes == (pid,)
        assert seen.use["memory"] >= 0
        assert members(scan(), memory)[path] == (pid,)
        write(memory, "/", "cgroup.procs", str(pid))
    pids = controller("pids")
    with made_cgroup(pids) as path:
        write(pids, path, "pids.max", "7")
        assert cgroup(pids, path).limits["processes"] == 7
    cpu = controller("cpu")
    with made_cgroup(cpu) as path:
        assert cgroup(cpu, path).limits["cpus"] is None
        if cpu.version == 1:
            write(cpu, path, "cpu.cfs_quota_us", "150000")
        else:
            write(cpu, path, "cpu.max", "150000 100000")
        assert cgroup(cpu, path).limits["cpus"] == 1.5


def test_what_limits_have_done_to_those_in_a_cgroup():
    memory, cpu = controller("memory"), controller("cpu")
    eat = 'open("/proc/self/oom_score_adj", "w").write("1000"); print("ready", flush=True)'
    eat += "; sys.stdin.readline(); x = bytearray(64 << 20)"
    with made_cgroup(memory) as path, running(*python(eat), stderr=subprocess.DEVNULL) as pid:
        limit = "memory.max" if memory.version == 2 else "memory.limit_in_bytes"
        write(memory, path, limit, str(32 << 20))
        write(memory, path, "cgroup.procs", str(pid))
        assert "killed" not in cgroup(memory, path).use
        with open(f"/proc/{pid}/fd/0", "w") as stdin:
            stdin.write("go\n")
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        seen = cgroup(memory, path)
        assert seen.use["killed"] == 1
        assert (f"{memory.mount}{path}/{limit}", str(32 << 20)) in seen.raw
    spin = "print('ready', flush=True)\nwhile True: pass"
    with made_cgroup(cpu) as path, running(*python(spin)) as pid:
        if cpu.version == 1:
            write(cpu, path, "cpu.cfs_quota_us", "1000")
        else:
            write(cpu, path, "cpu.max", "1000 100000")
        write(cpu, path, "cgroup.procs", str(pid))
        for _ in range(100):
            if "throttled" in cgroup(cpu, path).use:
                break
            time.sleep(0.1)
        assert cgroup(cpu, path).use["throttled"] > 0
        write(cpu, "/", "cgroup.procs", str(pid))


def test_pressure_frozen_and_delegation():
    tree = hierarchy()
    with made_cgroup(tree) as path, running(*SHELL) as pid:
        write(tree, path, "cgroup.procs", str(pid))
        seen = cgroup(tree, path)
        assert (seen.frozen, seen.delegated, seen.owner) == (False, False, 0)
        assert seen.type == "domain"
        assert "cpu" in seen.pressure
        assert len(seen.pressure["cpu"].some) == 3
        with open(f"{tree.mount}{path}/cgroup.events") as events:
            told = select.poll()
            told.register(events, select.POLLPRI)
            events.read()
            write(tree, path, "cgroup.freeze", "1")
            assert told.poll(10000)
        assert cgroup(tree, path).frozen
        write(tree, path, "cgroup.freeze", "0")
        os.mkdir(f"{tree.mount}{path}/given")
        os.chown(f"{tree.mount}{path}/given", 4711, 4711)
        walk = [(c.path, depth, c.delegated) for c, depth in cgroup_tree(tree, path)]
        assert walk == [(path, 0, False), (f"{path}/given", 1, True)]
        assert cgroup(tree, f"{path}/given").owner == 4711
        write(tree, "/", "cgroup.procs", str(pid))
    with pytest.raises(CtrtError, match="no such file or directory"):
        cgroup(tree, path)


_opened = []


def test_a_deep_tree_is_walked_in_as_many_steps_as_it_has_cgroups():
    """Every name is looked up from the directory above it, so no level costs more than another."""
    tree = hierarchy()
    watched = []
    # A hook stays for ever, so it does nothing but while a walk is watched.
    sys.addaudithook(lambda event, args: _opened and event == "open" and _opened[0](args[0]))
    counts = {}
    with made_cgroup(tree) as path:
        deep, made = path, []
        for depth in range(1, 201):
            deep += "/y"
            os.mkdir(f"{tree.mount}{deep}")
            os.mkdir(f"{tree.mount}{deep}/x")
            made.append(deep)
            if depth in (50, 200):
                watched.clear()
                _opened.append(watched.append)
                try:
                    walk = list(cgroup_tree(tree, path))
                finally:
                    _opened.clear()
                counts[depth] = sum(str(name).strip("/").count("/") + 1 for name in watched)
        # The deeper one comes after the nearer one by name.
        assert [(c.path, at) for c, at in walk[:3]] == [
            (path, 0), (f"{path}/y", 1), (f"{path}/y/x", 2),
        ]  # fmt: skip
        assert {(c.path, at) for c, at in walk[1:]} == {
            *((one, one.count("/") - 1) for one in made),
            *((f"{one}/x", one.count("/")) for one in made),
        }
    assert 50 < counts[50] < counts[200] < 4.5 * counts[50]


def test_the_view_from_inside(tmp_path):
    tree = hierarchy()
    with made_cgroup(tree) as path:
        inner = f"mount -t cgroup2 none {tmp_path} && echo ready && read line"
        script = f'echo $$ > "{tree.mount}{path}/cgroup.procs" && exec unshare -mC sh -c "{inner}"'
        with running("sh", "-c", script) as pid:
            system = scan()
            root = cgroup_root(system, pid, tree)
            assert root == path
            inside = subprocess.run(
                ["nsenter", "-t", str(pid), "-C", "cat", f"/proc/{pid}/cgroup", "/proc/1/cgroup"],
                capture_output=True, text=True, check=True,
            ).stdout.splitlines()  # fmt: skip
            told = [line[3:] for line in inside if line.startswith("0::")]
            assert told == [seen_from_inside(path, root), seen_from_inside("/", root)]
            assert told == ["/", "/.."]
            assert cgroup_root(system, os.getpid(), tree) == "/"
        with unshared("-C") as other:
            assert isinstance(cgroup_root(scan(), other, tree), Unknown)


# --- networks -----------------------------------------------------------------------------------

SCRIPT = """
ip link set lo up
ip link add br0 type bridge
ip link add here type veth peer name there netns "$1"
ip link set here master br0
ip addr add 10.77.0.1/24 dev br0
ip link set br0 up; ip link set here up
ip route add 10.99.0.0/16 via 10.77.0.9
echo ready
read line
"""
LISTEN = (
    "import socket\ns = socket.socket(); s.bind(('127.0.0.1', 8081)); s.listen()\n"
    "u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.bind(('::1', 5353))\n"
    "print('ready', flush=True); sys.stdin.read()"
)


def test_links_addresses_routes_and_veth_peers():
    own = os.readlink("/proc/self/ns/net")
    with unshared("-n") as one, unshared("-n", command=("sh", "-c", SCRIPT, "sh", str(one))) as two:
        subprocess.run(
            ["nsenter", "-t", str(one), "-n", "ip", "link", "set", "there", "up"], check=True
        )
        system = scan()
        found = networks(system)
        key = {pid: system.space(pid, "net").key for pid in (one, two)}
        here = {link.name: link for link in found[key[two]].links}
        there = {link.name: link for link in found[key[one]].links}
        assert here["br0"].kind == "bridge"
        assert here["br0"].up
        assert ("10.77.0.1", 24) in here["br0"].addresses
        assert here["here"].master == here["br0"].number
        assert here["here"].peer == (key[one], there["there"].number)
        assert there["there"].peer == (key[two], here["here"].number)
        assert ("127.0.0.1", 8) in here["lo"].addresses
        assert here["lo"].peer is None
        routes = {route.destination: route for route in found[key[two]].routes}
        assert routes["10.99.0.0/16"].gateway == "10.77.0.9"
        assert routes["10.77.0.0/24"].link == here["br0"].number
        assert found[key[two]].missing == ""
        # The caller has not moved.
        assert os.readlink("/proc/thread-self/ns/net") == own


@pytest.mark.skipif(not shutil.which("iptables"), reason="needs iptables")
def test_rules_are_found_where_they_are():
    script = (
        "iptables -A INPUT -p tcp --dport 80 -j ACCEPT && iptables -A INPUT -j ACCEPT && "
        "iptables -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to 192.0.2.2:80 || exit 1; "
        "echo ready; read line"
    )
    if (
        "nf_tables"
        not in subprocess.run(["iptables", "-V"], capture_output=True, text=True, check=True).stdout
    ):
        pytest.skip("this iptables does not write to nftables")
    with unshared("-n", command=("sh", "-c", script)) as pid, unshared("-n") as plain:
        system = scan()
        found = networks(system)
        assert found[system.space(pid, "net").key].tables == (
            RuleTable("ip", "filter", 1, 2),
            RuleTable("ip", "nat", 1, 1),
        )
        assert found[system.space(pid, "net").key].forwards == (
            Forward("tcp", 8080, "192.0.2.2", 80),
        )
        assert found[system.space(plain, "net").key].tables == ()


def test_listening_sockets():
    with unshared("-n", command=("sh", "-c", 'ip link set lo up; exec "$@"', "sh",
                                 *python(LISTEN))) as pid:  # fmt: skip
        system = scan()
        found = networks(system)[system.space(pid, "net").key]
        told = {(one.protocol, one.address, one.port) for one in found.listeners}
        assert told == {("tcp", "127.0.0.1", 8081), ("udp6", "::1", 5353)}


def test_networks_in_a_running_event_loop():
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    async def look():
        return networks(scan())

    # A thread of its own: browser tests leave a loop that runs in this one.
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: asyncio.run(look())).result()
    assert any(link.name == "lo" for net in found.values() if not isinstance(net, Unknown)
               for link in net.links)  # fmt: skip


def test_a_network_without_a_process(tmp_path):
    place = tmp_path / "net"
    place.touch()
    script = 'unshare --net="$0" ip link add lonely type bridge && echo ready && read line'
    with unshared("-m", command=("sh", "-c", script, str(place))) as pid:
        system = scan()
        (space,) = [
            s for s in system.of_kind("net") if any(h.path == str(place) for h in s.holders)
        ]
        assert {link.name for link in networks(system)[space.key].links} >= {"lo", "lonely"}
        assert pid


def test_an_ordinary_user_s_network_by_what_proc_shows():
    script = (
        "import json, os\nfrom ctrt.observe import _network, scan\ns = scan()\n"
        "key = s.space(int(sys.argv[1]), 'net').key\n"
        "net = _network.networks(s)[key]\n"
        "print(json.dumps([[l.name for l in net.links], net.missing]))"
    )
    program = "/sbin/ip link set lo up; /sbin/ip link add d0 type bridge; echo ready; read line"
    with running(*as_user("unshare", "-Urn", "sh", "-c", program)) as pid:
        links, missing = answer(*as_user(*python(script, str(pid))))
        assert sorted(links) == ["d0", "lo"]
        assert missing


def test_who_has_a_listening_socket():
    script = (
        "import os, socket\ns = socket.socket(); s.bind(('127.0.0.1', 8082)); s.listen()\n"
        "open('/proc/self/comm', 'w').write('waits')\n"
        "u = socket.socket(socket.AF_UNIX); u.bind('\\0ctrt-test'); u.listen()\n"
        "v = socket.socket(socket.AF_UNIX); v.bind('\\0ctrt-test-2')\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    lo = ("sh", "-c", 'ip link set lo up; "$@"; true', "sh", *python(script))
    with unshared("-n", command=lo) as pid:
        system = scan()
        key = system.space(pid, "net").key
        found = networks(system)[key]
        (one,) = found.listeners
        assert system.processes[one.pid].name == "waits"
        assert one.pid != pid, "its child has it"
        assert found.unix == 1, "what is only bound waits for nobody"
        holders = {one.pid: "waits"}
        side = draw.Side(key, "net[1]", "", False, found, holders)
        text = draw.network([side]).text()
        assert "listens on tcp 8082 of 127.0.0.1 (waits)" in text
        assert "listens on 1 Unix socket" in text
        assert f"(waits, {one.pid})" in draw.network([side], ids=True).text()
