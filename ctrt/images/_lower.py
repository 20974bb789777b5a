"""What a layer needs of those below it: files to link to, looks of directories."""

from __future__ import annotations

import os
from stat import S_IMODE, S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISLNK, S_ISREG

from ctrt.images._tar import BrokenLayerError, shown
from ctrt.images._tree import DIRECTORY, NEW_FILE, Tree, is_opaque, is_whiteout


def _lookup(lowers: list[str], path: bytes, opaque: str) -> tuple[int, bytes] | None:
    """Find `path` as the lower directories (the topmost first) show it together.

    Return an open directory and the name in it; the caller closes the directory.
    """
    parts = path.split(b"/")
    for lower in lowers:
        fd = os.open(lower, DIRECTORY)
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
                below = os.open(part, DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
                hides = hides or is_opaque(fd, opaque)
        finally:
            if fd >= 0:
                os.close(fd)
        if hides:
            return None
    return None


def copy_up(tree: Tree, lowers: list[str], path: bytes) -> bool:
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
            copy = os.open(name, NEW_FILE, 0o600, dir_fd=at)
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


def _hidden(tree: Tree, path: bytes) -> bool:
    """Say whether this layer itself hides what lower layers have at `path`."""
    above = b""
    for part in path.split(b"/"):
        try:
            fd, real = tree.directory(above, make=False)
        except FileNotFoundError:
            return False
        if real != above or (above and is_opaque(fd, tree.opaque_xattr)):
            return True
        try:
            if is_whiteout(os.stat(part, dir_fd=fd, follow_symlinks=False)):
                return True
        except FileNotFoundError:
            return False
        above = b"%s/%s" % (above, part) if above else part
    return False


def inherit(tree: Tree, lowers: list[str], path: bytes) -> None:
    """Give a directory that no entry described the looks of the one that it will cover.

    Else a layer that only adds /tmp/x would make /tmp 0755. The root is such a directory too.
    """
    try:
        fd, real = tree.directory(path, make=False)
    except (FileNotFoundError, BrokenLayerError):
        return
    if real != path or (path and is_opaque(fd, tree.opaque_xattr)):
        return
    if not path:
        if not lowers:
            return
        source = os.open(lowers[0], DIRECTORY)
    else:
        found = _lookup(lowers, path, tree.opaque_xattr)
        if found is None:
            return
        above, name = found
        try:
            source = os.open(name, DIRECTORY, dir_fd=above)
        except OSError:
            return  # a file there: this directory replaces it
        finally:
            os.close(above)
    try:
        _take_looks(fd, source, os.fstat(source))
    finally:
        os.close(source)
