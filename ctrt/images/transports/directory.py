"""dir: - manifest and blobs of one image side by side in a directory, as skopeo writes them."""

from __future__ import annotations

import os
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
from ctrt.oci import media
from ctrt.oci.reference import check_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ctrt.oci import image as documents

_VERSION = b"Directory Transport Version: 1.1\n"


class DirectorySource(Source):
    """The image in a directory."""

    transport = "dir"

    def __init__(self, path: str) -> None:
        super().__init__(f"dir:{path}", local_reference(path))
        if not os.path.isfile(os.path.join(path, "manifest.json")):
            raise CtrtError(f"there is no image in {path}: it has no manifest.json")
        self._path = path

    def scopes(self) -> list[str]:
        """See containers-policy.json(5), "dir:"."""
        return path_scopes(self._path)

    def manifest(self, digest: str | None = None) -> tuple[str, str, bytes]:
        """Return the manifest, or one that it leads to."""
        name = f"{check_digest(digest)[7:]}.manifest.json" if digest else "manifest.json"
        path = os.path.join(self._path, name)
        data = read_small(path, media.MANIFEST_LIMIT, "the manifest")
        found = digest_of(data)
        if digest and found != digest:
            raise CtrtError(f"the digest of {path} should be {digest}, but it is {found}")
        return "", found, data

    def blob(self, described: documents.Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield a blob."""
        path = os.path.join(self._path, check_digest(described.digest)[7:])
        if not os.path.isfile(path):
            raise CtrtError(f"the image in {self._path} has no blob {described.digest[7:]}")
        return in_pieces(path, start)

    def signatures(self, digest: str) -> list[bytes]:
        """Return the GPG signatures that lie beside the manifest."""
        from ctrt.images import lookaside

        top = self.manifest()[1] == digest
        found: list[bytes] = []
        while len(found) < 100:
            name = f"signature-{len(found) + 1}"
            name = name if top else f"{digest[7:]}.{name}"
            data = lookaside.from_file(os.path.join(self._path, name))
            if data is None:
                break
            found.append(data)
        return found


class DirectoryDestination(Destination):
    """A directory that takes one image."""

    transport = "dir"

    def __init__(self, path: str) -> None:
        super().__init__(f"dir:{path}")
        self._path = path
        try:
            os.makedirs(path, exist_ok=True)
            if set(os.listdir(path)) and not os.path.exists(os.path.join(path, "version")):
                raise CtrtError(f"the directory {path} has something else in it")
            write_file(os.path.join(path, "version"), [_VERSION])
        except OSError as error:
            raise CtrtError(f"{path} cannot be written: {error.strerror}") from None

    def put_blob(
        self,
        described: documents.Descriptor,
        read: Callable[[int], Iterable[bytes]],
        source: Source,
    ) -> str:
        """Write a blob."""
        path = os.path.join(self._path, check_digest(described.digest)[7:])
        write_file(path, checked(read(0), described))
        return "written"

    def put_manifest(self, media_type: str, data: bytes, digest: str, *, top: bool) -> str:
        """Write a manifest."""
        name = "manifest.json" if top else f"{check_digest(digest)[7:]}.manifest.json"
        write_file(os.path.join(self._path, name), [data])
        return digest
