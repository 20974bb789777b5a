"""What every transport offers: manifests and blobs, read or written."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

from ctrt.errors import CtrtError
from ctrt.oci import image as documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ctrt.images.auth import Login
    from ctrt.oci.reference import Reference

PIECE_BYTES = 256 << 10


class Options:
    """How registries are spoken to; see `Registry`.

    `insecure` allows plain HTTP and any certificate, `login` replaces what the auth files say.
    """

    __slots__ = ("authfile", "cert_dir", "insecure", "login", "plain_http")

    def __init__(
        self,
        *,
        insecure: bool = False,
        plain_http: bool | None = None,
        cert_dir: str = "",
        authfile: str = "",
        login: Login | None = None,
    ) -> None:
        self.insecure = insecure
        self.plain_http = plain_http
        self.cert_dir = cert_dir
        self.authfile = authfile
        self.login = login


class Source:
    """An image somewhere else.

    `name` is what a sentence calls it, `reference` the name that it gets in the store unless
    told otherwise. `remote` says that reading costs, so that half a blob is worth keeping.
    """

    transport = ""
    remote = False

    def __init__(self, name: str, reference: Reference) -> None:
        self.name = name
        self.reference = reference

    def scopes(self) -> list[str]:
        """Return the scopes of policy.json that it is in, the narrowest first."""
        return []

    def manifest(self, digest: str | None = None) -> tuple[str, str, bytes]:
        """Return media type, digest and bytes of the manifest, or of one that it leads to."""
        raise NotImplementedError

    def blob(self, described: documents.Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield a blob from an offset on; size and digest are for the caller to check."""
        raise NotImplementedError

    def size(self, digest: str) -> int:
        """Return how large a blob is, where a manifest of the old format does not say it."""
        raise CtrtError(f"{self.name} does not say how large the blob {digest[7:19]} is")

    def attachments(self, digest: str) -> list[tuple[bytes, str]]:
        """Return the sigstore signatures of a manifest: payload, and signature in base64."""
        del digest
        return []

    def signatures(self, digest: str) -> list[bytes]:
        """Return the GPG signatures of a manifest."""
        del digest
        return []

    def repository_on(self, registry: str) -> str:
        """Return the repository on that registry that has the blobs already, or nothing."""
        del registry
        return ""

    def close(self) -> None:
        """Let go of files and connections."""


class Destination:
    """A place for an image."""

    transport = ""

    def __init__(self, name: str) -> None:
        self.name = name

    def put_blob(
        self,
        described: documents.Descriptor,
        read: Callable[[int], Iterable[bytes]],
        source: Source,
    ) -> str:
        """Take a blob unless it is there; say what was done ("exists", "uploaded", ...).

        `read(offset)` gives its bytes, already held against size and digest when they end.
        """
        raise NotImplementedError

    def put_manifest(self, media_type: str, data: bytes, digest: str, *, top: bool) -> str:
        """Take a manifest after its blobs; `top` is the one that gets the name. Its digest."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of files and connections."""


def in_pieces(path: str, start: int = 0, size: int = -1) -> Iterator[bytes]:
    """Yield (a part of) a file."""
    with open(path, "rb") as file:
        file.seek(start)
        while size and (piece := file.read(PIECE_BYTES if size < 0 else min(PIECE_BYTES, size))):
            size -= len(piece) if size > 0 else 0
            yield piece


def checked(
    pieces: Iterable[bytes], described: documents.Descriptor, start: int = 0
) -> Iterator[bytes]:
    """Yield pieces and fail at the end if size or digest are not as described.

    Only a stream from the start can be held against its digest.
    """
    hashed = sha256()
    count = start
    for piece in pieces:
        count += len(piece)
        hashed.update(piece)
        if count > described.size:
            break
        yield piece
    if count != described.size:
        more = "more than" if count > described.size else f"only {count} of"
        raise CtrtError(f"blob {described.digest[7:19]} is broken: {more} {described.size} bytes")
    if not start and f"sha256:{hashed.hexdigest()}" != described.digest:
        raise CtrtError(
            f"blob {described.digest[7:19]} is broken: its digest should be {described.digest},"
            f" but what came has sha256:{hashed.hexdigest()}"
        )


def digest_of(data: bytes) -> str:
    """Return the digest of some bytes."""
    return f"sha256:{sha256(data).hexdigest()}"


def read_small(path: str, limit: int, what: str) -> bytes:
    """Return a small file; CtrtError if it is missing, unreadable or larger than `limit`."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise CtrtError(f"{what} cannot be read: {error.strerror} ({path})") from None
    if len(data) > limit:
        raise CtrtError(f"{what} has more than {limit >> 20} MiB ({path})")
    return data


def write_file(path: str, pieces: Iterable[bytes]) -> None:
    """Write a file beside its place and rename it into it."""
    aside = f"{path}.{os.urandom(4).hex()}"
    try:
        with open(aside, "xb") as file:
            file.writelines(pieces)
        os.rename(aside, path)
    except BaseException:
        if os.path.exists(aside):
            os.unlink(aside)
        raise


def path_scopes(path: str, name: str = "") -> list[str]:
    """Scopes of a path for policy.json: the image, the path, the directories above it."""
    path = os.path.realpath(path)
    found = [f"{path}:{name}"] if name else []
    while len(path) > 1:
        found.append(path)
        path = os.path.dirname(path)
    return found


def local_reference(path: str, name: str = "") -> Reference:
    """Return the name in the store of something from a file: its own full name, or localhost/.

    >>> str(local_reference("/tmp/My Layout", "1"))
    'localhost/my-layout:1'
    """
    from ctrt.oci.reference import is_short, parse

    if name:
        try:
            if not is_short(name):
                return parse(name)
            if ":" in name or "/" in name:
                return parse(f"localhost/{name}")
        except CtrtError:
            name = ""
    stem = os.path.basename(os.path.abspath(path)).lower()
    for end in (".gz", ".tar", ".tgz"):
        stem = stem.removesuffix(end)
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in stem).split()
    repository = "-".join(words) or "image"
    try:
        return parse(f"localhost/{repository}:{name or 'latest'}")
    except CtrtError:
        return parse(f"localhost/{repository}")
