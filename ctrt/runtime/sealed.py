"""The same command once more, run by a copy of its interpreter that nobody can write to.

Until its execve(2) a container's process is a copy of ours. A program that begins with
`#!/proc/self/exe` would be run by the host's interpreter, and could write to that file once it is
not in use (CVE-2019-5736). `operations/stand_in.py` keeps it away for the price of one more execve;
but a security label counts for the next execve alone, some seccomp profiles end who makes the calls
that it needs, and not every machine has one. There the whole command begins anew, before anything
is made, with an interpreter in a sealed memfd: that costs one start of Python.

Source: memfd_create(2), F_ADD_SEALS in fcntl(2), execveat(2), proc_pid_exe(5).
"""

from __future__ import annotations

import fcntl
import os
import sys

_MFD_EXEC = 0x10
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_SEAL_WRITE = 0x8
_SEALS = 0x1 | 0x2 | 0x4 | _SEAL_WRITE  # no more seals, no shrinking, growing and writing
_SELF = "/proc/self/exe"


def again(directory: str, preserved: tuple[int, ...]) -> None:
    """Begin this command anew, in `directory`, unless its interpreter is sealed already.

    `preserved` are the descriptors that it needs beside the three. Raises OSError where the kernel
    executes no file in memory (vm.memfd_noexec).
    """
    own = os.open(_SELF, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _is_sealed(own):
            return
        copy = _copied(own)
    finally:
        os.close(own)
    try:
        for number in preserved:
            os.set_inheritable(number, True)
        os.chdir(directory)
        os.execve(copy, [sys.executable, *sys.orig_argv[1:]], os.environ)
    finally:
        os.close(copy)


def _is_sealed(file: int) -> bool:
    try:
        return bool(fcntl.fcntl(file, _F_GET_SEALS) & _SEAL_WRITE)
    except OSError:
        return False  # not a memfd


def _copied(file: int) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        copy = os.memfd_create("interpreter", flags | _MFD_EXEC)
    except OSError:
        copy = os.memfd_create("interpreter", flags)  # before Linux 6.3
    try:
        while os.sendfile(copy, file, None, 1 << 30):
            pass
        fcntl.fcntl(copy, _F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(copy)
        raise
    return copy
