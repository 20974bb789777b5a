"""Published ports: what of one network namespace leads into another, by the engines' forwarders.

A published port is held open by a process outside: conmon (podman keeps the port with it),
docker-proxy, rootlessport, slirp4netns or pasta. Whose container it is for is told by its command
line or by whose monitor it is. Or rules of nftables send its packets on, which tell the address.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ctrt.observe._network import Listener
from ctrt.observe._values import Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctrt.linux.namespaces import Key
    from ctrt.observe._network import Network
    from ctrt.observe._owners import Owner
    from ctrt.observe._system import Process, System

_ANY = "0.0.0.0"
_FORWARDERS = ("conmon", "docker-proxy", "rootlessport", "slirp4netns", "pasta", "passt")


class Published(NamedTuple):
    """A port of the network namespace `at` that a forwarder `program` holds open, or "nftables".

    `to` is the network namespace that it leads into, None where nothing tells it, and `port` the
    one there, 0 where nothing tells it.
    """

    at: Key
    listener: Listener
    program: str
    to: Key | None
    port: int


def published(
    system: System,
    networks: Mapping[Key, Network | Unknown],
    owners: Mapping[int, Owner],
) -> tuple[Published, ...]:
    """The published ports of these networks, by where they are held, protocol and number."""
    found = []
    for at, network in networks.items():
        if isinstance(network, Unknown):
            continue
        for rule in network.forwards:
            to = _with_address(rule.to, networks)
            if to is not None and to != at:
                listener = Listener(rule.protocol, _ANY, rule.port, 0)
                found.append(Published(at, listener, "nftables", to, rule.to_port))
        sent = {(one.listener.protocol, one.listener.port) for one in found if one.at == at}
        for listener in network.listeners:
            if (listener.protocol, listener.port) in sent:
                continue  # the rules come before it, and say more
            process = system.processes.get(listener.pid)
            if process is None:
                continue
            program = process.name.partition(".")[0]  # pasta.avx2
            if program not in _FORWARDERS:
                continue
            to, port = None, 0
            if program == "docker-proxy":
                to, port = _of_proxy(process, networks)
            elif listener.pid in owners:
                to = _of_monitor(system, listener.pid, owners)
            found.append(Published(at, listener, program, to, port))
    return tuple(sorted(found, key=lambda one: (one.listener.protocol, one.listener.port)))


def _of_proxy(
    process: Process, networks: Mapping[Key, Network | Unknown]
) -> tuple[Key | None, int]:
    """docker-proxy -proto tcp -host-port 8080 -container-ip 172.17.0.2 -container-port 80."""
    command = process.command
    if command is None or isinstance(command, Unknown):
        return None, 0
    told = dict(pairwise(command))
    port = told.get("-container-port", "")
    where = _with_address(told.get("-container-ip", ""), networks)
    return where, int(port) if port.isdecimal() else 0


def _with_address(address: str, networks: Mapping[Key, Network | Unknown]) -> Key | None:
    """The network that has an address; None for none, and for one of several that have it."""
    found = {
        key
        for key, network in networks.items()
        if not isinstance(network, Unknown)
        and any(one.address == address for link in network.links for one in link.addresses)
    }
    return found.pop() if len(found) == 1 else None


def _of_monitor(system: System, pid: int, owners: Mapping[int, Owner]) -> Key | None:
    """The network namespace of the container that a process waits for, if it is another."""
    here = system.processes[pid].namespace("net")
    for other, owner in owners.items():
        if owner.id == owners[pid].id and not owner.monitor and other in system.processes:
            key = system.processes[other].namespace("net")
            if not isinstance(key, Unknown) and key != here:
                return key
    return None
