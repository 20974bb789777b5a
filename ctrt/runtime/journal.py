"""What must be undone, written down before it is done; and who looks after what."""

from __future__ import annotations

import fcntl
import marshal
import os
import time

from ctrt.runtime.operations import remove_below, undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Call = tuple[Any, ...]

_EEXIST = 17
_ABANDONED_SECONDS = 60
_PID_BYTES = 16


class Journal:
    """What must be undone, written down before it is done.

    The file "journal" of a container's directory: the pid of its first process in the first
    bytes, then the calls and what there is to know about the container (JSON), marshalled. It
    is locked for as long as somebody looks after the container: one whose lock can be taken is
    what a crash has left behind.
    """

    __slots__ = ("calls", "directory", "lock")

    def __init__(self, directory: str, calls: tuple[Call, ...], lock: int) -> None:
        self.directory = directory
        self.calls = calls
        self.lock = lock

    @classmethod
    def begin(cls, directory: str, calls: tuple[Call, ...], state: str) -> Journal:
        """Make the directory; FileExistsError if there is one of that name."""
        parent, name = os.path.split(directory)
        fresh = f"{parent}/.new-{name}-{os.getpid()}"
        os.makedirs(fresh, mode=0o711)
        # It is called "journal" only when it is locked: another process that cleans up would
        # else take it for one that a crash has left.
        lock = os.open(f"{fresh}/starting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.write(lock, b" " * _PID_BYTES + marshal.dumps((calls, state), 2))
        os.rename(f"{fresh}/starting", f"{fresh}/journal")
        try:
            # From this rename on it is a container.
            os.rename(fresh, directory)
        except OSError:
            os.close(lock)
            remove_below(fresh)
            raise FileExistsError(_EEXIST, os.strerror(_EEXIST), directory) from None
        return cls(directory, calls, lock)

    @classmethod
    def left(cls, directory: str) -> Journal | None:
        """The journal that a crash left in a directory; None if there is nothing to clean."""
        path = f"{directory}/journal"
        lock = -1
        try:
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino != os.fstat(lock).st_ino:
                raise FileNotFoundError
        except BlockingIOError:
            os.close(lock)
            return None  # somebody looks after it
        except FileNotFoundError:
            if lock >= 0:
                os.close(lock)
            # It is just being made or taken away; after a minute nobody does either any more.
            try:
                if time.time() - os.stat(directory).st_mtime < _ABANDONED_SECONDS:
                    return None
            except FileNotFoundError:
                return None
            lock = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        calls: tuple[Call, ...] = (("remove_tree", directory),)
        if not os.path.basename(directory).startswith(".new-"):
            try:
                calls = read_journal(lock)[1]
            except (OSError, ValueError, EOFError, TypeError):
                pass  # it was being taken away: the directory is all there is
        return cls(directory, calls, lock)

    def note_pid(self, pid: int) -> None:
        """Write down who the container's first process is."""
        os.pwrite(self.lock, str(pid).encode(), 0)

    def end(self) -> None:
        """Undo all, last the directory itself; raises the first OSError after all was tried."""
        try:
            undo(self.calls)
        finally:
            os.close(self.lock)


def read_journal(descriptor: int) -> tuple[int, tuple[Call, ...], str]:
    """(pid, calls, state) of an open journal; the pid is 0 before there is one.

    Raises OSError, ValueError, EOFError or TypeError where it is not whole.
    """
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, size, 0)
    calls, state = marshal.loads(data[_PID_BYTES:])
    return int(data[:_PID_BYTES].strip() or b"0"), calls, state
