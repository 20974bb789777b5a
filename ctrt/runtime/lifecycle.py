"""The life of an OCI container: `create`, `exec` and `update`; see `existing.py` for the rest.

    create   carries out the plan up to a process that waits, and writes down who that is
    start    tells the process to become the program
    delete   takes back what the plan made, and forgets the container

Each is done by a command that then ends; what lasts is the process and its `Record`. Nobody has
to look after it, and a command that is killed at any moment leaves what the next one can undo.
Source: OCI runtime specification, runtime.md.
"""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py
import time

from ctrt.errors import CtrtError, ProgramError
from ctrt.linux import ospath
from ctrt.linux.birth import start_time
from ctrt.runtime.existing import group, reason, run_last_hooks, warn
from ctrt.runtime.records import Record, check_id, default_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ctrt.runtime.cgroup import Cgroup
    from ctrt.runtime.executor import Started, StartError
    from ctrt.runtime.group import Group
    from ctrt.runtime.host import Host
    from ctrt.runtime.plan import Plan
    from ctrt.runtime.planner import Directory

VERSION = "1.3.0"
"""The version of the OCI runtime specification whose words the state speaks."""

_ENOENT = 2
_PIDFD_RECEIVER = "run.oci.pidfd_receiver"


def timestamp(nanoseconds: int | None = None) -> str:
    """A moment (now) in RFC 3339, in UTC."""
    moment = time.time_ns() if nanoseconds is None else nanoseconds
    seconds, rest = divmod(moment, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


# --- create --------------------------------------------------------------------------------------


class Options:
    """What a caller of `create` and `run` asks for beside the bundle."""

    __slots__ = (
        "cgroup_manager",
        "config",
        "console",
        "console_socket",
        "detach",
        "directory",
        "no_new_keyring",
        "no_pivot",
        "pid_file",
        "pidfd_socket",
        "plan",
        "preserve_fds",
    )

    def __init__(self) -> None:
        self.cgroup_manager = "cgroupfs"
        self.config: str | None = None
        """The configuration's path, where it is not the bundle's config.json."""
        self.console_socket: str | None = None
        self.detach = True
        """The caller does not wait, so a terminal is somebody else's to look after."""
        self.directory = _here()
        """Where the caller is; a bundle is gone to later."""
        self.console = -1
        """Where the terminal's master comes to, if it is this process's to look after."""
        self.plan: Plan | None = None
        """The plan, once it is made."""
        self.no_new_keyring = False
        self.no_pivot = False
        self.pid_file: str | None = None
        self.pidfd_socket: str | None = None
        self.preserve_fds: tuple[int, ...] = ()
        """The descriptors after standard error that the program gets, too."""


def _here() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


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


def seccomp_filter(config: dict[str, Any]) -> bytes | None:
    """The compiled filter of a configuration's profile; None where it has none.

    Filters are kept where other users cannot write, so that each profile is compiled once.
    """
    profile = (config.get("linux") or {}).get("seccomp")
    if not profile:
        return None
    from ctrt.linux import filters

    try:
        return filters.cached(profile, _filters_directory())
    except filters.SeccompError as error:
        raise CtrtError(str(error)) from None


def _keep_interpreter(config: dict[str, Any], process: dict[str, Any], options: Options) -> None:
    """Where operations/stand_in.py cannot, keep the interpreter from the container: sealed.py."""
    if not os.access("/proc/self/exe", os.W_OK):
        return
    labelled = process.get("apparmorProfile") or process.get("selinuxLabel")
    from ctrt.runtime.planner.process import lets_stand_in

    if not labelled and lets_stand_in(config.get("linux") or {}):
        from ctrt.runtime.operations import stand_in

        if stand_in.machine():
            return
    from ctrt.runtime import sealed

    try:
        sealed.again(options.directory, options.preserve_fds)
    except OSError as error:
        warn(f"the container's program could write to the runtime's interpreter: {reason(error)}")


def _filters_directory() -> str:
    return f"{default_root().removesuffix('-runtime')}/seccomp"


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
    check_terminal(terminal, options)
    _keep_interpreter(config, process, options)
    _announce_descriptors(process)
    host = Host.probe()
    if _map_ids(config, host):
        from ctrt.oci import fastjson

        data = fastjson.dumps(config).encode()
    notify = ""
    if ospath.variable("NOTIFY_SOCKET"):
        from ctrt.runtime import readiness

        notify = readiness.give(config, process, f"{root}/{identifier}")
    groups = plan_cgroup(root, identifier, config, host, options)
    if not groups.state and not _owns_pids(config):
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
        seccomp=seccomp_filter(config),
        wait=True,
        bundle=bundle,
        terminal=terminal,
        plain_lines=_plain_lines(options),
        pivot=not options.no_pivot,
        keyring=None if options.no_new_keyring else _keyring(identifier),
    )
    options.plan = plan
    if on_plan:
        on_plan(plan)
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
            fds["console"] = console_channel(options)
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
            write_pid(options.pid_file, started.pid)
        # crun's callers name the socket in an annotation.
        receiver = options.pidfd_socket or about.get("annotations", {}).get(_PIDFD_RECEIVER)
        if receiver:
            from ctrt.runtime import console

            console.send(_connect(receiver), started.pidfd)
        record.save()
    except BaseException as error:
        if started is not None:
            started.kill()
        told: CtrtError | None = None
        if isinstance(error, executor.StartError):
            told = _out_of_memory(groups) or start_error(plan, error)
        _abandon(record, config, about)
        if told:
            raise told from None
        raise
    finally:
        for descriptor in opened:
            os.close(descriptor)
    _tell_notes(plan, host, groups.notes)
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
        "own_pids": _owns_pids(config),
    }


def _owns_pids(config: dict[str, Any]) -> bool:
    """Whether a container is alone in its pid namespace."""
    return any(
        entry["type"] == "pid" and not entry.get("path")
        for entry in (config.get("linux") or {}).get("namespaces") or ()
    )


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


def _has_mounts(config: dict[str, Any]) -> bool:
    """Whether a container has a mount namespace of its own."""
    spaces = (config.get("linux") or {}).get("namespaces") or ()
    return any(entry["type"] == "mount" for entry in spaces)


def _directory(rootfs: str, config: dict[str, Any]) -> Directory:
    from ctrt.runtime import planner

    if _has_mounts(config):
        return planner.Directory(rootfs)
    from os.path import realpath

    from ctrt.linux import mountinfo

    rootfs = realpath(rootfs)
    mounts = sum(mount.target == rootfs for mount in mountinfo.read())
    return planner.Directory(rootfs, mounts)


def _tell_notes(plan: Plan, host: Host, more: Iterable[str] = ()) -> None:
    """Warn of what is left out; what the configuration did not ask for is nothing to warn of."""
    for note in dict.fromkeys((*plan.notes, *more)):
        if note not in host.reasons.values():
            warn(note)


def check_terminal(terminal: bool, options: Options) -> None:
    """Refuse a terminal that nobody would have, and a socket that no terminal would come over."""
    if terminal and options.detach and not options.console_socket:
        raise CtrtError(
            "cannot allocate tty if runc will detach without setting console socket: "
            "use --console-socket",
            status=1,
        )
    if options.console_socket and not (terminal and options.detach):
        raise CtrtError(
            "cannot use console socket if runc will not detach or allocate tty", status=1
        )


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


def _announce_descriptors(process: dict[str, Any]) -> None:
    """Tell the container of the descriptors that sd_listen_fds(3) told the caller of."""
    listen = ospath.variable("LISTEN_FDS")
    if listen.isdecimal() and int(listen) > 0:
        process["env"] = [
            *(process.get("env") or ()),
            f"LISTEN_FDS={listen}",
            "LISTEN_PID=1",
        ]


def handed_over(count: int) -> tuple[int, ...]:
    """The open ones of `count` descriptors after standard error, and of those of LISTEN_FDS.

    It is asked before this process has any of its own there. Callers leave gaps, and ask for more
    than they have: runc alone refuses that.
    """
    listen = ospath.variable("LISTEN_FDS")
    if listen.isdecimal():
        count += int(listen)
    if count <= 0:
        return ()
    numbers = map(int, os.listdir("/proc/self/fd"))
    found = []
    for number in sorted(numbers):
        if 3 <= number < 3 + count:
            try:
                os.fstat(number)
            except OSError:
                continue  # that was the list itself
            found.append(number)
    return tuple(found)


def _cgroup_path(root: str, identifier: str) -> str:
    """The cgroup of a container whose configuration names none; another root's "one" is another."""
    if root == default_root():
        return f"/ctrt/{identifier}"
    number = 0
    for letter in ospath.encoded(root):
        number = (number * 31 + letter) % (1 << 32)
    # What looks for a container's cgroup without asking knows the names ID and *-ID.scope.
    return f"/ctrt/{number:08x}-{identifier}.scope"


def _keyring(identifier: str) -> str:
    """The name of the session keyring that a container's processes share, as with runc."""
    return f"_ses.{identifier}"


def _plain_lines(options: Options) -> bool:
    """Whether what comes from a terminal of ours goes to a file or a pipe, as the program wrote it.

    A terminal there ends its lines as the container's asks; who has a socket decides for itself.
    """
    return not options.console_socket and not os.isatty(1)


def console_channel(options: Options) -> int:
    """Where the terminal's master is sent to: the caller's socket, or one end of our own pair."""
    from ctrt.runtime import console

    if options.console_socket:
        return _connect(options.console_socket)
    options.console, theirs = console.pair()
    return theirs


def _connect(path: str) -> int:
    from ctrt.runtime import console

    try:
        return console.connect(path)
    except OSError as error:
        raise CtrtError(
            f"cannot connect to the socket {path}: {error.strerror}", status=1
        ) from None


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


def start_error(plan: Plan | None, error: StartError) -> CtrtError:
    """A failed step as the sentence for the caller, who looks for certain words in it."""
    assert plan is not None
    operation = ""
    if 0 <= error.step < len(plan.steps) and error.call < len(plan.steps[error.step].calls):
        operation = plan.steps[error.step].calls[error.call][0]
    nameless = operation == "exec" and not plan.steps[error.step].calls[error.call][1]
    if nameless or operation in ("find_program", "hooks"):
        return CtrtError(f"unable to start container process: {error.words}", status=1)
    if operation == "exec":
        name = plan.steps[error.step].calls[error.call][1][0]
        looked = any(call[0] == "find_program" for step in plan.steps for call in step.calls)
        if error.errno == _ENOENT and "/" not in name and not looked:
            words = f'exec: "{name}": executable file not found in $PATH: No such file or directory'
            return CtrtError(f"unable to start container process: {words}", status=1)
        # The program was found: it is its interpreter that is missing, if anything is.
        return ProgramError(f"exec {name}: {os.strerror(error.errno).lower()}", status=1)
    from ctrt.runtime import failure

    told = failure.step_error(plan, error.step, error.call, error.errno, error.words)
    return CtrtError(f"unable to start container process: {told}", status=1)


def write_pid(path: str, pid: int) -> None:
    """Write a pid file, which is there whole or not at all."""
    from ctrt.runtime.records import write_whole

    try:
        write_whole(ospath.absolute(path), str(pid).encode(), 0o644)
    except OSError as error:
        raise CtrtError(
            f"the pid file {path} cannot be written: {error.strerror}", status=1
        ) from None


on_plan: Callable[[Plan], None] | None = None
"""Who is shown each plan before it is carried out."""


# --- exec ----------------------------------------------------------------------------------------


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
    check_terminal(terminal, options)
    config = record.config()
    _keep_interpreter(config, process, options)
    _announce_descriptors(process)
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
            chroot=not _has_mounts(config),
        ),
        host,
        subject=f"container {record.id}",
        seccomp=seccomp_filter(config),
        terminal=terminal,
        plain_lines=_plain_lines(options),
        keyring=None if record.state.get("callers_keyring") else _keyring(record.id),
    )
    if on_plan:
        on_plan(plan)
    fds = dict(zip(("stdin", "stdout", "stderr"), stdio, strict=True))
    opened = []
    try:
        if terminal:
            fds["console"] = console_channel(options)
            opened.append(fds["console"])
        try:
            started = executor.execute(
                plan.wire(),
                fds,
                preserved=options.preserve_fds,
            )
        except executor.StartError as error:
            raise start_error(plan, error) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)
    try:
        if options.pidfd_socket:
            from ctrt.runtime import console

            console.send(_connect(options.pidfd_socket), started.pidfd)
        if options.pid_file:
            write_pid(options.pid_file, started.pid)
    except BaseException:
        started.kill()
        raise
    _tell_notes(plan, host)
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
    for line in cgroups.read(f"/proc/{record.state['pid']}/cgroup").splitlines():
        if line.startswith("0::"):
            _, found, below = line.partition(record.state["cgroup"]["path"])
            return top + below if found else top
    return top


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


def update(record: Record, resources: dict[str, Any]) -> None:
    """Set other limits of a container's cgroup, and note them in its configuration."""
    memory = resources.get("memory") or {}
    if memory.get("limit") and "checkBeforeUpdate" not in memory:
        own = ((record.config().get("linux") or {}).get("resources") or {}).get("memory") or {}
        check = bool(own.get("checkBeforeUpdate"))
        resources = {**resources, "memory": {**memory, "checkBeforeUpdate": check}}
    _join_hierarchies(record, resources)
    group(record).update(resources)
    from ctrt.oci import fastjson

    config = record.config()
    linux = config.setdefault("linux", {})
    linux["resources"] = _merged(linux.get("resources") or {}, resources)
    record.write("config.json", fastjson.dumps(config).encode())


def _join_hierarchies(record: Record, resources: dict[str, Any]) -> None:
    """Make the cgroups of v1 that limits need and the container, made without limits, lacks."""
    from ctrt.linux import cgroups
    from ctrt.runtime import cgroup_operations, limits

    state, own = record.state["cgroup"], group(record)
    if not state or own.systemd:
        return
    layout = cgroups.layout()
    made = {}
    for controller in limits.asked(resources):
        top = layout.v1.get(controller)
        if top and controller not in own.v1 and layout.writable(top + state["path"]):
            made[controller] = top + state["path"]
    if not made:
        return
    # Written down first, for whoever deletes the container if this is as far as it comes.
    state["v1"] = {**own.v1, **made}
    record.save()
    for controller, directory in made.items():
        make = cgroup_operations.OPERATIONS["cgroup_make"]
        make(None, directory, layout.v1[controller], state["mark"])
    moved: set[int] = set()
    # Again until there are no new ones: some may fork meanwhile.
    while new := set(own.processes()) - moved:
        moved |= new
        for pid in new:
            for directory in dict.fromkeys(made.values()):
                try:
                    cgroups.write(f"{directory}/cgroup.procs", str(pid))
                except ProcessLookupError:
                    pass  # it has just ended


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A document with those values of another that it names."""
    found = dict(old)
    for key, value in new.items():
        before = found.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            found[key] = _merged(before, value)
        else:
            found[key] = value
    return found
