"""Checkpoint and restore: the processes of a container as files, by criu(8).

criu is told which mounts and standard streams come from outside the container: it cannot save
them, and gets them handed in again at the restore. A restore is one more plan, whose
program is criu: in the container's new cgroup, where every process that it makes is born, and in a
mount namespace of its own, so that what it needs mounted goes away with it. The restored first
process is then our child, as a created one is. The other end of its terminal comes from criu, as
that of a created one comes from the container.

Source: criu(8), https://criu.org/External_bind_mounts, https://criu.org/Inheriting_FDs_on_restore.
"""

from __future__ import annotations

import os
import stat

from ctrt.errors import CtrtError
from ctrt.linux import calls as k
from ctrt.oci import fastjson
from ctrt.runtime import console, creating, criu, executor, existing, starting
from ctrt.runtime.plan import INSIDE, Plan, Step
from ctrt.runtime.planner.namespaces import made
from ctrt.runtime.records import Record, write_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.runtime.cgroup import Cgroup

    Config = dict[str, Any]

_STREAMS = "descriptors.json"
"""The standard streams of the saved process, beside its image; runc has them there, too."""

_MASKS = "masked.json"
"""Which of the masked paths are files: the root file system alone does not tell."""

_JOINED = {"network": ("net", "extRootNetNS"), "pid": ("pid", "extRootPidNS")}
"""The namespaces that criu can join instead of making them anew: its words for them."""


class Wishes:
    """How to save or restore: the flags of the two verbs."""

    __slots__ = ("flags", "images", "leave_running", "pre_dump", "program", "work")

    def __init__(self, program: str, images: str, work: str) -> None:
        self.program = program
        self.images = images
        """Where the image files are."""
        self.work = work
        """Where criu logs."""
        self.flags: list[criu.Option] = []
        """criu's own options for the rest."""
        self.leave_running = False
        self.pre_dump = False


def checkpoint(root: str, identifier: str, wishes: Wishes) -> None:
    """Save a running container's processes, and delete it unless it is left running.

    Raises CtrtError with criu's reason; the container then runs as before.
    """
    record = Record.find(root, identifier, lock=True)
    try:
        status = existing.describe(record)["status"]
        if status not in ("running", "paused"):
            raise CtrtError(
                f"container {identifier} is {status}: only a running one can be saved", status=1
            )
        config = record.config()
        _save(record, config, wishes)
        if not (wishes.leave_running or wishes.pre_dump):
            existing.forget(record)
    finally:
        record.release()


def _save(record: Record, config: Config, wishes: Wishes) -> None:
    for directory in (wishes.images, wishes.work):
        os.makedirs(directory, mode=0o700, exist_ok=True)
    pid = record.pid
    streams, external = _streams(pid)
    masks = _masked_files(config, f"/proc/{pid}/root")
    options = _common(record.state["rootfs"], wishes, "dump.log")
    if wishes.leave_running and not wishes.pre_dump:
        options.append(("leave-running", ""))
    for destination, _ in _outside_mounts(config, masks):
        options.append(("external", f"mnt[{destination}]:{destination}"))
    for path, kind, name in _joined(config):
        options.append(("external", f"{kind}[{os.stat(path).st_ino}]:{name}"))
    options += [("external", name) for name in external]
    for name, found in ((_STREAMS, streams), (_MASKS, masks)):
        write_whole(f"{wishes.images}/{name}", fastjson.dumps(found).encode(), 0o600)
    worker = criu.Criu(wishes.program)
    try:
        os.set_inheritable(worker.theirs, True)
        wanted = criu.PRE_DUMP if wishes.pre_dump else criu.DUMP
        last = criu.configured(config.get("annotations"))
        worker.ask(wanted, wishes.images, options, pid=pid, last=last)
        child = os.posix_spawn(wishes.program, worker.words, os.environ, file_actions=_quiet())
        done = worker.attend()
    finally:
        worker.close()
    os.waitpid(child, 0)
    if done is None:
        raise CtrtError(_reason("checkpoint", f"{wishes.work}/dump.log"), status=1)


def _quiet() -> list[tuple[Any, ...]]:
    return [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1, 2)]


def restore(
    root: str,
    identifier: str,
    bundle: str,
    options: starting.Options,
    wishes: Wishes,
    *,
    stdio: tuple[int, int, int],
) -> tuple[Record, executor.Started]:
    """A container of a bundle's configuration with the processes of an image, running.

    `stdio` take the place of the saved pipes. The restored first process is a child of ours.
    Raises CtrtError; what was made is then undone.
    """
    from ctrt.runtime.host import Host

    config, data = creating.load_config(options.config or f"{bundle}/config.json")
    terminal = bool(config["process"].get("terminal"))
    starting.check_terminal(terminal, options)
    streams, masks = (_saved(wishes.images, name) for name in (_STREAMS, _MASKS))
    os.makedirs(wishes.work, mode=0o700, exist_ok=True)
    host = Host.probe()
    groups = creating.plan_cgroup(root, identifier, config, host, options)
    rootfs = creating.find_rootfs(bundle, config["root"]["path"])
    record = Record.make(root, identifier)
    worker = criu.Criu(wishes.program)
    started: executor.Started | None = None
    joined: dict[str, int] = {}
    listener = _Listener(config, creating.told_to_hooks(identifier, bundle, config))
    try:
        if terminal:
            listener.channel = starting.console_channel(options)
        for path, _, name in _joined(config):
            joined[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        mounts = _outside_mounts(config, masks)
        worker.ask(
            criu.RESTORE,
            wishes.images,
            _restore_options(rootfs, mounts, wishes),
            inherited={name: number for number, name in enumerate(streams) if name} | joined,
            last=criu.configured(config.get("annotations")),
        )
        plan = _plan(rootfs, worker.words, groups)
        record.begin(plan.undo())
        fds = dict(zip(("stdin", "stdout", "stderr"), stdio, strict=True))
        try:
            child = executor.execute(plan.wire(), fds, preserved=(worker.theirs, *joined.values()))
        except executor.StartError as error:
            raise starting.start_error(plan, error) from None
        try:
            pid = worker.attend(listener.hear)
        finally:
            worker.close()
            os.waitpid(child.pid, 0)
            os.close(child.pidfd)
        if not pid:
            raise CtrtError(_reason("restore", f"{wishes.work}/restore.log"), status=1)
        started = executor.Started(pid, k.pidfd_open(pid), False, None)
        record.write("config.json", data)
        record.state = creating.new_state(identifier, bundle, rootfs, config, pid, groups)
        if options.pid_file:
            starting.write_pid(options.pid_file, pid)
        record.save()
    except BaseException:
        if started is not None:
            started.kill()
        record.end()
        raise
    finally:
        worker.close()
        listener.close()
        for descriptor in joined.values():
            os.close(descriptor)
    return record, started


class _Listener:
    """What is done while criu restores: its terminal is handed out, and hooks are run.

    As with runc, the hooks of a new container's namespaces run, too: they may equip a network.
    """

    def __init__(self, config: Config, about: dict[str, Any]) -> None:
        self._config = config
        self._about = about
        self.channel = -1
        """Where the terminal's master goes; further ones were those of an exec that has gone."""

    def hear(self, moment: str, pid: int, master: int) -> None:
        """Take notice of a moment. Raises CtrtError where a hook fails."""
        if master >= 0 and self.channel >= 0:
            channel, self.channel = self.channel, -1
            console.send(channel, master, b"/dev/ptmx")
        if moment == "setup-namespaces" and self._config.get("hooks"):
            from ctrt.runtime import hooks

            state = {**self._about, "status": "creating", "pid": pid}
            try:
                for kind in ("prestart", "createRuntime"):
                    hooks.run(kind, hooks.of(self._config, kind), state)
            except hooks.HookError as error:
                raise CtrtError(f"restore: {error.strerror}", status=1) from None

    def close(self) -> None:
        if self.channel >= 0:
            os.close(self.channel)


def _saved(directory: str, name: str) -> list[str]:
    """A list that `checkpoint` wrote beside the image."""
    try:
        with open(f"{directory}/{name}", "rb") as file:
            found: list[str] = fastjson.loads(file.read())
            return found
    except (OSError, ValueError):
        raise CtrtError(
            f"--image-path: {directory} has no saved container: {name} is missing", status=1
        ) from None


def _restore_options(
    rootfs: str, mounts: list[tuple[str, str]], wishes: Wishes
) -> list[criu.Option]:
    options = _common(rootfs, wishes, "restore.log")
    for destination, source in mounts:
        options.append(("external", f"mnt[{destination}]:{source}"))
    return options


def _plan(rootfs: str, words: tuple[str, ...], groups: Cgroup) -> Plan:
    """The plan that starts criu, where it makes the container's processes."""
    environment = tuple(f"{name}={value}" for name, value in os.environ.items())
    steps = [
        *groups.before,
        made(("mount",), groups.descriptor),
        *groups.after,
        Step(
            "root file system",
            INSIDE,
            [
                ("propagation", "/", k.MS_REC | k.MS_SLAVE),
                ("bind", rootfs, True, "root"),
                ("attach", "root", rootfs),
            ],
            why="the root of what criu restores must be a mount point; nobody else sees it",
            source="criu(8), --root",
        ),
        Step(
            "exec",
            INSIDE,
            [
                ("own_descriptors",),
                ("stdio",),
                ("signals",),
                ("umask", 0o077),
                ("exec", words, environment),
            ],
            why="criu makes the processes anew, from their image",
            source="criu(8)",
        ),
    ]
    return Plan(steps)


def _common(root: str, wishes: Wishes, log: str) -> list[criu.Option]:
    return [("root", root), ("work-dir", wishes.work), ("log-file", log), *wishes.flags]


def _outside_mounts(config: Config, masks: list[str]) -> list[tuple[str, str]]:
    """The mounts whose files are the host's: where they are in the container, and what they are."""
    return [
        (os.path.normpath(entry["destination"]), entry.get("source") or "")
        for entry in config.get("mounts") or ()
        if entry.get("type") == "bind" or {"bind", "rbind"} & set(entry.get("options") or ())
    ] + [(path, "/dev/null") for path in masks]


def _masked_files(config: Config, root: str) -> list[str]:
    """The masked files: a directory is masked by a file system of its own, which criu saves."""
    found = []
    for path in (config.get("linux") or {}).get("maskedPaths") or ():
        try:
            if not stat.S_ISDIR(os.stat(f"{root}{path}").st_mode):
                found.append(os.path.normpath(path))
        except OSError:
            pass  # what is not there is not masked
    return found


def _joined(config: Config) -> list[tuple[str, str, str]]:
    """The joined namespaces that criu leaves alone: path, kind and name as it has them."""
    return [
        (entry["path"], *_JOINED[entry["type"]])
        for entry in (config.get("linux") or {}).get("namespaces") or ()
        if entry.get("path") and entry["type"] in _JOINED
    ]


def _streams(pid: int) -> tuple[list[str], list[str]]:
    """The names of a process's standard streams that come from outside; what criu is told of them.

    A pipe or a socket is known by its name. Of a file on a mount that the container does not have
    criu needs the mount's number and the file's. One of the container's own is "".
    """
    with open(f"/proc/{pid}/mountinfo") as file:
        own = {int(line.split(None, 1)[0]) for line in file}
    names, external = [], []
    for number in (0, 1, 2):
        path = f"/proc/{pid}/fd/{number}"
        try:
            name = os.readlink(path)
            found = os.stat(path)
            with open(f"/proc/{pid}/fdinfo/{number}") as file:
                mount = next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
        except FileNotFoundError:
            names.append("")
            continue
        if not name.startswith(("pipe:[", "socket:[")):
            name = "" if mount in own else f"file[{mount:x}:{found.st_ino:x}]"
            external += [name] if name else []
        names.append(name)
    return names, external


def _reason(verb: str, log: str) -> str:
    """What criu says of its failure: the first error of its log."""
    try:
        with open(log, errors="replace") as file:
            errors = [line for line in file if "Error (" in line]
    except OSError:
        errors = []
    if not errors:
        return f"{verb}: criu failed without a word; see {log}"
    words = errors[0].partition("Error (")[2].partition("): ")[2].strip()
    return f"{verb}: criu failed: {words} (see {log})"
