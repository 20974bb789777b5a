"""What COPY and ADD copy from: a directory of the host, an image, an archive; as tar entries.

A source selects paths by a pattern, says what they are (a fingerprint for the cache), and
writes them into a layer under the names that they get there. Paths have no slash at their
beginning; nothing outside the context is reached: `..` stops at its root and symbolic links
are copied as links, those on the way being followed below the root only.
"""

from __future__ import annotations

import os
import stat
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ctrt.errors import CtrtError
from ctrt.images import _tar
from ctrt.images.compose import header, padded
from ctrt.images.containerfile import Ignore, pattern
from ctrt.images.contents import Files, Tree, flatten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctrt.images.store import Layer, Store

_IGNORE_FILES = (".containerignore", ".dockerignore")
_CHUNK = 1 << 20


def tidy(path: str) -> str:
    """A path below a root: no slash at its ends, `..` never above the root."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


class Source:
    """A tree of files to copy from."""

    what = ""
    """What it is called in an error."""

    def names(self, directory: str) -> list[str]:
        """The names in a directory, sorted; empty for what is none."""
        raise NotImplementedError

    def kind(self, path: str) -> str:
        """Tar's letter for what is at a path; "" for nothing."""
        raise NotImplementedError

    def followed(self, path: str) -> str:
        """Where a link leads, inside of the tree, all links on the way followed."""
        return path

    def print_of(self, path: str) -> str:
        """What tells one thing at a path from another, but for its time."""
        raise NotImplementedError

    def write(self, names: dict[str, str], changes: dict[str, Any]) -> Iterator[bytes]:
        """Yield tar entries: paths here -> names there."""
        raise NotImplementedError

    def select(self, text: str) -> list[str]:
        """The paths that a pattern means; ValueError for a broken one."""
        wanted = tidy(text)
        if self.kind(wanted) and not set(wanted) & set("*?["):
            return [wanted]
        found = [""]
        for part in wanted.split("/"):
            rule = pattern(part)
            plain = not set(part) & set("*?[\\")
            found = [
                f"{above}/{name}" if above else name
                for above in found
                for name in ([part] if plain else self.names(above))
                if rule.match(name) and self.kind(f"{above}/{name}" if above else name)
            ]
        return found

    def walk(self, path: str) -> Iterator[str]:
        """A path and all below it."""
        yield path
        if self.kind(path) == "5":
            for name in self.names(path):
                yield from self.walk(f"{path}/{name}" if path else name)


class Directory(Source):
    """The build context: a directory of the host without what its ignore file names."""

    def __init__(
        self, path: str, ignore: Ignore | None = None, what: str = "the build context"
    ) -> None:
        self.what = what
        self.path = os.path.realpath(path)
        if not os.path.isdir(self.path):
            raise CtrtError(f"the build context {path} is no directory")
        self._ignore = ignore or self._read_ignore()

    def _read_ignore(self) -> Ignore:
        for name in _IGNORE_FILES:
            path = os.path.join(self.path, name)
            try:
                with open(path, encoding="utf-8", errors="surrogateescape") as file:
                    return Ignore(file.read(), path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise CtrtError(f"{path} cannot be read: {error.strerror}") from None
        return Ignore()

    def _real(self, path: str) -> str:
        """Where a path is, links on the way (not the last) followed inside of the context."""
        real = self.path
        todo = path.split("/")[::-1]
        links = 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                real = real if real == self.path else os.path.dirname(real)
                continue
            step = os.path.join(real, part)
            if todo and os.path.islink(step) and links < 40:
                links += 1
                target = os.readlink(step)
                if target.startswith("/"):
                    real = self.path
                todo += target.split("/")[::-1]
                continue
            real = step
        return real

    def followed(self, path: str) -> str:
        """Where a link leads, inside of the context."""
        found = os.path.relpath(self._real(f"{path}/."), self.path)
        return "" if found == "." else found

    def names(self, directory: str) -> list[str]:
        """The names in a directory."""
        try:
            return sorted(os.listdir(self._real(directory)))
        except (NotADirectoryError, FileNotFoundError):
            return []
        except OSError as error:
            raise CtrtError(f"{error.filename} cannot be read: {error.strerror}") from None

    def kind(self, path: str) -> str:
        """Tar's letter for what is at a path."""
        if path and self._ignore.leaves_out(path):
            inside = self._ignore.brings_back and os.path.isdir(self._real(path))
            if not inside or not any(self.kind(f"{path}/{name}") for name in self.names(path)):
                return ""
        try:
            mode = os.lstat(self._real(path)).st_mode
        except OSError:
            return ""
        kinds = {stat.S_IFREG: "0", stat.S_IFDIR: "5", stat.S_IFLNK: "2", stat.S_IFIFO: "6"}
        return kinds.get(stat.S_IFMT(mode), "")

    def print_of(self, path: str) -> str:
        """What it is, but for its time."""
        real = self._real(path)
        looks = os.lstat(real)
        more = ""
        if stat.S_ISLNK(looks.st_mode):
            more = os.readlink(real)
        elif stat.S_ISREG(looks.st_mode):
            hashed = sha256()
            for piece in _file(real):
                hashed.update(piece)
            more = hashed.hexdigest()
        return f"{looks.st_mode:o} {more}"

    def write(self, names: dict[str, str], changes: dict[str, Any]) -> Iterator[bytes]:
        """Its entries under their new names."""
        seen: dict[tuple[int, int], bytes] = {}
        for path, name in names.items():
            real = self._real(path)
            looks = os.lstat(real)
            kind = self.kind(path)
            target = os.fsencode(name)
            values = {
                "mode": stat.S_IMODE(looks.st_mode), "mtime_ns": looks.st_mtime_ns, **changes
            }  # fmt: skip
            identity = (looks.st_dev, looks.st_ino)
            if kind == "2":
                yield header(target, b"2", **{**values, "mode": 0o777},
                             link=os.fsencode(os.readlink(real)))  # fmt: skip
            elif kind == "0" and looks.st_nlink > 1 and identity in seen:
                yield header(target, b"1", link=seen[identity], **values)
            elif kind == "0":
                seen[identity] = target
                yield header(target, b"0", size=looks.st_size, **values)
                left = looks.st_size
                for piece in _file(real):
                    yield piece[:left]
                    left -= len(piece[:left])
                if left:
                    raise CtrtError(f"{real} became shorter while it was read")
                yield padded(looks.st_size)
            else:
                yield header(target, kind.encode(), **values)


def _file(path: str) -> Iterator[bytes]:
    try:
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(_CHUNK):
                yield piece
    except OSError as error:
        raise CtrtError(f"{path} cannot be read: {error.strerror}") from None


class Memory(Source):
    """Small files that exist only in memory: here-documents, secrets."""

    what = "the here-documents"

    def __init__(self, files: dict[str, bytes], mode: int = 0o644) -> None:
        self._files = files
        self._mode = mode

    def names(self, directory: str) -> list[str]:
        """The names in a directory."""
        return [] if directory else sorted(self._files)

    def kind(self, path: str) -> str:
        """Tar's letter for what is at a path."""
        return "0" if path in self._files else ""

    def print_of(self, path: str) -> str:
        """What it is, but for its time."""
        return sha256(self._files[path]).hexdigest()

    def write(self, names: dict[str, str], changes: dict[str, Any]) -> Iterator[bytes]:
        """Its entries under their new names."""
        for path, name in names.items():
            data = self._files[path]
            yield header(os.fsencode(name), b"0", size=len(data), **{"mode": self._mode, **changes})
            yield data
            yield padded(len(data))


class ImageFiles(Source):
    """The files of an image or of another stage; their owners stay."""

    def __init__(self, store: Store, layers: list[Layer], tree: Tree, what: str) -> None:
        self._store = store
        self._layers = layers
        self._tree = tree
        self.what = what

    def _at(self, path: str) -> str:
        return self._tree.resolve(path, last=False)

    def followed(self, path: str) -> str:
        """Where a link leads, inside of the image."""
        return self._tree.resolve(path)

    def names(self, directory: str) -> list[str]:
        """The names in a directory."""
        real = self._tree.resolve(directory)
        return [path.rpartition("/")[2] for path in self._tree.below(real)]

    def kind(self, path: str) -> str:
        """Tar's letter for what is at a path."""
        real = self._at(path)
        node = self._tree.nodes.get(real)
        if node is None:
            return "5" if self._tree.is_directory(real) else ""
        return node.item.kind

    def print_of(self, path: str) -> str:
        """What it is, but for its time."""
        node = self._tree.nodes.get(self._at(path))
        return repr(node.item._replace(name="", at=0, mtime_ns=0)) if node else "5"

    def write(self, names: dict[str, str], changes: dict[str, Any]) -> Iterator[bytes]:
        """Its entries under their new names."""
        targets = {self._at(path): name for path, name in names.items()}
        names_there, only = targets.__getitem__, list(targets)
        yield from flatten(self._store, self._layers, self._tree, names_there, only, **changes)


def is_archive(path: str) -> bool:
    """Say whether a file of the host is a tar archive, packed or not, that ADD unpacks."""
    try:
        first = next(iter(_tar.pieces(path)), b"")
    except (_tar.BrokenLayerError, OSError):
        return False
    return len(first) >= 512 and first[257:262] == b"ustar"


def archive(
    path: str, name: Callable[[str], str | None], changes: dict[str, Any]
) -> Iterator[bytes]:
    """Yield the entries of a tar archive under new names; CtrtError if it is broken.

    What gets no name is left out.
    """
    try:
        with Files(path) as files:
            for entry in files:
                if entry.kind not in (b"0", b"1", b"2", b"3", b"4", b"5", b"6"):
                    raise _tar.BrokenLayerError(f"{_tar.shown(entry.name)} is of an unknown kind")
                new = name(os.fsdecode(_tar.clean(entry.name)))
                if new is None:
                    continue
                link = entry.link
                if entry.kind == b"1":
                    target = name(os.fsdecode(_tar.clean(link)))
                    if target is None:
                        raise _tar.BrokenLayerError(
                            f"{_tar.shown(entry.name)} is a hard link to what is left out"
                        )
                    link = os.fsencode(target)
                values = {
                    "mode": entry.mode, "uid": entry.uid, "gid": entry.gid,
                    "mtime_ns": entry.mtime, "device": entry.device, "xattrs": entry.xattrs,
                    **changes,
                }  # fmt: skip
                size = entry.length if entry.kind == b"0" else 0
                yield header(os.fsencode(new or "."), entry.kind, size=size, link=link, **values)
                if size:
                    yield from files.data(entry)
                    yield padded(size)
    except _tar.BrokenLayerError as error:
        raise CtrtError(f"{path} is no archive that can be unpacked: {error}") from None
    except OSError as error:
        raise CtrtError(f"{path} cannot be read: {error.strerror}") from None
