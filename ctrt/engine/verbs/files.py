"""The verb about files: in and out of a running container.

What a path means inside is the container's affair, so it is resolved by openat2(2) with
RESOLVE_IN_ROOT below /proc/PID/root: no link, no `..` and no race leads to a file of the host. From
there on both sides are walked by descriptors, and links are copied as links.
"""

from __future__ import annotations

import os
import stat

from ctrt.engine.options import Table
from ctrt.engine.targets import target_of
from ctrt.engine.verbs.base import Text, Verb
from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ctrt.engine import Engine
    from ctrt.engine.options import Values
    from ctrt.engine.verbs.base import Report

_ENOENT = 2
_ENOTDIR = 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Side:
    """One side of a copy: a path of the host, or of a container."""

    def __init__(self, engine: Engine, word: str) -> None:
        kind, colon, _ = word.partition(":")
        self.word = word
        self.owner: tuple[int, int] | None = None
        self.container = bool(colon) and bool(kind) and "/" not in kind
        if not self.container:
            self.path = os.path.abspath(os.path.expanduser(word))
            self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            return
        name, absolute, path = word.partition(":/")  # another engine's name has a colon, too
        if not absolute:
            raise CtrtError(f"cp: {word!r} is not CONTAINER:/PATH; the path must be absolute")
        self.path = f"/{path}"
        pid = target_of(engine, name).pid
        try:
            self._root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            if os.geteuid() == 0:
                self.owner = _first_id(pid, "uid"), _first_id(pid, "gid")
        except OSError as error:
            raise CtrtError(
                f"cp: the files of {name} cannot be reached: {error.strerror}"
            ) from None

    def open(self, path: str, flags: int) -> int:
        """Open a path as this side sees it."""
        if not self.container:
            return os.open(path, flags | os.O_CLOEXEC)
        from ctrt.linux import calls

        return calls.openat2(self._root, path, flags, calls.RESOLVE_IN_ROOT)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._root)


def _first_id(pid: int, kind: str) -> int:
    """Who the container's root is outside."""
    with open(f"/proc/{pid}/{kind}_map") as file:
        inside, outside, _ = map(int, file.readline().split())
    if inside != 0:
        raise PermissionError(1, "its user namespace has no root")
    return outside


def _cp(engine: Engine, values: Values, _report: Report) -> Text:
    source, destination = (_Side(engine, word) for word in values.operands)
    if source.container == destination.container:
        raise CtrtError(
            "cp: one of the two is CONTAINER:/PATH, and the other a path of the host; got "
            f"{source.word} and {destination.word}"
        )
    place = source
    opened = []
    try:
        from_directory, name = _split(source)
        opened.append(from_directory)
        os.stat(name, dir_fd=from_directory, follow_symlinks=False)
        place = destination
        to_directory, new_name = _target(destination, os.path.basename(source.path.rstrip("/")))
        opened.append(to_directory)
        count = _copy(from_directory, name, to_directory, new_name, destination.owner)
    except OSError as error:
        inner = error.filename if isinstance(error.filename, str) else ""
        where = f" ({inner})" if inner and not place.path.endswith(inner) else ""
        raise CtrtError(f"cp: {place.word}{where}: {error.strerror}") from None
    finally:
        for descriptor in opened:
            os.close(descriptor)
        source.close()
        destination.close()
    return Text(f"{count} file{'' if count == 1 else 's'} copied")


def _split(side: _Side) -> tuple[int, str]:
    """The directory that a path is in, and its name there; of a directory it is `.`."""
    path = side.path.rstrip("/")
    if not path:
        raise CtrtError(f"cp: {side.word} is all of its files; name a path below it")
    try:
        return side.open(path, os.O_RDONLY | os.O_DIRECTORY), "."
    except OSError as error:
        if error.errno not in (_ENOENT, _ENOTDIR):
            raise
    parent, name = os.path.split(path)
    return side.open(parent, os.O_RDONLY | os.O_DIRECTORY), name


def _target(side: _Side, name: str) -> tuple[int, str]:
    """The directory to copy into, and the new name there."""
    path = side.path
    try:
        directory = side.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in (_ENOENT, _ENOTDIR) or side.word.endswith("/"):
            raise
    else:
        return directory, name
    parent = side.open(os.path.dirname(path.rstrip("/")) or "/", os.O_RDONLY | os.O_DIRECTORY)
    return parent, os.path.basename(path.rstrip("/"))


def _copy(source: int, name: str, target: int, new_name: str, owner: tuple[int, int] | None) -> int:
    """Copy what is at a name of one directory to a name of another; how many files it were."""
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        return _copy_directory(source, name, target, new_name, owner, status.st_mode)
    if kind == stat.S_IFLNK:
        _replace(target, new_name, owner, lambda aside: _link(source, name, target, aside, owner))
        return 1
    if kind != stat.S_IFREG:
        raise CtrtError(f"cp: {name} is neither a file, a directory nor a link")

    def fill(aside: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        # The file may be another one by now: whatever it is, opening it must not wait.
        reading = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(name, reading, dir_fd=source), "rb", 0) as read:
            with _as(owner):
                made = os.open(aside, flags, 0o600, dir_fd=target)
            with os.fdopen(made, "wb", 0) as write:
                while block := read.read(1 << 20):
                    write.write(block)
                os.fchmod(write.fileno(), status.st_mode & 0o777)

    _replace(target, new_name, owner, fill)
    return 1


def _copy_directory(
    source: int, name: str, target: int, new_name: str, owner: tuple[int, int] | None, mode: int
) -> int:
    count = 0
    inner = os.open(name, _DIRECTORY, dir_fd=source)
    try:
        try:
            with _as(owner):
                os.mkdir(new_name, 0o700, dir_fd=target)
        except FileExistsError:
            made = False
        else:
            made = True
        outer = os.open(new_name, _DIRECTORY, dir_fd=target)
        try:
            for entry in os.listdir(inner):
                count += _copy(inner, entry, outer, entry, owner)
            if made:
                os.fchmod(outer, mode & 0o777)
        finally:
            os.close(outer)
    finally:
        os.close(inner)
    return count


def _link(source: int, name: str, target: int, aside: str, owner: tuple[int, int] | None) -> None:
    words = os.readlink(name, dir_fd=source)
    with _as(owner):
        os.symlink(words, aside, dir_fd=target)


def _replace(
    target: int, name: str, owner: tuple[int, int] | None, make: Callable[[str], None]
) -> None:
    """Make a file aside and give it its name: nobody sees half of it, no link is written to."""
    try:
        there = os.stat(name, dir_fd=target, follow_symlinks=False).st_mode
    except FileNotFoundError:
        there = stat.S_IFREG
    if stat.S_IFMT(there) in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK):
        raise CtrtError(f"cp: {name} is there, and is no file that another could replace")
    aside = f".ctrt-{os.urandom(6).hex()}"
    try:
        make(aside)
        with _as(owner):
            os.rename(aside, name, src_dir_fd=target, dst_dir_fd=target)
    except BaseException:
        try:
            os.unlink(aside, dir_fd=target)
        except OSError:
            pass
        raise


def _as(owner: tuple[int, int] | None) -> AbstractContextManager[object]:
    """Files are made as the container's root; an ordinary user is that already."""
    if owner is None:
        from contextlib import nullcontext

        return nullcontext()
    from ctrt.linux.fileids import FileIds

    return FileIds(*owner)


VERBS = [
    Verb(
        Table(
            "cp",
            "Copy files into a running container, or out of it.",
            "CONTAINER:/PATH PATH | PATH CONTAINER:/PATH",
            [],
        ),
        _cp,
        range(2, 3),
    ),
]
