"""A running command as its caller holds it, and what it leaves when it has ended."""

from __future__ import annotations

import os
import select

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ctrt.engine import Prepared
    from ctrt.observe import Snapshot
    from ctrt.runtime.launcher import Running


class ContainerError(CtrtError):
    """A command in a container ended with a non-zero status."""

    def __init__(self, what: str, status: int) -> None:
        how = f"status {status}"
        if status > 128:
            import signal

            try:
                how = f"status {status} (killed by {signal.Signals(status - 128).name})"
            except ValueError:
                pass
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


class Container:
    """A running command, with its output on pipes."""

    def __init__(
        self, prepared: Prepared, running: Running, stdout: int, stderr: int, stdin: int = -1
    ) -> None:
        self.name = prepared.name
        self.what = prepared.what
        self.plan = prepared.plan
        self.config = prepared.config
        self._running = running
        self._stdout = stdout
        self._stderr = stderr
        self._stdin = stdin

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

    def stream(self, output: Callable[[str, bytes], object], stdin: bytes = b"") -> int:
        """Hand the output on as it comes, feed standard input, and return the exit status.

        `output` is called with "stdout" or "stderr" and the bytes. After the command has ended
        what is still in the pipes is read, but a process that it left behind, and that holds
        them open, is not waited for.
        """
        poll = select.poll()
        names = {self._stdout: "stdout", self._stderr: "stderr"}
        for descriptor in names:
            poll.register(descriptor, select.POLLIN)
        poll.register(self._running.fileno(), select.POLLIN)
        waiting = memoryview(stdin)
        if self._stdin >= 0:
            os.set_blocking(self._stdin, False)
            poll.register(self._stdin, select.POLLOUT)
        status: int | None = None
        while names or status is None:
            ready = poll.poll(0 if status is not None else None)
            if not ready:
                break
            for descriptor, _ in ready:
                if descriptor in names:
                    data = os.read(descriptor, 65536)
                    if data:
                        output(names[descriptor], data)
                    else:
                        poll.unregister(descriptor)
                        del names[descriptor]
                elif descriptor == self._stdin:
                    waiting = self._feed(poll, waiting)
                else:
                    fileno = self._running.fileno()
                    status = self._running.poll()
                    if status is not None:
                        poll.unregister(fileno)
        assert status is not None
        self.close()
        return status

    def _feed(self, poll: Any, waiting: memoryview) -> memoryview:
        try:
            waiting = waiting[os.write(self._stdin, waiting) :] if waiting else waiting
        except BlockingIOError:
            return waiting
        except BrokenPipeError:
            waiting = waiting[:0]
        if not waiting:
            poll.unregister(self._stdin)
            os.close(self._stdin)
            self._stdin = -1
        return waiting

    def collect(self, stdin: bytes = b"") -> Result:
        """Wait for the end and keep all the output."""
        parts: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        status = self.stream(lambda name, data: parts[name].append(data), stdin)
        return Result(self.what, status, b"".join(parts["stdout"]), b"".join(parts["stderr"]))

    def close(self) -> None:
        """Let go of the pipes, and kill the command if it still runs."""
        for descriptor in (self._stdout, self._stderr, self._stdin):
            if descriptor >= 0:
                os.close(descriptor)
        self._stdout = self._stderr = self._stdin = -1
        self._running.close()
