"""Who stands between the machine's first process and a given one, and what each is there for.

An engine's processes are known by their programs: what a command line calls itself is what a
person has to go by as well. A runtime such as runc is not in the chain any more when its
container runs; where the monitor's command line names it, it is told as one that has gone.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ctrt.linux.namespaces import KINDS
from ctrt.observe._values import Unknown

if TYPE_CHECKING:
    from ctrt.observe._owners import Owner
    from ctrt.observe._system import System

ROLES = {
    "conmon": "monitor: holds the terminal, waits for the container's end",
    "containerd-shim": "shim: stays with the container when the daemon restarts",
    "containerd": "engine's daemon",
    "dockerd": "engine's daemon",
    "crio": "engine's daemon",
    "kubelet": "node agent: asks the engine for containers",
    "podman": "engine",
    "buildah": "engine",
    "docker": "command line of an engine",
    "nerdctl": "command line of an engine",
    "lxc-start": "engine",
    "systemd-nspawn": "engine",
    "runc": "runtime",
    "crun": "runtime",
    "youki": "runtime",
    "runsc": "runtime",
    "ctrt-runtime": "runtime",
    "ctrt": "engine",
    "launcher of ctrt": "launcher: starts containers for a notebook or a command",
    "jupyter-lab": "notebook server",
    "notebook kernel": "runs the cells",
    "bash": "shell",
    "sh": "shell",
    "dash": "shell",
    "zsh": "shell",
    "fish": "shell",
    "sshd": "remote login",
}
"""What a program is there for, by the name that `Station.name` has."""


class Station(NamedTuple):
    """A process of the chain.

    `name` is the program's, `role` what it is there for ("" when that is not known). `apart`
    are the kinds of namespaces in which it is elsewhere than the one before. `pid` is 0 for a
    runtime that has gone. `owner` says whose container it is in or waits for.
    """

    pid: int
    name: str
    role: str
    apart: tuple[str, ...]
    owner: Owner | None


def stack(system: System, pid: int, owners: dict[int, Owner] | None = None) -> tuple[Station, ...]:
    """The chain of processes from the machine's first one to `pid`, outermost first.

    `owners` is the answer of `owners()`. KeyError for a pid that the scan does not have.
    """
    chain = [pid]
    while True:
        status = system.processes[chain[-1]].status
        if status is None or isinstance(status, Unknown) or status.parent not in system.processes:
            break
        if status.parent in chain:
            break
        chain.append(status.parent)
    stations: list[Station] = []
    known = owners or {}
    inside = False
    before = system.processes[chain[-1]]
    for place in reversed(chain):
        process = system.processes[place]
        words = process.command
        arguments = () if words is None or isinstance(words, Unknown) else words
        name = program(arguments) or process.name
        apart = tuple(
            kind
            for kind, here, there in zip(KINDS, process.namespaces, before.namespaces, strict=True)
            if here != there and not isinstance(here, Unknown) and not isinstance(there, Unknown)
        )
        owner = known.get(place)
        role = ROLES.get(name, "")
        if not stations and place == 1:
            role = "first process of the machine"
        elif "pid" in apart:
            inside, role = True, "first process of the container"
        elif inside:
            role = "process of the container"
        gone = _runtime(arguments) if "pid" not in apart and owner and owner.monitor else ""
        stations.append(Station(place, name, role, apart, owner))
        if gone:
            role = "runtime: made the container, and has gone"
            stations.append(Station(0, gone, role, (), owner))
        before = process
    return tuple(stations)


def program(arguments: tuple[str, ...]) -> str:
    """What a program is called, from its command line: a script by its own name."""
    if not arguments:
        return ""
    name = os.path.basename(arguments[0].split(" ")[0]).lstrip("-")
    if name.startswith("containerd-shim"):
        return "containerd-shim"
    if not name.startswith("python"):
        return name.rstrip(":")
    rest = " ".join(arguments[1:])
    if "ctrt.runtime.helper" in rest or "ctrt/runtime/helper" in rest:
        return "launcher of ctrt"
    if "ipykernel" in rest or "ctrt_kernel" in rest:
        return "notebook kernel"
    if "ctrt.cli.runtime" in rest:
        return "ctrt-runtime"
    if "ctrt.cli" in rest:
        return "ctrt"
    for word in arguments[1:]:
        if not word.startswith("-"):
            return os.path.basename(word) or name
    return name


def _runtime(arguments: tuple[str, ...]) -> str:
    """The runtime that a monitor's command line names: conmon(8) -r."""
    for word, value in pairwise(arguments):
        if word in ("-r", "--runtime"):
            return os.path.basename(value)
    return ""
