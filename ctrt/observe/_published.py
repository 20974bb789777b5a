"""Published ports: what of one network namespace leads into another, by the engines' forwarders.

A published port is held open by a process outside: conmon (podman keeps the port with it),
docker-proxy, rootlessport, slirp4netns or pasta. Whose container it is for is told by its command
line or by whose monitor it is.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ctrt.observe._values import Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctrt.linux.namespaces import Key
    from ctrt.observe._network import Listener, Network
    from ctrt.observe._owners import Owner
    from ctrt.observe._system import Process, System

FORWARDERS = ("conmon", "docker-proxy", "rootlessport", "slirp4netns", "pasta", "passt")


class Published(NamedTuple):
    """A port that a forwarder `program` holds open.

    `to` is the network namespace that it leads into, None where nothing tells it, and `port` the
    one there, 0 where nothing tells it.
    """

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
    for network in networks.values():
        for listener in () if isinstance(network, Unknown) else network.listeners:
            process = system.processes.get(listener.pid)
            if process is None:
                continue
            program = process.name.partition(".")[0]  # pasta.avx2
            if program not in FORWARDERS:
                continue
            to, port = None, 0
            if program == "docker-proxy":
                to, port = _of_proxy(process, networks)
            elif listener.pid in owners:
                to = _of_monitor(system, listener.pid, owners)
            found.append(Published(listener, program, to, port))
    return tuple(sorted(found, key=lambda one: one.listener[:3]))


def _of_proxy(
    process: Process, networks: Mapping[Key, Network | Unknown]
) -> tuple[Key | None, int]:
    """docker-proxy -proto tcp -host-port 8080 -container-ip 172.17.0.2 -container-port 80."""
    command = process.command
    if command is None or isinstance(command, Unknown):
        return None, 0
    told = dict(pairwise(command))
    address, port = told.get("-container-ip", ""), told.get("-container-port", "")
    where = next(
        (
            key
            for key, network in networks.items()
            if not isinstance(network, Unknown)
            and any(one.address == address for link in network.links for one in link.addresses)
        ),
        None,
    )
    return where, int(port) if port.isdecimal() else 0


def _of_monitor(system: System, pid: int, owners: Mapping[int, Owner]) -> Key | None:
    """The network namespace of the container that a process waits for, if it is another."""
    here = system.processes[pid].namespace("net")
    for other, owner in owners.items():
        if owner.id == owners[pid].id and not owner.monitor and other in system.processes:
            key = system.processes[other].namespace("net")
            if not isinstance(key, Unknown) and key != here:
                return key
    return None
