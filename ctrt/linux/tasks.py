"""Attributes of a process that few programs set: limits, scheduling, keyring, memory policy.

The functions of the C library are looked up when they are called, so that importing this module
costs nothing to the starts that set none of these.
"""

from __future__ import annotations

import os

from ctrt.linux.calls import KernelError
from ctrt.linux.clib import (
    C_INT,
    C_LONG,
    C_POINTER,
    C_UINT32,
    C_UINT64,
    C_ULONG,
    Structure,
    byref,
    function,
    get_errno,
    library,
    sizeof,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RLIMITS = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}
"""Source: asm-generic/resource.h, getrlimit(2)."""
RLIM_INFINITY = (1 << 64) - 1

POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
"""Source: linux/sched.h, sched_setattr(2)."""

IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
"""Source: linux/ioprio.h, ioprio_set(2)."""

FILTER_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0x01,
    "SECCOMP_FILTER_FLAG_LOG": 0x02,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 0x04,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 0x20,
}
"""Source: linux/seccomp.h, seccomp(2)."""

PERSONALITIES = {"LINUX": 0x0, "LINUX32": 0x8}
"""Source: linux/personality.h, personality(2)."""

MEMORY_POLICIES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MEMORY_FLAGS = {
    "MPOL_F_NUMA_BALANCING": 1 << 13,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_STATIC_NODES": 1 << 15,
}
"""Source: linux/mempolicy.h, set_mempolicy(2)."""

_NUMBERS = {
    "x86_64": {"sched_setattr": 314, "ioprio_set": 251, "set_mempolicy": 238},
    "aarch64": {"sched_setattr": 274, "ioprio_set": 30, "set_mempolicy": 237},
}
_numbers = _NUMBERS.get(os.uname().machine, {})
_ENOSYS = 38


def _call(name: str, types: tuple[Any, ...], *arguments: Any) -> int:
    """A function of the C library, called once. Raises KernelError."""
    result: int = function(library(None), name, C_LONG, *types)(*arguments)
    if result == -1:
        raise KernelError(get_errno(), name)
    return result


def _syscall(name: str, types: tuple[Any, ...], *arguments: Any) -> int:
    """A system call that the C library has no function for, called once."""
    number = _numbers.get(name)
    if number is None:
        raise KernelError(_ENOSYS, name)
    result: int = function(library(None), "syscall", C_LONG, C_LONG, *types)(number, *arguments)
    if result == -1:
        raise KernelError(get_errno(), name)
    return result


_Limit = C_UINT64 * 2


def prlimit(pid: int, resource: int, limits: tuple[int, int] | None = None) -> tuple[int, int]:
    """A process's (soft, hard) limit of a resource as it was, and set to `limits`: prlimit(2)."""
    old = _Limit()
    new = byref(_Limit(*limits)) if limits is not None else None
    types = (C_INT, C_INT, C_POINTER, C_POINTER)
    result: int = function(library(None), "prlimit", C_INT, *types)(pid, resource, new, byref(old))
    if result < 0:
        raise KernelError(get_errno(), "prlimit")
    return int(old[0]), int(old[1])


class _SchedAttr(Structure):
    _fields_ = (
        ("size", C_UINT32),
        ("sched_policy", C_UINT32),
        ("sched_flags", C_UINT64),
        ("sched_nice", C_INT),
        ("sched_priority", C_UINT32),
        ("sched_runtime", C_UINT64),
        ("sched_deadline", C_UINT64),
        ("sched_period", C_UINT64),
    )


def sched_setattr(
    pid: int,
    policy: int,
    flags: int = 0,
    nice: int = 0,
    priority: int = 0,
    deadline: tuple[int, int, int] = (0, 0, 0),
) -> None:
    """Set scheduling policy and attributes; `deadline` is (runtime, deadline, period) in ns."""
    attributes = _SchedAttr(0, policy, flags, nice, priority, *deadline)
    attributes.size = sizeof(attributes)
    _syscall("sched_setattr", (C_INT, C_POINTER, C_INT), pid, byref(attributes), 0)


def ioprio_set(pid: int, io_class: int, level: int) -> None:
    """Set the I/O class and level of a process: ioprio_set(2)."""
    _syscall("ioprio_set", (C_INT, C_INT, C_INT), 1, pid, io_class << 13 | level)


def personality(domain: int) -> None:
    """Set the execution domain: personality(2)."""
    _call("personality", (C_ULONG,), domain)


def set_mempolicy(mode: int, nodes: tuple[int, ...]) -> None:
    """Set the NUMA memory policy of the calling thread: set_mempolicy(2)."""
    words = max(nodes, default=0) // 64 + 1
    mask = [0] * words
    for node in nodes:
        mask[node // 64] |= 1 << node % 64
    array = (C_ULONG * words)(*mask)
    types = (C_INT, C_POINTER, C_ULONG)
    pointer = byref(array) if nodes else None
    # The kernel reads one bit less than it is told.
    _syscall("set_mempolicy", types, mode, pointer, words * 64 + 1 if nodes else 0)
