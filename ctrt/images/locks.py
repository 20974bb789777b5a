"""Locks on the store's files, and directories that go with the process that made them."""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    Spawn = Callable[[list[str]], int]


class Temporary:
    """A private directory under ROOT/tmp; a shared flock on it says that its owner lives.

    Leaving the `with` block removes it. The lock goes with the process, however it dies.
    """

    __slots__ = ("_fd", "_spawn", "path")

    def __init__(self, parent: str, spawn: Spawn | None = None) -> None:
        self._spawn = spawn
        while True:
            self.path = os.path.join(parent, os.urandom(8).hex())
            os.mkdir(self.path, 0o700)
            # A cleaner may come between mkdir and open, or between open and flock: then we
            # take another name.
            try:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if os.fstat(self._fd).st_nlink:
                    return
            except BlockingIOError:
                pass
            os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            remove(self.path, self._spawn)
        finally:
            os.close(self._fd)


class Lock:
    """flock(2) on a file of ROOT/locks for the length of a `with` block."""

    __slots__ = ("_fd", "_mode", "_path", "taken")

    def __init__(self, path: str, mode: int) -> None:
        self._path = path
        self._mode = mode
        self._fd = -1
        self.taken = False

    def __enter__(self) -> Self:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, self._mode)
            self.taken = True
        except BlockingIOError:
            pass
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)


def remove(path: str, spawn: Spawn | None) -> None:
    """Remove a tree, by `spawn` when some of it belongs to ids that only are mapped there.

    What can be removed by neither stays in ROOT/tmp until a call with `spawn`, and so does
    what a program that we lost sight of still writes to.
    """
    from ctrt.images._tree import remove_tree

    try:
        remove_tree(path)
    except PermissionError:
        if spawn is not None:
            from ctrt.images.layers import program

            spawn(program("remove", path))
    except OSError:
        pass
