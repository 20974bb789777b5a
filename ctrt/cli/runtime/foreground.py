"""`run`, and the wait for a process in the foreground: its signals and its terminal."""

from __future__ import annotations

import _signal
import posix as os  # `os` itself takes long to import: linux/ospath.py
import select

from ctrt.linux import calls as k
from ctrt.linux import ospath
from ctrt.runtime import existing, failure, starting
from ctrt.runtime.executor import Started, StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.runtime.checkpoint import Wishes
    from ctrt.runtime.readiness import Listener

_SIGWINCH = 28
# What tells of our own faults, children and job control, and what cannot be caught.
_OWN_SIGNALS = (4, 5, 6, 7, 8, 9, 11, 13, 17, 19, 20, 21, 22, 23, 31, 32, 33)
_SIGNALS = tuple(number for number in range(1, 65) if number not in _OWN_SIGNALS)
_STDIO = (0, 1, 2)


def run(
    root: str, identifier: str, bundle: str, made: starting.Options, *, keep: bool = False
) -> int:
    """Create a container, start it, and unless it is detached wait for its end and delete it."""
    awake = -1 if made.detach else listen()
    from ctrt.runtime import creating

    record, process = creating.create(root, identifier, bundle, made, stdio=_STDIO)
    ready: Listener | None = None
    try:
        if ospath.variable("NOTIFY_SOCKET"):
            from ctrt.runtime import readiness

            ready = readiness.listen(record)
        try:
            process.go()
        except StartError as error:
            existing.forget(record)
            raise starting.start_error(made.plan, error) from None
        existing.after_start(record)
        # Others may stop, pause or look at it while we wait.
        record.release()
        if made.detach:
            if ready:
                ready.wait(process.pidfd, process.pid)
            return 0
        master = receive(made)
        status = attend(process, awake, master, ready=ready)
    finally:
        record.release()
    if not keep:
        existing.delete(root, identifier, force=True)
    return status


def receive(made: starting.Options) -> int:
    """The master of the terminal that is this command's to look after; -1 where there is none."""
    if made.console < 0:
        return -1
    from ctrt.runtime import console

    return console.receive(made.console)


def restore(root: str, identifier: str, bundle: str, made: starting.Options, wishes: Wishes) -> int:
    """Restore a container, and unless it is detached wait for its end and delete it."""
    from ctrt.runtime import checkpoint

    awake = -1 if made.detach else listen()
    record, process = checkpoint.restore(root, identifier, bundle, made, wishes, stdio=_STDIO)
    record.release()
    if made.detach:
        return 0
    status = attend(process, awake, receive(made))
    existing.delete(root, identifier, force=True)
    return status


def listen() -> int:
    """From now on signals are kept for `attend`: the descriptor that they are read from.

    This comes before the process is made, which may be signalled as soon as it runs. It has the
    default dispositions again when it becomes its program: execve(2).
    """
    awake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    _signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in _SIGNALS:
        _signal.signal(number, _noted)
    return awake


def attend(
    process: Started,
    awake: int,
    master: int = -1,
    *,
    keep_input: bool = True,
    ready: Listener | None = None,
) -> int:
    """Wait for the end of a process that was made here: its exit status as the shell has it.

    Signals that come to `awake` are passed on. `master` is the process's terminal's: what is typed
    here goes there (with `keep_input`), what it writes comes here. What comes to `ready` is passed
    on, until it says that the container is.
    """
    terminal = _Terminal(master) if master >= 0 else None
    poll = select.poll()
    poll.register(process.pidfd, select.POLLIN)
    poll.register(awake, select.POLLIN)
    if ready:
        poll.register(ready, select.POLLIN)
    try:
        if terminal:
            terminal.begin(poll, keep_input=keep_input)
        while True:
            found = dict(poll.poll())
            if awake in found:
                for number in os.read(awake, 512):
                    if number == _SIGWINCH and terminal:
                        terminal.resize()
                        continue
                    try:
                        k.pidfd_send_signal(process.pidfd, number)
                    except ProcessLookupError:
                        pass
            # The one to look after is this command, which ends as the container does.
            if ready and ready.fileno() in found and ready.pass_on(os.getpid()):
                poll.unregister(ready)
                ready = None
            if terminal:
                terminal.pass_on(poll, found)
            if process.pidfd in found:
                _, status = os.waitpid(process.pid, 0)
                if terminal:
                    terminal.drain()
                return failure.exit_status(status)
    finally:
        if terminal:
            terminal.end()


def _noted(_number: int, _frame: object) -> None:
    """The wake-up pipe has the number already."""


class _Terminal:
    """Our standard input and output, joined to the master of a process's terminal."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._typed = b""
        self._before: list[Any] | None = None

    def begin(self, poll: Any, *, keep_input: bool) -> None:
        """Join them; a terminal here passes every key on as it is."""
        os.set_blocking(self._master, False)
        poll.register(self._master, select.POLLIN)
        self.resize()
        if not keep_input:
            return
        poll.register(0, select.POLLIN)
        if not os.isatty(0):
            return
        import termios

        self._before = termios.tcgetattr(0)
        raw = termios.tcgetattr(0)
        raw[0] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
            | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        raw[1] &= ~termios.OPOST
        raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(0, termios.TCSANOW, raw)

    def resize(self) -> None:
        """Give the process's terminal the size of ours: of a stream, or the controlling one."""
        from ctrt.runtime import console

        for number in range(3):
            if os.isatty(number):
                console.set_size(self._master, console.size_of(number))
                return
        try:
            terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return  # nobody looks
        try:
            console.set_size(self._master, console.size_of(terminal))
        except OSError:
            pass
        finally:
            os.close(terminal)

    def pass_on(self, poll: Any, ready: dict[int, int]) -> None:
        """Pass on what there is in both directions."""
        if self._master in ready:
            if ready[self._master] & select.POLLOUT:
                self._write(poll)
            if ready[self._master] & ~select.POLLOUT and not self._show():
                poll.unregister(self._master)
                self._end_input(poll)
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                self._end_input(poll)
            elif self._typed or data:
                self._typed += data
                self._write(poll)

    def _end_input(self, poll: Any) -> None:
        try:
            poll.unregister(0)
        except KeyError:
            pass

    def _write(self, poll: Any) -> None:
        try:
            self._typed = self._typed[os.write(self._master, self._typed) :]
        except BlockingIOError:
            pass
        except OSError:
            self._typed = b""
        try:
            wanted = select.POLLIN | (select.POLLOUT if self._typed else 0)
            poll.modify(self._master, wanted)
        except OSError:
            pass  # nobody has the other side any more

    def _show(self) -> bool:
        """Show what the process wrote; False when nobody has its terminal open any more."""
        try:
            data = os.read(self._master, 65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]
        return bool(data)

    def drain(self) -> None:
        """Show what is still there when the process has ended."""
        poll = select.poll()
        poll.register(self._master, select.POLLIN)
        while poll.poll(0) and self._show():
            pass

    def end(self) -> None:
        """Give the terminal back as it was."""
        if self._before is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._before)
        os.close(self._master)
