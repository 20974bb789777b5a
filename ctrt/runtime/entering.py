"""Another process in an OCI container: `exec`."""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py

from ctrt.errors import CtrtError
from ctrt.linux import ospath
from ctrt.runtime import starting
from ctrt.runtime.existing import group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ctrt.runtime.executor import Started
    from ctrt.runtime.group import Group
    from ctrt.runtime.records import Record
    from ctrt.runtime.starting import Options


def enter(
    record: Record,
    process: dict[str, Any],
    options: Options,
    *,
    stdio: tuple[int, int, int],
    cgroups: Iterable[str] = (),
) -> Started:
    """Start another process in a running container.

    `process` is a checked document (config.md, Process), `cgroups` are those below the container's
    that it goes to. Raises CtrtError; the process is then gone.
    """
    from ctrt.runtime import executor, planner, waiting
    from ctrt.runtime.host import Host

    waiting.register()
    terminal = bool(process.get("terminal"))
    starting.check_terminal(terminal, options)
    config = record.config()
    starting.keep_interpreter(config, process, options)
    starting.announce_descriptors(process)
    host = Host.probe()
    own = group(record)
    v2, v1 = _entered_cgroups(record, own, tuple(cgroups))
    plan = planner.enter(
        process,
        planner.Target(
            record.state["pid"],
            start_time=record.state["start_time"],
            cgroup=v2,
            cgroups_v1=v1,
            config=config,
            chroot=not starting.has_mounts(config),
        ),
        host,
        subject=f"container {record.id}",
        seccomp=starting.seccomp_filter(config),
        terminal=terminal,
        plain_lines=starting.plain_lines(options),
        keyring=None if record.state.get("callers_keyring") else starting.keyring_of(record.id),
    )
    if starting.on_plan:
        starting.on_plan(plan)
    fds = dict(zip(("stdin", "stdout", "stderr"), stdio, strict=True))
    opened = []
    try:
        if terminal:
            fds["console"] = starting.console_channel(options)
            opened.append(fds["console"])
        try:
            started = executor.execute(
                plan.wire(),
                fds,
                preserved=options.preserve_fds,
            )
        except executor.StartError as error:
            raise starting.start_error(plan, error) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)
    try:
        if options.pidfd_socket:
            from ctrt.runtime import console

            console.send(starting.connect(options.pidfd_socket), started.pidfd)
        if options.pid_file:
            starting.write_pid(options.pid_file, started.pid)
    except BaseException:
        started.kill()
        raise
    starting.tell_notes(plan, host)
    return started


def _entered_cgroups(
    record: Record, own: Group, wanted: tuple[str, ...]
) -> tuple[str | None, tuple[str, ...]]:
    """The cgroups that another process of a container goes to: v2's, and those of v1."""
    below = _below(wanted, own)
    everywhere = below.get("", "")
    v2 = own.v2 and own.v2 + everywhere
    if v2 and not wanted:
        v2 = _leaf(record, v2)
    v1 = tuple(dict.fromkeys(path + below.get(name, everywhere) for name, path in own.v1.items()))
    for directory in (*v1, *((v2,) if v2 else ())) if wanted else ():
        if not ospath.is_directory(directory):
            raise CtrtError(
                "--cgroup: error adding pid of the new process to cgroups: "
                f"{directory}/cgroup.procs: no such file or directory"
            )
    return v2, v1


def _leaf(record: Record, top: str) -> str:
    """The container's cgroup v2, or where its first process is once the container has divided it.

    A cgroup that passes controllers on takes no process: cgroups(7), no internal processes.
    """
    from ctrt.linux import cgroups

    if not cgroups.read(f"{top}/cgroup.subtree_control").strip():
        return top
    path = cgroups.unified_path(record.state["pid"]) or ""
    _, found, below = path.partition(record.state["cgroup"]["path"])
    return top + below if found else top


def _below(wanted: tuple[str, ...], own: Group) -> dict[str, str]:
    """The values of `exec --cgroup` by controller ("" is all): PATH or CONTROLLER,...:PATH."""
    found = {}
    for value in wanted:
        controllers, colon, path = value.rpartition(":")
        path = path.strip("/")
        if ".." in path.split("/"):
            raise CtrtError(
                f"--cgroup: {value} is not a sub cgroup path: "
                "it is not below the container's cgroup"
            )
        for name in controllers.split(","):
            if colon and name not in own.v1:
                raise CtrtError(
                    f"--cgroup: unknown controller {name!r}: the container has no cgroup of "
                    "its own in such a hierarchy of cgroup v1"
                )
            found[name] = f"/{path}" if path else ""
    return found
