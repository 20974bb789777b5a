"""The directory that a layer becomes, filled entry by entry from a stranger's archive.

No name is ever resolved by the kernel over more than one component: every directory is opened
from its parent with O_NOFOLLOW, and symbolic links on the way are followed here, as chroot(2)
would follow them, so an entry cannot leave the layer by its path, by `..`, by an absolute link
or by a race. Depth is bounded by MAX_DEPTH, what is remembered by MAX_KEPT_BYTES.

Sources: image-spec, layer.md (whiteouts, ordering); the kernel's
Documentation/filesystems/overlayfs.rst for whiteouts and opaque directories.
"""

from __future__ import annotations

import os
from errno import EACCES, EINVAL, ENODATA, ENOTSUP, EPERM
from stat import S_IMODE, S_ISCHR, S_ISDIR, S_ISLNK

from ctrt.images._tar import BrokenLayerError, Entry, Source, clean, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH = 200
MAX_LINKS = 40
# What is kept until the end of a layer: names and looks of directories, links to lower layers.
# 256 MiB is some hundred thousand of them.
MAX_KEPT_BYTES = 256 << 20
OPEN_DIRECTORIES = 200

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"


class Tree:
    """The directory that a layer becomes, and its open subdirectories.

    `world` is "root", "subordinate" or "single"; see layers.Unpacker.
    """

    def __init__(self, path: str, world: str) -> None:
        self.root = os.open(path, DIRECTORY)
        self.world = world
        self.opaque_xattr = ("trusted" if world == "root" else "user") + ".overlay.opaque"
        self.owner = (os.geteuid(), os.getegid())
        self.notes: list[str] = []
        # Directories that no entry of the archive described; their look is the lower layer's.
        self.implied: dict[bytes, None] = {b"": None}
        self.links: list[tuple[bytes, bytes]] = []
        self._later: dict[bytes, Entry] = {}
        self._kept = 0
        self._open: dict[bytes, int] = {b"": self.root}
        self._alias: dict[bytes, tuple[int, bytes]] = {}

    def close(self) -> None:
        self._forget()
        os.close(self.root)

    def note(self, text: str) -> None:
        if len(self.notes) < 100:
            self.notes.append(text)

    def keep(self, size: int) -> None:
        """Count bytes that stay in memory until the end of the layer."""
        self._kept += size + 500  # about what the objects around them take
        if self._kept > MAX_KEPT_BYTES:
            raise BrokenLayerError("it has more directories and links than there is memory for")

    def trim(self) -> None:
        """Close directories when there are many; only between entries, who use what is open."""
        if len(self._open) > OPEN_DIRECTORIES:
            self._forget()

    # -- finding the way --

    def _forget(self) -> None:
        for path, fd in self._open.items():
            if path:
                os.close(fd)
        self._open = {b"": self.root}
        self._alias = {}

    def directory(self, path: bytes, make: bool = True) -> tuple[int, bytes]:
        """Open a directory of the tree; return its descriptor and its path without links.

        Links are followed as chroot(2) would; what is missing is made, unless `make` is
        false (FileNotFoundError). The descriptor belongs to the tree.
        """
        fd = self._open.get(path)
        if fd is not None:
            return fd, path
        known = self._alias.get(path)
        if known is not None:
            return known
        todo = path.split(b"/")
        todo.reverse()
        real: list[bytes] = []
        at, links = self.root, 0
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                del real[-1:]
                at = self._reopen(real)
                continue
            key = b"/".join((*real, part))
            fd = self._open.get(key)
            if fd is None:
                fd = self._step(at, part, key, make)
            if fd is None:
                links += 1
                if links > MAX_LINKS:
                    raise BrokenLayerError(f"{shown(path)} is behind too many symbolic links")
                target = os.readlink(part, dir_fd=at)
                if target.startswith(b"/"):
                    real, at = [], self.root
                todo.extend(reversed(target.split(b"/")))
                continue
            real.append(part)
            if len(real) > MAX_DEPTH:
                raise BrokenLayerError(f"{shown(path)} is more than {MAX_DEPTH} directories deep")
            self._open[key] = at = fd
        found = at, b"/".join(real)
        if found[1] != path:
            self._alias[path] = found
        return found

    def _reopen(self, real: list[bytes]) -> int:
        """Return the descriptor of a directory whose path is known to hold no links."""
        key = b"/".join(real)
        fd = self._open.get(key)
        if fd is None:
            parent = self._reopen(real[:-1])
            fd = self._open[key] = os.open(real[-1], DIRECTORY, dir_fd=parent)
        return fd

    def _step(self, at: int, name: bytes, key: bytes, make: bool) -> int | None:
        """Open one component; None means that it is a symbolic link."""
        try:
            return os.open(name, DIRECTORY, dir_fd=at)
        except FileNotFoundError:
            if not make:
                raise
        except NotADirectoryError:
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            if S_ISLNK(found.st_mode):
                return None
            if not is_whiteout(found):
                raise BrokenLayerError(
                    f"{shown(key)} is a file where a directory is needed"
                ) from None
            if not make:
                raise FileNotFoundError from None
            os.unlink(name, dir_fd=at)
            os.mkdir(name, 0o755, dir_fd=at)
            self.keep(len(key))
            self.implied[key] = None
            fd = os.open(name, DIRECTORY, dir_fd=at)
            self.set_opaque(fd)
            return fd
        os.mkdir(name, 0o755, dir_fd=at)
        self.keep(len(key))
        self.implied[key] = None
        return os.open(name, DIRECTORY, dir_fd=at)

    def set_opaque(self, fd: int) -> None:
        os.setxattr(fd, self.opaque_xattr, b"y")

    def parent(self, path: bytes) -> tuple[int, bytes, bytes]:
        """Return the directory that holds `path` (its descriptor and real path) and the name."""
        above, _, name = path.rpartition(b"/")
        fd = self._open.get(above)
        if fd is not None:
            return fd, above, name
        fd, real = self.directory(above)
        return fd, real, name

    # -- making entries --

    def add(self, entry: Entry, source: Source) -> None:
        """Carry out one entry of the archive."""
        self.trim()
        path = clean(entry.name)
        kind = entry.kind
        name = path.rpartition(b"/")[2]
        if name.startswith(_WHITEOUT):
            self._whiteout(path, name)
            source.skip(entry.size)
            source.pad(entry.size)
            return
        if not path:
            if kind != b"5":
                raise BrokenLayerError("an entry other than a directory has no name")
            self.implied.pop(b"", None)
            self._look_later(b"", entry)
            return
        fd, above, name = self.parent(path)
        if kind in b"0\0" + b"7":
            self._file(fd, name, entry, source)
        elif kind == b"5":
            self._directory(fd, name, b"%s/%s" % (above, name) if above else name, entry)
        elif kind == b"2":
            self._replace(fd, name, lambda: os.symlink(entry.link, name, dir_fd=fd))
            self._chown(name, entry, fd)
            if entry.xattrs:
                self._xattrs(_at(fd, name), entry)
            os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=fd, follow_symlinks=False)
        elif kind == b"1":
            target = clean(entry.link)
            if not self.link(target, path):
                # It may be in a lower layer: `_unpack._join` sees to it. What is there by then came
                # later than this entry.
                try:
                    self._remove(fd, name)
                except FileNotFoundError:
                    pass
                self.keep(len(target) + len(path))
                self.links.append((target, path))
        elif kind in b"346":
            self._node(fd, name, entry)
        else:
            raise BrokenLayerError(
                f"{shown(path)} is of a kind that tar(5) does not know ({kind!r})"
            )

    def _file(self, at: int, name: bytes, entry: Entry, source: Source) -> None:
        try:
            fd = os.open(name, NEW_FILE, entry.mode & 0o777, dir_fd=at)
        except FileExistsError:
            self._remove(at, name)
            fd = os.open(name, NEW_FILE, entry.mode & 0o777, dir_fd=at)
        try:
            size = entry.size
            if entry.segments is not None:
                source.copy_sparse(fd, entry)
                source.pad(size)
            elif size:
                source.copy(fd, size)
                source.pad(size)
            if self.world != "single" and (entry.uid, entry.gid) != self.owner:
                os.fchown(fd, entry.uid, entry.gid)
            if entry.mode & 0o7000:
                os.fchmod(fd, entry.mode)
            if entry.xattrs:
                self._xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _directory(self, at: int, name: bytes, path: bytes, entry: Entry) -> None:
        """Make a directory; what writing into it would change is set by `finish`."""
        try:
            os.mkdir(name, entry.mode & 0o777 | 0o700, dir_fd=at)
        except FileExistsError:
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            if not S_ISDIR(found.st_mode):
                # The layer once had something else here, so nothing below shows through.
                self._remove(at, name)
                os.mkdir(name, entry.mode & 0o777 | 0o700, dir_fd=at)
                fd = os.open(name, DIRECTORY, dir_fd=at)
                self.set_opaque(fd)
                os.close(fd)
        self.implied.pop(path, None)
        self._look_later(path, entry)

    def _look_later(self, path: bytes, entry: Entry) -> None:
        self.keep(len(path) + sum(map(len, entry.xattrs.values())))
        self._later[path] = entry

    def _node(self, at: int, name: bytes, entry: Entry) -> None:
        mode = entry.mode & 0o777
        if entry.kind == b"6":
            self._replace(at, name, lambda: os.mkfifo(name, mode, dir_fd=at))
        else:
            kind = 0o020000 if entry.kind == b"3" else 0o060000
            device = os.makedev(*entry.device)
            try:
                if self.world != "root":
                    raise PermissionError
                self._replace(at, name, lambda: os.mknod(name, kind | mode, device, dir_fd=at))
            except PermissionError:
                self.note(
                    f"{shown(clean(entry.name))} is a device, which only root can make; an empty"
                    " file stands in for it"
                )
                self._replace(at, name, lambda: os.close(os.open(name, NEW_FILE, mode, dir_fd=at)))
        self._chown(name, entry, at)
        if entry.mode & 0o7000:
            os.chmod(name, entry.mode, dir_fd=at)
        if entry.xattrs:
            self._xattrs(_at(at, name), entry)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=at, follow_symlinks=False)

    def _whiteout(self, path: bytes, name: bytes) -> None:
        if name == _OPAQUE:
            fd, _ = self.directory(path.rpartition(b"/")[0])
            self.set_opaque(fd)
            return
        hidden = name[len(_WHITEOUT) :]
        if name.startswith(b".wh..wh."):
            return  # aufs's own files (.wh..wh.plnk and such); they mean nothing here
        if hidden in (b"", b".", b".."):
            raise BrokenLayerError(f"the whiteout {shown(path)} names nothing")
        at, _, _ = self.parent(path)
        try:
            os.mknod(hidden, 0o020000, 0, dir_fd=at)
        except FileExistsError:
            # This layer has its own; a directory of it hides what is below.
            if S_ISDIR(os.stat(hidden, dir_fd=at, follow_symlinks=False).st_mode):
                fd = os.open(hidden, DIRECTORY, dir_fd=at)
                self.set_opaque(fd)
                os.close(fd)

    def has(self, path: bytes) -> bool:
        """Say whether this layer has something at `path`."""
        above, _, name = path.rpartition(b"/")
        try:
            os.stat(name, dir_fd=self.directory(above, make=False)[0], follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def link(self, target: bytes, path: bytes) -> bool:
        """Make a hard link; False when the target is not in this layer (yet)."""
        above, _, target_name = target.rpartition(b"/")
        if not target_name:
            raise BrokenLayerError(f"{shown(path)} is a hard link to a directory")
        try:
            source, _ = self.directory(above, make=False)
            found = os.stat(target_name, dir_fd=source, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if S_ISDIR(found.st_mode):
            raise BrokenLayerError(f"{shown(path)} is a hard link to a directory")
        if is_whiteout(found):
            return False
        at, _, name = self.parent(path)
        try:
            there = os.stat(name, dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
                return True
            self._remove(at, name)
            # Removing may have closed the descriptors of both.
            source, _ = self.directory(above, make=False)
            at, _, name = self.parent(path)
        os.link(target_name, name, src_dir_fd=source, dst_dir_fd=at, follow_symlinks=False)
        return True

    def _replace(self, at: int, name: bytes, make: Callable[[], object]) -> None:
        try:
            make()
        except FileExistsError:
            self._remove(at, name)
            make()

    def _remove(self, at: int, name: bytes) -> None:
        """Remove what an earlier entry of this layer made."""
        try:
            os.unlink(name, dir_fd=at)
        except IsADirectoryError:
            remove_tree(name, at)
        # Paths may have led through it; `at` itself stays open for our caller.
        self._alias = {}
        for path in [path for path, fd in self._open.items() if path and fd != at]:
            os.close(self._open.pop(path))

    # -- their looks --

    def _chown(self, name: bytes, entry: Entry, at: int) -> None:
        if self.world != "single" and (entry.uid, entry.gid) != self.owner:
            os.chown(name, entry.uid, entry.gid, dir_fd=at, follow_symlinks=False)

    def _xattrs(self, place: int | bytes, entry: Entry) -> None:
        for key, value in entry.xattrs.items():
            if ".overlay." in key:
                # They would tell overlayfs to look elsewhere (redirect, metacopy).
                self.note(f"{shown(entry.name)}: the attribute {key} is not allowed in an image")
                continue
            try:
                if isinstance(place, bytes):
                    os.setxattr(place, key, value, follow_symlinks=False)
                else:
                    os.setxattr(place, key, value)
            except OSError as error:
                if error.errno not in (EPERM, EACCES, ENOTSUP, EINVAL):
                    raise
                self.note(
                    f"{shown(entry.name)}: the attribute {key} could not be set"
                    f" ({os.strerror(error.errno).lower()})"
                )

    def finish(self) -> None:
        """Set owner, mode and time of the directories, now that nothing is added to them."""
        for path, entry in sorted(self._later.items(), reverse=True):
            self.trim()
            try:
                fd, real = self.directory(path, make=False)
            except (FileNotFoundError, BrokenLayerError):
                continue  # a later entry removed it again
            if real != path:
                continue
            if self.world != "single":
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            if entry.xattrs:
                self._xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        for path in sorted(self.implied, reverse=True):
            self.trim()
            try:
                fd, real = self.directory(path, make=False)
            except (FileNotFoundError, BrokenLayerError):
                continue
            if real == path:
                os.utime(fd, ns=(0, 0))


def _at(fd: int, name: bytes) -> bytes:
    """Return a path for the calls that take no directory's descriptor."""
    return b"/proc/self/fd/%d/%s" % (fd, name)


def is_whiteout(found: os.stat_result) -> bool:
    """Say whether this is overlayfs's mark for a removed file: a character device 0:0."""
    return S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_opaque(fd: int, key: str) -> bool:
    try:
        return os.getxattr(fd, key) == b"y"
    except OSError as error:
        if error.errno in (ENODATA, ENOTSUP):
            return False
        raise


def remove_tree(path: str | bytes, at: int | None = None) -> None:
    """Remove a directory and all in it, never following a link; a missing one is fine."""
    try:
        fd = os.open(path, DIRECTORY, dir_fd=at)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(path, dir_fd=at)
        return
    except PermissionError:
        # Our own directory with a mode that keeps us out; O_PATH needs no read permission.
        fd = os.open(path, os.O_PATH | DIRECTORY, dir_fd=at)
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
        os.close(fd)
        fd = os.open(path, DIRECTORY, dir_fd=at)
    try:
        if S_IMODE(mode := os.fstat(fd).st_mode) & 0o300 != 0o300 and os.geteuid():
            os.fchmod(fd, S_IMODE(mode) | 0o700)
        with os.scandir(fd) as names:
            entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in names]
        for name, is_directory in entries:
            if is_directory:
                remove_tree(name, fd)
            else:
                os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(path, dir_fd=at)
