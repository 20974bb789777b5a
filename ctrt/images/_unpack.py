"""The unpack program: tar layers in, overlay lower directories out.

It runs as its own small process, because it may have to run inside a user namespace that
somebody else made, and because a notebook should not fork, change its umask or hold 500 open
directories. `layers.py` starts it, with orders in a JSON file; it answers in another.

Layers come from strangers. No name is ever resolved by the kernel over more than one
component: every directory is opened from its parent with O_NOFOLLOW, and symbolic links on
the way are followed here, as chroot(2) would follow them, so an entry cannot leave the layer
by its path, by `..`, by an absolute link or by a race. Sizes are bounded by the free disk and
by a ratio (`Source`), depth by MAX_DEPTH.

Reading (`_tar.py`) runs in a thread beside the writing, so unpacking takes as long as the
slower of the two.

Sources: image-spec, layer.md (whiteouts, ordering); the kernel's
Documentation/filesystems/overlayfs.rst for whiteouts and opaque directories.
"""

from __future__ import annotations

import os
import sys
from errno import EACCES, EINVAL, ENAMETOOLONG, ENODATA, ENOSPC, ENOTSUP, EPERM
from stat import S_IMODE, S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISLNK, S_ISREG

from ctrt.images._tar import BrokenLayerError, Entry, Growing, Source, clean, entries, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# A layer may grow to RATIO times its blob, but 1 GiB is always fine: real layers grow 2 to 5
# times, a file of zeros 1000 times.
RATIO = 200
ALWAYS_BYTES = 1 << 30
# What is left free on the disk, so that the machine can still work when a layer fills it.
RESERVE_BYTES = 64 << 20
MAX_DEPTH = 200
MAX_LINKS = 40
# What is kept until the end of a layer: names and looks of directories, links to lower layers.
# 256 MiB is some hundred thousand of them.
MAX_KEPT_BYTES = 256 << 20
OPEN_DIRECTORIES = 200

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"


# -- writing -----------------------------------------------------------------------------------


class _Tree:
    """The directory that a layer becomes, and its open subdirectories.

    `world` is "root", "subordinate" or "single"; see layers.Unpacker.
    """

    def __init__(self, path: str, world: str) -> None:
        self.root = os.open(path, _DIRECTORY)
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
            fd = self._open[key] = os.open(real[-1], _DIRECTORY, dir_fd=parent)
        return fd

    def _step(self, at: int, name: bytes, key: bytes, make: bool) -> int | None:
        """Open one component; None means that it is a symbolic link."""
        try:
            return os.open(name, _DIRECTORY, dir_fd=at)
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
            fd = os.open(name, _DIRECTORY, dir_fd=at)
            self.set_opaque(fd)
            return fd
        os.mkdir(name, 0o755, dir_fd=at)
        self.keep(len(key))
        self.implied[key] = None
        return os.open(name, _DIRECTORY, dir_fd=at)

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
                # It may be in a lower layer: `_join` sees to it. What is there by then came
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
            fd = os.open(name, _NEW_FILE, entry.mode & 0o777, dir_fd=at)
        except FileExistsError:
            self._remove(at, name)
            fd = os.open(name, _NEW_FILE, entry.mode & 0o777, dir_fd=at)
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
                fd = os.open(name, _DIRECTORY, dir_fd=at)
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
                self._replace(at, name, lambda: os.close(os.open(name, _NEW_FILE, mode, dir_fd=at)))
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
                fd = os.open(hidden, _DIRECTORY, dir_fd=at)
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


# -- lower layers ------------------------------------------------------------------------------


def _lookup(lowers: list[str], path: bytes, opaque: str) -> tuple[int, bytes] | None:
    """Find `path` as the lower directories (the topmost first) show it together.

    Return an open directory and the name in it; the caller closes the directory.
    """
    parts = path.split(b"/")
    for lower in lowers:
        fd = os.open(lower, _DIRECTORY)
        hides = False
        try:
            for at, part in enumerate(parts):
                try:
                    found = os.stat(part, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    break
                if is_whiteout(found):
                    return None
                if at == len(parts) - 1:
                    result, fd = fd, -1
                    return result, part
                if not S_ISDIR(found.st_mode):
                    return None
                below = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
                hides = hides or _is_opaque(fd, opaque)
        finally:
            if fd >= 0:
                os.close(fd)
        if hides:
            return None
    return None


def _is_opaque(fd: int, key: str) -> bool:
    try:
        return os.getxattr(fd, key) == b"y"
    except OSError as error:
        if error.errno in (ENODATA, ENOTSUP):
            return False
        raise


def _copy_up(tree: _Tree, lowers: list[str], path: bytes) -> bool:
    """Copy a file of a lower layer to the same place in this one, as overlayfs would."""
    found = None if _hidden(tree, path) else _lookup(lowers, path, tree.opaque_xattr)
    if found is None:
        return False
    source, name = found
    try:
        looks = os.stat(name, dir_fd=source, follow_symlinks=False)
        at, _, _ = tree.parent(path)
        if S_ISLNK(looks.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=at)
        elif S_ISREG(looks.st_mode):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
            copy = os.open(name, _NEW_FILE, 0o600, dir_fd=at)
            try:
                left = looks.st_size
                while left:
                    left -= os.sendfile(copy, fd, None, left) or left
                _take_looks(copy, fd, looks)
            finally:
                os.close(fd)
                os.close(copy)
            return True
        elif S_ISFIFO(looks.st_mode) or S_ISCHR(looks.st_mode) or S_ISBLK(looks.st_mode):
            os.mknod(name, looks.st_mode, looks.st_rdev, dir_fd=at)
        else:
            raise BrokenLayerError(
                f"{shown(path)} is a directory of a lower layer, and cannot be linked"
            )
        os.chown(name, looks.st_uid, looks.st_gid, dir_fd=at, follow_symlinks=False)
        stamp = (looks.st_mtime_ns, looks.st_mtime_ns)
        os.utime(name, ns=stamp, dir_fd=at, follow_symlinks=False)
    finally:
        os.close(source)
    return True


def _take_looks(fd: int, source: int, looks: os.stat_result) -> None:
    """Give an open file or directory the owner, mode, attributes and time of another."""
    os.fchown(fd, looks.st_uid, looks.st_gid)
    os.fchmod(fd, S_IMODE(looks.st_mode))
    for key in os.listxattr(source):
        if ".overlay." not in key:
            os.setxattr(fd, key, os.getxattr(source, key))
    os.utime(fd, ns=(looks.st_mtime_ns, looks.st_mtime_ns))


def _hidden(tree: _Tree, path: bytes) -> bool:
    """Say whether this layer itself hides what lower layers have at `path`."""
    above = b""
    for part in path.split(b"/"):
        try:
            fd, real = tree.directory(above, make=False)
        except FileNotFoundError:
            return False
        if real != above or (above and _is_opaque(fd, tree.opaque_xattr)):
            return True
        try:
            if is_whiteout(os.stat(part, dir_fd=fd, follow_symlinks=False)):
                return True
        except FileNotFoundError:
            return False
        above = b"%s/%s" % (above, part) if above else part
    return False


def _inherit(tree: _Tree, lowers: list[str], path: bytes) -> None:
    """Give a directory that no entry described the looks of the one that it will cover.

    Else a layer that only adds /tmp/x would make /tmp 0755. The root is such a directory too.
    """
    try:
        fd, real = tree.directory(path, make=False)
    except (FileNotFoundError, BrokenLayerError):
        return
    if real != path or (path and _is_opaque(fd, tree.opaque_xattr)):
        return
    if not path:
        if not lowers:
            return
        source = os.open(lowers[0], _DIRECTORY)
    else:
        found = _lookup(lowers, path, tree.opaque_xattr)
        if found is None:
            return
        above, name = found
        try:
            source = os.open(name, _DIRECTORY, dir_fd=above)
        except OSError:
            return  # a file there: this directory replaces it
        finally:
            os.close(above)
    try:
        _take_looks(fd, source, os.fstat(source))
    finally:
        os.close(source)


# -- orders ------------------------------------------------------------------------------------


def _extract(order: dict[str, Any], world: str) -> dict[str, Any]:
    """Unpack one layer without looking at any other; return what is left to do."""
    into = order["into"]
    free = os.statvfs(into)
    room = max(0, free.f_bavail * free.f_frsize - RESERVE_BYTES)
    limit = max(ALWAYS_BYTES, RATIO * order["size"])
    why = ""
    if room < limit:
        limit, why = room, "there is no space left on the disk for it"
    opened = Growing(order["blob"], *order["growing"]) if "growing" in order else None
    source = Source(order["blob"], limit, why, opened)
    tree = _Tree(into, world)
    entry: Entry | None = None
    try:
        for entry in entries(source):
            tree.add(entry, source)
        entry = None
        digest = source.digest()
        if digest != order["diff_id"]:
            raise BrokenLayerError(
                f"its content has the digest {digest}, but the image's configuration says"
                f" {order['diff_id']}"
            )
        tree.finish()
    except OSError as error:
        raise BrokenLayerError(_reason(error, entry, world)) from None
    except (ValueError, OverflowError) as error:
        name = shown(entry.name) if entry else "it"
        raise BrokenLayerError(f"{name} cannot be made: {error}") from None
    finally:
        source.stop()
        tree.close()
    return {
        "links": [(os.fsdecode(target), os.fsdecode(path)) for target, path in tree.links],
        "implied": [os.fsdecode(path) for path in tree.implied],
        "notes": tree.notes,
    }


def _join(order: dict[str, Any], rest: dict[str, Any], world: str) -> list[str]:
    """Do what needs the layers below: links to their files, looks of implied directories."""
    lowers: list[str] = order["lowers"]
    tree = _Tree(order["into"], world)
    tree.implied = {}
    place = b""
    try:
        times: dict[bytes, int] = {}
        for target_text, path_text in rest["links"]:
            target, place = os.fsencode(target_text), os.fsencode(path_text)
            for path in (target, place):
                above = path.rpartition(b"/")[0]
                try:
                    fd, real = tree.directory(above, make=False)
                except FileNotFoundError:
                    continue
                times.setdefault(real, os.fstat(fd).st_mtime_ns)
            tree.trim()
            if tree.has(place):
                continue
            if not tree.link(target, place) and not (
                _copy_up(tree, lowers, target) and tree.link(target, place)
            ):
                raise BrokenLayerError(
                    f"{shown(place)} is a hard link to {shown(target)}, which is missing"
                )
        for path, stamp in times.items():
            fd, _ = tree.directory(path, make=False)
            os.utime(fd, ns=(stamp, stamp))
        for path in sorted({*tree.implied, *map(os.fsencode, rest["implied"])}, reverse=True):
            place = path
            tree.trim()
            _inherit(tree, lowers, path)
    except OSError as error:
        raise BrokenLayerError(f"{shown(place)} cannot be made: {error.strerror}") from None
    finally:
        tree.close()
    return tree.notes


def _reason(error: OSError, entry: Entry | None, world: str) -> str:
    if error.errno == ENOSPC:
        return "there is no space left on the disk"
    if entry is None:
        return f"it cannot be read: {error.strerror}"
    name = shown(entry.name)
    if error.errno == ENAMETOOLONG:
        return f"the name {name} is too long for a file name"
    if error.errno == EINVAL and world == "subordinate":
        return (
            f"{name} belongs to user {entry.uid}, group {entry.gid}, which your subordinate ids"
            " do not reach; ask for more in /etc/subuid and /etc/subgid"
        )
    return f"{name} cannot be made: {error.strerror}"


def unpack(orders: dict[str, Any]) -> list[tuple[int, str]]:
    """Unpack all layers; return notes, each with the number of its layer."""
    os.umask(0)
    layers: list[dict[str, Any]] = orders["layers"]
    world: str = orders["world"]
    results = _extract_all(layers, world, orders["workers"])
    notes = []
    for at, (order, rest) in enumerate(zip(layers, results, strict=True)):
        try:
            notes += [(at, note) for note in rest["notes"] + _join(order, rest, world)]
        except BrokenLayerError as error:
            raise BrokenLayerError(f"layer {order['name']}: {error}") from None
    return notes


def _extract_all(layers: list[dict[str, Any]], world: str, workers: int) -> list[dict[str, Any]]:
    """Extract layers by several processes; each takes the next one from a shared pipe."""
    if min(workers, len(layers)) < 2:
        return [_named(order, world) for order in layers]
    import marshal

    take, give = os.pipe()
    # The largest first, so that they do not finish last; but as they come, where they still do.
    growing = any("growing" in layer for layer in layers)
    for at in sorted(range(len(layers)), key=lambda at: 0 if growing else -layers[at]["size"]):
        os.write(give, at.to_bytes(2, "big"))
    os.close(give)
    children: dict[int, int] = {}
    for _ in range(min(workers, len(layers))):
        answer, tell = os.pipe()
        child = os.fork()
        if not child:
            os.close(answer)
            done: list[tuple[int, Any]] = []
            try:
                while number := os.read(take, 2):
                    at = int.from_bytes(number, "big")
                    done.append((at, _named(layers[at], world)))
                said: Any = done
            except BrokenLayerError as error:
                said = str(error)
            with open(tell, "wb") as file:
                file.write(marshal.dumps(said))
            os._exit(0)
        os.close(tell)
        children[child] = answer
    os.close(take)
    results: dict[int, dict[str, Any]] = {}
    failures = []
    for child, answer in children.items():
        with open(answer, "rb") as file:
            data = file.read()
        os.waitpid(child, 0)
        said = marshal.loads(data) if data else "the program that unpacks it died"
        if isinstance(said, str):
            failures.append(said)
        else:
            results.update(said)
    if failures:
        raise BrokenLayerError(failures[0])
    return [results[at] for at in range(len(layers))]


def _named(order: dict[str, Any], world: str) -> dict[str, Any]:
    try:
        return _extract(order, world)
    except BrokenLayerError as error:
        raise BrokenLayerError(f"layer {order['name']}: {error}") from None


def remove_tree(path: str | bytes, at: int | None = None) -> None:
    """Remove a directory and all in it, never following a link; a missing one is fine."""
    try:
        fd = os.open(path, _DIRECTORY, dir_fd=at)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(path, dir_fd=at)
        return
    except PermissionError:
        # Our own directory with a mode that keeps us out; O_PATH needs no read permission.
        fd = os.open(path, os.O_PATH | _DIRECTORY, dir_fd=at)
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
        os.close(fd)
        fd = os.open(path, _DIRECTORY, dir_fd=at)
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


def main(arguments: list[str]) -> int:
    """`unpack ORDERS` or `remove PATH`; the answer to ORDERS is the file beside it, `result`."""
    verb, path = arguments
    if verb == "remove":
        try:
            remove_tree(path)
        except OSError:
            return 1
        return 0
    from fcntl import LOCK_SH, flock

    from ctrt.oci import fastjson

    # Should the process that started us be killed, nobody cleans up under our hands.
    lock = os.open(os.path.dirname(path), _DIRECTORY)
    flock(lock, LOCK_SH)
    with open(path, "rb") as file:
        orders = fastjson.loads(file.read())
    if orders["path"]:
        sys.path.append(orders["path"])
    try:
        result: dict[str, Any] = {"notes": unpack(orders)}
    except BrokenLayerError as error:
        result = {"error": str(error)}
    with open(os.path.join(os.path.dirname(path), "result"), "x", encoding="ascii") as file:
        file.write(fastjson.dumps(result))
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
