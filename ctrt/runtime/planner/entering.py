"""The plan of another process in a running container: exec."""

from __future__ import annotations

from ctrt.runtime.plan import INSIDE, OUTSIDE, Plan, Step
from ctrt.runtime.planner import process as planned
from ctrt.runtime.planner.namespaces import extents, first_id, flags_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ctrt.runtime.host import Host

    Call = tuple[Any, ...]
    Config = dict[str, Any]


class Target:
    """A running container, as far as one must know it to enter it.

    `pid` is its first process, `start_time` when that began (clock ticks since boot, 0 where it
    is not known), `cgroups` the directories of its cgroups: the one of cgroup v2, which a process
    can be born in, and those of v1, which it is moved to. `config` is the
    container's configuration: its seccomp profile and flags count for every process. With
    `chroot` its root is not that of its mount namespace, with `keeps_groups` setgroups(2) is denied
    in its user namespace. `notes` are what its process has and another does not get.
    """

    __slots__ = (
        "cgroup",
        "cgroups_v1",
        "chroot",
        "config",
        "keeps_groups",
        "notes",
        "pid",
        "start_time",
    )

    def __init__(
        self,
        pid: int,
        *,
        start_time: int = 0,
        cgroup: str | None = None,
        cgroups_v1: tuple[str, ...] = (),
        config: Config | None = None,
        chroot: bool = False,
        keeps_groups: bool = False,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.pid = pid
        self.start_time = start_time
        self.cgroup = cgroup
        self.cgroups_v1 = cgroups_v1
        self.config = config or {}
        self.chroot = chroot
        self.keeps_groups = keeps_groups
        self.notes = notes

    @property
    def in_userns(self) -> bool:
        """Whether the container has a user namespace that is not the caller's."""
        entries = (self.config.get("linux") or {}).get("namespaces") or ()
        return any(entry.get("type") == "user" for entry in entries)


def enter(
    process: Config,
    target: Target,
    host: Host,
    *,
    subject: str,
    seccomp: bytes | None = None,
    terminal: bool = False,
    plain_lines: bool = False,
    keyring: str | None = "",
    trace: bool = False,
    die: bool = False,
    kinds: tuple[str, ...] = (),
    more: Sequence[Step] = (),
) -> Plan:
    """The plan of a process that joins a container.

    `process` is an OCI process (config.md, Process), `subject` what the container is called in
    errors. With `plain_lines` its terminal leaves line ends as they are, with `die` the process is
    killed when its parent dies. Of `kinds` (all but user, pid and time) it has new ones, which the
    steps `more` set up. Raises CtrtError for what cannot be planned.
    """
    notes = list(target.notes)
    linux = target.config.get("linux") or {}
    user = process.get("user") or {}
    if user.get("umask") is None:
        # As with runc since 1.2: what a process does not say itself is as in its container.
        first = (target.config.get("process") or {}).get("user") or {}
        process = {**process, "user": {**user, "umask": first.get("umask")}}
    opened, written = planned.label_steps(process, {}, host)
    calls: list[Call] = [("open_process", target.pid, target.start_time, "target")]
    if target.chroot:
        calls.append(("open_directory", f"/proc/{target.pid}/root", "root"))
    into = None
    if target.cgroup:
        calls.append(("open_directory", target.cgroup, "cgroup"))
        into = "cgroup"
    initial = (process.get("execCPUAffinity") or {}).get("initial")
    steps = [
        Step(
            "container",
            OUTSIDE,
            calls,
            why="by descriptor, it can be no other process that got its number meanwhile",
            source="pidfd_open(2)",
        ),
        *planned.agent_channel(linux, seccomp),
        *opened[:1],
        Step(
            "clone",
            OUTSIDE,
            [
                (
                    "clone",
                    flags_of(kinds),
                    into,
                    (("target", 0),),
                    planned.oom_value(process, host, notes),
                )
            ],
            why="the process joins all the container's namespaces; where it has a user namespace, "
            "which is joined for good, by way of one in between, whose child becomes ours"
            + ("; new ones are made of those: " + ", ".join(kinds) if kinds else ""),
            source="setns(2), clone(2)",
            needs="CAP_SYS_ADMIN in the user namespaces that own them",
        ),
    ]
    outside: list[Call] = []
    if initial:
        outside.append(("affinity", planned.cpus(initial, "process.execCPUAffinity.initial")))
    if target.cgroups_v1:
        outside.append(("cgroup_attach", target.cgroups_v1))
    if outside:
        steps.append(
            Step(
                "cgroups",
                OUTSIDE,
                outside,
                why="the process counts as one of the container's",
                source="cgroups(7)",
            )
        )
    steps += opened[1:]
    cwd = process.get("cwd") or "/"
    steps.append(
        Step(
            "directory",
            INSIDE,
            [*([("change_root",)] if target.chroot else []), *_root_of(target), ("chdir", cwd)],
            why="below the container's root, which came with its mount namespace",
            source="setns(2), openat2(2)",
        )
    )
    steps += more
    steps += planned.limits(process, host, notes, entering=True)
    steps += planned.descriptors(process, terminal=terminal, plain_lines=plain_lines, bind=False)
    before, last = planned.identity(
        process,
        linux,
        host,
        notes,
        in_userns=target.in_userns,
        seccomp=seccomp,
        keyring=keyring,
        label=written,
        keep_groups=target.keeps_groups,
        status="running",
    )
    steps += before
    steps += last
    steps.append(planned.program(process, linux, trace=trace, die=die))
    return Plan(steps, tuple(notes), subject)


def _root_of(target: Target) -> list[Call]:
    """Become root of the container's user namespace, if it has one."""
    if not target.in_userns:
        return []
    linux = target.config.get("linux") or {}
    ids = [
        first_id(extents(linux.get(name), f"linux.{name}"))
        for name in ("uidMappings", "gidMappings")
    ]
    return [("become", *ids, None)]
