"""What the start of a container needs of `os` and `os.path`, for a tenth of their price.

Importing `os` makes the classes of collections.abc, which takes a millisecond; `posix`, which it is
made of, is built in. What is here answers as its namesake there does.
"""

from __future__ import annotations

import posix
import sys

_ENCODING = sys.getfilesystemencoding()
_ERRORS = sys.getfilesystemencodeerrors()
_DIRECTORY, _FILE, _LINK = 0o040000, 0o100000, 0o120000


def encoded(path: str | bytes) -> bytes:
    """A path as the kernel takes it: os.fsencode."""
    return path if isinstance(path, bytes) else path.encode(_ENCODING, _ERRORS)


def decoded(path: bytes) -> str:
    """A path as text: os.fsdecode."""
    return path.decode(_ENCODING, _ERRORS)


def variable(name: str) -> str:
    """A variable of this process's environment, "" where it is not set."""
    return decoded(posix.environ.get(encoded(name), b""))


def exists(path: str) -> bool:
    """Whether there is a file at a path: os.path.exists."""
    return _kind(path) != 0


def is_directory(path: str) -> bool:
    """Whether a path leads to a directory: os.path.isdir."""
    return _kind(path) == _DIRECTORY


def is_file(path: str) -> bool:
    """Whether a path leads to a regular file: os.path.isfile."""
    return _kind(path) == _FILE


def is_link(path: str) -> bool:
    """Whether a path is itself a symbolic link: os.path.islink."""
    try:
        return posix.lstat(path).st_mode & 0o170000 == _LINK
    except (OSError, ValueError):
        return False


def _kind(path: str) -> int:
    try:
        return posix.stat(path).st_mode & 0o170000
    except (OSError, ValueError):
        return 0


def normal(path: str) -> str:
    """A path without "", "." and ".." in it, taken by its words: os.path.normpath."""
    names: list[str] = []
    for name in path.split("/"):
        if name in ("", "."):
            continue
        if name != ".." or (path[0] != "/" and not names) or (names and names[-1] == ".."):
            names.append(name)
        elif names:
            names.pop()
    # POSIX leaves two slashes at the beginning, and no other number, to the system.
    slashes = 2 if path[:2] == "//" and path[2:3] != "/" else int(path[:1] == "/")
    return "/" * slashes + "/".join(names) or "."


def absolute(path: str) -> str:
    """A path from the root directory: os.path.abspath."""
    return normal(path if path[:1] == "/" else f"{posix.getcwd()}/{path}")


def last(path: str) -> str:
    """What follows the last slash: os.path.basename."""
    return path.rpartition("/")[2]
