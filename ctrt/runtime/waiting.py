"""The operations of plans that only the OCI runtime has: a process that is found and waits.

`register()` makes them known to the executor, together with those of cgroups.
"""

from __future__ import annotations

import _signal
import posix as os  # `os` itself takes long to import: linux/ospath.py

from ctrt.linux import ospath
from ctrt.runtime import cgroup_operations, executor
from ctrt.runtime.operations import OPERATIONS, Context
from ctrt.runtime.operations.process import executable

_ENOENT, _EACCES, _EISDIR = 2, 13, 21
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _find_program(
    _context: Context, arguments: tuple[str, ...], environment: tuple[str, ...]
) -> None:
    """Look for the program as exec will, so that a missing one is told before the start.

    The words are runc's: engines look for them to tell "not found" from "not permitted".
    """
    name = arguments[0]
    if "/" in name:
        try:
            mode = os.stat(name).st_mode
        except OSError as error:
            words = str(error.strerror)
            number = error.errno or 0
            raise OSError(number, f'exec: "{name}": stat {name}: {_small(words)}') from None
        if mode & 0o170000 == 0o040000:
            raise OSError(_EISDIR, f'exec: "{name}": is a directory: permission denied')
        if not executable(name):
            raise OSError(_EACCES, f'exec: "{name}": permission denied')
        return
    search = next((e[5:] for e in environment if e.startswith("PATH=")), _DEFAULT_PATH)
    denied = False
    for directory in search.split(":"):
        path = f"{directory or '.'}/{name}"
        if ospath.is_file(path):
            if executable(path):
                return
            denied = True
    if denied:
        raise OSError(_EACCES, f'exec: "{name}": permission denied')
    raise OSError(
        _ENOENT, f'exec: "{name}": executable file not found in $PATH: No such file or directory'
    )


def _small(words: str) -> str:
    return words[:1].lower() + words[1:]


def _await_start(context: Context) -> None:
    """Say that the process is ready, and wait until it is told to become the program."""
    os.write(context.back[1], executor.WAITING)
    if executor.await_maker(context) == executor.GO:
        return
    # From here on nobody looks after this process; it holds what it needs, and no more. The
    # container's filter may be in force, so this is done with calls that every program needs.
    names = ("start", "started", "label")
    kept = {name: context.fds[name] for name in names if name in context.fds}
    others = {context.go[0], context.back[1], context.maker, *context.fds.values()}
    for number in others.difference(kept.values(), context.preserved):
        if number > 2:
            try:
                os.close(number)
            except OSError:
                pass  # one of those that were closed already
    context.fds = kept
    context.back = (-1, context.fds["started"])
    # The first process of a pid namespace has to want to be ended by these: pid_namespaces(7). For
    # the program they are the default again: execve(2).
    for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM):
        try:
            _signal.signal(number, _end)
        except OSError:
            pass
    os.read(context.fds["start"], 1)


def _end(number: int, _frame: object) -> None:
    os._exit(128 + number)  # noqa: SLF001  # as public as in os


def register() -> None:
    """Make these operations known."""
    OPERATIONS.update(
        {
            **cgroup_operations.OPERATIONS,
            "await_start": _await_start,
            "find_program": _find_program,
        }
    )
