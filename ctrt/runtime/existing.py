"""What is done with an OCI container that exists: start, kill, delete, pause, and its state.

    start    tells the process to become the program
    delete   takes back what the plan made, and forgets the container

Engines call these for every container, so they are apart from `creating.py` and `entering.py`,
and import little: not even `os`, whose import is a sixth of all that such a command does (it makes
the classes of collections.abc). `posix` is the part of it that is needed.
"""

from __future__ import annotations

import _signal
import posix as os

from ctrt.errors import CtrtError
from ctrt.runtime.records import BrokenError, MissingError, Record, check_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ctrt.runtime.group import Group
    from ctrt.runtime.readiness import Listener

_ENXIO = 6
_SIGKILL = 9

on_warning: Callable[[str], None] | None = None
"""Who tells what went wrong without being an error: the command."""


def warn(words: str) -> None:
    """Tell something that went wrong without being an error."""
    if on_warning:
        on_warning(words)


def reason(error: OSError) -> str:
    """What the kernel said, and of which file."""
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)


# --- what a container is -------------------------------------------------------------------------


def group(record: Record) -> Group:
    """The container's cgroup."""
    from ctrt.runtime.group import Group

    return Group(record.state["cgroup"])


def status(record: Record) -> str:
    """created, running, paused or stopped, as the kernel has it."""
    if not record.pid:
        return "stopped"
    if group(record).frozen():
        return "paused"
    return "created" if record.waits() else "running"


def processes(record: Record) -> list[int]:
    """The pids of a container's processes, as seen here."""
    own = group(record)
    if own.v2 or own.v1:
        return own.processes()
    first = record.pid
    kind = _own_space(record)
    if not first or not kind:
        return [first] if first else []
    try:
        space = os.stat(f"/proc/{first}/ns/{kind}").st_ino
    except OSError:
        return [first]  # it has just ended, or waits for its start where nobody may look into it
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and os.stat(f"/proc/{name}/ns/{kind}").st_ino == space:
                found.append(int(name))
        except OSError:
            pass  # it has just ended, or is somebody else's
    return sorted(found)


def _own_space(record: Record) -> str:
    """The namespace by which processes of a container without a cgroup are known: pid, mnt, ""."""
    if record.state["own_pids"]:
        return "pid"
    return "mnt" if owns(record.config(), "mount") else ""


def owns(config: dict[str, Any], kind: str) -> bool:
    """Whether a container has a new namespace of a kind."""
    spaces = (config.get("linux") or {}).get("namespaces") or ()
    return any(space["type"] == kind and not space.get("path") for space in spaces)


def signal_all(record: Record, number: int) -> None:
    """Signal all processes of a container."""
    own = group(record)
    if own.v2 or own.v1:
        own.kill(number)
        return
    for pid in processes(record):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def describe(record: Record, now: str = "") -> dict[str, Any]:
    """The state of the OCI runtime specification (runtime.md, State)."""
    now = now or status(record)
    told = {
        "ociVersion": record.state["version"],
        "id": record.id,
        "pid": 0 if now == "stopped" else record.state["pid"],
        "status": now,
        "bundle": record.state["bundle"],
    }
    if record.state["annotations"]:
        told["annotations"] = record.state["annotations"]
    return told


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


def run_last_hooks(which: tuple[Any, ...], state: dict[str, Any]) -> None:
    """Run the hooks "poststop", whose failure is a warning, each whatever the others did."""
    if not which:
        return
    from ctrt.runtime import hooks

    for hook in which:
        try:
            hooks.run("poststop", (hook,), state)
        except hooks.HookError as error:
            warn(str(error.strerror))


# --- start, kill, delete -------------------------------------------------------------------------


def start(root: str, identifier: str) -> None:
    """Let the program of a created container begin."""
    record = Record.find(root, identifier, lock=True)
    listener: Listener | None = None
    try:
        if not record.pid:
            raise CtrtError("cannot start a container that has stopped", status=1)
        if group(record).frozen():
            raise CtrtError("cannot start a container in the paused state", status=1)
        if os.environ.get(b"NOTIFY_SOCKET"):
            from ctrt.runtime import readiness

            listener = readiness.listen(record)
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
            told = b""
            while piece := os.read(answer, 65536):
                told += piece
        finally:
            os.close(answer)
        # BECOMING of operations/context.py, or nothing: then it has become its program.
        if told not in (b"", b"x"):
            from ctrt.runtime import executor

            if told.startswith(executor.FAILED):
                import marshal

                *_, words = marshal.loads(told[1:])
            else:
                name = record.config()["process"]["args"][0]
                words = f"exec {name}: {os.strerror(executor.refusal(told[1:])).lower()}"
            raise CtrtError(f"cannot start container {identifier}: {words}", status=1)
        after_start(record)
        record.release()  # what is awaited may take long
        if listener and (pidfd := record.pidfd()) >= 0:
            listener.wait(pidfd, record.state["pid"])
    finally:
        record.release()


def after_start(record: Record) -> None:
    """Run the hooks "poststart"; where one fails, the container is stopped and taken back.

    So says runtime.md of the specification from version 1.3 on. Before, it asked for a warning,
    which runc never gave and crun no longer gives, whatever version a configuration names.
    """
    if b'"poststart"' not in (data := record.read("config.json")):
        return
    from ctrt.oci import fastjson
    from ctrt.runtime import hooks

    which = hooks.of(fastjson.loads(data), "poststart")
    try:
        hooks.run("poststart", which, describe(record, "running"))
    except hooks.HookError as error:
        pidfd = record.pidfd()
        if pidfd >= 0:
            destroy(record, pidfd)
            os.close(pidfd)
        forget(record)
        raise CtrtError(f"cannot start container {record.id}: {error.strerror}", status=1) from None


def kill(root: str, identifier: str, number: int, *, everything: bool = False) -> None:
    """Signal a container's first process, or with `everything` all its processes."""
    record = Record.find(root, identifier)
    if everything:
        signal_all(record, number)
        return
    pidfd = record.pidfd()
    # Without a pid namespace of its own the others outlive the first process.
    others = number == _SIGKILL and not record.state["own_pids"]
    if pidfd < 0:
        if others and group(record).processes():
            group(record).kill(number)
            return
        raise CtrtError("container not running", status=1)
    try:
        if others:
            signal_all(record, number)
        _signal.pidfd_send_signal(pidfd, number)
        if number == _SIGKILL and group(record).frozen():
            group(record).thaw()  # v1 keeps the frozen from dying
    except ProcessLookupError:
        raise CtrtError("container not running: process already finished", status=1) from None
    finally:
        os.close(pidfd)


def delete(root: str, identifier: str, *, force: bool = False) -> None:
    """Take back all that was made for a container; with `force` it is killed first."""
    check_id(identifier)
    try:
        record = Record.find(root, identifier, lock=True)
    except MissingError:
        if force:
            return
        raise
    except BrokenError:
        if not force:
            raise
        # Who its processes are is not known, but that those of its cgroup are.
        Record.remains(root, identifier).end()
        return
    try:
        pidfd = record.pidfd()
        if pidfd >= 0:
            try:
                # One that was never started has nothing to lose: runc and crun end it, too.
                if not force and status(record) != "created":
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
    if own.v2 or own.v1 or not record.state["own_pids"]:
        signal_all(record, _SIGKILL)  # else the kernel ends them with the first: pid_namespaces(7)
    try:
        _signal.pidfd_send_signal(pidfd, _SIGKILL)
    except ProcessLookupError:
        pass
    if own.frozen():
        own.thaw()
    from select import select

    if select([pidfd], [], [], 0.5)[0]:
        return
    own.rescue()
    if not select([pidfd], [], [], 10)[0]:
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
        run_last_hooks(which, state)
        record.end()
    except OSError as error:
        raise CtrtError(
            f"container {record.id} could not be cleaned up: {reason(error)}", status=1
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
