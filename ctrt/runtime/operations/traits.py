"""Operations on a process that few configurations ask for: limits, scheduling, labels."""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py

from ctrt.linux import calls as k
from ctrt.linux import capabilities, tasks
from ctrt.runtime.operations import process
from ctrt.runtime.operations.context import EINVAL, EPERM, Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


# --- outside: what the process may have no right to set itself ---------------------------------


def rlimits(context: Context, limits: tuple[tuple[str, int, int], ...]) -> None:
    """Set resource limits of the child: (name, soft, hard)."""
    for name, soft, hard in limits:
        try:
            tasks.prlimit(context.pid, tasks.RLIMITS[name], (soft, hard))
        except k.KernelError as error:
            error.call += f" of {name}"
            raise


def oom_score(context: Context, score: int) -> None:
    """Set how soon the kernel takes the child when memory runs out: proc_pid_oom_score_adj(5)."""
    descriptor = os.open(f"/proc/{context.pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(score).encode())
    finally:
        os.close(descriptor)


def scheduler(
    context: Context,
    policy: int,
    flags: int,
    nice: int,
    priority: int,
    deadline: tuple[int, int, int],
) -> None:
    """Set the child's scheduling policy: sched(7)."""
    try:
        tasks.sched_setattr(context.pid, policy, flags, nice, priority, deadline)
    except k.KernelError as error:
        # Deadlines are kept by all processors together: sched_setattr(2), EPERM.
        if (
            error.errno == EPERM
            and policy == tasks.POLICIES["SCHED_DEADLINE"]
            and len(os.sched_getaffinity(context.pid)) < (os.cpu_count() or 1)
        ):
            error.strerror = (
                "process scheduler can't be used together with AllowedCPUs: SCHED_DEADLINE is for "
                "processes that may run on every processor"
            )
        raise


def io_priority(context: Context, io_class: int, level: int) -> None:
    """Set the child's I/O priority: ioprio_set(2)."""
    tasks.ioprio_set(context.pid, io_class, level)


def affinity(context: Context, cpus: tuple[int, ...]) -> None:
    """Set the processors that the child may run on: sched_setaffinity(2)."""
    os.sched_setaffinity(context.pid, cpus)


# --- inside ------------------------------------------------------------------------------------


def open_label(context: Context, module: str) -> None:
    """Open where a security module is told the label of the next program: proc_pid_attr(5).

    In the host's /proc, which was opened from outside as "proc": that of a container could have
    any other file of procfs in this place.
    """
    proc = context.fds.pop("proc")
    try:
        if k.file_system_of(proc) != k.PROC_SUPER_MAGIC:
            raise OSError(EINVAL, "it is not procfs", "/proc")
        rules = k.RESOLVE_BENEATH | k.RESOLVE_NO_MAGICLINKS
        try:
            found = k.openat2(proc, f"thread-self/attr/{module}/exec", os.O_WRONLY, rules)
        except FileNotFoundError:
            found = k.openat2(proc, "thread-self/attr/exec", os.O_WRONLY, rules)
    finally:
        os.close(proc)
    context.fds["label"] = found


def label(context: Context, text: str) -> None:
    """Name the label that the next program has."""
    os.write(context.fds["label"], text.encode())
    os.close(context.fds.pop("label"))


def personality(context: Context, domain: int) -> None:
    """Set the execution domain."""
    tasks.personality(domain)


def memory_policy(context: Context, mode: int, nodes: tuple[int, ...]) -> None:
    """Set the NUMA memory policy."""
    tasks.set_mempolicy(mode, nodes)


def rights(
    context: Context,
    uid: int,
    gid: int,
    groups: tuple[int, ...] | None,
    sets: tuple[int, int, int, int],
    securebits: int,
) -> None:
    """Become the user with these (bounding, permitted, inheritable, ambient) sets, and no others.

    Each is changed while the process still holds what changing it takes: capabilities(7).
    """
    bounding, permitted, inheritable, ambient = sets
    k.prctl(k.PR_SET_KEEPCAPS, 1)
    process.become(context, uid, gid, groups)
    held = k.capget()[1]
    k.capset(held, held, inheritable)
    capabilities.limit_bounding(bounding)
    capabilities.set_ambient(ambient)
    k.prctl(k.PR_SET_KEEPCAPS, 0)
    if securebits:
        k.prctl(k.PR_SET_SECUREBITS, securebits)
    k.capset(permitted, permitted, inheritable)


OPERATIONS: dict[str, Callable[..., None]] = {
    "affinity": affinity,
    "io_priority": io_priority,
    "label": label,
    "memory_policy": memory_policy,
    "oom_score": oom_score,
    "open_label": open_label,
    "personality": personality,
    "rights": rights,
    "rlimits": rlimits,
    "scheduler": scheduler,
}
