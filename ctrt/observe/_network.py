"""Networks: the links of every network namespace, what joins them, addresses, routes, listeners.

A network namespace is asked by netlink from a thread or a process that has joined it (`_joined`),
so the caller stays where it is, and a running event loop is not touched. Where joining is not
allowed, what /proc/PID/net shows is used.

Source: rtnetlink(7), network_namespaces(7), proc_pid_net(5).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from ctrt.linux import namespaces, processes
from ctrt.observe import _joined
from ctrt.observe._forwards import Forward, forwards
from ctrt.observe._values import NOT_ALLOWED, Unknown

if TYPE_CHECKING:
    from ctrt.linux.namespaces import Key
    from ctrt.observe._system import System

_RTM_GETNSID, _NETNSA_NSID, _NETNSA_FD = 90, 1, 3
_TYPES = ("unspecified", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole",
          "unreachable", "prohibit", "throw")  # fmt: skip
_MAIN = 254


class Address(NamedTuple):
    """An address of a link, with the length of its prefix."""

    address: str
    prefix: int


class Link(NamedTuple):
    """A network interface.

    `kind` is "veth", "bridge", ...; "" for a real device and lo. `number` is its index, and
    `master` that of the bridge that it is a port of, 0 if none. `peer` is where its other end is
    (veth) or what it stands on (vlan, macvlan): the namespace and the index there; the namespace
    is `Unknown` when it is none of the scan's.
    """

    number: int
    name: str
    kind: str
    up: bool
    mtu: int
    hardware: str
    master: int
    peer: tuple[Key | Unknown, int] | None
    addresses: tuple[Address, ...]


class Route(NamedTuple):
    """A route of the main table: "default" or a prefix, by way of a gateway and a link's index."""

    destination: str
    gateway: str
    link: int
    type: str


class Listener(NamedTuple):
    """A socket that waits for others: "tcp", "tcp6", "udp" or "udp6", its address and port.

    `pid` is the first process of the namespace that has a descriptor of it; 0 where none that
    may be looked into has.
    """

    protocol: str
    address: str
    port: int
    inode: int
    pid: int = 0


class RuleTable(NamedTuple):
    """A table of nftables: "ip", "ip6", "inet", ... and how many chains and rules it has."""

    family: str
    name: str
    chains: int
    rules: int


class Network(NamedTuple):
    """A network namespace.

    `missing` is "" when all was told; where only /proc/PID/net could be read it says why. Then
    kinds, masters, peers and IPv4 addresses of links are not known. `tables` are those of
    nftables, which iptables writes to as well. `unix` is how many sockets of the Unix domain
    wait for others, `forwards` are the ports that rules of nftables send elsewhere.
    """

    key: Key
    links: tuple[Link, ...]
    routes: tuple[Route, ...]
    listeners: tuple[Listener, ...]
    missing: str
    tables: tuple[RuleTable, ...] | Unknown = ()
    unix: int = 0
    forwards: tuple[Forward, ...] = ()

    @property
    def quiet(self) -> bool:
        """Whether it has one link and nothing else that is known."""
        bare = isinstance(self.tables, Unknown) or not self.tables
        return bare and len(self.links) == 1 and not (self.listeners or self.routes)


def networks(system: System, *, of: Key | None = None) -> dict[Key, Network | Unknown]:
    """Every network namespace of a scan; by pyroute2, and without it by what /proc shows.

    With `of` only that one, and those that links of it lead to, by way of any number of pairs.
    """
    descriptors: dict[Key, int] = {}
    answers: dict[Key, Network | Unknown] = {}
    reasons: dict[Key, Unknown] = {}
    try:
        for space in system.of_kind("net"):
            door = _door(system, space.key)
            if isinstance(door, Unknown):
                reasons[space.key] = door
            else:
                descriptors[space.key] = door
        waiting = [space.key for space in system.of_kind("net")] if of is None else [of]
        while waiting:
            key = waiting.pop(0)
            if key in answers:
                continue
            found = answers[key] = _network(system, key, descriptors, reasons.get(key))
            for link in () if isinstance(found, Unknown) else found.links:
                if link.peer is not None and link.peer[0] in system.spaces:
                    waiting.append(link.peer[0])
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
    return answers


def _door(system: System, key: Key) -> int | Unknown:
    """A descriptor of a network namespace, by whatever keeps it alive."""
    space = system.spaces[key]
    paths = [f"/proc/{pid}/ns/net" for pid in space.processes[:5]]
    for holder in space.holders:
        if holder.how == "descriptor":
            paths.append(f"/proc/{holder.pid}/fd/{holder.number}")
        elif holder.how == "thread":
            paths.append(f"/proc/{holder.pid}/task/{holder.number}/ns/net")
        elif holder.how == "mount" and holder.within is not None:
            inside = system.spaces[holder.within].processes[:3]
            paths += [f"/proc/{pid}/root{holder.path}" for pid in inside]
    why = Unknown("nothing that keeps it can be opened from here")
    for path in paths:
        try:
            descriptor = namespaces.open_file(path)
        except PermissionError:
            why = NOT_ALLOWED
            continue
        except OSError:
            continue
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) == key:
            return descriptor
        os.close(descriptor)
    return why


def _network(
    system: System, key: Key, descriptors: dict[Key, int], reason: Unknown | None
) -> Network | Unknown:
    members = system.spaces[key].processes
    listeners, unix = _listeners(members), _unix(members)
    if key in descriptors:
        own = system.processes[system.me].namespace("net") == key
        doors = {} if own else {"net": descriptors[key]}
        try:
            links, routes, tables, forwards = _joined.ask(
                f"{__name__}:ask", (key, descriptors), doors, lent=descriptors.values()
            )
            return Network(key, links, routes, listeners, "", tables, unix, forwards)
        except ImportError:
            reason = Unknown("that takes pyroute2: pip install pyroute2")
        except OSError as error:
            refused = error.errno == errno.EPERM and not own
            told = _joined.NO_RIGHT if refused else (error.strerror or str(error)).lower()
            reason = Unknown(told)
    links = _plain_links(members)
    if not links:
        return reason or NOT_ALLOWED
    why = reason.reason if reason else NOT_ALLOWED.reason
    return Network(key, links, _plain_routes(members, links), listeners, why, (), unix)


def ask(
    key: Key, descriptors: dict[Key, int]
) -> tuple[
    tuple[Link, ...], tuple[Route, ...], tuple[RuleTable, ...] | Unknown, tuple[Forward, ...]
]:
    """The links, routes and tables of the network namespace that the caller is in."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        raw_links = list(netlink.get_links())
        raw_addresses = list(netlink.get_addr())
        raw_routes = list(netlink.get_routes())
    wanted = {
        message.get_attr("IFLA_LINK_NETNSID")
        for message in raw_links
        if message.get_attr("IFLA_LINK_NETNSID") is not None
    }
    by_number = _namespace_numbers(descriptors) if wanted else {}
    addresses: dict[int, list[Address]] = {}
    for message in raw_addresses:
        # On a point-to-point link IFA_ADDRESS is the other end.
        text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        addresses.setdefault(message["index"], []).append(Address(text, message["prefixlen"]))
    links = []
    for message in raw_links:
        peer: tuple[Key | Unknown, int] | None = None
        other = message.get_attr("IFLA_LINK")
        if (other and other != message["index"]) or message.get_attr(
            "IFLA_LINK_NETNSID"
        ) is not None:
            number = message.get_attr("IFLA_LINK_NETNSID")
            where: Key | Unknown = key
            if number is not None:
                where = by_number.get(
                    number, Unknown("the other end is in a namespace that the scan has not found")
                )
            peer = (where, other or 0)
        links.append(
            Link(
                message["index"],
                message.get_attr("IFLA_IFNAME"),
                message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "",
                bool(message["flags"] & 1),
                message.get_attr("IFLA_MTU") or 0,
                message.get_attr("IFLA_ADDRESS") or "",
                message.get_attr("IFLA_MASTER") or 0,
                peer,
                tuple(addresses.get(message["index"], ())),
            )
        )
    routes = []
    for message in raw_routes:
        if (message.get_attr("RTA_TABLE") or message["table"]) != _MAIN:
            continue
        text = message.get_attr("RTA_DST")
        kind = message["type"]
        routes.append(
            Route(
                f"{text}/{message['dst_len']}" if text else "default",
                message.get_attr("RTA_GATEWAY") or "",
                message.get_attr("RTA_OIF") or 0,
                _TYPES[kind] if kind < len(_TYPES) else str(kind),
            )
        )
    return tuple(links), tuple(routes), *_tables()


# The address families of tables: linux/netfilter.h.
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


def _tables() -> tuple[tuple[RuleTable, ...] | Unknown, tuple[Forward, ...]]:
    """The nftables of the caller's namespace, and what they forward; it takes CAP_NET_ADMIN."""
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.nftables.main import NFTables

    try:
        with NFTables(nfgen_family=0) as netlink:
            found = {
                (message["nfgen_family"], message.get_attr("NFTA_TABLE_NAME")): [0, 0]
                for message in netlink.get_tables()
            }
            rules = list(netlink.get_rules())
            for place, told, name in (
                (0, netlink.get_chains(), "NFTA_CHAIN_TABLE"),
                (1, rules, "NFTA_RULE_TABLE"),
            ):
                for message in told:
                    face = message["nfgen_family"], message.get_attr(name)
                    found.setdefault(face, [0, 0])[place] += 1
    except NetlinkError as error:
        return Unknown(os.strerror(error.code).lower()), ()
    except OSError as error:
        return Unknown((error.strerror or str(error)).lower()), ()
    tables = tuple(
        RuleTable(_FAMILIES.get(family, str(family)), name, *counts)
        for (family, name), counts in sorted(found.items())
    )
    return tables, forwards(rules)


def _namespace_numbers(descriptors: dict[Key, int]) -> dict[int, Key]:
    """What the thread's namespace calls the others: RTM_GETNSID of rtnetlink(7)."""
    numbers = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.bind((0, 0))
        for key, descriptor in descriptors.items():
            body = struct.pack("=B3x", 0) + struct.pack("=HHI", 8, _NETNSA_FD, descriptor)
            netlink.send(struct.pack("=IHHII", 16 + len(body), _RTM_GETNSID, 1, 1, 0) + body)
            data = netlink.recv(4096)
            kind = struct.unpack_from("=IH", data)[1]
            if kind == 2:  # NLMSG_ERROR
                continue
            at = 20
            while at + 4 <= len(data):
                length, attribute = struct.unpack_from("=HH", data, at)
                if attribute == _NETNSA_NSID:
                    (number,) = struct.unpack_from("=i", data, at + 4)
                    if number >= 0:
                        numbers[number] = key
                at += (max(length, 4) + 3) & ~3
    return numbers


# --- what everybody may read of their own processes ---------------------------------------------


def _net_file(members: tuple[int, ...], name: str) -> str:
    for pid in members[:5]:
        try:
            return os.fsdecode(processes.read_file(f"/proc/{pid}/net/{name}", 16 << 20))
        except OSError:
            continue
    return ""


def _listeners(members: tuple[int, ...]) -> tuple[Listener, ...]:
    found = []
    for protocol, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in _net_file(members, protocol).splitlines()[1:]:
            words = line.split()
            if len(words) < 10 or words[3] != state:
                continue
            text, port = words[1].rsplit(":", 1)
            found.append(Listener(protocol, _address(text), int(port, 16), int(words[9])))
    holders = _holders(members, {one.inode for one in found})
    return tuple(
        one._replace(pid=holders.get(one.inode, 0))
        for one in sorted(found, key=lambda one: (one.protocol, one.port, one.address))
    )


def _holders(members: tuple[int, ...], sockets: set[int]) -> dict[int, int]:
    """The first of these processes that has a descriptor of a socket, by the socket's inode."""
    names = {f"socket:[{inode}]": inode for inode in sockets}
    found: dict[int, int] = {}
    for pid in sorted(members):
        if len(found) == len(names):
            break
        try:
            for number in os.listdir(f"/proc/{pid}/fd"):
                try:
                    inode = names.get(os.readlink(f"/proc/{pid}/fd/{number}"))
                except FileNotFoundError:
                    continue  # it has just been closed
                if inode is not None:
                    found.setdefault(inode, pid)
        except OSError:
            continue  # another user's, or it has ended
    return found


_ACCEPTS = 0x10000  # __SO_ACCEPTCON of linux/net.h


def _unix(members: tuple[int, ...]) -> int:
    """How many sockets of the Unix domain wait for others: /proc/PID/net/unix."""
    lines = _net_file(members, "unix").splitlines()[1:]
    return sum(bool(int(line.split()[3], 16) & _ACCEPTS) for line in lines)


def _address(text: str) -> str:
    """An address as /proc/net writes it: 32-bit words, each in the machine's byte order."""
    raw = b"".join(
        int(text[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(text), 8)
    )
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def _plain_links(members: tuple[int, ...]) -> tuple[Link, ...]:
    """The names of links: /proc/PID/net/dev, and IPv6 addresses, which have the index."""
    indexes: dict[str, int] = {}
    addresses: dict[str, list[Address]] = {}
    for line in _net_file(members, "if_inet6").splitlines():
        text, index, prefix, _scope, _flags, name = line.split()
        indexes[name] = int(index, 16)
        shown = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(text))
        addresses.setdefault(name, []).append(Address(shown, int(prefix, 16)))
    names = [line.split(":")[0].strip() for line in _net_file(members, "dev").splitlines()[2:]]
    return tuple(
        Link(
            indexes.get(name, 0), name, "", name in indexes, 0, "", 0, None,
            tuple(addresses.get(name, ())),
        )
        for name in names
    )  # fmt: skip


def _plain_routes(members: tuple[int, ...], links: tuple[Link, ...]) -> tuple[Route, ...]:
    indexes = {link.name: link.number for link in links}
    routes = []
    for line in _net_file(members, "route").splitlines()[1:]:
        name, destination, gateway, *_, mask = line.split()[:8]
        prefix = int(mask, 16).bit_count()
        to = _address(destination)
        through = _address(gateway)
        routes.append(
            Route(
                f"{to}/{prefix}" if prefix else "default",
                "" if through == "0.0.0.0" else through,
                indexes.get(name, 0),
                "unicast",
            )
        )
    return tuple(routes)
