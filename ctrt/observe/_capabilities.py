"""What a process may do: its five capability sets and what else bears on them."""

from __future__ import annotations

import os
from typing import NamedTuple

from ctrt.errors import CtrtError
from ctrt.linux import processes
from ctrt.observe import _status
from ctrt.observe._values import NOT_ALLOWED, Unknown

SECCOMP_MODES = ("off", "strict", "filter")
_modules: str | None = None


class CapabilitySets(NamedTuple):
    """The five sets as bit masks, in the user namespace that the process is a member of.

    `securebits` is None for any process but the caller's own: the kernel tells them by
    prctl(2) only. `seccomp_filters` is the number of filters loaded; `label` what a security
    module (AppArmor, SELinux, Smack) calls the process, None where there is none.
    Source: capabilities(7), proc_pid_status(5), proc_pid_attr(5).
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
    seccomp_filters: int = 0
    label: str | Unknown | None = None


def capabilities(pid: int | str = "self", *, thread: int | None = None) -> CapabilitySets:
    """The capability sets of a process, or of one of its threads (by thread id).

    Raises CtrtError when there is no such process or thread.
    """
    found = look_up(pid)
    if thread is None:
        return of_status(found)
    try:
        return of_status(processes.status(f"{pid}/task/{thread}"))
    except OSError:
        raise CtrtError(
            f"process {pid} has no thread {thread}: it has ended, or never was"
        ) from None


def label(pid: int | str) -> str | Unknown | None:
    """What a security module calls a process: /proc/PID/attr/current; None without one."""
    try:
        data = processes.read_file(f"/proc/{pid}/attr/current")
    except PermissionError:
        return NOT_ALLOWED
    except OSError:
        return None  # EINVAL: no module answers here
    text = os.fsdecode(data).strip("\n\0")
    return "".join(c if c.isprintable() else "?" for c in text) or None


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
        status.seccomp_filters,
        label(status.pid) if _labelled() else None,
    )


def _labelled() -> bool:
    """Whether a security module that labels processes is running."""
    global _modules
    if _modules is None:
        try:
            with open("/sys/kernel/security/lsm") as file:
                _modules = file.read()
        except OSError:
            # securityfs is not mounted or not for everybody: does one answer for this process?
            _modules = "unknown" if label("self") is not None else ""
    return any(name in _modules for name in ("apparmor", "selinux", "smack", "unknown"))


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
        return _status.parse(processes.read_file(f"/proc/{pid}/status", single=True))
    except processes.Gone:
        raise CtrtError(f"there is no process {pid}: it has ended, or never was") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CtrtError(f"process {pid} cannot be looked at: {reason}") from None
