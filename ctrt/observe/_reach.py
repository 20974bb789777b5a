"""How far a process's capabilities reach: through an execve, and into which user namespaces.

What the rules of `ctrt.observe.rules` ask for is gathered here from a scan: who a process is in
the ids of its own user namespace, what a program's file would give it, and for each user
namespace on the way the answer for every capability.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from ctrt.errors import CtrtError
from ctrt.linux import calls
from ctrt.linux.capabilities import NAMES
from ctrt.observe import rules
from ctrt.observe._capabilities import capabilities
from ctrt.observe._ids import translate_id
from ctrt.observe._values import Unknown

if TYPE_CHECKING:
    from ctrt.linux.namespaces import Key
    from ctrt.observe._system import System
    from ctrt.observe.rules import Answer, Credentials, Program


class Reach(NamedTuple):
    """What a process holds in a user namespace: an answer for each capability by its number.

    `relation` is "above", "own" or "below". `others` are further user namespaces below, for
    which all answers are the same.
    """

    space: Key
    relation: str
    answers: tuple[Answer, ...]
    others: tuple[Key, ...] = ()


def credentials(system: System, pid: int) -> Credentials | Unknown:
    """Who a process of a scan is, in the ids of its own user namespace.

    Securebits are told of the observer itself only, and taken to be 0 for others: what execve
    makes of a process that has set some may be less. Raises CtrtError for an unknown pid.
    """
    process = system.processes.get(pid)
    if process is None:
        raise CtrtError(f"there is no process {pid}: it has ended, or never was")
    status, own = process.status, process.namespace("user")
    if status is None or isinstance(status, Unknown):
        return status or Unknown("the scan had no details")
    if isinstance(own, Unknown):
        return own
    numbers: dict[str, list[int]] = {"uid": [], "gid": []}
    wanted = [("uid", status.uids[:3]), ("gid", (*status.gids[:3], *status.groups))]
    for kind, outside in wanted:
        for number in outside:
            found = translate_id(system, number, _here(system), own, kind)
            if isinstance(found, Unknown):
                return found
            numbers[kind].append(found.value)
    bits = capabilities("self").securebits if pid == system.me else 0
    (uid, euid, suid), (gid, egid, sgid, *groups) = numbers["uid"], numbers["gid"]
    return rules.Credentials(
        uid,
        euid,
        suid,
        gid,
        egid,
        sgid,
        status.inheritable,
        status.permitted,
        status.effective,
        status.bounding,
        status.ambient,
        bits or 0,
        status.no_new_privs,
        tuple(groups),
    )


def executable(system: System, pid: int, path: str) -> Program:
    """What execve(2) would look at in a file, for a process: the path is that process's.

    Raises CtrtError when there is no such file, or none that may be looked at.
    """
    if not path.startswith("/"):
        raise CtrtError(f"{path}: name the program by its whole path, as in /usr/bin/{path}")
    own = system.processes[pid].namespace("user")
    root = file = -1
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
        # A symbolic link must not lead from the process's root to the observer's.
        file = calls.openat2(root, path, os.O_PATH | os.O_CLOEXEC, calls.RESOLVE_IN_ROOT)
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise CtrtError(f"{path} is not a file that could be executed")
        attribute = rules.file_capabilities(f"/proc/self/fd/{file}")
        flags = os.fstatvfs(file).f_flag
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CtrtError(f"{path}, as process {pid} sees it: {reason}") from None
    finally:
        for descriptor in (root, file):
            if descriptor >= 0:
                os.close(descriptor)
    owner = _inside(system, own, found.st_uid, "uid")
    group = _inside(system, own, found.st_gid, "gid")
    return rules.Program(
        owner=owner,
        group=group,
        set_uid=bool(found.st_mode & stat.S_ISUID),
        # Without the group's execute bit it means mandatory locking: chmod(2).
        set_gid=found.st_mode & (stat.S_ISGID | stat.S_IXGRP) == stat.S_ISGID | stat.S_IXGRP,
        capabilities=attribute,
        nosuid=bool(flags & os.ST_NOSUID),
    )


def _inside(system: System, own: Key | Unknown, number: int, kind: str) -> int | None:
    """An id of the observer's as a user namespace has it; None where it has none there."""
    if isinstance(own, Unknown):
        return None
    found = translate_id(system, number, _here(system), own, kind)
    return None if isinstance(found, Unknown) or not found.mapped else found.value


def roots(system: System, pid: int) -> frozenset[int]:
    """The observer's numbers of root in a process's user namespace and those above it.

    A file's capabilities count for the process if their rootid is one of these.
    """
    own = system.processes[pid].namespace("user")
    numbers = {0}
    for space in () if isinstance(own, Unknown) else system.ancestors(own):
        found = translate_id(system, 0, space.key, _here(system))
        if not isinstance(found, Unknown) and found.mapped:
            numbers.add(found.value)
    return frozenset(numbers)


def reach(system: System, pid: int) -> tuple[Reach, ...]:
    """What a process holds in each user namespace above it, its own, and those below it.

    The outermost comes first; those below for which all answers are the same are one.
    """
    own = system.processes[pid].namespace("user")
    if isinstance(own, Unknown):
        return ()
    chain = [space.key for space in system.ancestors(own)][::-1]
    found = [
        Reach(key, "own" if key == own else "above", _answers(system, pid, key)) for key in chain
    ]
    below: dict[tuple[Answer, ...], list[Key]] = {}
    for space, _ in system.tree("user"):
        if space.key not in chain and any(up.key == own for up in system.ancestors(space.key)):
            below.setdefault(_answers(system, pid, space.key), []).append(space.key)
    found += [
        Reach(first, "below", answers, tuple(others)) for answers, (first, *others) in below.items()
    ]
    return tuple(found)


def _answers(system: System, pid: int, space: Key) -> tuple[Answer, ...]:
    return tuple(rules.holds(system, pid, bit, space) for bit in range(len(NAMES)))


def _here(system: System) -> Key:
    """The user namespace whose numbers the observer reads."""
    key = system.processes[system.me].namespace("user")
    assert not isinstance(key, Unknown), "a process may always look at itself"
    return key
