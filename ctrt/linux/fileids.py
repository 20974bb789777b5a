"""Making files as another user, in one thread: setfsuid(2).

Root of the machine cannot make a file in an id-mapped mount, since its own id has no place there.
With the file system ids of somebody who has, it can.
"""

from __future__ import annotations

from ctrt.linux import calls
from ctrt.linux.clib import C_INT, C_UINT, function, library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class FileIds:
    """While it is entered this thread makes files as that user and group.

    What the thread may do to files of others stays as it was: the kernel drops some capabilities
    when the ids change (capabilities(7), CAP_SETFCAP and its kin), and they are taken back.
    """

    def __init__(self, uid: int, gid: int) -> None:
        self._ids = (uid, gid)
        self._before = (0, 0)

    def __enter__(self) -> Self:
        effective, permitted, inheritable = calls.capget()
        self._before = (_set("setfsuid", self._ids[0]), _set("setfsgid", self._ids[1]))
        calls.capset(effective, permitted, inheritable)
        return self

    def __exit__(self, *_: object) -> None:
        _set("setfsgid", self._before[1])
        _set("setfsuid", self._before[0])


def _set(name: str, number: int) -> int:
    """Both functions return what was there before, and tell no errors."""
    before: int = function(library(None), name, C_INT, C_UINT)(number)
    return before
