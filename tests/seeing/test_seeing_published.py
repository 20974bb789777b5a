"""Published ports: what podman's rules, nftables and docker's forwarder lead into a container."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import drawings
import pytest
from seeing_tools import PROJECT, python, remove, unshared

from ctrt import draw
from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS
from ctrt.observe import Forward, networks, owners, published, scan

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PROXY = (
    "import socket\ns = socket.socket(); s.bind(('0.0.0.0', int(sys.argv[1]))); s.listen()\n"
    "open('/proc/self/comm', 'w').write('docker-proxy')\n"
    "print('ready', flush=True); sys.stdin.read()"
)


def test_what_docker_publishes():
    """By its forwarder's command line, which is docker-proxy's; no docker runs here."""
    words = ("8083", "-proto", "tcp", "-host-ip", "0.0.0.0", "-host-port", "8083",
             "-container-ip", "10.77.1.2", "-container-port", "80")  # fmt: skip
    join = (
        'ip link add here type veth peer name there netns "$1" || exit 1; shift;'
        ' ip link set lo up; ip link set here up; exec "$@"'
    )
    with unshared("-n") as inner:
        outside = ("sh", "-c", join, "sh", str(inner), *python(PROXY, *words))
        with unshared("-n", command=outside) as outer:
            enter = ("nsenter", "-t", str(inner), "-n", "ip")
            subprocess.run([*enter, "addr", "add", "10.77.1.2/24", "dev", "there"], check=True)
            system = scan()
            known = networks(system)
            keys = [system.space(pid, "net").key for pid in (outer, inner)]
            here = [one for one in published(system, known, {}) if one.listener.port == 8083]
            assert [(one.at, one.program, one.to, one.port) for one in here] == [
                (keys[0], "docker-proxy", keys[1], 80)
            ]
            sides = [
                draw.Side(keys[0], "net[1]", "", True, known[keys[0]], {}, tuple(here)),
                draw.Side(keys[1], "net[2]", "", False, known[keys[1]]),
            ]
            picture = draw.network(sides)
            assert "publishes tcp 8083 (docker-proxy) to net[2], port 80" in picture.text()
            assert "listens on" not in picture.text()
            drawings.sound(picture)


NAT = """
import socket
from pyroute2.nftables.expressions import genex
from pyroute2.nftables.main import NFTables

def data(value):
    return {"attrs": [("NFTA_DATA_VALUE", value)]}

def sends(address, *more):
    return (
        genex("meta", {"KEY": 16, "DREG": 1}),
        genex("cmp", {"SREG": 1, "OP": 0, "DATA": data(bytes([17]))}),
        genex("payload", {"DREG": 1, "BASE": 2, "OFFSET": 2, "LEN": 2}),
        genex("cmp", {"SREG": 1, "OP": 0, "DATA": data((5353).to_bytes(2, "big"))}),
        genex("immediate", {"DREG": 1, "DATA": data(address)}),
        *more,
    )

for family, address in ((2, socket.inet_aton("10.77.2.2")),
                        (10, socket.inet_pton(socket.AF_INET6, "fd77::2"))):
    with NFTables(nfgen_family=family) as nft:
        nft.table("add", name="t")
        kind = {"table": "t", "type": "nat", "policy": 1}
        nft.chain("add", name="pre", hook="prerouting", priority=-100, **kind)
        port = genex("immediate", {"DREG": 2, "DATA": data((53).to_bytes(2, "big"))})
        nat = genex("nat", {"TYPE": 1, "FAMILY": family, "REG_ADDR_MIN": 1, "REG_PROTO_MIN": 2})
        nft.rule("add", table="t", chain="pre", expressions=(sends(address, port, nat),))
        same = genex("nat", {"TYPE": 1, "FAMILY": family, "REG_ADDR_MIN": 1})
        nft.rule("add", table="t", chain="pre", expressions=(sends(address, same),))
        # Not every translation forwards: this one is of the source.
        nft.chain("add", name="post", hook="postrouting", priority=100, **kind)
        source = genex("nat", {"TYPE": 0, "FAMILY": family, "REG_ADDR_MIN": 1})
        nft.rule("add", table="t", chain="post", expressions=(sends(address, source),))
print("ready", flush=True); sys.stdin.read()
"""


def test_rules_that_nft_itself_would_make():
    """As netavark's newer driver does; there is no nft here, so they are made by netlink."""
    begin = f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n"
    with unshared("-n", command=(sys.executable, "-c", begin + NAT)) as pid:
        system = scan()
        found = networks(system)[system.space(pid, "net").key]
    assert found.forwards == (
        Forward("udp", 5353, "10.77.2.2", 0), Forward("udp", 5353, "10.77.2.2", 53),
        Forward("udp", 5353, "fd77::2", 0), Forward("udp", 5353, "fd77::2", 53),
    )  # fmt: skip


PODMAN = """
P="podman --root $1/p --runroot $1/run --storage-driver vfs --cgroup-manager=cgroupfs"
P="$P --events-backend=none --runtime=runc --network-config-dir $1/net"
ip link set lo up
trap '$P rm -f -t 0 pub >&2' EXIT
{ $P import -q $1/rootfs.tar localhost/x/box &&
  $P run -d --name pub -p 8085:80 -p 127.0.0.1:8086:81/udp localhost/x/box \
    /bin/busybox sleep 600; } >&2 || exit 1
echo ready; read line
"""


@pytest.fixture
def place():
    """A directory for podman, whose paths may not be long."""
    path = Path(tempfile.mkdtemp(prefix="ctrt-pub-"))
    yield path
    remove(path)


@pytest.mark.skipif(
    not (shutil.which("podman") and shutil.which("runc") and shutil.which("iptables")),
    reason="needs podman, runc and iptables",
)
def test_what_podman_publishes(place: Path):
    """In a network namespace of its own, which takes the host's place."""
    (place / "rootfs/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", place / "rootfs/bin/busybox")
    with tarfile.open(place / "rootfs.tar", "w") as tar:
        tar.add(place / "rootfs", "/")
    settings = place / "containers.conf"
    settings.write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024","nproc=1024:1024"]\n')
    environment = {**os.environ, "CONTAINERS_CONF": str(settings)}
    engine = Engine(str(place / "store"))
    process = subprocess.Popen(
        ["unshare", "-n", "sh", "-c", PODMAN, "sh", str(place)], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        system = scan()
        known = networks(system)
        outside = system.space(process.pid, "net").key
        whose = owners(system)
        inside = next(
            system.space(pid, "net").key for pid, owner in whose.items()
            if owner.name == "pub" and not owner.monitor
        )  # fmt: skip
        led = [one for one in published(system, known, whose) if one.at == outside]
        assert [(one.listener.protocol, one.listener.port, one.to, one.port) for one in led] == [
            ("tcp", 8085, inside, 80), ("udp", 8086, inside, 81),
        ]  # fmt: skip
        # Without the right to read the rules there is still the process that keeps the port.
        blind = {key: found._replace(forwards=()) for key, found in known.items()
                 if hasattr(found, "forwards")}  # fmt: skip
        kept = [one for one in published(system, blind, whose) if one.at == outside]
        assert ("conmon", 8085, inside, 0) in [
            (one.program, one.listener.port, one.to, one.port) for one in kept
        ]
        picture = VERBS["graph"](engine, ["network", str(process.pid)])
        text = picture.text()
        assert "publishes tcp 8085 (nftables) to net[2], port 80" in text
        assert "listens on tcp 8085 (conmon)" in text
        drawings.sound(picture)
    finally:
        process.communicate("\n", timeout=60)
        engine.close()
