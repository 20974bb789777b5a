"""Half a blob is worth keeping: a download that broke goes on where it was, in the next pull too.

    ROOT/partial/HEX     the first bytes of the blob HEX; whoever fetches it holds a flock

The digest is still taken over all bytes, those from before included. What turns out to be
wrong is removed, and then fetched once more from the start if only the old part can be blamed.
"""

from __future__ import annotations

import fcntl
import os
from hashlib import sha256
from typing import TYPE_CHECKING

from ctrt.errors import CtrtError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctrt.images.store import Store
    from ctrt.oci.image import Descriptor

_PIECE_BYTES = 1 << 20


class BrokenBlobError(CtrtError):
    """What came is not what was described: the end of a sentence."""


def fetch(
    store: Store,
    described: Descriptor,
    read: Callable[[int], Iterator[bytes]],
    tell: Callable[[int], object],
) -> None:
    """Bring a blob into the store; `read(offset)` gives its bytes from there on.

    `tell` hears how many bytes are here. Another process that fetches the same blob is
    waited for. Raises BrokenBlobError, and whatever `read` raises.
    """
    path = store.path("partial", described.digest[7:])
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    fd = _locked(path)
    try:
        if store.has_blob(described.digest, described.size):
            tell(described.size)
            _remove(path)
            return
        begun = os.fstat(fd).st_size > 0
        try:
            _finish(store, described, read, tell, fd, path)
        except BrokenBlobError:
            if not begun:
                raise
            os.ftruncate(fd, 0)
            _finish(store, described, read, tell, fd, path)
    except (BrokenBlobError, OSError):
        # A full disk is not helped by half a blob.
        _remove(path)
        raise
    finally:
        if not os.fstat(fd).st_size:
            _remove(path)
        os.close(fd)


def clean(store_path: str) -> None:
    """Remove all halves that nobody is fetching."""
    try:
        names = os.listdir(store_path)
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(store_path, name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)


def _finish(
    store: Store,
    described: Descriptor,
    read: Callable[[int], Iterator[bytes]],
    tell: Callable[[int], object],
    fd: int,
    path: str,
) -> None:
    hashed = sha256()
    done = 0
    while piece := os.pread(fd, _PIECE_BYTES, done):
        hashed.update(piece)
        done += len(piece)
    tell(done)
    os.lseek(fd, done, os.SEEK_SET)
    size = described.size
    if done < size:
        for piece in read(done):
            if done + len(piece) > size:
                raise BrokenBlobError(f"more than the {size} bytes that it should have came")
            hashed.update(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
            done += len(piece)
            tell(done)
    if done != size:
        raise BrokenBlobError(f"only {done} of its {size} bytes came")
    found = f"sha256:{hashed.hexdigest()}"
    if found != described.digest:
        raise BrokenBlobError(f"its digest should be {described.digest}, but what came has {found}")
    store.adopt_blob(path, found)


def _locked(path: str) -> int:
    """Open the file and wait until nobody else has it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            there = os.stat(path)
            here = os.fstat(fd)
            if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # it was finished or removed while we waited


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
