"""What a process may do: its five capability sets and what else bears on them."""

from __future__ import annotations

import os
from typing import NamedTuple

from ctrt.errors import CtrtError
from ctrt.linux import processes

SECCOMP_MODES = ("off", "strict", "filter")


class CapabilitySets(NamedTuple):
    """The five sets as bit masks, in the user namespace that the process is a member of.

    `securebits` is None for any process but the caller's own: the kernel tells them by
    prctl(2) only. Source: capabilities(7), proc_pid_status(5).
    """

    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int
    securebits: int | None
    no_new_privs: bool
    seccomp: str
    name: str


def capabilities(pid: int | str = "self") -> CapabilitySets:
    """The capability sets of a process; CtrtError when there is no such process."""
    return of_status(look_up(pid))


def of_status(status: processes.Status) -> CapabilitySets:
    """The capability sets in an already read status."""
    mode = status.seccomp
    return CapabilitySets(
        status.inheritable,
        status.permitted,
        status.effective,
        status.bounding,
        status.ambient,
        _securebits() if status.pid == os.getpid() else None,
        status.no_new_privs,
        SECCOMP_MODES[mode] if mode < len(SECCOMP_MODES) else str(mode),
        status.name,
    )


def _securebits() -> int | None:
    from ctrt.linux import calls

    try:
        return calls.prctl(calls.PR_GET_SECUREBITS)
    except OSError:
        return None


def look_up(pid: int | str) -> processes.Status:
    """The status of a process; CtrtError, for the person who asked, when there is none."""
    if pid != "self" and not (str(pid).isascii() and str(pid).isdecimal()):
        raise CtrtError(f"{pid!r} is not the number of a process")
    try:
        return processes.status(pid)
    except processes.Gone:
        raise CtrtError(f"there is no process {pid}: it has ended, or never was") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CtrtError(f"process {pid} cannot be looked at: {reason}") from None
