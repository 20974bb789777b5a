"""The life of an OCI container: create, start, kill, delete, and what lies between.

    create   carries out the plan up to a process that waits, and writes down who that is
    start    tells the process to become the program
    delete   takes back what the plan made, and forgets the container

Each is done by a command that then ends; what lasts is the process and its `Record`. Nobody has
to look after it, and a command that is killed at any moment leaves what the next one can undo.
Source: OCI runtime specification, runtime.md.
"""

from __future__ import annotations

import _signal
import marshal
import os
import select
import time

from ctrt.errors import CtrtError
from ctrt.runtime.records import Record, check_id, default_root, start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ctrt.runtime.cgroup import Group
    from ctrt.runtime.executor import Started, StartError
    from ctrt.runtime.host import Host
    from ctrt.runtime.plan import Plan

VERSION = "1.2.1"
"""The version of the OCI runtime specification whose words the state speaks."""

_ENOENT, _ENXIO = 2, 6
_SIGKILL = 9


# --- what a container is -------------------------------------------------------------------------


def group(record: Record) -> Group:
    """The container's cgroup."""
    from ctrt.runtime.cgroup import Group

    return Group(record.state["cgroup"])


def status(record: Record) -> str:
    """created, running, paused or stopped, as the kernel has it."""
    if not record.pid:
        return "stopped"
    if group(record).frozen():
        return "paused"
    return "created" if record.waits() else "running"


def describe(record: Record, now: str = "") -> dict[str, Any]:
    """The state of the OCI runtime specification (runtime.md, State)."""
    now = now or status(record)
    told = {
        "ociVersion": record.state["version"],
        "id": record.id,
        "status": now,
        "pid": 0 if now == "stopped" else record.state["pid"],
        "bundle": record.state["bundle"],
    }
    if record.state["annotations"]:
        told["annotations"] = record.state["annotations"]
    return told


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
        "console",
        "console_socket",
        "detach",
        "no_new_keyring",
        "no_pivot",
        "pid_file",
        "pidfd_socket",
        "plan",
        "preserve_fds",
    )

    def __init__(self) -> None:
        self.cgroup_manager = "cgroupfs"
        self.console_socket: str | None = None
        self.detach = True
        """The caller does not wait, so a terminal is somebody else's to look after."""
        self.console = -1
        """Where the terminal's master comes to, if it is this process's to look after."""
        self.plan: Plan | None = None
        """The plan, once it is made."""
        self.no_new_keyring = False
        self.no_pivot = False
        self.pid_file: str | None = None
        self.pidfd_socket: str | None = None
        self.preserve_fds = 0


def load_config(bundle: str) -> tuple[dict[str, Any], bytes]:
    """The configuration of a bundle, checked, and as it was read."""
    from ctrt.oci import spec

    path = f"{bundle}/config.json"
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
    except OSError as error:
        what = "JSON specification file config.json not found"
        raise CtrtError(f"{what}: {path}: {error.strerror}", status=1) from None
    notes: list[str] = []
    config = spec.load(data, notes=notes)
    for note in notes:
        warn(note)
    return config, data


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


def _filters_directory() -> str:
    return f"{default_root().removesuffix('-runtime')}/seccomp"


def create(
    root: str, identifier: str, bundle: str, options: Options, *, stdio: tuple[int, int, int]
) -> tuple[Record, Started]:
    """Make a container that waits to be started: its locked record, and the waiting process.

    `stdio` are the descriptors that become its standard input, output and error. The caller lets
    the process `stay` or `go`. Raises CtrtError; what was made is then undone.
    """
    from ctrt.runtime import cgroup, console, executor, planner, waiting
    from ctrt.runtime.host import Host

    waiting.register()

    check_id(identifier)
    config, data = load_config(bundle)
    linux = config.get("linux") or {}
    process = config.get("process")
    if process is None:
        raise CtrtError("process: it is missing, and a container needs a program", status=1)
    terminal = bool(process.get("terminal"))
    _check_terminal(terminal, options)
    _pass_on_descriptors(process, options)
    host = Host.probe()
    if options.cgroup_manager == "disabled":
        groups = cgroup.none()
    else:
        systemd = options.cgroup_manager == "systemd"
        if not linux.get("cgroupsPath") and not systemd:
            linux = config["linux"] = {**linux, "cgroupsPath": _cgroup_path(root, identifier)}
        groups = cgroup.plan(config, host, systemd=systemd, name=identifier)
    path = config["root"]["path"]
    plan = planner.container(
        config,
        host,
        planner.Directory(os.path.normpath(os.path.join(bundle, path))),
        subject=f"container {identifier}",
        cgroup=groups,
        seccomp=seccomp_filter(config),
        wait=True,
        bundle=bundle,
        terminal=terminal,
        pivot=not options.no_pivot,
        keyring=not options.no_new_keyring,
    )
    options.plan = plan
    record = Record.make(root, identifier)
    about: dict[str, Any] = {
        "ociVersion": config["ociVersion"],
        "id": identifier,
        "bundle": bundle,
    }
    if config.get("annotations"):
        about["annotations"] = config["annotations"]
    started: Started | None = None
    opened: list[int] = []
    try:
        record.begin(plan.undo())
        fds = dict(zip(("stdin", "stdout", "stderr"), stdio, strict=True))
        for name in ("start", "started"):
            os.mkfifo(record.path(name), 0o600)
            # Open both ways, a pipe has an end as soon as the other side lets go of it.
            fds[name] = os.open(record.path(name), os.O_RDWR | os.O_CLOEXEC)
            opened.append(fds[name])
        fds["record"] = record.lock
        if terminal:
            fds["console"] = _console(options)
            opened.append(fds["console"])
        started = executor.execute(plan.wire(), fds, about=about, preserved=options.preserve_fds)
        record.state = {
            "version": config["ociVersion"],
            "id": identifier,
            "pid": started.pid,
            "start_time": start_time(started.pid),
            "bundle": bundle,
            "rootfs": os.path.normpath(os.path.join(bundle, path)),
            "created": timestamp(),
            "owner": os.geteuid(),
            "annotations": config.get("annotations") or {},
            "cgroup": groups.state,
            "own_pids": any(
                entry["type"] == "pid" and not entry.get("path")
                for entry in linux.get("namespaces") or ()
            ),
        }
        record.write("config.json", data)
        if options.pid_file:
            write_pid(options.pid_file, started.pid)
        if options.pidfd_socket:
            console.send(_connect(options.pidfd_socket), started.pidfd)
        record.save()
    except BaseException as error:
        if started is not None:
            started.kill()
        _abandon(record, config, about)
        if isinstance(error, executor.StartError):
            raise start_error(plan, error) from None
        raise
    finally:
        for descriptor in opened:
            os.close(descriptor)
    _tell_notes(plan, host, groups.notes)
    return record, started


def _tell_notes(plan: Plan, host: Host, more: Iterable[str] = ()) -> None:
    """Warn of what is left out; what the configuration did not ask for is nothing to warn of."""
    for note in dict.fromkeys((*plan.notes, *more)):
        if note not in host.reasons.values():
            warn(note)


def _check_terminal(terminal: bool, options: Options) -> None:
    if terminal and options.detach and not options.console_socket:
        raise CtrtError(
            "cannot allocate tty if runc will detach without setting console socket", status=1
        )
    if options.console_socket and not (terminal and options.detach):
        raise CtrtError(
            "cannot use console socket if runc will not detach or allocate tty", status=1
        )


def _pass_on_descriptors(process: dict[str, Any], options: Options) -> None:
    """Take what sd_listen_fds(3) of the caller announces along, for the container to find."""
    listen = os.environ.get("LISTEN_FDS", "")
    if listen.isdecimal() and int(listen) > 0:
        options.preserve_fds += int(listen)
        process["env"] = [
            *(process.get("env") or ()),
            f"LISTEN_FDS={listen}",
            "LISTEN_PID=1",
        ]
    for number in range(3, 3 + options.preserve_fds):
        try:
            os.fstat(number)
        except OSError:
            raise CtrtError(
                f"--preserve-fds: descriptor {number} is not open; descriptors from 3 to "
                f"{2 + options.preserve_fds} were to be passed on",
                status=1,
            ) from None


def _cgroup_path(root: str, identifier: str) -> str:
    """The cgroup of a container whose configuration names none; another root's "one" is another."""
    if root == default_root():
        return f"/ctrt/{identifier}"
    import binascii

    return f"/ctrt/{binascii.crc32(root.encode()):08x}-{identifier}"


def _console(options: Options) -> int:
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
        warn(f"container {record.id} could not be cleaned up: {_of(error)}")
    from ctrt.runtime import hooks

    run_last_hooks(hooks.of(config, "poststop"), "poststop", {**about, "status": "stopped"})


def run_last_hooks(which: tuple[Any, ...], kind: str, state: dict[str, Any]) -> None:
    """Run hooks whose failure is a warning, each of them whatever the others did."""
    if not which:
        return
    from ctrt.runtime import hooks

    for hook in which:
        try:
            hooks.run(kind, (hook,), state)
        except hooks.HookError as error:
            warn(str(error.strerror))


def start_error(plan: Plan | None, error: StartError) -> CtrtError:
    """A failed step as the sentence for the caller, who looks for certain words in it."""
    assert plan is not None
    operation = ""
    if 0 <= error.step < len(plan.steps) and error.call < len(plan.steps[error.step].calls):
        operation = plan.steps[error.step].calls[error.call][0]
    if operation in ("find_program", "hooks"):
        return CtrtError(f"unable to start container process: {error.words}", status=1)
    if operation == "exec":
        name = plan.steps[error.step].calls[error.call][1][0]
        words = _program_words(name, error)
        return CtrtError(f"unable to start container process: {words}", status=1)
    from ctrt.runtime import failure

    told = failure.step_error(plan, error.step, error.call, error.errno, error.words)
    return CtrtError(f"unable to start container process: {told}", status=1)


def _program_words(name: str, error: StartError) -> str:
    """What execve(2) refused, in the words of `_find_program`."""
    if error.errno == _ENOENT and "/" not in name:
        return f'exec: "{name}": executable file not found in $PATH: No such file or directory'
    return f'exec: "{name}": {os.strerror(error.errno).lower()}'


def write_pid(path: str, pid: int) -> None:
    """Write a pid file, which is there whole or not at all."""
    from ctrt.runtime.records import write_whole

    try:
        write_whole(os.path.abspath(path), str(pid).encode(), 0o644)
    except OSError as error:
        raise CtrtError(
            f"the pid file {path} cannot be written: {error.strerror}", status=1
        ) from None


warnings: list[str] = []
"""What went wrong without being an error; the command tells it."""


def warn(words: str) -> None:
    """Note something for the command to tell."""
    warnings.append(words)


def _of(error: OSError) -> str:
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)


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
    from ctrt.runtime import console, executor, planner, waiting
    from ctrt.runtime.host import Host

    waiting.register()
    terminal = bool(process.get("terminal"))
    _check_terminal(terminal, options)
    _pass_on_descriptors(process, options)
    host = Host.probe()
    config = record.config()
    own = group(record)
    below = _below(cgroups)
    plan = planner.enter(
        process,
        planner.Target(
            record.state["pid"],
            start_time=record.state["start_time"],
            cgroup=own.v2 and own.v2 + below.get("", ""),
            cgroups_v1=tuple(
                dict.fromkeys(
                    path + below.get(name, below.get("", "")) for name, path in own.v1.items()
                )
            ),
            config=config,
        ),
        host,
        subject=f"container {record.id}",
        seccomp=seccomp_filter(config),
        terminal=terminal,
        keyring=not options.no_new_keyring,
    )
    fds = dict(zip(("stdin", "stdout", "stderr"), stdio, strict=True))
    opened = []
    try:
        if terminal:
            fds["console"] = _console(options)
            opened.append(fds["console"])
        try:
            started = executor.execute(plan.wire(), fds, preserved=options.preserve_fds)
        except executor.StartError as error:
            raise start_error(plan, error) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)
    try:
        if options.pidfd_socket:
            console.send(_connect(options.pidfd_socket), started.pidfd)
        if options.pid_file:
            write_pid(options.pid_file, started.pid)
    except BaseException:
        started.kill()
        raise
    _tell_notes(plan, host)
    return started


def _below(cgroups: Iterable[str]) -> dict[str, str]:
    """The values of `exec --cgroup` by controller ("" is all): PATH or CONTROLLER,...:PATH."""
    found = {}
    for value in cgroups:
        controllers, _, path = value.rpartition(":")
        path = path.strip("/")
        if ".." in path.split("/"):
            raise CtrtError(f"--cgroup: {value!r} is not below the container's cgroup")
        for name in controllers.split(","):
            found[name] = f"/{path}" if path else ""
    return found


# --- start, kill, delete -------------------------------------------------------------------------


def start(root: str, identifier: str) -> None:
    """Let the program of a created container begin."""
    record = Record.find(root, identifier, lock=True)
    try:
        if not record.pid:
            raise CtrtError("cannot start a container that has stopped", status=1)
        answer = os.open(record.path("started"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            try:
                go = os.open(record.path("start"), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != _ENXIO:
                    raise
                raise CtrtError("cannot start an already running container", status=1) from None
            os.set_blocking(answer, True)
            os.write(go, b"s")
            os.close(go)
            # The end of this pipe is the program's execve(2), which closes it.
            told = os.read(answer, 65536)
        finally:
            os.close(answer)
        if told:
            *_, words = marshal.loads(told[1:])
            raise CtrtError(f"cannot start container {identifier}: {words}", status=1)
        after_start(record)
    finally:
        record.release()


def after_start(record: Record) -> None:
    """What follows the program's start."""
    if b'"poststart"' not in (data := record.read("config.json")):
        return
    from ctrt.oci import fastjson
    from ctrt.runtime import hooks

    which = hooks.of(fastjson.loads(data), "poststart")
    run_last_hooks(which, "poststart", describe(record, "running"))


def kill(root: str, identifier: str, number: int, *, everything: bool = False) -> None:
    """Signal a container's first process, or with `everything` all its processes."""
    record = Record.find(root, identifier)
    if everything:
        group(record).kill(number)
        return
    pidfd = record.pidfd()
    if pidfd < 0:
        raise CtrtError("container not running", status=1)
    try:
        # Without a pid namespace of its own the others would outlive the first process.
        if number == _SIGKILL and not record.state["own_pids"]:
            group(record).kill(number)
        _signal.pidfd_send_signal(pidfd, number)
        if number == _SIGKILL and group(record).frozen():
            group(record).thaw()  # v1 keeps the frozen from dying
    except ProcessLookupError:
        raise CtrtError("container not running: process already finished", status=1) from None
    finally:
        os.close(pidfd)


def delete(root: str, identifier: str, *, force: bool = False) -> None:
    """Take back all that was made for a container; with `force` it is killed first."""
    try:
        record = Record.find(root, identifier, lock=True)
    except CtrtError:
        if force:
            return
        raise
    try:
        pidfd = record.pidfd()
        if pidfd >= 0:
            try:
                if not force:
                    raise CtrtError(
                        f"cannot delete container {identifier} that is not stopped: "
                        f"{status(record)}",
                        status=1,
                    )
                destroy(record, pidfd)
            finally:
                os.close(pidfd)
        forget(record)
    finally:
        record.release()


def destroy(record: Record, pidfd: int) -> None:
    """Kill all processes of a container, and wait for the end of the first."""
    own = group(record)
    own.kill(_SIGKILL)
    try:
        _signal.pidfd_send_signal(pidfd, _SIGKILL)
    except ProcessLookupError:
        pass
    if own.frozen():
        own.thaw()
    if not select.select([pidfd], [], [], 10)[0]:
        raise CtrtError(f"container {record.id} does not end, even killed", status=1)


def forget(record: Record) -> None:
    """Take back what was made for a container whose first process has ended, and its record."""
    state = describe(record, "stopped")
    which: tuple[Any, ...] = ()
    if b'"poststop"' in (data := record.read("config.json")):
        from ctrt.oci import fastjson
        from ctrt.runtime import hooks

        which = hooks.of(fastjson.loads(data), "poststop")
    try:
        group(record).remove()
        record.undo()
        run_last_hooks(which, "poststop", state)
        record.end()
    except OSError as error:
        raise CtrtError(
            f"container {record.id} could not be cleaned up: {_of(error)}", status=1
        ) from None


# --- pause and resume ----------------------------------------------------------------------------


def pause(root: str, identifier: str) -> None:
    """Freeze all processes of a container."""
    record = Record.find(root, identifier, lock=True)
    try:
        now = status(record)
        if now not in ("running", "created"):
            raise CtrtError(f"container not running or created: {now}", status=1)
        group(record).freeze()
    finally:
        record.release()


def resume(root: str, identifier: str) -> None:
    """Thaw the processes of a paused container."""
    record = Record.find(root, identifier, lock=True)
    try:
        if status(record) != "paused":
            raise CtrtError("container not paused", status=1)
        group(record).thaw()
    finally:
        record.release()


def update(record: Record, resources: dict[str, Any]) -> None:
    """Set other limits of a container's cgroup."""
    group(record).update(resources)


def describe_more(record: Record) -> dict[str, Any]:
    """The state with what runc adds to it: root file system, time of creation, owner."""
    import pwd

    told = describe(record)
    owner = record.state["owner"]
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = str(owner)
    return {
        **{key: value for key, value in told.items() if key != "annotations"},
        "rootfs": record.state["rootfs"],
        "created": record.state["created"],
        **({"annotations": told["annotations"]} if "annotations" in told else {}),
        "owner": name,
    }
