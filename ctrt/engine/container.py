"""A running command as its caller holds it, and what it leaves when it has ended."""

from __future__ import annotations

import os
import select

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ctrt.engine.prepared import Prepared
    from ctrt.observe import Snapshot
    from ctrt.runtime.launcher import Running


_EIO = 5
_LOOK_MILLISECONDS = 50
_LONGEST_LOOK_MILLISECONDS = 400
_END_OF_TRANSMISSION = b"\x04"
_TERMINAL_SIZE = (24, 100)


class ContainerError(CtrtError):
    """A command in a container ended with a non-zero status."""

    def __init__(self, what: str, status: int) -> None:
        how = f"status {status}"
        if status > 128:
            from ctrt.linux import signals

            if name := signals.name(status - 128):
                how = f"status {status} (killed by {name})"
        super().__init__(f"{what} ended with {how}", status=status)


class Result:
    """What a finished command left: its exit status and its output as bytes."""

    def __init__(self, what: str, status: int, stdout: bytes, stderr: bytes) -> None:
        self.what = what
        self.status = status
        self.stdout = stdout
        self.stderr = stderr

    def __repr__(self) -> str:
        return f"Result({self.what!r}, status={self.status})"

    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode(errors="replace")

    def check(self) -> Result:
        """Raise ContainerError if the status is not 0; returns itself."""
        if self.status:
            raise ContainerError(self.what, self.status)
        return self


class Found:
    """A running container that any process may have started, as it was written down.

    Of one that is not ours it is what its process shows: `start_time` says which process that is
    (clock ticks since boot, 0 for ours), `chroot` that its root is not that of its mount
    namespace, `keeps_groups` that setgroups(2) is denied there, `notes` what is not inherited.
    """

    __slots__ = (
        "cgroup",
        "chroot",
        "config",
        "keeps_groups",
        "name",
        "notes",
        "pid",
        "start_time",
    )

    def __init__(
        self,
        name: str,
        pid: int,
        config: dict[str, Any],
        cgroup: dict[str, Any],
        *,
        chroot: bool = False,
        keeps_groups: bool = False,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.pid = pid
        self.config = config
        self.cgroup = cgroup
        self.chroot = chroot
        self.keeps_groups = keeps_groups
        self.notes = notes
        self.start_time = 0


class Container:
    """A running command, with its streams on pipes or on a terminal.

    `stdin_identity` is the device and inode of the file that the command has as its standard input.
    """

    def __init__(
        self,
        prepared: Prepared,
        running: Running,
        stdout: int,
        stderr: int,
        stdin: int = -1,
        *,
        terminal: bool = False,
        stdin_identity: tuple[int, int] = (0, 0),
    ) -> None:
        self.name = prepared.name
        self.what = prepared.what
        self.plan = prepared.plan
        self.config = prepared.config
        self.cgroup = prepared.cgroup
        self.stdin_identity = stdin_identity
        self._running = running
        self._stdout = stdout
        self._stderr = stderr
        self._input = _Input(stdin, terminal)

    @property
    def pid(self) -> int:
        """The first process's pid as the host sees it."""
        return self._running.pid

    def snapshot(self) -> Snapshot:
        """What the kernel has made of it, while it runs."""
        from ctrt import observe

        return observe.snapshot(self.pid)

    def signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        self._running.signal(number)

    def release(self) -> None:
        """Let a command run that was started to wait at its first instruction."""
        self._running.release()

    @property
    def has_terminal(self) -> bool:
        """Whether its streams are a terminal."""
        return self._input.terminal

    def hides_input(self) -> bool:
        """Whether the command has switched its terminal's echo off, as for a password."""
        return self._input.terminal and not _echoes(self._stdout)

    def stream(
        self,
        output: Callable[[str, bytes], object],
        stdin: bytes | None = b"",
        *,
        quiet: Callable[[], bytes | None] | None = None,
    ) -> int:
        """Hand the output on as it comes, feed standard input, and return the exit status.

        `output` is called with "stdout" or "stderr" and the bytes. Standard input ends after
        `stdin` (None leaves it open), unless `quiet` is given: that is called when nothing has
        happened for a moment, and gives more input, b"" for none yet or None for the end. After
        the command has ended what is still in the pipes is read, but a process that it left
        behind, and that holds them open, is not waited for.
        """
        poll = select.poll()
        names = {number: name for number, name in self._outputs() if number >= 0}
        for descriptor in names:
            poll.register(descriptor, select.POLLIN)
        poll.register(self._running.fileno(), select.POLLIN)
        feed = self._input
        feed.begin(poll, stdin or b"", ends=quiet is None and stdin is not None)
        status: int | None = None
        pause = _LOOK_MILLISECONDS
        while names or status is None:
            looks = quiet is not None and feed.wants_more and status is None
            ready = poll.poll(0 if status is not None else pause if looks else None)
            if not ready:
                if status is not None:
                    break
                assert quiet is not None
                more = quiet()
                if more is None:
                    feed.end()
                elif more:
                    feed.add(more)
                    pause = _LOOK_MILLISECONDS
                else:
                    pause = min(pause * 2, _LONGEST_LOOK_MILLISECONDS)
                continue
            for descriptor, _ in ready:
                if descriptor in names:
                    data = self._read(descriptor)
                    if data:
                        output(names[descriptor], data)
                        pause = _LOOK_MILLISECONDS
                    elif data is not None:
                        poll.unregister(descriptor)
                        del names[descriptor]
                elif descriptor == feed.descriptor:
                    feed.write()
                else:
                    fileno = self._running.fileno()
                    status = self._running.poll()
                    if status is not None:
                        poll.unregister(fileno)
        assert status is not None
        self.close()
        return status

    def _outputs(self) -> tuple[tuple[int, str], ...]:
        return (self._stdout, "stdout"), (self._stderr, "stderr")

    def _read(self, descriptor: int) -> bytes | None:
        """Output; b"" at its end, None where there was only the echo of what was fed."""
        try:
            data = os.read(descriptor, 65536)
        except OSError as error:
            if error.errno != _EIO:
                raise
            return b""  # nobody has the terminal open any more: pty(7)
        echo = self._input.echo
        if echo and descriptor == self._stdout and data:
            size = min(len(echo), len(data))
            while not data.startswith(echo[:size]):
                size -= 1
            # What is not echoed at once is not echoed at all.
            self._input.echo = echo[size:] if size == len(data) else b""
            return data[size:] or None
        return data

    def collect(self, stdin: bytes = b"") -> Result:
        """Wait for the end and keep all the output."""
        parts: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        status = self.stream(lambda name, data: parts[name].append(data), stdin)
        return Result(self.what, status, b"".join(parts["stdout"]), b"".join(parts["stderr"]))

    def close(self) -> None:
        """Let go of the pipes, and kill the command if it still runs."""
        for descriptor, _ in self._outputs():
            if descriptor >= 0:
                os.close(descriptor)
        self._stdout = self._stderr = -1
        self._input.close()
        self._running.close()


class _Input:
    """Standard input on its way to a command: written as fast as the command takes it."""

    def __init__(self, descriptor: int, terminal: bool) -> None:
        self.descriptor = descriptor
        self.terminal = terminal
        self.ends = True
        self.echo = b""
        """What the terminal will echo of what was written."""
        self._left = memoryview(b"")
        self._poll: select.poll | None = None

    @property
    def wants_more(self) -> bool:
        """Whether all was written and there may be more."""
        return self.descriptor >= 0 and not self._left

    def begin(self, poll: select.poll, data: bytes, *, ends: bool) -> None:
        """Write this as `poll` says that it can be; `ends`: nothing comes after it."""
        self._poll = poll
        self.ends = ends
        if self.descriptor >= 0:
            os.set_blocking(self.descriptor, False)
            if data:
                self.add(data)
            elif ends:
                self.end()

    def add(self, data: bytes) -> None:
        """Write this, too."""
        assert self._poll is not None
        self._left = memoryview(data)
        self._poll.register(self.descriptor, select.POLLOUT)

    def write(self) -> None:
        """Write as much as goes without waiting."""
        assert self._poll is not None
        echoes = self.terminal and _echoes(self.descriptor)
        try:
            size = os.write(self.descriptor, self._left)
        except BlockingIOError:
            return
        except OSError:
            size, self.ends = len(self._left), True  # the command reads no more
        if echoes:
            self.echo += bytes(self._left[:size])
        self._left = self._left[size:]
        if not self._left:
            self._poll.unregister(self.descriptor)
            if self.ends:
                self.end()

    def end(self) -> None:
        """Standard input is at its end."""
        if self.terminal:
            try:
                os.write(self.descriptor, _END_OF_TRANSMISSION)
            except OSError:
                pass
        self.close()

    def close(self) -> None:
        """Let go of it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def set_up_terminal(master: int, pid: int) -> os.stat_result:
    """Make a container's terminal fit for a notebook; what its process has as standard input.

    It leaves line ends as the command writes them, since a notebook is no terminal.
    """
    import termios

    settings = termios.tcgetattr(master)
    settings[1] &= ~termios.ONLCR
    termios.tcsetattr(master, termios.TCSANOW, settings)
    termios.tcsetwinsize(master, _TERMINAL_SIZE)
    try:
        return os.stat(f"/proc/{pid}/fd/0")
    except OSError:
        return os.fstat(master)  # it has ended already


def _echoes(terminal: int) -> bool:
    import termios

    try:
        return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)
    except termios.error:
        return True
