"""docker-archive: - what `docker save` and `podman save` write.

Its layers are named by manifest.json and lie there unpacked, so the manifest that a registry
would have is made here: same configuration, same layers, but plain, and with a digest of its own.

Source: moby, image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import tempfile
from hashlib import sha256
from typing import IO, TYPE_CHECKING, Any, Self

import msgspec

from ctrt.errors import CtrtError
from ctrt.images.transports.base import (
    PIECE_BYTES,
    Destination,
    Source,
    checked,
    digest_of,
    local_reference,
)
from ctrt.images.transports.tarball import Tarball
from ctrt.oci import image as documents
from ctrt.oci import media
from ctrt.oci.reference import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class _Entry(msgspec.Struct):
    """One image of manifest.json."""

    Config: str  # the file's word
    Layers: list[str]
    RepoTags: list[str] | None = None


class ArchiveSource(Source):
    """An image of an archive, by its name there; without one there must be just one."""

    transport = "docker-archive"

    def __init__(self, rest: str) -> None:
        path, _, wanted = rest.partition(":")
        self._path = path
        self._tar = Tarball(path)
        try:
            entry = self._choose(wanted)
            super().__init__(f"docker-archive:{rest}", self._named(entry, wanted))
            self._config = self._tar.read(entry.Config, media.CONFIG_LIMIT)
            self._files: dict[str, str] = {}
            self._data = self._manifest(entry)
        except CtrtError:
            self.close()
            raise

    def manifest(self, digest: str | None = None) -> tuple[str, str, bytes]:
        """Return the manifest that was made."""
        return media.OCI_MANIFEST, digest_of(self._data), self._data

    def blob(self, described: documents.Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield a layer or the configuration."""
        if described.digest == digest_of(self._config):
            return iter((self._config[start:],))
        return self._tar.pieces(self._files[described.digest], start)

    def close(self) -> None:
        """Close the archive."""
        self._tar.close()

    def _choose(self, wanted: str) -> _Entry:
        entries = _entries(self._tar, self._path)
        if wanted.startswith("@") and wanted[1:].isdecimal() and int(wanted[1:]) < len(entries):
            return entries[int(wanted[1:])]
        for entry in entries:
            if wanted and any(_same(tag, wanted) for tag in entry.RepoTags or ()):
                return entry
        if len(entries) == 1 and not wanted:
            return entries[0]
        known = ", ".join(tag for entry in entries for tag in entry.RepoTags or ()) or "no names"
        has = f"no image {wanted}" if wanted else f"{len(entries)} images"
        raise CtrtError(
            f"{self._path} has {has}; name one as docker-archive:{self._path}:NAME (it has {known})"
        )

    def _named(self, entry: _Entry, wanted: str) -> Any:
        tags = [tag for tag in entry.RepoTags or () if not wanted or _same(tag, wanted)]
        return parse(tags[0]) if tags else local_reference(self._path)

    def _manifest(self, entry: _Entry) -> bytes:
        config = documents.read_config(self._config, f"the image in {self._path}")
        diff_ids = config.rootfs.diff_ids
        if len(diff_ids) != len(entry.Layers):
            raise CtrtError(
                f"manifest.json in {self._path} has {len(entry.Layers)} layers, but the"
                f" configuration {len(diff_ids)}"
            )
        layers = []
        for name, diff_id in zip(entry.Layers, diff_ids, strict=True):
            kind, digest = media.OCI_LAYER, diff_id
            if next(self._tar.pieces(name), b"")[:2] == b"\x1f\x8b":
                hashed = sha256()
                for piece in self._tar.pieces(name):
                    hashed.update(piece)
                kind, digest = media.OCI_LAYER_GZIP, f"sha256:{hashed.hexdigest()}"
            self._files[digest] = name
            layers.append({"mediaType": kind, "size": self._tar.size(name), "digest": digest})
        made = {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": {
                "mediaType": media.OCI_CONFIG,
                "size": len(self._config),
                "digest": digest_of(self._config),
            },
            "layers": layers,
        }
        return json.dumps(made, separators=(",", ":")).encode()


def images_in(path: str) -> list[str]:
    """Return what to put after `docker-archive:PATH` to name each of its images."""
    tar = Tarball(path)
    try:
        entries = _entries(tar, path)
    finally:
        tar.close()
    if len(entries) < 2:
        return [""]
    return [
        f":{name}"
        for number, entry in enumerate(entries)
        for name in (entry.RepoTags or [f"@{number}"])
    ]


def _entries(tar: Tarball, path: str) -> list[_Entry]:
    try:
        return msgspec.json.decode(
            tar.read("manifest.json", media.MANIFEST_LIMIT), type=list[_Entry]
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CtrtError(f"manifest.json in {path} is broken: {error}") from None


class Archive:
    """An archive that is being written, of one image or of several; a `with` block.

    Layers lie in it unpacked, as the format wants them, each once. Until `finish` nothing is at
    `path`.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        if os.path.exists(path):
            raise CtrtError(f"there is already a file {path}")
        self._aside = f"{self._path}.{os.urandom(4).hex()}"
        try:
            self._tar = tarfile.open(self._aside, "x:", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        except OSError as error:
            raise CtrtError(f"{path} cannot be written: {error.strerror}") from None
        self._names: set[str] = set()
        self._entries: dict[tuple[str, ...], list[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was not finished."""
        self._tar.close()
        if os.path.exists(self._aside):
            os.unlink(self._aside)

    def layer(self, pieces: Iterable[bytes]) -> str:
        """Add a plain layer; return the name that it has here."""
        with tempfile.TemporaryFile(dir=os.path.dirname(self._path)) as plain:
            hashed = sha256()
            for piece in pieces:
                hashed.update(piece)
                plain.write(piece)
            name = f"{hashed.hexdigest()}.tar"
            self._add(name, plain, plain.tell())
        return name

    def image(self, digest: str, config: bytes, layers: list[str], tag: str) -> None:
        """Add an image whose layers are there; `digest` is its configuration's."""
        name = f"{digest[7:]}.json"
        self._add(name, io.BytesIO(config), len(config))
        tags = self._entries.setdefault((name, *layers), [])
        if tag:
            tags.append(tag)

    def finish(self) -> None:
        """Write manifest.json, and give the archive its name."""
        listed = [
            {"Config": config, "RepoTags": tags, "Layers": layers}
            for (config, *layers), tags in self._entries.items()
        ]
        content = json.dumps(listed).encode()
        self._add("manifest.json", io.BytesIO(content), len(content))
        self._tar.close()
        os.rename(self._aside, self._path)

    def _add(self, name: str, file: IO[bytes], size: int) -> None:
        if name in self._names:
            return
        self._names.add(name)
        member = tarfile.TarInfo(name)
        member.size = size
        member.mode = 0o644
        file.seek(0)
        self._tar.addfile(member, file)


class ArchiveDestination(Destination):
    """An image of an archive: of `archive`, which the caller finishes, or of one of its own."""

    transport = "docker-archive"

    def __init__(self, rest: str, archive: Archive | None = None) -> None:
        super().__init__(f"docker-archive:{rest}")
        path, _, name = rest.partition(":")
        self._tag = str(parse(name)) if name else ""
        self._own = archive is None
        self._archive = archive or Archive(path)
        self._layers: dict[str, str] = {}
        self._configs: dict[str, bytes] = {}

    def put_blob(
        self,
        described: documents.Descriptor,
        read: Callable[[int], Iterable[bytes]],
        source: Source,
    ) -> str:
        """Write a layer as a plain tar, or keep the configuration."""
        pieces = checked(read(0), described)
        if described.media_type in media.LAYERS:
            plain = _plain(pieces, described.media_type)
            self._layers[described.digest] = self._archive.layer(plain)
        else:
            self._configs[described.digest] = b"".join(pieces)
        return "written"

    def put_manifest(self, media_type: str, data: bytes, digest: str, *, top: bool) -> str:
        """Add the image, and finish an archive of our own."""
        if media_type in media.INDEXES or not top:
            raise CtrtError("docker-archive: holds images for one platform; choose one")
        manifest = documents.read_manifest(data, "the image")
        layers = [self._layers[layer.digest] for layer in manifest.layers]
        config = manifest.config.digest
        self._archive.image(config, self._configs[config], layers, self._tag)
        if self._own:
            self._archive.finish()
        return digest

    def close(self) -> None:
        """Remove what was not finished."""
        if self._own:
            self._archive.close()


def _same(tag: str, wanted: str) -> bool:
    try:
        return tag == wanted or parse(tag) == parse(wanted)
    except CtrtError:
        return False


def _plain(pieces: Iterable[bytes], media_type: str) -> Iterator[bytes]:
    """Unpack a layer's blob."""
    if media_type.endswith("gzip"):
        with gzip.open(_Stream(pieces)) as stream:
            while piece := stream.read(PIECE_BYTES):
                yield piece
    elif media_type.endswith("zstd"):
        from ctrt.images._tar import zstd_module

        with zstd_module().open(_Stream(pieces)) as stream:
            while piece := stream.read(PIECE_BYTES):
                yield piece
    else:
        yield from pieces


class _Stream(io.RawIOBase):
    """An iterator of bytes as a file to read from."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__()
        self._pieces = iter(pieces)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
