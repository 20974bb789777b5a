"""The one executor of plans.

It runs in a small single-threaded process (the launcher's, or the command's own), because
only such a process can clone safely. Steps that run outside are done here, steps that run
inside are done by the child, in the order of the plan; where the plan changes sides, the two
hand over by a byte on a pair of pipes. Until it gives up CLONE_FILES the child shares the
descriptor table with its parent, so that what one side opens the other can use.

A plan may end in a process that waits to be started (the operation "await_start" of
`waiting.py`): it says so on its pipe, and goes on when it is told to. Until its maker lets it
be, the child watches its maker, and ends when that one dies: so a start that is killed leaves no
process behind.

Nothing beyond os, ctypes and a few small C modules is imported: this module's import is part of the
price of every start. What the child needs is imported before it is made: inside, it may have
lost the right to read Python's own files.
"""

from __future__ import annotations

import gc
import marshal
import posix as os  # `os` itself takes long to import: linux/ospath.py
import select

from ctrt.linux import calls as k
from ctrt.runtime.operations import OPERATIONS, OWN, Context, load
from ctrt.runtime.operations.context import BECOMING, REFUSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.runtime.journal import Journal

    Call = tuple[Any, ...]
    Wire = tuple[tuple[str, str, tuple[Call, ...]], ...]

_SIGKILL = 9
_LONGEST_WORDS = 8192
_INTO_CONTAINERS = frozenset(("pivot", "move_root", "open_process"))
# What the child says on its pipe, beside OWN: your turn; I failed.
_TURN, FAILED = b"t", b"f"
WAITING = b"w"
"""The child is ready, and waits to be told one of these two:"""
STAY, GO = b"s", b"g"
"""Stay for the start that another process gives, and outlive your maker; or go on at once."""


class StartError(Exception):
    """A step failed: its index, the index of the call in it, the errno and the words."""

    def __init__(self, step: int, call: int, number: int, words: str) -> None:
        super().__init__(words)
        self.step = step
        self.call = call
        self.errno = number
        self.words = words


class Started:
    """A process that a plan made: its pid as seen here, and a pidfd."""

    __slots__ = ("_context", "journal", "pid", "pidfd", "stopped")

    def __init__(
        self,
        pid: int,
        pidfd: int,
        stopped: bool,
        journal: Journal | None,
        context: Context | None = None,
    ) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.journal = journal
        self.stopped = stopped
        """It waits at its first instruction for `release`."""
        self._context = context

    @property
    def waiting(self) -> bool:
        """It is ready, and waits for `stay` or `go`."""
        return self._context is not None

    def stay(self) -> None:
        """Let a waiting process wait on for its start, without its maker from now on."""
        self._tell(STAY)

    def go(self) -> None:
        """Let a waiting process become its program. Raises StartError; it is then dead."""
        context = self._tell(GO)
        if context is None:
            return
        try:
            _await_child(context)
        except StartError:
            if context.pid > 0:
                os.waitpid(context.pid, 0)
            raise
        finally:
            os.close(context.back[0])

    def kill(self) -> None:
        """End a process that was made here, and wait for it."""
        k.pidfd_send_signal(self.pidfd, _SIGKILL)
        os.waitpid(self.pid, 0)

    def _tell(self, order: bytes) -> Context | None:
        context, self._context = self._context, None
        if context is not None:
            os.write(context.go[1], order)
            os.close(context.go[1])
            if order == STAY:
                os.close(context.back[0])
        return context

    def release(self) -> None:
        """Let a stopped program run."""
        if self.stopped:
            self.stopped = False
            k.ptrace(k.PTRACE_DETACH, self.pid)


def execute(
    plan: Wire,
    fds: dict[str, int],
    journal: Journal | None = None,
    about: dict[str, Any] | None = None,
    preserved: tuple[int, ...] = (),
) -> Started:
    """Carry out a plan; returns when the new program runs (its execve succeeded).

    `fds` are descriptors by name ("stdin", "stdout", "stderr"); they stay the caller's. `about` is
    what hooks are told of the container (the state of the OCI runtime specification), and
    `preserved` which descriptors the program gets beside the three. A program of a container is
    executed by way of the small one of operations/stand_in.py, where it can be. With a "trace"
    operation in the plan the program is stopped at its first instruction; with an "await_start"
    one the process waits to be told to go on.
    Raises StartError; the child is then dead and waited for, and every descriptor that the
    start opened is closed. What it made on disk and in cgroups is the journal's to undo.
    """
    load(plan)
    before = _descriptors()
    # A collection in the child would write to every object, and so copy every page.
    collects = gc.isenabled()
    gc.disable()
    context = Context(dict(fds))
    context.about = about or {}
    context.preserved = preserved
    context.last = (len(plan) - 1, len(plan[-1][2]) - 1)
    names = {call[0] for _, _, calls in plan for call in calls}
    # Who looks at the first instruction wants the program's; a label is for the first exec; the
    # profile may end who does more; and whoever may not write to the interpreter's file need not
    # be kept from it.
    last = plan[-1][2][-1]
    special = {"trace", "label"} & names or not _INTO_CONTAINERS & names or last[3:] == (True,)
    if not special and os.access("/proc/self/exe", os.W_OK):
        from ctrt.runtime.operations import stand_in

        context.stand_in = stand_in.machine()
    try:
        context.go = os.pipe()
        context.back = os.pipe()
        context.maker = k.pidfd_open(os.getpid())
        waiting = _outside(context, plan) == WAITING
        if not waiting and "await_start" in names:
            _, status = os.waitpid(context.pid, 0)
            context.pid = 0
            raise StartError(-1, -1, 0, f"the first process was killed (status {status:#x})")
        stopped = "trace" in names
        if stopped:
            _, status = os.waitpid(context.pid, 0)
            if not os.WIFSTOPPED(status):
                context.pid = 0
                raise StartError(-1, -1, 0, "the program ended before its first instruction")
    except BaseException:
        if context.pid > 0:
            k.pidfd_send_signal(context.pidfd, _SIGKILL)
            os.waitpid(context.pid, 0)
        for descriptor in _descriptors() - before:
            _close(descriptor)
        raise
    finally:
        if collects:
            gc.enable()
    keep = {context.pidfd, context.go[1], context.back[0]} if waiting else {context.pidfd}
    # What the child opened while the table was shared is ours to close too.
    for descriptor in _descriptors() - before - keep:
        _close(descriptor)
    return Started(context.pid, context.pidfd, stopped, journal, context if waiting else None)


def _outside(context: Context, plan: Wire) -> bytes:
    """Do the steps outside, and wait where the child has its turn; the child's last message."""
    side = "outside"
    for index, (_, where, calls) in enumerate(plan):
        if where != side:
            if where == "inside":
                # The child has the descriptors, but not yet the names of the new ones.
                os.write(context.go[1], marshal.dumps(context.fds))
            else:
                _await_child(context)
            side = where
        if where == "inside":
            continue
        for number, call in enumerate(calls):
            try:
                answer = OPERATIONS[call[0]](context, *call[1:])
                if call[0] == "clone" and answer == 0:
                    _inside(context, plan[index + 1 :], index + 1)
            except OSError as error:
                raise StartError(index, number, error.errno or 0, _words(error)) from None
    return _await_child(context)


def _await_child(context: Context) -> bytes:
    """Wait for the child to hand over, or to become the new program; raise what it reports.

    Its exec shows as the end of the pipe. While the descriptor table is shared there is no
    such end, so a child that is killed then shows by its pidfd.
    """
    poll = select.poll()
    poll.register(context.back[0], select.POLLIN)
    poll.register(context.pidfd, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if context.back[0] in ready:
            message = os.read(context.back[0], 1)
            if message == BECOMING:
                if told := os.read(context.back[0], 2):
                    number = refusal(told)
                    raise StartError(*context.last, number, os.strerror(number))
                return b""
            if message in (_TURN, WAITING, b""):
                return message
            if message == OWN:
                _close(context.back[1])
                context.back = (context.back[0], -1)
                poll.unregister(context.pidfd)
            else:
                raise StartError(*marshal.loads(os.read(context.back[0], 65536)))
        elif context.pidfd in ready:
            _, status = os.waitpid(context.pid, 0)
            context.pid = 0
            raise StartError(-1, -1, 0, f"the first process was killed (status {status:#x})")


def refusal(told: bytes) -> int:
    """The errno of an exec, from what follows BECOMING on the pipe."""
    return told[1] if len(told) == 2 and told[:1] == REFUSED else 0


def _inside(context: Context, plan: Wire, first: int) -> None:
    """Do the steps inside; never returns. `first` is the index of the plan's first step."""
    index, number = first, 0
    try:
        os.umask(0)
        side = "outside"
        for _, where, calls in plan:
            if where != side:
                if where == "outside":
                    os.write(context.back[1], _TURN)
                else:
                    context.fds.update(marshal.loads(await_maker(context)))
                side = where
            if where == "inside":
                number = 0
                for call in calls:
                    OPERATIONS[call[0]](context, *call[1:])
                    number += 1
            index += 1
        raise StartError(index, 0, 0, "the plan ends without an exec")
    except OSError as error:
        failure = (index, number, error.errno or 0, _words(error))
    except BaseException as error:
        failure = (index, number, 0, f"{type(error).__name__}: {error}")
    if len(failure[3]) > _LONGEST_WORDS:  # it must go through a pipe in one piece
        half = _LONGEST_WORDS // 2
        failure = (*failure[:3], f"{failure[3][:half]}...{failure[3][-half:]}")
    try:
        os.write(context.back[1], FAILED + marshal.dumps(failure))
    finally:
        os._exit(125)  # noqa: SLF001  # as public as in os


def await_maker(context: Context) -> bytes:
    """Inside: the next message of the process outside; the child ends when that one has died.

    The end of the pipe would not tell it: while the table is shared the child holds both ends.
    """
    poll = select.poll()
    poll.register(context.go[0], select.POLLIN)
    poll.register(context.maker, select.POLLIN)
    if context.go[0] in dict(poll.poll()):
        message = os.read(context.go[0], 65536)
        if message:
            return message
    os._exit(125)  # noqa: SLF001  # as public as in os


def _words(error: OSError) -> str:
    if isinstance(error, k.KernelError):
        return str(error)
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)


def _descriptors() -> set[int]:
    """The open descriptors; the one that lists them is among the names, but closed again."""
    return {int(name) for name in os.listdir("/proc/self/fd") if _is_open(int(name))}


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        pass
