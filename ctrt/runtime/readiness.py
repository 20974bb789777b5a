"""The messages by which a service tells its manager that it is ready: sd_notify(3).

A manager (systemd, or an engine) that started us gives a socket's name in NOTIFY_SOCKET. The
container cannot reach that one, so it gets one of its own, in a directory of its record that is
mounted at /run/notify. Whoever starts the container waits there for "READY=1", passes it on, and
tells the manager which process is the one to look after. That is what runc does.
"""

from __future__ import annotations

import _socket
import os
import select

from ctrt.runtime.existing import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.runtime.records import Record

_NAME = "NOTIFY_SOCKET"
_INSIDE = "/run/notify"
_FILE = "notify.sock"
_LARGEST = 1 << 16
_BARRIER_SECONDS = 30


def give(config: dict[str, Any], process: dict[str, Any], record: str) -> str:
    """Give a configuration the socket of its own; the directory that is to be made for it.

    "" where the caller has no socket. `record` is the directory of the container's record.
    """
    if not os.environ.get(_NAME):
        return ""
    place = f"{record}/notify"
    options = ["bind", "nosuid", "noexec", "nodev", "ro"]
    mount = {"destination": _INSIDE, "source": place, "options": options}
    config["mounts"] = [*(config.get("mounts") or ()), mount]
    process["env"] = [*(process.get("env") or ()), f"{_NAME}={_INSIDE}/{_FILE}"]
    return place


class Listener:
    """The container's socket, and the manager's. Close it when it is not needed any more."""

    def __init__(self, directory: str, manager: str) -> None:
        address = f"\0{manager[1:]}" if manager.startswith("@") else manager
        self._manager = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        self._own = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        try:
            self._manager.connect(address)
            # By descriptor: a socket's name is short, and a record's may be long.
            place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                try:
                    os.unlink(_FILE, dir_fd=place)
                except FileNotFoundError:
                    pass
                self._own.bind(f"/proc/self/fd/{place}/{_FILE}")
                os.chmod(f"/proc/self/fd/{place}/{_FILE}", 0o777)
            finally:
                os.close(place)
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        """The descriptor that the container's messages come to."""
        return self._own.fileno()

    def close(self) -> None:
        """Hear no more."""
        self._own.close()
        self._manager.close()

    def pass_on(self, pid: int) -> bool:
        """Take a message; whether it says "ready", which is passed on with a pid to look after."""
        ready = [
            line for line in self._own.recv(_LARGEST).split(b"\n") if line.startswith(b"READY=")
        ]
        if not ready:
            return False
        try:
            self._manager.send(ready[0] + b"\n")
            self._manager.send(b"MAINPID=%d\n" % pid)
        except OSError:
            pass  # the manager has gone, which is nothing that the container could help
        return True

    def wait(self, pidfd: int, pid: int) -> None:
        """Wait until the container is ready and the manager has heard of it, or it has ended."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        while True:
            found = dict(poll.poll())
            if self.fileno() in found and self.pass_on(pid):
                self._barrier()
                return
            if pidfd in found:
                return

    def _barrier(self) -> None:
        """Wait until the manager has read all: it looks up who sent it, and we are about to end.

        It closes the descriptor that comes with a barrier: sd_notify_barrier(3).
        """
        heard, theirs = os.pipe2(os.O_CLOEXEC)
        rights = theirs.to_bytes(4, "little")
        try:
            try:
                self._manager.sendmsg(
                    [b"BARRIER=1"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)]
                )
            finally:
                os.close(theirs)
            select.select([heard], [], [], _BARRIER_SECONDS)
        except OSError:
            pass  # the manager has gone
        finally:
            os.close(heard)


def listen(record: Record) -> Listener | None:
    """The socket of a container that was made with one, if our caller has one, too.

    A manager that cannot be reached is a warning: nobody waits to hear from the container then.
    """
    manager, directory = os.environ.get(_NAME), record.path("notify")
    if not manager or not os.path.isdir(directory):
        return None
    try:
        return Listener(directory, manager)
    except OSError as error:
        warn(f"{_NAME}: {manager}: {error.strerror}; nobody is told when the container is ready")
        return None
