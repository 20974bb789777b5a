"""Making images: layers as tar streams in, blobs and a manifest of the store out.

What is made is the same for the same input: tar headers name no user, the gzip header has no
time, and the JSON of configuration and manifest is written in one way.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from ctrt.oci import fastjson, media

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ctrt.images.store import Image, Store
    from ctrt.oci.reference import Reference

END = bytes(1024)
"""What ends a tar archive."""


class Blob(NamedTuple):
    """A layer in the store: its digest and size as packed, and its digest unpacked."""

    digest: str
    size: int
    diff_id: str
    media_type: str = media.OCI_LAYER_GZIP


def header(
    name: bytes,
    kind: bytes,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime_ns: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    xattrs: dict[str, bytes] | None = None,
) -> bytes:
    """Return the header of a tar entry, with a PAX header before it where one is needed."""
    info = tarfile.TarInfo(os.fsdecode(name) + ("/" if kind == b"5" and name else ""))
    info.type, info.mode, info.uid, info.gid, info.size = kind, mode, uid, gid, size
    info.linkname = os.fsdecode(link)
    info.devmajor, info.devminor = device
    seconds, part = divmod(mtime_ns, 1_000_000_000)
    info.mtime = max(seconds, 0)
    info.pax_headers = {}
    if part or seconds < 0:
        sign, (whole, rest) = "", (seconds, part)
        if mtime_ns < 0:
            sign, (whole, rest) = "-", divmod(-mtime_ns, 1_000_000_000)
        text = f"{sign}{whole}.{rest:09d}".rstrip("0").rstrip(".")
        info.pax_headers["mtime"] = text
    for key, value in sorted((xattrs or {}).items()):
        info.pax_headers[f"SCHILY.xattr.{key}"] = value.decode("utf-8", "surrogateescape")
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padded(size: int) -> bytes:
    """Return what fills the last block of an entry of `size` bytes."""
    return bytes(-size % 512)


class Gzip:
    """A tar stream packed on its way: iterate over the packed pieces, then ask for the digest."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self._hash = sha256()

    def __iter__(self) -> Iterator[bytes]:
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)  # 31: a gzip header, with no time in it
        for piece in self._pieces:
            self._hash.update(piece)
            packed = packer.compress(piece)
            if packed:
                yield packed
        yield packer.flush()

    @property
    def diff_id(self) -> str:
        """The digest of what went in."""
        return f"sha256:{self._hash.hexdigest()}"


def add_layer(store: Store, pieces: Iterable[bytes]) -> Blob:
    """Pack a tar stream into a layer of the store."""
    packed = Gzip(pieces)
    digest, size = store.add_blob(packed)
    return Blob(digest, size, packed.diff_id)


def add_manifest(store: Store, config: dict[str, Any], layers: list[Blob]) -> str:
    """Store configuration and manifest of an image; the manifest's digest. Hold the store.

    `config` gets the layers' `rootfs`.
    """
    config = {**config, "rootfs": {"type": "layers", "diff_ids": [b.diff_id for b in layers]}}
    config_digest, config_size = store.add_blob(fastjson.dumps(config).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": {"mediaType": media.OCI_CONFIG, "digest": config_digest, "size": config_size},
        "layers": [{"mediaType": b.media_type, "digest": b.digest, "size": b.size} for b in layers],
    }
    return store.add_blob(fastjson.dumps(manifest).encode())[0]


def add_image(
    store: Store, name: Reference | str, config: dict[str, Any], layers: list[Blob]
) -> Image:
    """Store an image of these layers, the lowest first, and name it."""
    with store.hold():
        return store.tag(name, add_manifest(store, config, layers))


def blobs(image: Image) -> list[Blob]:
    """The layers of an image, to build upon."""
    return [Blob(part.digest, part.size, part.diff_id, part.media_type) for part in image.layers]
