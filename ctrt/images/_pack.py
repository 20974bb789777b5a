"""The pack program: what a container wrote (an overlay upper directory) in, a tar layer out.

The counterpart of `_unpack.py`, and for the same reasons a small program of its own: an
ordinary user's files belong to ids that only the container's user namespace maps. It reads its
orders from a JSON file and writes the layer, not packed, beside it.

Sources: image-spec, layer.md, "Representing Changes"; the kernel's
Documentation/filesystems/overlayfs.rst; capabilities(7), "Namespaced file capabilities".
"""

from __future__ import annotations

import os
import sys
from stat import S_IMODE, S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISLNK, S_ISREG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOBODY = 65534
_CHUNK = 1 << 20


class _Packer:
    """Writes what is below a directory as the entries of a layer."""

    def __init__(self, orders: dict[str, Any], out: BinaryIO) -> None:
        self.out = out
        self.uids: list[list[int]] = orders["uids"]
        self.gids: list[list[int]] = orders["gids"]
        self.time: int | None = orders["time"]  # nanoseconds
        # Places that were only mounted upon, and so are not the container's doing.
        self.mounts = {os.fsencode(path) for path in orders["mounts"]}
        self.lowers: list[str] = orders["lowers"]
        self.seen: dict[tuple[int, int], bytes] = {}

    def pack(self, fd: int, path: bytes) -> bool:
        """Pack what is in an open directory; whether anything was."""
        some = False
        for name in sorted(os.fsencode(entry) for entry in os.listdir(fd)):
            inner = b"%s/%s" % (path, name) if path else name
            looks = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if S_ISCHR(looks.st_mode) and looks.st_rdev == 0:
                self.entry(b"%s/.wh.%s" % (path, name) if path else b".wh." + name, b"0", mode=0)
                some = True
            elif S_ISDIR(looks.st_mode):
                some = self.directory(fd, name, inner, looks) or some
            elif inner in self.mounts and S_ISREG(looks.st_mode) and not looks.st_size:
                continue
            else:
                self.other(fd, name, inner, looks)
                some = True
        return some

    def directory(self, at: int, name: bytes, path: bytes, looks: os.stat_result) -> bool:
        fd = os.open(name, _DIRECTORY, dir_fd=at)
        try:
            begin = self.out.tell()
            xattrs, opaque = self.xattrs(fd)
            self.entry(path, b"5", looks, xattrs=xattrs)
            if opaque:
                self.entry(path + b"/.wh..wh..opq", b"0", mode=0)
            some = self.pack(fd, path)
            mounted = any(place == path or place.startswith(path + b"/") for place in self.mounts)
            if mounted and not some and not opaque and (
                path in self.mounts or self.same_below(path, looks)
            ):  # fmt: skip
                self.out.seek(begin)
                self.out.truncate()
                return False
        finally:
            os.close(fd)
        return True

    def same_below(self, path: bytes, looks: os.stat_result) -> bool:
        """Say whether a lower layer has the same directory, so that only its time has changed.

        Also where none has it: then it was made for what is mounted in it.
        """
        for lower in self.lowers:
            try:
                below = os.lstat(os.fsencode(lower) + b"/" + path)
            except OSError:
                continue
            owner = (self.inside(self.uids, looks.st_uid), self.inside(self.gids, looks.st_gid))
            return below.st_mode == looks.st_mode and owner == (below.st_uid, below.st_gid)
        return True

    def other(self, at: int, name: bytes, path: bytes, looks: os.stat_result) -> None:
        mode = looks.st_mode
        if S_ISREG(mode):
            if looks.st_nlink > 1:
                first = self.seen.setdefault((looks.st_dev, looks.st_ino), path)
                if first != path:
                    self.entry(path, b"1", looks, link=first)
                    return
            fd = os.open(name, _FILE, dir_fd=at)
            try:
                self.entry(path, b"0", looks, size=looks.st_size, xattrs=self.xattrs(fd)[0])
                left = looks.st_size
                while left:
                    data = os.read(fd, min(left, _CHUNK)) or bytes(min(left, _CHUNK))
                    left -= len(data)
                    self.out.write(data)
                self.out.write(bytes(-looks.st_size % 512))
            finally:
                os.close(fd)
        elif S_ISLNK(mode):
            self.entry(path, b"2", looks, link=os.readlink(name, dir_fd=at))
        elif S_ISFIFO(mode):
            self.entry(path, b"6", looks)
        elif S_ISCHR(mode) or S_ISBLK(mode):
            device = (os.major(looks.st_rdev), os.minor(looks.st_rdev))
            self.entry(path, b"3" if S_ISCHR(mode) else b"4", looks, device=device)
        # Sockets have no form in an archive; whoever listens makes them anew.

    def entry(
        self,
        name: bytes,
        kind: bytes,
        looks: os.stat_result | None = None,
        mode: int = 0o644,
        **more: Any,
    ) -> None:
        from ctrt.images.compose import header

        uid = gid = 0
        stamp = self.time or 0
        if looks is not None:
            mode = S_IMODE(looks.st_mode)
            uid, gid = self.inside(self.uids, looks.st_uid), self.inside(self.gids, looks.st_gid)
            stamp = looks.st_mtime_ns if self.time is None else self.time
        self.out.write(header(name, kind, mode=mode, uid=uid, gid=gid, mtime_ns=stamp, **more))

    def inside(self, extents: list[list[int]], number: int) -> int:
        """Return the id that the container sees."""
        if not extents:
            return number
        for inner, outer, count in extents:
            if outer <= number < outer + count:
                return inner + number - outer
        return _NOBODY

    def xattrs(self, fd: int) -> tuple[dict[str, bytes], bool]:
        """Return the attributes for the image, and whether the directory hides what is below."""
        found: dict[str, bytes] = {}
        opaque = False
        for key in os.listxattr(fd):
            if ".overlay." in key:
                opaque = opaque or (key.endswith(".opaque") and os.getxattr(fd, key) == b"y")
                continue
            value = os.getxattr(fd, key)
            if key == "security.capability" and len(value) == 24 and value[3] == 3:
                # In an image a capability is for whoever root will be (version 2).
                value = value[:3] + b"\2" + value[4:20]
            found[key] = value
        return found, opaque


def main(arguments: list[str]) -> int:
    """`ORDERS`; the layer is the file beside it, `layer`, and a failure `error`."""
    from ctrt.oci import fastjson

    place = os.path.dirname(arguments[0])
    with open(arguments[0], "rb") as file:
        orders = fastjson.loads(file.read())
    try:
        fd = os.open(orders["upper"], _DIRECTORY)
        with open(os.path.join(place, "layer"), "xb") as out:
            packer = _Packer(orders, out)
            looks = os.fstat(fd)
            begin = packer.out.tell()
            xattrs, _ = packer.xattrs(fd)
            packer.entry(b"./", b"5", looks, xattrs=xattrs)
            if not packer.pack(fd, b"") and orders["lowers"]:
                out.seek(begin)
                out.truncate()
            out.write(bytes(1024))
    except OSError as error:
        with open(os.path.join(place, "error"), "x", encoding="utf-8") as said:
            said.write(f"{error.strerror} ({error.filename})" if error.filename else str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
