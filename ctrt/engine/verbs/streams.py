"""Archives through pipes: where the name of a file, or none, means a stream."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import contextmanager

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, Any

    from ctrt.images.store import Store

_STDIN = ("", "-", "/dev/stdin")
_STDOUT = ("", "-", "/dev/stdout")


def _is_shown(stream: Any) -> bool:
    """Whether a stream is read or written by a person, or by a notebook, and takes no archive."""
    return not hasattr(stream, "buffer") or stream.isatty()


def _is_special(path: str) -> bool:
    """Whether a path is a pipe or a device: what is written to, and must not be replaced."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


@contextmanager
def written(name: str | None, otherwise: str) -> Iterator[IO[bytes] | None]:
    """The stream that a name stands for, or None where it is a file that is to be made.

    None, "-" and /dev/stdout are the standard output, but not where a person would see the
    bytes: then CtrtError says `otherwise`.
    """
    if (name or "") in _STDOUT:
        if _is_shown(sys.stdout):
            raise CtrtError(otherwise)
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    elif _is_special(str(name)):
        with open(str(name), "wb") as file:
            yield file
    else:
        yield None


@contextmanager
def read(store: Store, name: str | None, otherwise: str) -> Iterator[str]:
    """The path of the file that a name stands for: of a stream, a copy that goes afterwards.

    Archives are looked through more than once, which a pipe is not made for. An error about
    the copy is told of what it is a copy of.
    """
    name = name or ""
    if name not in _STDIN and not _is_special(name):
        yield name
        return
    if name in _STDIN and _is_shown(sys.stdin):
        raise CtrtError(otherwise)
    from shutil import copyfileobj

    with store.temporary() as work:
        copy = f"{work.path}/stdin"
        with open(copy, "xb") as file:
            if name in _STDIN:
                copyfileobj(sys.stdin.buffer, file, 1 << 20)
            else:
                with open(name, "rb") as stream:
                    copyfileobj(stream, file, 1 << 20)
        try:
            yield copy
        except CtrtError as error:
            called = "the standard input" if name in _STDIN else name
            text = str(error).replace(copy, called)
            raise CtrtError(text, status=error.status) from None
