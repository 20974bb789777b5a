"""Asking from inside a namespace: what the kernel tells members only.

A thread that joins by setns(2) asks, and ends: the caller stays where it is. Into a user namespace
no thread may go alone, so where the right to join lies in one of the caller's own containers (an
ordinary user's), a process of ours goes there first, as `nsenter -U` would. It runs nothing but
the question, with the files of the caller, and may not be traced from in there.

Source: setns(2), user_namespaces(7), PR_SET_DUMPABLE of prctl(2).
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ctrt.linux import calls, namespaces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_EPERM = 1
_SECONDS = 20
NO_RIGHT = "joining it takes CAP_SYS_ADMIN in the user namespace that owns it"


def ask(
    question: str,
    arguments: tuple[Any, ...],
    doors: dict[str, int],
    *,
    lent: Iterable[int] = (),
) -> Any:
    """The answer to a question from inside of some namespaces that one user namespace owns.

    `question` is "module:function" of this package, `doors` are descriptors by kind, `lent` further
    ones that the question uses. Raises OSError; PermissionError where joining is not allowed.
    """
    try:
        return _in_thread(lambda: _joined(question, arguments, doors))
    except OSError as error:
        refused = error.errno == _EPERM and doors
        owner = namespaces.owner_of(next(iter(doors.values()))) if refused else -1
        if owner < 0:
            raise
    try:
        found = os.fstat(owner)
        if (found.st_dev, found.st_ino) == namespaces.identify("self", "user"):
            raise PermissionError(_EPERM, NO_RIGHT)
        return _in_process(question, arguments, {"user": owner, **doors}, lent)
    finally:
        os.close(owner)


def _joined(question: str, arguments: tuple[Any, ...], doors: dict[str, int]) -> Any:
    module, _, name = question.partition(":")
    function = getattr(import_module(module), name)  # before joining, as files may be private
    for descriptor in doors.values():
        calls.setns(descriptor, 0)
    return function(*arguments)


def _in_thread(work: Callable[[], Any]) -> Any:
    """The answer of a thread that may go where it likes, and ends."""
    import threading

    answer: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(work())
        except BaseException as error:  # noqa: BLE001, RUF100  (it is raised again below)
            failure.append(error)

    thread = threading.Thread(target=run, name="ctrt namespaces")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return answer[0]


_PROGRAM = (
    "import sys; sys.path[:] = eval(sys.argv[1]);"
    " from ctrt.observe._joined import answer; answer(sys.argv[2])"
)


def _in_process(
    question: str, arguments: tuple[Any, ...], doors: dict[str, int], lent: Iterable[int]
) -> Any:
    import pickle
    import subprocess

    asked = pickle.dumps((question, arguments, doors)).hex()
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, repr(sys.path), asked],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            pass_fds=(*doors.values(), *lent), timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise OSError(110, "it did not answer") from None
    if done.returncode or not done.stdout:
        raise OSError(5, "who was sent there did not come back")
    found = pickle.loads(done.stdout)
    if isinstance(found, BaseException):
        raise found
    return found


def answer(asked: str) -> None:
    """The other end of `_in_process`: join, ask, and write the answer, or what went wrong."""
    import pickle

    question, arguments, doors = pickle.loads(bytes.fromhex(asked))
    calls.prctl(calls.PR_SET_DUMPABLE, 0)
    found: Any
    try:
        found = _joined(question, arguments, doors)
    except OSError as error:
        found = OSError(error.errno, error.strerror)  # those of subclasses are other arguments
    except ImportError as error:
        found = error
    with os.fdopen(1, "wb", closefd=False) as out:
        out.write(pickle.dumps(found))
