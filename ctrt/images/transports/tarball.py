"""A tar archive read by name, without unpacking it.

One that is packed (gzip, bzip2, xz, zstd) is first unpacked into an unnamed temporary file, as its
members can then be reached in any order (`docker save | gzip` is common).
"""

from __future__ import annotations

import os
import posixpath
import tarfile
import tempfile
import threading
from typing import IO, TYPE_CHECKING

from ctrt.errors import CtrtError
from ctrt.images import _tar
from ctrt.images._unpack import ALWAYS_BYTES, RATIO
from ctrt.images.transports.base import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMBERS = 100_000


class Tarball:
    """The members of an archive; several threads may read them at once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115  # closed by close()
        except OSError as error:
            raise CtrtError(f"{path} cannot be read: {error.strerror}") from None
        try:
            if _tar.is_packed(self._file.read(8)):
                self._file = self._unpacked(self._file)
            self._file.seek(0)
            self._members: dict[str, tarfile.TarInfo] = {}
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                for member in tar:
                    if len(self._members) >= MEMBERS:
                        raise CtrtError(f"{path} has more than {MEMBERS} members")
                    self._members[posixpath.normpath(member.name).lstrip("/")] = member
            self._size = os.fstat(self._file.fileno()).st_size
        except (tarfile.TarError, _tar.BrokenLayerError, OSError) as error:
            self.close()
            raise CtrtError(f"{path} is no whole tar archive ({error})") from None
        except CtrtError:
            self.close()
            raise

    def _unpacked(self, packed: IO[bytes]) -> IO[bytes]:
        place = os.environ.get("TMPDIR") or "/var/tmp"
        plain = tempfile.TemporaryFile(dir=place)  # noqa: SIM115  # closed by close()
        limit = max(ALWAYS_BYTES, RATIO * os.fstat(packed.fileno()).st_size)
        try:
            with packed:
                for piece in _tar.pieces(self._path):
                    if plain.tell() + len(piece) > limit:
                        raise CtrtError(
                            f"{self._path} grows to more than {limit >> 20} MiB when it is unpacked"
                        )
                    self._write(plain, piece, place)
        except BaseException:
            plain.close()
            raise
        return plain

    def _write(self, plain: IO[bytes], piece: bytes, place: str) -> None:
        try:
            plain.write(piece)
            plain.flush()
        except OSError as error:
            raise CtrtError(
                f"{self._path} cannot be unpacked into {place}: {error.strerror}"
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def names(self) -> list[str]:
        """Return the names of all members."""
        return list(self._members)

    def size(self, name: str) -> int:
        """Return the size of a member in bytes."""
        return self._find(name).size

    def read(self, name: str, limit: int) -> bytes:
        """Return a small member."""
        if self.size(name) > limit:
            raise CtrtError(f"{name} in {self._path} has more than {limit >> 20} MiB")
        return b"".join(self.pieces(name))

    def pieces(self, name: str, start: int = 0) -> Iterator[bytes]:
        """Yield a member from an offset on."""
        member = self._find(name)
        at, end = member.offset_data + start, member.offset_data + member.size
        if end > self._size:
            raise CtrtError(f"{self._path} ends within {name}")
        while at < end:
            piece = os.pread(self._file.fileno(), min(PIECE_BYTES, end - at), at)
            if not piece:
                raise CtrtError(f"{self._path} ends within {name}")
            at += len(piece)
            yield piece

    def _find(self, name: str) -> tarfile.TarInfo:
        """Return the member, through links within the archive."""
        at = posixpath.normpath(name).lstrip("/")
        for _ in range(8):
            member = self._members.get(at)
            if member is None:
                break
            if member.isreg():
                return member
            if member.issym():
                at = posixpath.normpath(posixpath.join(posixpath.dirname(at), member.linkname))
            elif member.islnk():
                at = posixpath.normpath(member.linkname).lstrip("/")
            else:
                break
        raise CtrtError(f"{self._path} has no {name}")
