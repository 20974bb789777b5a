"""oci: and oci-archive: - an OCI image layout, as a directory or in a tar archive.

Source: image-spec, image-layout.md.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
from typing import TYPE_CHECKING

from ctrt.errors import CtrtError
from ctrt.images.transports.base import (
    Destination,
    Source,
    checked,
    digest_of,
    in_pieces,
    local_reference,
    path_scopes,
    read_small,
    write_file,
)
from ctrt.images.transports.tarball import Tarball
from ctrt.oci import fastjson, media
from ctrt.oci import image as documents
from ctrt.oci.reference import check_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class LayoutSource(Source):
    """An image of a layout, by its name there; without one the layout must have just one."""

    def __init__(self, rest: str, *, archive: bool) -> None:
        self.transport = "oci-archive" if archive else "oci"
        path, _, self._wanted = rest.partition(":")
        self._path = path
        what = f"{self.transport}:{rest}"
        self._tar = Tarball(path) if archive else None
        try:
            if self._tar is None and not os.path.isdir(path):
                raise CtrtError(f"there is no directory {path}")
            index = documents.read_index(self._small("index.json"), what)
            self._top = self._choose(index)
        except CtrtError:
            self.close()
            raise
        name = (self._top.annotations or {}).get(media.REF_NAME, "")
        full = (self._top.annotations or {}).get("io.containerd.image.name", "")
        super().__init__(what, local_reference(path, full or name or self._wanted))

    def scopes(self) -> list[str]:
        """See containers-policy.json(5), "oci:"."""
        return path_scopes(self._path, self._wanted)

    def manifest(self, digest: str | None = None) -> tuple[str, str, bytes]:
        """Return a manifest of the layout."""
        wanted = digest or self._top.digest
        data = self._small(_blob(wanted))
        if digest_of(data) != wanted:
            raise CtrtError(
                f"the digest of the manifest should be {wanted}, but the file has {digest_of(data)}"
            )
        return self._top.media_type if digest is None else "", wanted, data

    def blob(self, described: documents.Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield a blob of the layout."""
        name = _blob(described.digest)
        if self._tar is not None:
            return self._tar.pieces(name, start)
        path = os.path.join(self._path, name)
        if not os.path.isfile(path):
            raise CtrtError(f"the layout has no blob {described.digest} ({path})")
        return in_pieces(path, start)

    def close(self) -> None:
        """Close the archive."""
        if self._tar is not None:
            self._tar.close()

    def _small(self, name: str) -> bytes:
        if self._tar is not None:
            return self._tar.read(name, media.MANIFEST_LIMIT)
        return read_small(os.path.join(self._path, name), media.MANIFEST_LIMIT, "the layout")

    def _choose(self, index: documents.Index) -> documents.Descriptor:
        images = [e for e in index.manifests if e.media_type in media.MANIFESTS | media.INDEXES]
        names = [(entry.annotations or {}).get(media.REF_NAME, "") for entry in images]
        if self._wanted:
            wanted = self._wanted
            for entry, name in zip(images, names, strict=True):
                if wanted in (name, entry.digest) or name.endswith((f"/{wanted}", f":{wanted}")):
                    return entry
        elif len(images) == 1:
            return images[0]
        known = ", ".join(name for name in names if name) or "none with a name"
        what = f"no image {self._wanted}" if self._wanted else f"{len(images)} images"
        raise CtrtError(
            f"{self._path} has {what}; name one of its images as {self.transport}:"
            f"{self._path}:NAME (it has {known})"
        )


def images_in(path: str) -> list[str]:
    """Return what to put after `oci-archive:PATH` to name each of its images."""
    tar = Tarball(path)
    try:
        index = documents.read_index(tar.read("index.json", media.MANIFEST_LIMIT), path)
    finally:
        tar.close()
    images = [e for e in index.manifests if e.media_type in media.MANIFESTS | media.INDEXES]
    if len(images) < 2:
        return [""]
    return [f":{(e.annotations or {}).get(media.REF_NAME) or e.digest}" for e in images]


class LayoutDestination(Destination):
    """A layout to write to: a directory is added to, an archive is made anew."""

    def __init__(self, rest: str, *, archive: bool) -> None:
        self.transport = "oci-archive" if archive else "oci"
        super().__init__(f"{self.transport}:{rest}")
        path, _, self._name = rest.partition(":")
        self._archive = os.path.abspath(path) if archive else ""
        try:
            if archive:
                if os.path.exists(path):
                    raise CtrtError(f"there is already a file {path}")
                self._path = tempfile.mkdtemp(
                    prefix=".ctrt-", dir=os.path.dirname(self._archive) or "."
                )
            else:
                self._path = os.path.abspath(path)
            os.makedirs(os.path.join(self._path, "blobs", "sha256"), exist_ok=True)
            if os.path.exists(os.path.join(self._path, "index.json")):
                self._entries()
        except OSError as error:
            raise CtrtError(f"{path} cannot be written: {error.strerror}") from None

    def put_blob(
        self,
        described: documents.Descriptor,
        read: Callable[[int], Iterable[bytes]],
        source: Source,
    ) -> str:
        """Write a blob that is not there."""
        path = os.path.join(self._path, _blob(described.digest))
        if os.path.exists(path) and os.stat(path).st_size == described.size:
            return "exists"
        write_file(path, checked(read(0), described))
        return "written"

    def put_manifest(self, media_type: str, data: bytes, digest: str, *, top: bool) -> str:
        """Write a manifest; the top one is entered into index.json."""
        write_file(os.path.join(self._path, _blob(digest)), [data])
        if not top:
            return digest
        entry: dict[str, object] = {"mediaType": media_type, "digest": digest, "size": len(data)}
        if self._name:
            entry["annotations"] = {media.REF_NAME: self._name}
        kept = [
            other
            for other in self._entries()
            if (other.get("annotations") or {}).get(media.REF_NAME, "") != self._name
        ]
        index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [*kept, entry]}
        write_file(os.path.join(self._path, "index.json"), [json.dumps(index).encode()])
        write_file(os.path.join(self._path, "oci-layout"), [b'{"imageLayoutVersion":"1.0.0"}'])
        if self._archive:
            aside = f"{self._path}.tar"
            with tarfile.open(aside, "x:", format=tarfile.PAX_FORMAT) as tar:
                for name in ("oci-layout", "index.json", "blobs"):
                    tar.add(os.path.join(self._path, name), name)
            os.rename(aside, self._archive)
        return digest

    def close(self) -> None:
        """Remove what the archive was made from."""
        if self._archive:
            shutil.rmtree(self._path, ignore_errors=True)
            if os.path.exists(f"{self._path}.tar"):
                os.unlink(f"{self._path}.tar")

    def _entries(self) -> list[dict[str, dict[str, str]]]:
        path = os.path.join(self._path, "index.json")
        if not os.path.exists(path):
            return []
        data = read_small(path, media.MANIFEST_LIMIT, "the layout")
        documents.read_index(data, self.name)
        return list(fastjson.loads(data)["manifests"])


def _blob(digest: str) -> str:
    return f"blobs/sha256/{check_digest(digest)[7:]}"
