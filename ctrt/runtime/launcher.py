"""The client's side of the launcher: one small process for each client, started when needed.

A notebook kernel has threads and hundreds of megabytes; forking it is slow and unsafe, and a
thread of it cannot enter a user namespace. So it asks a helper (`helper.py`), which executes
the same plans with the same executor.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading

from ctrt.errors import CtrtError
from ctrt.runtime import helper, stepping
from ctrt.runtime.failure import exit_status, step_error
from ctrt.runtime.plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_EEXIST = 17
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from ctrt.runtime.helper import main; main()"
)


class Running:
    """A process that was started through the launcher, as its client sees it.

    `fileno()` becomes readable when there is news; closing it kills a process that was not
    started with `detach`.
    """

    def __init__(self, control: socket.socket, plan: Plan) -> None:
        self._control = control
        self._plan = plan
        self.pid = 0
        self.stopped = False
        self.status: int | None = None
        """The exit status as the shell has it (128 + n for signal n); None while it runs."""
        self.left = ""
        """What could not be cleaned up, in words; empty if all was."""
        self._keeper: Launcher | None = None

    def fileno(self) -> int:
        """The descriptor to wait on, together with others."""
        return self._control.fileno()

    def _begin(self, directory: str | None, step: Callable[[int], bool] | None) -> None:
        message, _ = helper.receive(self._control)
        called_off = False
        while message is not None and message[0] == "pause":
            called_off = step is None or not step(message[1])
            os.write(self._control.fileno(), b"-" if called_off else stepping.GO)
            message, _ = helper.receive(self._control)
        if message is None:
            raise CtrtError("the launcher's process ended; run the cell again to start a new one")
        if message[0] == "failed":
            self._control.close()
            _, index, call, errno, words, _ = message
            if called_off:
                raise CtrtError("the start was called off; nothing is left of it", status=130)
            if index < 0 and errno == _EEXIST:
                name = os.path.basename(directory or "")
                raise CtrtError(f"there is a container {name!r} already; see: ctrt ps")
            raise step_error(self._plan, index, call, errno, words)
        _, self.pid, self.stopped = message

    def release(self) -> None:
        """Let a program that waits at its first instruction run."""
        if self.stopped:
            self.stopped = False
            helper.send(self._control, ("release",))

    def signal(self, number: int) -> None:
        """Send a signal to the process and its process group."""
        if self.status is None:
            helper.send(self._control, ("signal", int(number)))

    def poll(self, timeout: float | None = 0.0) -> int | None:
        """The exit status if the process ends within `timeout` seconds, else None."""
        if self.status is None and select.select([self._control], [], [], timeout)[0]:
            message, _ = helper.receive(self._control)
            if message is None:
                self.status = 255
                self.left = "the launcher's process ended"
            else:
                _, status, self.left = message
                self.status = exit_status(status)
            self.close()
        return self.status

    def wait(self) -> int:
        """Wait for the end; the exit status."""
        while self.poll(None) is None:
            pass
        assert self.status is not None
        return self.status

    def close(self) -> None:
        """Let go of the process: it is killed unless it was started with `detach`."""
        self._control.close()
        if self._keeper is not None:
            self._keeper.close()


class Launcher:
    """A helper process, started on first use and again if it has died.

    Before it serves, it cleans up what crashed processes left below `containers`.
    """

    def __init__(self, containers: str = "") -> None:
        self._containers = containers
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._pid = 0
        self._owner = 0

    def start(
        self,
        plan: Plan,
        fds: tuple[int, ...],
        *,
        directory: str | None = None,
        state: str = "",
        detach: str = "",
        step: Callable[[int], bool] | None = None,
    ) -> Running:
        """Carry out a plan in the helper: returns when its program runs.

        `fds` are standard input, output and error, and the descriptor over which a terminal's
        master is sent where the plan makes one; `directory` is the journal's, which is
        removed with all that the plan made when the program ends. With `detach` the program
        outlives this process, and its exit status is written to that file. With `step` the plan is
        one of `stepping.stepped`: it is called with the index of each step before that is done, and
        says whether to do it; this launcher is then for this process alone. Raises StepError.
        """
        ours, theirs = socket.socketpair()
        running = Running(ours, plan)
        message = ("start", plan.wire(), plan.undo(), directory, state, detach)
        try:
            with self._lock:
                helper.send(self._connected(), message, (theirs.fileno(), *fds))
        finally:
            theirs.close()
        try:
            running._begin(directory, step)  # noqa: SLF001
        except BaseException:
            ours.close()
            if step is not None:
                self.close()
            raise
        if step is not None:
            running._keeper = self  # noqa: SLF001
        return running

    def recover(self, containers: str) -> list[str]:
        """Clean up below a directory what crashed processes left; what could not be, in words.

        The helper does it: undoing can need a user namespace, and this process may have threads.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, self._lock:
                helper.send(self._connected(), ("recover", containers), (theirs.fileno(),))
            message, _ = helper.receive(ours)
        return list(message[1]) if message else []

    def child(self) -> int:
        """The pid of the process that is just being made; 0 before there is one."""
        try:
            with open(f"/proc/{self._pid}/task/{self._pid}/children") as file:
                return int((file.read().split() or ["0"])[-1])
        except OSError:
            return 0

    def _connected(self) -> socket.socket:
        """The socket to a living helper of this very process."""
        if self._socket is not None and self._owner == os.getpid():
            if not select.select([self._socket], [], [], 0)[0]:
                return self._socket
            # The helper never speaks on this socket: readable means that it is gone.
            self.close()
        ours, theirs = socket.socketpair()
        interpreter = sys.executable or "/usr/bin/python3"
        environment = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        try:
            self._pid = os.posix_spawn(
                interpreter,
                [interpreter, "-I", "-S", "-B", "-c", _PROGRAM, _PACKAGE_PARENT, self._containers],
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)],
            )
        finally:
            theirs.close()
        self._socket, self._owner = ours, os.getpid()
        return ours

    def close(self, *, wait: bool = True) -> None:
        """Let the helper end; what is not detached is killed and cleaned up first.

        Without `wait` that goes on by itself, as it must where containers are detached.
        """
        if self._socket is not None:
            if self._owner == os.getpid():
                # A forked child of this process may hold a copy, and close() would not be told.
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None
            if wait and self._owner == os.getpid():
                try:
                    os.waitpid(self._pid, 0)
                except ChildProcessError:
                    pass
