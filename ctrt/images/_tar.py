"""Reading tar archives: the bytes of a layer, whatever packs them, and its entries.

What is read comes from strangers, so every number is checked before it is used, and nothing
is held that the archive can make large: headers are at most 1 MiB, data goes by in pieces.

Reading runs in a thread beside whoever takes the entries, and so does the hash of what is larger
than a piece: decompression, hash and system calls all release the interpreter lock.

Sources: pax(1) and tar(5) for the format, "Storing Sparse Files" of GNU tar's manual for the
three kinds of sparse files; RFC 1952 (gzip), RFC 8878 (zstd).
"""

from __future__ import annotations

import os
import zlib
from struct import Struct
from zlib import adler32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _queue import SimpleQueue
    from collections.abc import Callable, Iterator
    from typing import Any, Self

CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 20
MAX_SEGMENTS = 1 << 18
# 128 MiB: what `zstd --ultra -22 --long=27` asks for, and what the zstd command itself allows.
MAX_WINDOW_LOG = 27
MAX_XZ_BYTES = 256 << 20

_HEADER = Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_ZERO = bytes(512)


class BrokenLayerError(Exception):
    """The layer is not what it should be; the text is the end of a sentence."""


# -- reading -----------------------------------------------------------------------------------


class Source:
    """The bytes of an uncompressed layer, read, unpacked and hashed by threads of their own.

    `limit` is how many bytes there may be; `why` is said when there are more. `opened` reads the
    file at `path` where it is not there as a whole yet.
    """

    def __init__(self, path: str, limit: int, why: str = "", opened: Growing | None = None) -> None:
        from _queue import SimpleQueue
        from hashlib import sha256
        from threading import Semaphore, Thread

        self._path = path
        self._opened = opened
        self._limit = limit
        self._why = why or f"it grows to more than {limit >> 20} MiB when it is unpacked"
        self._hash = sha256()
        self._queue: SimpleQueue[bytes | Exception | None] = SimpleQueue()
        self._unhashed: SimpleQueue[bytes | Exception | None] | None = None
        self._room = Semaphore(8)
        self._stopped = False
        self._claimed = 0
        self._chunk = memoryview(b"")
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            total = 0
            for chunk in pieces(self._path, self._opened):
                total += len(chunk)
                if total > self._limit:
                    raise BrokenLayerError(self._why)
                self._room.acquire()
                if self._stopped:
                    break
                self._pass(chunk, first=total == len(chunk))
            self._pass(None)
        except (BrokenLayerError, OSError) as error:
            self._pass(error)
        except (MemoryError, RuntimeError):  # no memory for a piece, or for a thread
            self._pass(BrokenLayerError("there is not enough memory to unpack it"))
        if self._unhashed is not None:
            self._hasher.join()

    def _pass(self, chunk: bytes | Exception | None, *, first: bool = False) -> None:
        """Hand on a piece: from the second one on by way of a thread that hashes."""
        if first:
            self._hash.update(chunk)  # type: ignore[arg-type]
        elif isinstance(chunk, bytes) and self._unhashed is None:
            from _queue import SimpleQueue
            from threading import Thread

            pieces: SimpleQueue[bytes | Exception | None] = SimpleQueue()
            self._hasher = Thread(target=self._hash_all, args=(pieces,), daemon=True)
            self._hasher.start()
            self._unhashed = pieces
        (self._unhashed or self._queue).put(chunk)

    def _hash_all(self, pieces: SimpleQueue[bytes | Exception | None]) -> None:
        while isinstance(chunk := pieces.get(), bytes):
            self._hash.update(chunk)
            self._queue.put(chunk)
        self._queue.put(chunk)

    def stop(self) -> None:
        self._stopped = True
        self._room.release()
        self._thread.join()

    def _next(self) -> bool:
        """Fetch the next chunk; False at the end."""
        chunk = self._queue.get()
        if isinstance(chunk, Exception):
            raise chunk
        if chunk is None:
            self._queue.put(None)
            return False
        self._room.release()
        self._chunk = memoryview(chunk)
        return True

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        chunk = self._chunk
        if len(chunk) >= size:
            self._chunk = chunk[size:]
            return bytes(chunk[:size])
        parts = []
        while size:
            if not self._chunk and not self._next():
                raise BrokenLayerError("it ends in the middle of an entry")
            part = self._chunk[:size]
            parts.append(part)
            self._chunk = self._chunk[len(part) :]
            size -= len(part)
        return b"".join(parts)

    def block(self) -> bytes:
        """Return the next 512 bytes, or nothing where the archive ends without a mark."""
        if not self._chunk and not self._next():
            return b""
        return self.read(512)

    def copy(self, fd: int, size: int) -> None:
        """Write the next `size` bytes to a file."""
        while size:
            if not self._chunk and not self._next():
                raise BrokenLayerError("it ends in the middle of an entry")
            part = self._chunk[:size]
            written = os.write(fd, part)
            self._chunk = self._chunk[written:]
            size -= written

    def copy_sparse(self, fd: int, entry: Entry) -> None:
        """Write the data of a sparse file to its places, and leave the holes."""
        for offset, length in entry.segments or ():
            os.lseek(fd, offset, os.SEEK_SET)
            self.copy(fd, length)
        os.ftruncate(fd, entry.length)

    def claim(self, size: int) -> None:
        """Count bytes that the archive does not hold but a file of it has."""
        self._claimed += size
        if self._claimed > self._limit:
            raise BrokenLayerError(self._why)

    def chunks(self, size: int) -> Iterator[memoryview]:
        """Yield the next `size` bytes in pieces."""
        while size:
            if not self._chunk and not self._next():
                raise BrokenLayerError("it ends in the middle of an entry")
            part = self._chunk[:size]
            self._chunk = self._chunk[len(part) :]
            size -= len(part)
            yield part

    def skip(self, size: int) -> None:
        while size:
            if not self._chunk and not self._next():
                raise BrokenLayerError("it ends in the middle of an entry")
            part = min(size, len(self._chunk))
            self._chunk = self._chunk[part:]
            size -= part

    def pad(self, size: int) -> None:
        """Skip what fills the last block of `size` bytes; umoci leaves it out at the end."""
        left = -size % 512
        while left and (self._chunk or self._next()):
            part = min(left, len(self._chunk))
            self._chunk = self._chunk[part:]
            left -= part

    def digest(self) -> str:
        """Read to the end and return the digest of everything."""
        while self._next():
            pass
        self._thread.join()
        return f"sha256:{self._hash.hexdigest()}"


class Growing:
    """A file that another process is still fetching: reading waits for what is not there yet.

    It is called `partial` until it is whole, then `path`. A byte comes through the FIFO `news`
    whenever it has grown, and the FIFO's end when it is whole or will not grow any more. When
    there is something at `stop`, nobody wants it any more.
    """

    def __init__(self, path: str, partial: str, size: int, news: str, stop: str) -> None:
        self._names = (path, partial)
        self._left = size
        self._stop = stop
        self._fd = -1
        # Should there be no writer any more, this does not wait for one.
        self._news = os.open(news, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(self._news, True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._news)
        if self._fd >= 0:
            os.close(self._fd)

    def read(self, count: int) -> bytes:
        """Return up to `count` bytes, nothing at the end."""
        more = True
        while self._left:
            if os.path.exists(self._stop):
                raise BrokenLayerError("nobody wants it any more")
            data = self._now(min(count, self._left))
            if data:
                self._left -= len(data)
                return data
            if not more:
                raise BrokenLayerError("it has not come as a whole")
            more = bool(os.read(self._news, 4096))
        return b""

    def _now(self, count: int) -> bytes:
        for name in self._names if self._fd < 0 else ():
            try:
                self._fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                break
            except FileNotFoundError:
                continue
        return os.read(self._fd, count) if self._fd >= 0 else b""


def pieces(path: str, growing: Growing | None = None) -> Iterator[bytes]:
    """Yield the archive in pieces of at most CHUNK_BYTES; how it is packed is known by its mark.

    gzip, zstd, bzip2, xz, or not packed at all.
    """
    with growing or open(path, "rb", buffering=0) as file:
        data = file.read(CHUNK_BYTES >> 2)
        if data[:2] == b"\x1f\x8b":
            yield from _gzip(file, data)
            return
        for mark, what, opened in _PACKERS:
            if data[: len(mark)] == mark:
                yield from _frames(file, data, what, *opened())
                return
        while data:
            yield data
            data = file.read(CHUNK_BYTES)


def _gzip(file: Any, data: bytes) -> Iterator[bytes]:
    while data:
        # One gzip member; several may follow one another (RFC 1952, section 2.2).
        unzip = zlib.decompressobj(31)
        try:
            while not unzip.eof:
                if not data:
                    raise BrokenLayerError("its gzip data ends too early")
                chunk = unzip.decompress(data, CHUNK_BYTES)
                data = unzip.unconsumed_tail or (b"" if unzip.eof else file.read(CHUNK_BYTES >> 2))
                if chunk:
                    yield chunk
        except zlib.error as error:
            raise BrokenLayerError(
                f"its gzip data is broken ({str(error).rpartition(': ')[2]})"
            ) from None
        data = (unzip.unused_data or file.read(CHUNK_BYTES)).lstrip(b"\0")
        while not data:
            more = file.read(CHUNK_BYTES)
            if not more:
                break
            data = more.lstrip(b"\0")
        if data and data[:1] != b"\x1f":
            raise BrokenLayerError("something that is not gzip follows its gzip data")


def _frames(
    file: Any, data: bytes, what: str, make: Callable[[], Any], failure: type[Exception]
) -> Iterator[bytes]:
    """Unpack by a decompressor of the shape that bz2, lzma and zstd share.

    Several frames may follow one another; zstd:chunked is made of them, with skippable ones.
    """
    try:
        while data:
            unpack = make()
            while not unpack.eof:
                if unpack.needs_input and not data:
                    raise BrokenLayerError(f"its {what} data ends too early")
                chunk = unpack.decompress(data, CHUNK_BYTES)
                data = file.read(CHUNK_BYTES >> 2) if unpack.needs_input else b""
                if chunk:
                    yield chunk
            data = (unpack.unused_data + data) or file.read(CHUNK_BYTES >> 2)
            if what == "xz":
                data = data.lstrip(b"\0")  # stream padding
    except (failure, EOFError) as error:
        raise BrokenLayerError(f"its {what} data is broken ({_sentence(error)})") from None


def _sentence(error: Exception) -> str:
    text = str(error).rpartition(": ")[2].strip().rstrip(".")
    return text[:1].lower() + text[1:]


def zstd_module() -> Any:
    """Return the library's zstd: `compression.zstd` of Python 3.14, else backports.zstd."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            raise BrokenLayerError(
                "it is packed with zstd, and this Python cannot read that; install it with:"
                " pip install backports.zstd"
            ) from None
    return zstd


def _zstd() -> tuple[Callable[[], Any], type[Exception]]:
    zstd = zstd_module()
    options = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
    return lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError


def _bzip2() -> tuple[Callable[[], Any], type[Exception]]:
    import bz2

    return bz2.BZ2Decompressor, OSError


def _xz() -> tuple[Callable[[], Any], type[Exception]]:
    import lzma

    return lambda: lzma.LZMADecompressor(memlimit=MAX_XZ_BYTES), lzma.LZMAError


ZSTD_MARK = b"\x28\xb5\x2f\xfd"
_PACKERS = (
    (ZSTD_MARK, "zstd", _zstd),
    (b"BZh", "bzip2", _bzip2),
    (b"\xfd7zXZ\0", "xz", _xz),
)


def is_packed(first: bytes) -> bool:
    """Say by a file's first bytes whether `pieces` unpacks it."""
    return first.startswith((b"\x1f\x8b", *(mark for mark, _, _ in _PACKERS)))


class Entry:
    """One member of the archive, its extended headers already applied."""

    __slots__ = (
        "device", "gid", "kind", "length", "link", "mode", "mtime", "name", "segments", "size",
        "uid", "xattrs",
    )  # fmt: skip

    kind: bytes
    name: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    size: int  # bytes in the archive
    length: int  # bytes of the file: more than `size` where it is sparse
    segments: list[tuple[int, int]] | None  # of a sparse file: where its data is (offset, length)
    mtime: int  # nanoseconds
    device: tuple[int, int]
    xattrs: dict[str, bytes]

    def __init__(self) -> None:
        self.segments = None
        self.length = -1
        self.device = (0, 0)
        self.xattrs = {}


def entries(source: Source) -> Iterator[Entry]:
    """Read the archive's headers; whoever takes an entry also reads its data."""
    pax: dict[bytes, bytes] = {}
    name = link = b""
    while True:
        header = source.block()
        if not header or header == _ZERO:
            return
        fields = _HEADER.unpack(header)
        recorded = _number(fields[6])
        # The low half of Adler-32 is 1 + the sum of the bytes, exactly so for up to 256 bytes.
        total = (adler32(header[:256]) & 0xFFFF) + (adler32(header[256:]) & 0xFFFF) - 2
        total += 256 - sum(header[148:156])
        if recorded != total:
            # Some old tars summed signed bytes (tar(5)).
            signed = total - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
            if recorded != signed:
                raise BrokenLayerError("a header of its tar archive is broken (wrong checksum)")
        kind: bytes = fields[7]
        size = _number(fields[4])
        if size < 0:
            raise BrokenLayerError("an entry of its tar archive has a negative size")
        if kind in b"xgLKX":
            if size > MAX_HEADER_BYTES:
                raise BrokenLayerError("an extended header has more than 1 MiB")
            data = source.read(size)
            source.pad(size)
            if kind in b"xX":
                pax = _pax(data)
            elif kind == b"L":
                name = data.partition(b"\0")[0]
            elif kind == b"K":
                link = data.partition(b"\0")[0]
            continue  # b"g": global headers are comments in practice; engines skip them
        entry = Entry()
        entry.kind = kind
        entry.name = name or fields[0].partition(b"\0")[0]
        if not name and fields[9][:6] == b"ustar\0" and fields[14][0]:
            entry.name = fields[14].partition(b"\0")[0] + b"/" + entry.name
        entry.link = link or fields[8].partition(b"\0")[0]
        entry.mode = _number(fields[1]) & 0o7777
        entry.uid = _number(fields[2])
        entry.gid = _number(fields[3])
        entry.size = size
        entry.mtime = _number(fields[5]) * 1_000_000_000
        if kind in b"34":
            entry.device = (_number(fields[12]), _number(fields[13]))
        if kind == b"S":
            _old_sparse(entry, header, source)
        if pax:
            _apply(entry, pax)
            if b"GNU.sparse.major" in pax and entry.kind in b"\0" + b"0":
                _sparse_map(entry, pax, source)
        if kind in b"\0" + b"0" and entry.name.endswith(b"/"):
            entry.kind = b"5"  # so the tar of 1979 wrote directories
        if entry.kind in b"123456":
            entry.size = 0  # whatever the header says, no data follows these kinds
        if entry.segments is None:
            entry.length = entry.size
        else:
            _check_segments(entry)
            source.claim(entry.length - entry.size)
        _check(entry)
        pax, name, link = {}, b"", b""
        yield entry


def _check(entry: Entry) -> None:
    """Refuse what no file can have, before the kernel takes it for something else (-1)."""
    name = shown(entry.name)
    if not (0 <= entry.uid < 0xFFFFFFFF and 0 <= entry.gid < 0xFFFFFFFF):
        raise BrokenLayerError(f"{name} has an impossible owner ({entry.uid}:{entry.gid})")
    if abs(entry.mtime) > 10**20:
        raise BrokenLayerError(f"{name} has an impossible time")
    if not (0 <= entry.device[0] < 1 << 12 and 0 <= entry.device[1] < 1 << 20):
        raise BrokenLayerError(f"{name} has an impossible device number")
    if b"\0" in entry.name or b"\0" in entry.link:
        raise BrokenLayerError(f"{name} has a NUL character in its name")
    if entry.xattrs and any("\0" in key for key in entry.xattrs):
        raise BrokenLayerError(f"{name} has an attribute with a NUL character in its name")


def _number(field: bytes) -> int:
    """Read octal digits, or GNU's base 256 for what does not fit (tar(5))."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    digits = field.partition(b"\0")[0].strip()
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise BrokenLayerError("a header of its tar archive has a number that is not octal")
    return int(digits, 8)


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Read records `LENGTH KEY=VALUE NEWLINE`; values may hold anything."""
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    at = 0
    while at < len(data):
        # Nothing is cut off: a header of many records takes no longer than it is long.
        digits, space, _ = data[at : at + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[at + len(digits) + 1 : at + length]
        key, equals, value = record.partition(b"=")
        at += length
        if not space or at > len(data) or not equals or record[-1:] != b"\n":
            raise BrokenLayerError("an extended (PAX) header of its tar archive is broken")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            # Version 0.0 repeats the two keys for every piece; 0.1 has the same in one value.
            sparse.append(value[:-1])
        else:
            records[key] = value[:-1]
    if sparse:
        records[b"GNU.sparse.map"] = b",".join(sparse)
    return records


def _apply(entry: Entry, pax: dict[bytes, bytes]) -> None:
    for key, value in pax.items():
        if not value and not key.startswith((b"SCHILY.xattr.", b"GNU.sparse.")):
            continue  # an empty value takes the record back (pax(1))
        try:
            if key == b"path":
                entry.name = value
            elif key == b"linkpath":
                entry.link = value
            elif key == b"size":
                entry.size = _decimal(value)
            elif key == b"uid":
                entry.uid = _decimal(value)
            elif key == b"gid":
                entry.gid = _decimal(value)
            elif key == b"mtime":
                whole, _, part = value.partition(b".")
                negative = whole.startswith(b"-")
                nanoseconds = int((part + b"000000000")[:9]) if part else 0
                seconds = int(whole or b"0") * 1_000_000_000
                entry.mtime = seconds - nanoseconds if negative else seconds + nanoseconds
            elif key.startswith(b"SCHILY.xattr."):
                entry.xattrs[os.fsdecode(key[13:])] = value
            elif key == b"GNU.sparse.name":
                entry.name = value
            elif key in (b"GNU.sparse.size", b"GNU.sparse.realsize"):
                entry.length = _decimal(value)
            elif key == b"GNU.sparse.map":
                numbers = [_decimal(part) for part in value.split(b",")] if value else []
                entry.segments = list(zip(numbers[::2], numbers[1::2], strict=True))
            elif key == b"GNU.sparse.major" and (value, pax.get(b"GNU.sparse.minor")) != (
                b"1", b"0"
            ):  # fmt: skip
                raise BrokenLayerError(
                    f"{shown(entry.name)} is a sparse file of a version that nobody knows"
                )
        except ValueError:
            raise BrokenLayerError(
                f"{shown(entry.name)} has a broken {os.fsdecode(key)} in its extended header"
            ) from None


def _old_sparse(entry: Entry, header: bytes, source: Source) -> None:
    """Read the map of GNU's old sparse format: in the header, and in blocks that follow it."""
    entry.kind = b"0"
    entry.length = _number(header[483:495])
    entry.segments = []
    block, at, more = header[386:482], 0, header[482]
    while True:
        for at in range(0, len(block) // 24 * 24, 24):
            if block[at] == 0:
                break
            entry.segments.append((_number(block[at : at + 12]), _number(block[at + 12 : at + 24])))
        if not more:
            return
        if len(entry.segments) > MAX_SEGMENTS:
            raise BrokenLayerError(f"{shown(entry.name)} is a sparse file of too many pieces")
        following = source.read(512)
        block, more = following[:504], following[504]


def _sparse_map(entry: Entry, pax: dict[bytes, bytes], source: Source) -> None:
    """Read the map of version 1.0: lines of decimal numbers before the data, in whole blocks."""
    numbers: list[int] = []
    expected: int | None = None
    rest = b""
    while expected is None or len(numbers) < expected:
        if entry.size < 512 or (expected or 0) > 2 * MAX_SEGMENTS or len(rest) > 32:
            raise BrokenLayerError(f"{shown(entry.name)} has a broken map of its sparse data")
        *lines, rest = (rest + source.read(512)).split(b"\n")
        entry.size -= 512
        try:
            found = [_decimal(line) for line in lines]
        except ValueError:
            # After the last number the block is filled up with zeros.
            found = [int(line) for line in lines if line.isdigit()]
        if expected is None and found:
            expected = 2 * found.pop(0)
        numbers += found
    if expected is not None:
        numbers = numbers[:expected]
    entry.segments = list(zip(numbers[::2], numbers[1::2], strict=True))
    if b"GNU.sparse.realsize" not in pax:
        raise BrokenLayerError(f"{shown(entry.name)} has a broken map of its sparse data")


def _check_segments(entry: Entry) -> None:
    end = 0
    for offset, length in entry.segments or ():
        if offset < end or length < 0:
            end = -1
            break
        end = offset + length
    stored = sum(length for _, length in entry.segments or ())
    if not 0 <= end <= entry.length or stored != entry.size:
        raise BrokenLayerError(f"{shown(entry.name)} has a broken map of its sparse data")


def _decimal(value: bytes) -> int:
    if not value.isdigit():
        raise ValueError
    return int(value)


def clean(name: bytes) -> bytes:
    """Return a member's name relative to the root, without `.` and empty parts.

    A name with `..` in it is refused rather than resolved: no honest tool writes one.
    """
    if name[:2] == b"./":
        name = name[2:]
    if b"//" in name or b"./" in name or b".." in name or name[-1:] in b"/." or name[:1] == b"/":
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise BrokenLayerError(f'{shown(name)} leaves the image with ".."')
        name = b"/".join(parts)
    return name


def shown(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    text = text if text.isprintable() else ascii(text)[1:-1]
    return f'"{text[:200]}"'
