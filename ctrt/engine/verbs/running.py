"""The verbs about what containers do: their output, their end, and their processes."""

from __future__ import annotations

import os

from ctrt.engine.options import Option, Table
from ctrt.engine.verbs.base import MANY, ONE, Flow, Listing, Text, Verb
from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctrt.engine import Engine, detached
    from ctrt.engine.options import Values
    from ctrt.engine.verbs.base import Report
    from ctrt.linux.processes import IdRange, Status
    from ctrt.observe import System

_ENOENT, _ESRCH = 2, 3
_LOOK_MILLISECONDS = 200
_CHUNK = 65536
_SHOWN_CAPABILITIES = 4


# --- logs, wait, rm ---------------------------------------------------------------------------


def _logs(engine: Engine, values: Values, _report: Report) -> Flow:
    (name,) = values.operands
    if values.tail is not None and not values.tail.isdecimal():
        raise CtrtError(f"logs: --tail {values.tail!r} is not a number of lines")
    record = _record(engine, name)
    if record is None:
        if any(state["name"] == name for state in engine.states()):
            raise CtrtError(
                f"the output of {name} was not kept: it went where the container was started; "
                "only that of detached ones is kept"
            )
        raise _unknown(engine, name)
    lines = None if values.tail is None else int(values.tail)
    return Flow(_output(engine, record.output, name, lines, follow=values.follow))


def _record(engine: Engine, name: str) -> detached.Record | None:
    """The record of a running container, else the latest of one of that name that has ended."""
    from ctrt.engine import detached

    for state in engine.states():
        if state["name"] == name:
            return detached.of_state(engine.root, state)
    return detached.newest(engine.root, name)


def _unknown(engine: Engine, name: str) -> CtrtError:
    from ctrt.engine import detached

    names = [state["name"] for state in engine.states()]
    names += [record.name for record in detached.records(engine.root)]
    known = ", ".join(dict.fromkeys(names))
    there = f"there are {known}" if known else "there is none"
    return CtrtError(f"there is no container {name!r}; {there}")


def _output(
    engine: Engine, path: str, name: str, lines: int | None, *, follow: bool
) -> Iterator[str]:
    """The text of an output file; with `follow` until the container has ended."""
    import codecs

    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    pidfd = _pidfd(engine, name) if follow else -1
    try:
        if lines is not None:
            os.lseek(descriptor, _start_of_last(descriptor, lines), os.SEEK_SET)
        ended = pidfd < 0
        while True:
            while data := os.read(descriptor, _CHUNK):
                text = decode(data)
                if text:
                    yield text
            if ended:
                break
            ended = _has_ended(pidfd, _LOOK_MILLISECONDS)
        text = decode(b"", final=True)
        if text:
            yield text
    finally:
        os.close(descriptor)
        if pidfd >= 0:
            os.close(pidfd)


def _start_of_last(descriptor: int, lines: int) -> int:
    """Where the last lines of a file begin."""
    end = os.fstat(descriptor).st_size
    at, found = end, 0
    while at > 0:
        size = min(_CHUNK, at)
        at -= size
        data = os.pread(descriptor, size, at)
        # The newline at the very end ends the last line, and begins none.
        place = len(data) - (at + size == end and data.endswith(b"\n"))
        while (place := data.rfind(b"\n", 0, place)) >= 0:
            found += 1
            if found == lines:
                return at + place + 1
    return 0 if lines else end


def _pidfd(engine: Engine, name: str) -> int:
    """A descriptor of a running container's first process; -1 if it has ended."""
    from ctrt.linux import calls

    for state in engine.states():
        if state["name"] == name:
            try:
                return calls.pidfd_open(int(state["pid"]))
            except OSError:
                return -1
    return -1


def _has_ended(pidfd: int, milliseconds: int | None = None) -> bool:
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(milliseconds))


def _wait(engine: Engine, values: Values, _report: Report) -> Flow:
    return Flow(f"{_awaited(engine, name)}\n" for name in values.operands)


def _awaited(engine: Engine, name: str) -> int:
    """The exit status of a detached container, when it has ended."""
    record = _record(engine, name)
    pidfd = _pidfd(engine, name)
    if pidfd >= 0:
        try:
            _has_ended(pidfd)
        finally:
            os.close(pidfd)
        engine.await_removal(name)
    elif record is None:
        raise _unknown(engine, name)
    status = record.status if record else None
    if status is None:
        raise CtrtError(f"{name} has ended; its status is known only to who started it")
    return status


def _rm(engine: Engine, values: Values, _report: Report) -> Text:
    for name in values.operands:
        running = {state["name"]: int(state["pid"]) for state in engine.states()}
        record = _record(engine, name)
        if name in running:
            if not values.force:
                raise CtrtError(f"{name} is running; stop it first, or use: ctrt rm --force {name}")
            engine.stop(name, running[name], 0)
        elif record is None and not values.force:
            raise _unknown(engine, name)
        if record is not None:
            record.remove()
    return Text("\n".join(values.operands))


# --- top --------------------------------------------------------------------------------------


def _top(engine: Engine, values: Values, _report: Report) -> Listing:
    return _inside(engine, values.operands[0]) if values.operands else _everywhere(engine)


def _inside(engine: Engine, word: str) -> Listing:
    """The processes of a container's pid namespace, and of those below it."""
    from ctrt.engine.config import RunningFiles
    from ctrt.engine.targets import target_of
    from ctrt.linux import processes
    from ctrt.words import one_line

    pid = target_of(engine, word).pid
    try:
        namespace = os.readlink(f"/proc/{pid}/ns/pid")
        depth = len(processes.status(pid).ns_pids)
        id_map = processes.uid_map(pid)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CtrtError(f"top: the processes of {word} cannot be seen: {reason}") from None
    rows_of_users = (line.split(":") for line in RunningFiles(pid).read("etc/passwd").splitlines())
    users = {row[2]: row[0] for row in rows_of_users if len(row) >= 7}
    within: dict[int, bool] = {}
    rows = []
    for number in processes.pids():
        try:
            status = processes.status(number)
            at = len(status.ns_pids)
            same = at >= depth and os.readlink(f"/proc/{number}/ns/pid") == namespace
            # One of a namespace below has an ancestor here.
            if not same and not (at > depth and within.get(status.parent)):
                continue
            within[number] = True
            command = processes.cmdline(number)
        except OSError:
            continue
        rows.append(
            (
                str(status.ns_pids[depth - 1]),
                str(number),
                _user(status.uids[1], id_map, users),
                _rights(status),
                one_line(command) or f"[{status.name}]",
            )
        )
    return Listing(("PID", "OUTSIDE", "USER", "CAPABILITIES", "COMMAND"), rows)


def _user(uid: int, id_map: tuple[IdRange, ...], users: dict[str, str]) -> str:
    """A user as the container knows it."""
    for extent in id_map:
        if 0 <= uid - extent.outside < extent.length:
            inside = str(uid - extent.outside + extent.inside)
            return users.get(inside) or ("root" if inside == "0" else inside)
    return f"{uid} outside"


def _rights(status: Status) -> str:
    """The effective capabilities, as short as can be."""
    from ctrt.engine.config import DEFAULT_CAPABILITIES
    from ctrt.linux import capabilities

    held = status.effective
    names = capabilities.names(held)
    if not names:
        return "none"
    if len(names) > capabilities.last():
        return "all"
    if held == capabilities.mask(DEFAULT_CAPABILITIES):
        return f"default ({len(names)})"
    if len(names) <= _SHOWN_CAPABILITIES:
        return " ".join(name.removeprefix("CAP_").lower() for name in names)
    return f"{len(names)} of {capabilities.last() + 1}"


def _everywhere(engine: Engine) -> Listing:
    """Every container of the machine, whoever runs it, and what it uses."""
    from ctrt import observe
    from ctrt.words import size_text

    system = observe.scan()
    rows = []
    for (runs, name), pids in sorted(_containers(engine, system).items()):
        use = [found for pid in pids if (found := _use(pid)) is not None]
        if use:
            seconds = sum(time for time, _ in use)
            memory = size_text(sum(size for _, size in use))
            rows.append((name, runs, str(len(use)), f"{seconds:.1f} s", memory))
    return Listing(("CONTAINER", "ENGINE", "PROCESSES", "CPU TIME", "MEMORY"), rows)


def _containers(engine: Engine, system: System) -> dict[tuple[str, str], list[int]]:
    """The processes of each container, by (engine, name)."""
    from ctrt import observe

    found: dict[tuple[str, str], list[int]] = {}
    for pid, owner in observe.owners(system, stores=(engine.root,)).items():
        if not owner.monitor:
            found.setdefault((owner.engine, owner.name or owner.id[:12]), []).append(pid)
    return found


def _use(pid: int) -> tuple[float, int] | None:
    """The CPU time (seconds) and resident memory (bytes) of a process: proc_pid_stat(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


VERBS = [
    Verb(
        Table(
            "logs",
            "Show the output of a detached container, also after its end.",
            "CONTAINER",
            [
                Option("-f --follow", "go on until the container has ended"),
                Option("-n --tail", "only so many of the last lines", metavar="LINES"),
            ],
        ),
        _logs,
        ONE,
    ),
    Verb(
        Table(
            "wait",
            "Wait until detached containers have ended, and print their exit statuses.",
            "CONTAINER...",
            [],
        ),
        _wait,
        MANY,
    ),
    Verb(
        Table(
            "rm",
            "Forget detached containers that have ended: their output and status.",
            "CONTAINER...",
            [Option("-f --force", "kill those that run, and do not mind those that are not there")],
        ),
        _rm,
        MANY,
    ),
    Verb(
        Table(
            "top",
            "Show the processes of a container; of no container, what each on the machine uses.",
            "[TARGET]",
            [],
        ),
        _top,
        range(2),
    ),
]
