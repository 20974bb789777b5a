"""Making an OCI container: `create`, and what `restore` does likewise.

`create` carries out the plan up to a process that waits, and writes down who that is; `start` tells
that process to become the program, and `delete` takes back what the plan made (`existing.py`).
Each is done by a command that then ends; what lasts is the process and its `Record`. Nobody has
to look after it, and a command that is killed at any moment leaves what the next one can undo.
Source: OCI runtime specification, runtime.md.
"""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py

from ctrt.errors import CtrtError
from ctrt.linux import ospath
from ctrt.linux.birth import start_time
from ctrt.runtime import starting
from ctrt.runtime.existing import owns, reason, run_last_hooks, warn
from ctrt.runtime.records import Record, check_id, default_root, timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.runtime.cgroup import Cgroup
    from ctrt.runtime.executor import Started
    from ctrt.runtime.host import Host
    from ctrt.runtime.planner import Directory
    from ctrt.runtime.starting import Options

_PIDFD_RECEIVER = "run.oci.pidfd_receiver"


def load_config(path: str) -> tuple[dict[str, Any], bytes]:
    """A configuration file, checked, and as it was read, or as it was put right."""
    from ctrt.oci import fastjson, spec

    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
    except OSError as error:
        what = f"JSON specification file {ospath.last(path)} not found"
        raise CtrtError(f"{what}: {path}: {error.strerror}", status=1) from None
    notes: list[str] = []
    config = spec.load(data, notes=notes)
    for note in notes:
        warn(note)
    return config, fastjson.dumps(config).encode() if notes else data


def create(
    root: str, identifier: str, bundle: str, options: Options, *, stdio: tuple[int, int, int]
) -> tuple[Record, Started]:
    """Make a container that waits to be started: its locked record, and the waiting process.

    `stdio` are the descriptors that become its standard input, output and error. The caller lets
    the process `stay` or `go`. Raises CtrtError; what was made is then undone.
    """
    from ctrt.runtime import executor, planner, waiting
    from ctrt.runtime.host import Host

    waiting.register()

    check_id(identifier)
    config, data = load_config(options.config or f"{bundle}/config.json")
    process = config.get("process") or {}
    terminal = bool(process.get("terminal"))
    starting.check_terminal(terminal, options)
    starting.keep_interpreter(config, process, options)
    starting.announce_descriptors(process)
    host = Host.probe()
    if _map_ids(config, host):
        from ctrt.oci import fastjson

        data = fastjson.dumps(config).encode()
    notify = ""
    if ospath.variable("NOTIFY_SOCKET"):
        from ctrt.runtime import readiness

        notify = readiness.give(config, process, f"{root}/{identifier}")
    groups = plan_cgroup(root, identifier, config, host, options)
    if not groups.state and not owns(config, "pid"):
        warn(
            "the container has neither a cgroup nor a pid namespace of its own. Such configuration "
            "is strongly discouraged: its processes cannot be told from the caller's"
        )
    rootfs = find_rootfs(bundle, config["root"]["path"])
    plan = planner.container(
        config,
        host,
        _directory(rootfs, config),
        subject=f"container {identifier}",
        cgroup=groups,
        seccomp=starting.seccomp_filter(config),
        wait=True,
        bundle=bundle,
        terminal=terminal,
        plain_lines=starting.plain_lines(options),
        pivot=not options.no_pivot,
        keyring=None if options.no_new_keyring else starting.keyring_of(identifier),
    )
    options.plan = plan
    if starting.on_plan:
        starting.on_plan(plan)
    record = Record.make(root, identifier)
    about = told_to_hooks(identifier, bundle, config)
    started: Started | None = None
    opened: list[int] = []
    try:
        record.begin(plan.undo())
        if notify:
            os.mkdir(notify, 0o755)
        fds = dict(zip(("stdin", "stdout", "stderr"), stdio, strict=True))
        for name in ("start", "started"):
            os.mkfifo(record.path(name), 0o600)
            # Open both ways, a pipe has an end as soon as the other side lets go of it.
            fds[name] = os.open(record.path(name), os.O_RDWR | os.O_CLOEXEC)
            opened.append(fds[name])
        fds["record"] = record.lock
        if terminal:
            fds["console"] = starting.console_channel(options)
            opened.append(fds["console"])
        started = executor.execute(
            plan.wire(),
            fds,
            about=about,
            preserved=options.preserve_fds,
        )
        record.state = new_state(identifier, bundle, rootfs, config, started.pid, groups)
        record.state["callers_keyring"] = options.no_new_keyring
        record.write("config.json", data)
        if options.pid_file:
            starting.write_pid(options.pid_file, started.pid)
        # crun's callers name the socket in an annotation.
        receiver = options.pidfd_socket or about.get("annotations", {}).get(_PIDFD_RECEIVER)
        if receiver:
            from ctrt.runtime import console

            console.send(starting.connect(receiver), started.pidfd)
        record.save()
    except BaseException as error:
        if started is not None:
            started.kill()
        told: CtrtError | None = None
        if isinstance(error, executor.StartError):
            told = _out_of_memory(groups) or starting.start_error(plan, error)
        _abandon(record, config, about)
        if told:
            raise told from None
        raise
    finally:
        for descriptor in opened:
            os.close(descriptor)
    starting.tell_notes(plan, host, groups.notes)
    return record, started


def plan_cgroup(
    root: str, identifier: str, config: dict[str, Any], host: Host, options: Options
) -> Cgroup:
    """The cgroup of a new container, as the configuration and the options say."""
    from ctrt.runtime import cgroup

    if options.cgroup_manager == "disabled":
        return cgroup.none()
    linux = config.get("linux") or {}
    systemd = options.cgroup_manager == "systemd"
    if not linux.get("cgroupsPath") and not systemd:
        config["linux"] = {**linux, "cgroupsPath": _cgroup_path(root, identifier)}
    return cgroup.plan(config, host, systemd=systemd, name=identifier)


def told_to_hooks(identifier: str, bundle: str, config: dict[str, Any]) -> dict[str, Any]:
    """What hooks are told of a container beside its status and pid."""
    about: dict[str, Any] = {
        "ociVersion": config["ociVersion"],
        "id": identifier,
        "bundle": bundle,
    }
    if config.get("annotations"):
        about["annotations"] = config["annotations"]
    return about


def new_state(
    identifier: str, bundle: str, rootfs: str, config: dict[str, Any], pid: int, groups: Cgroup
) -> dict[str, Any]:
    """What is written down of a container whose first process is there."""
    return {
        "version": config["ociVersion"],
        "id": identifier,
        "pid": pid,
        "start_time": start_time(pid),
        "bundle": bundle,
        "rootfs": rootfs,
        "created": timestamp(),
        "owner": os.geteuid(),
        "annotations": config.get("annotations") or {},
        "cgroup": groups.state,
        "own_pids": owns(config, "pid"),
    }


def find_rootfs(bundle: str, path: str) -> str:
    """The root file system's absolute path."""
    rootfs = ospath.normal(path if path[:1] == "/" else f"{bundle}/{path}")
    try:
        mode = os.stat(rootfs).st_mode
    except OSError as error:
        raise CtrtError(
            f"invalid rootfs: root.path: {rootfs}: {error.strerror}", status=1
        ) from None
    if mode & 0o170000 != 0o040000:
        raise CtrtError(f"invalid rootfs: root.path: {rootfs} is not a directory", status=1)
    return rootfs


def _directory(rootfs: str, config: dict[str, Any]) -> Directory:
    from ctrt.runtime import planner

    if starting.has_mounts(config):
        return planner.Directory(rootfs)
    from os.path import realpath

    from ctrt.linux import mountinfo

    rootfs = realpath(rootfs)
    mounts = sum(mount.target == rootfs for mount in mountinfo.read())
    return planner.Directory(rootfs, mounts)


def _map_ids(config: dict[str, Any], host: Host) -> bool:
    """Map root of a new user namespace to the caller, where the configuration maps nobody.

    An ordinary user can have no other namespace without that one: it is added where it is missing.
    Returns whether the configuration is another now.
    """
    linux = config.setdefault("linux", {})
    names = ("uidMappings", "gidMappings")
    if any(linux.get(name) for name in names):
        return False
    entries = linux.setdefault("namespaces", [])
    users = [entry for entry in entries if entry["type"] == "user"]
    if not users and not host.capable:
        warn("an ordinary user's container needs a user namespace: it gets one")
        entries.append({"type": "user"})
    elif not users or users[0].get("path"):
        return False
    user = (config.get("process") or {}).get("user") or {}
    if host.privileged:
        if user.get("uid") or user.get("gid"):
            return False
        maps: Any = (((0, host.uid, 1),), ((0, host.gid, 1),))
    else:
        maps = host.id_maps()
    for name, extents in zip(names, maps, strict=True):
        linux[name] = [
            {"containerID": inside, "hostID": outside, "size": count}
            for inside, outside, count in extents
        ]
    return True


def _cgroup_path(root: str, identifier: str) -> str:
    """The cgroup of a container whose configuration names none; another root's "one" is another."""
    if root == default_root():
        return f"/ctrt/{identifier}"
    number = 0
    for letter in ospath.encoded(root):
        number = (number * 31 + letter) % (1 << 32)
    # What looks for a container's cgroup without asking knows the names ID and *-ID.scope.
    return f"/ctrt/{number:08x}-{identifier}.scope"


def _abandon(record: Record, config: dict[str, Any], about: dict[str, Any]) -> None:
    """Take back a container that did not come to be."""
    try:
        record.end()
    except OSError as error:
        warn(f"container {record.id} could not be cleaned up: {reason(error)}")
    from ctrt.runtime import hooks

    run_last_hooks(hooks.of(config, "poststop"), {**about, "status": "stopped"})


def _out_of_memory(groups: Cgroup) -> CtrtError | None:
    """What is told of a start that the kernel ended for want of memory, whatever step it was at."""
    from ctrt.runtime import cgroup_events

    if not cgroup_events.killed(groups.state.get("v2"), groups.state.get("v1") or {}):
        return None
    return CtrtError(
        "unable to start container process: container init was OOM-killed (memory limit too low?)",
        status=1,
    )
