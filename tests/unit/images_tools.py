"""Small images made by hand, for the tests of ctrt.images."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile

from ctrt.images.store import Image, Store
from ctrt.oci import media

KINDS = {"file": b"0", "link": b"1", "symlink": b"2", "char": b"3", "block": b"4", "dir": b"5"}
KINDS |= {"fifo": b"6"}


def member(
    name: str,
    data: bytes = b"",
    *,
    kind: str | bytes = "file",
    link: str = "",
    mode: int | None = None,
    owner: tuple[int, int] = (0, 0),
    mtime: float = 1_000_000_000,
    device: tuple[int, int] = (0, 0),
    pax: dict[str, str] | None = None,
    form: int = tarfile.PAX_FORMAT,
) -> bytes:
    """One entry of a tar archive, header and data; nothing in it is checked."""
    info = tarfile.TarInfo(name)
    info.type = KINDS[kind] if isinstance(kind, str) else kind
    info.mode = (0o755 if kind == "dir" else 0o644) if mode is None else mode
    info.uid, info.gid = owner
    info.mtime = mtime
    info.linkname = link
    info.size = len(data)
    info.devmajor, info.devminor = device
    info.pax_headers = pax or {}
    buffer = info.tobuf(form, "utf-8", "surrogateescape")
    return buffer + data + b"\0" * (-len(data) % 512)


def tar(*members: bytes) -> bytes:
    return b"".join(members) + bytes(1024)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image(
    store: Store,
    *layers: bytes,
    name: str = "localhost/test",
    packed: bool = True,
    diff_ids: list[str] | None = None,
    blobs: list[bytes] | None = None,
) -> Image:
    """Store an image of these (plain) tar layers; `blobs` replaces what is stored for them."""
    if blobs is None:
        blobs = [gzip.compress(layer, mtime=0) if packed else layer for layer in layers]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            "rootfs": {
                "type": "layers",
                "diff_ids": diff_ids or [digest(layer) for layer in layers],
            },
        }
    ).encode()
    kind = media.OCI_LAYER_GZIP if packed else media.OCI_LAYER
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": {
                "mediaType": media.OCI_CONFIG,
                "digest": digest(config),
                "size": len(config),
            },
            "layers": [
                {"mediaType": kind, "digest": digest(blob), "size": len(blob)} for blob in blobs
            ],
        }
    ).encode()
    for data in (config, manifest, *blobs):
        store.add_blob(data)
    return store.tag(name, digest(manifest))


def leftovers(store: Store) -> list[str]:
    """What a failure must not leave: work in progress, half a layer."""
    found = []
    for place in ("tmp", "layers"):
        if os.path.isdir(store.path(place)):
            found += [os.path.join(place, name) for name in os.listdir(store.path(place))]
    return found


def archive(data: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(data))
