"""The launcher's process: takes plans over a socket and looks after what they start.

`main()` runs in a bare interpreter (`python -I -S`), with the socket as descriptor 0. It stays
small and single-threaded, so that cloning costs little and is safe.
Each start comes with a socket of its own, on which the start is answered, signals are asked
for and the end is told; when the client lets go of it, the container is killed. When the
client itself is gone, the helper cleans up and ends.

A message is four bytes of length and a marshalled tuple.
"""

from __future__ import annotations

import _signal
import _socket
import marshal
import os
import select
import sys

from ctrt.linux import calls as k
from ctrt.runtime import executor, state
from ctrt.runtime.journal import Journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SIGKILL = 9
_STREAMS = ("stdin", "stdout", "stderr", "console")


class _Container:
    """A started process, and the socket of the client that asked for it."""

    def __init__(self, started: executor.Started, control: _socket.socket, detach: str) -> None:
        self.started = started
        self.control: _socket.socket | None = control
        self.detach = detach
        """The file that its exit status is written to, if it outlives the client."""


class Helper:
    """Serves one client until both it and all detached containers are gone."""

    def __init__(self, client: _socket.socket) -> None:
        self.client: _socket.socket | None = client
        self.poll = select.poll()
        self.poll.register(client.fileno(), select.POLLIN)
        self.by_control: dict[int, _Container] = {}
        self.by_pidfd: dict[int, _Container] = {}

    def serve(self) -> None:
        """Serve until there is nothing left to do."""
        while self.client is not None or self.by_pidfd:
            for descriptor, _ in self.poll.poll():
                if self.client is not None and descriptor == self.client.fileno():
                    self._request(self.client)
                elif descriptor in self.by_pidfd:
                    self._ended(self.by_pidfd[descriptor])
                elif descriptor in self.by_control:
                    self._order(self.by_control[descriptor])

    def _request(self, client: _socket.socket) -> None:
        message, descriptors = receive(client)
        if message is None:
            self.poll.unregister(client.fileno())
            client.close()
            self.client = None
            # A client that waits for this end may still hold the sockets of its containers.
            for container in self.by_pidfd.values():
                if not container.detach:
                    self._release(container)
                    self._signal(container, _SIGKILL)
            return
        control = _socket.socket(fileno=descriptors[0])
        if message[0] == "recover":
            send(control, ("recovered", tuple(state.recover(message[1]))))
            control.close()
            return
        _, wire, undo, directory, about, detach = message
        fds = dict(zip(_STREAMS, descriptors[1:], strict=False))
        journal = None
        try:
            try:
                if directory:
                    journal = Journal.begin(directory, undo, about)
                # A plan that pauses asks its client by the socket of this start.
                named = {**fds, "steps": control.fileno()}
                started = executor.execute(wire, named, journal)
            finally:
                for descriptor in fds.values():
                    os.close(descriptor)
            if journal:
                journal.note_pid(started.pid)
        except (executor.StartError, OSError) as error:
            step, call = getattr(error, "step", -1), getattr(error, "call", -1)
            left = _finish(journal)
            send(control, ("failed", step, call, error.errno or 0, str(error), left))
            control.close()
            return
        if detach:
            # Whoever reads what the client writes must not wait for us.
            os.dup2(0, 2)
        container = _Container(started, control, detach)
        self.by_control[control.fileno()] = container
        self.by_pidfd[started.pidfd] = container
        self.poll.register(control.fileno(), select.POLLIN)
        if not started.stopped:
            self.poll.register(started.pidfd, select.POLLIN)
        send(control, ("started", started.pid, started.stopped))

    def _order(self, container: _Container) -> None:
        control = container.control
        assert control is not None
        message, _ = receive(control)
        if message is None:
            self.poll.unregister(control.fileno())
            del self.by_control[control.fileno()]
            control.close()
            container.control = None
            self._release(container)
            if not container.detach:
                self._signal(container, _SIGKILL)
        elif message[0] == "signal":
            self._signal(container, message[1])
        elif message[0] == "release":
            self._release(container)

    def _release(self, container: _Container) -> None:
        if container.started.stopped:
            container.started.release()
            self.poll.register(container.started.pidfd, select.POLLIN)

    def _signal(self, container: _Container, number: int) -> None:
        """Signal the program and its process group, as a terminal would.

        The pid cannot be another's: it is not waited for before it leaves these tables.
        """
        try:
            os.kill(-container.started.pid, number)
        except OSError:
            try:
                k.pidfd_send_signal(container.started.pidfd, number)
            except OSError:
                pass

    def _ended(self, container: _Container) -> None:
        started = container.started
        _, status = os.waitpid(started.pid, 0)
        self.poll.unregister(started.pidfd)
        del self.by_pidfd[started.pidfd]
        os.close(started.pidfd)
        if container.detach:
            _tell(container.detach, status)
        left = _finish(started.journal)
        if container.control is not None:
            self.poll.unregister(container.control.fileno())
            del self.by_control[container.control.fileno()]
            send(container.control, ("exited", status, left))
            container.control.close()


def _tell(path: str, status: int) -> None:
    """Write a wait(2) status down as an exit status; somebody may have removed the place."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    code = os.waitstatus_to_exitcode(status)
    os.write(descriptor, str(code if code >= 0 else 128 - code).encode())
    os.close(descriptor)


def _finish(journal: Journal | None) -> str:
    """End a journal; what could not be undone, in words."""
    if journal is None:
        return ""
    try:
        journal.end()
    except OSError as error:
        return str(error)
    return ""


def send(
    channel: _socket.socket, message: tuple[Any, ...], descriptors: tuple[int, ...] = ()
) -> None:
    """Send a message with descriptors; a peer that is gone is no error."""
    body = marshal.dumps(message, 2)
    data = len(body).to_bytes(4, "little") + body
    rights = []
    if descriptors:
        packed = b"".join(number.to_bytes(4, "little") for number in descriptors)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)]
    try:
        sent = channel.sendmsg([data], rights, _socket.MSG_NOSIGNAL)
        while sent < len(data):
            sent += channel.send(data[sent:], _socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        pass


def receive(channel: _socket.socket) -> tuple[Any, list[int]]:
    """Receive a message and its descriptors; (None, []) when the peer is gone."""
    space = _socket.CMSG_SPACE(4 * (1 + len(_STREAMS)))
    try:
        data, ancillary, _, _ = channel.recvmsg(4, space, _socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return None, []
    descriptors = [
        int.from_bytes(packed[at : at + 4], "little")
        for level, kind, packed in ancillary
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS
        for at in range(0, len(packed) - len(packed) % 4, 4)
    ]
    data += _exactly(channel, 4 - len(data)) if data else b""
    if len(data) < 4:
        return None, descriptors
    body = _exactly(channel, int.from_bytes(data, "little"))
    return (marshal.loads(body), descriptors) if body else (None, descriptors)


def _exactly(channel: _socket.socket, size: int) -> bytes:
    parts = []
    while size > 0:
        part = channel.recv(min(size, 1 << 20))
        if not part:
            return b""
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def main() -> None:
    """Clean up below the directory that the last argument names, and serve descriptor 0."""
    os.dup2(0, 3)
    client = _socket.socket(fileno=3)
    os.set_inheritable(3, False)
    os.dup2(os.open("/dev/null", os.O_RDWR), 0)
    os.dup2(0, 1)
    k.close_range(4, 0xFFFFFFFF, 0)
    # A signal to the client's process group is the client's to forward.
    os.setsid()
    for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(number, _signal.SIG_IGN)
    if sys.argv[-1]:
        state.recover(sys.argv[-1])
    Helper(client).serve()
