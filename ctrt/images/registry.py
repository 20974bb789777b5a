"""A client of the registry API: manifests and blobs by HTTP.

It reads (manifests, blobs, tags, catalog, referrers) and writes (blobs at once, in chunks or
mounted from another repository; manifests).

Nothing that a registry sends is believed: a manifest's digest is taken over the bytes as they
came, a blob's size and digest come from its descriptor.

Source: OCI distribution-spec 1.1.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from urllib3.exceptions import HTTPError, ProtocolError

from ctrt.errors import CtrtError
from ctrt.images.exchange import AGAIN, ATTEMPTS, REPOSITORY, Exchange, RegistryError, back_off
from ctrt.images.web import meant
from ctrt.oci import fastjson, media
from ctrt.oci import image as documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from urllib3 import BaseHTTPResponse

PIECE_BYTES = 128 << 10
CHUNK_BYTES = 64 << 20
PAGE = 100
MAX_PAGES = 10_000
_ACCEPT = {"Accept": ", ".join(media.ACCEPT)}


class _Broken(Exception):  # noqa: N818  # never seen by a person
    """An upload that broke and may go on."""

    def __init__(self, fault: RegistryError) -> None:
        super().__init__(str(fault))
        self.fault = fault


class Registry(Exchange):
    """One registry: the words of the API over the requests of `Exchange`, which it is made as."""

    # -- reading -------------------------------------------------------------------------------

    def manifest(self, repository: str, tag_or_digest: str) -> tuple[str, str, bytes]:
        """Fetch a manifest or index; return its media type, its digest and its very bytes."""
        path = f"/v2/{repository}/manifests/{tag_or_digest}"
        data, answer = self._read(path, _ACCEPT, _scope(repository))
        if len(data) > media.MANIFEST_LIMIT:
            raise RegistryError(f"its manifest has more than {media.MANIFEST_LIMIT >> 20} MiB")
        digest = f"sha256:{sha256(data).hexdigest()}"
        if ":" in tag_or_digest and digest != tag_or_digest:
            raise RegistryError(
                f"the digest of the manifest should be {tag_or_digest}, but what came has {digest}"
            )
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        said = answer.headers.get("Docker-Content-Digest", "")
        # A signed manifest of the old format has its digest without its signatures.
        old = media_type in media.DOCKER_SCHEMA1
        if said.startswith("sha256:") and said != digest and not old:
            raise RegistryError(
                f"the registry says that the manifest's digest is {said}, but what came has"
                f" {digest}"
            )
        return media_type, digest, data

    def blob(
        self, repository: str, digest: str, size: int, *, start: int = 0, urls: Iterable[str] = ()
    ) -> Iterator[bytes]:
        """Yield a blob's bytes from `start` on, never more than one piece beyond `size`.

        A connection that breaks is taken up again where it broke. The digest is for the caller
        to check, who sees the bytes in any case. `urls` are where a foreign layer is, should
        the registry not have it (image-spec, descriptor.md, `urls`).
        """
        done = start
        attempt = 0
        path = f"/v2/{repository}/blobs/{digest}"
        elsewhere = [url for url in urls if url.startswith(("https://", "http://"))]
        while True:
            headers = {"Range": f"bytes={done}-"} if done else {}
            where = f" after {done} of {size} bytes" if done else ""
            try:
                answer = self.send("GET", path, headers, scope=_scope(repository), where=where)
            except RegistryError as error:
                if error.http_status == 416 and done:
                    raise RegistryError(
                        f"{self.host} has fewer than the {size} bytes that it should have",
                        http_status=416,
                    ) from None
                if error.http_status in (403, 404) and elsewhere:
                    path = elsewhere.pop(0)
                    continue
                raise
            skip = done
            if answer.status == 206:
                said = answer.headers.get("Content-Range", "").removeprefix("bytes ")
                begin = _number(said.partition("-")[0])
                skip = 0 if begin is None else done - begin
                if not done or skip < 0:
                    raise RegistryError("the registry sent another part than was asked for")
            try:
                with answer:
                    # read1 gives what is there; read would lose it when the rest never comes.
                    while piece := answer.read1(PIECE_BYTES, decode_content=False):
                        if skip:
                            skip, piece = max(0, skip - len(piece)), piece[skip:]
                        if piece:
                            done += len(piece)
                            attempt = 0
                            yield piece
                        if done > size:
                            return
                if done >= size:
                    return
                raise ProtocolError(f"the connection ended after {done} of {size} bytes")
            except HTTPError as error:
                attempt += 1
                if attempt >= ATTEMPTS:
                    raise self.fault(error, f" after {done} of {size} bytes") from None
                self.pause(back_off(attempt))

    def repository_exists(self, repository: str) -> bool:
        """Say whether the registry lists any tag there; for the wording of an error."""
        try:
            self._json(f"/v2/{repository}/tags/list?n=1", _scope(repository))
        except CtrtError as error:
            return not (isinstance(error, RegistryError) and error.http_status == 404)
        return True

    def tags(self, repository: str) -> Iterator[str]:
        """Yield all tags of a repository, page by page."""
        path = f"/v2/{repository}/tags/list?n={PAGE}"
        return self._pages(path, _scope(repository), "tags")

    def catalog(self) -> Iterator[str]:
        """Yield the names of all repositories, page by page, where the registry tells them."""
        return self._pages(f"/v2/_catalog?n={PAGE}", "registry:catalog:*", "repositories")

    def referrers(
        self, repository: str, digest: str, artifact_type: str = ""
    ) -> list[documents.Descriptor]:
        """Return what refers to a manifest: signatures, attestations, lists of contents.

        A registry without that endpoint has them below the tag `sha256-HEX`
        (distribution-spec, "Referrers Tag Schema").
        """
        path = f"/v2/{repository}/referrers/{digest}"
        if artifact_type:
            path += "?" + urlencode({"artifactType": artifact_type})
        found: list[documents.Descriptor] = []
        seen: set[str] = set()
        while path not in seen:
            seen.add(path)
            try:
                data, answer = self._json(path, _scope(repository))
            except RegistryError as error:
                if error.http_status != 404:
                    raise
                try:
                    _, _, data = self.manifest(repository, digest.replace(":", "-"))
                except RegistryError as missing:
                    if missing.http_status == 404:
                        return found
                    raise
                path = ""
            else:
                path = _next_page(answer)
            found += documents.read_index(data, f"the referrers of {digest[:19]}").manifests
            if not path:
                break
            if len(seen) == MAX_PAGES:
                raise RegistryError(f"{self.host} sent more than {MAX_PAGES} pages of referrers")
        return [
            entry for entry in found if not artifact_type or entry.artifact_type == artifact_type
        ]

    def check(self) -> None:
        """Ask whether the registry answers and lets us in (GET /v2/), as a login does."""
        self.drain(self.send("GET", "/v2/", {}, scope=""))

    def _pages(self, path: str, scope: str, key: str) -> Iterator[str]:
        seen: set[str] = set()
        while path not in seen:
            seen.add(path)
            data, answer = self._json(path, scope)
            try:
                names = fastjson.loads(data)[key] or []
                if not all(isinstance(name, str) for name in names):
                    raise TypeError
            except (ValueError, KeyError, TypeError):
                raise RegistryError(f"{self.host} sent no list of {key}") from None
            yield from names
            path = _next_page(answer)
            if not path:
                return
            if len(seen) == MAX_PAGES:
                raise RegistryError(f"{self.host} sent more than {MAX_PAGES} pages of {key}")
        raise RegistryError(f"the pages of {key} that {self.host} sends lead round in a circle")

    def _json(self, path: str, scope: str) -> tuple[bytes, BaseHTTPResponse]:
        data, answer = self._read(path, {}, scope)
        if len(data) > media.MANIFEST_LIMIT:
            raise RegistryError(f"{self.host} sent more than {media.MANIFEST_LIMIT >> 20} MiB")
        return data, answer

    def _read(
        self, path: str, headers: dict[str, str], scope: str
    ) -> tuple[bytes, BaseHTTPResponse]:
        """A document, as far as one byte beyond what it may have, and the answer it came in."""
        attempt = 0
        while True:
            with self.send("GET", path, headers, scope=scope) as answer:
                try:
                    return answer.read(media.MANIFEST_LIMIT + 1), answer
                except HTTPError as error:
                    if attempt == ATTEMPTS - 1:
                        raise self.fault(error) from None
                    self.pause(back_off(attempt))
                    attempt += 1

    # -- writing -------------------------------------------------------------------------------

    def blob_size(self, repository: str, digest: str) -> int:
        """Return the size of a blob in bytes, for manifests that do not say it."""
        path = f"/v2/{repository}/blobs/{digest}"
        answer = self.send("HEAD", path, {}, scope=_scope(repository))
        self.drain(answer)
        size = _number(answer.headers.get("Content-Length", ""))
        if size is None:
            raise RegistryError(f"{self.host} does not say how large the blob {digest[7:19]} is")
        return size

    def has_blob(self, repository: str, digest: str) -> bool:
        """Say whether a repository has a blob."""
        return self._head(f"/v2/{repository}/blobs/{digest}", repository)

    def put_blob(
        self,
        repository: str,
        digest: str,
        size: int,
        read: Callable[[int], Iterable[bytes]],
        *,
        mount_from: str = "",
        chunk: int = CHUNK_BYTES,
    ) -> str:
        """Upload a blob that the repository does not have yet; say how it came there.

        `read(offset)` gives the bytes from an offset on; it is called again where a connection
        breaks. The answer is "mounted" (from the repository `mount_from`), "uploaded" (in one
        request) or "chunked" (in pieces of `chunk` bytes, for larger blobs).
        """
        scope = _scope(repository, push=True)
        path = f"/v2/{repository}/blobs/uploads/"
        if mount_from:
            scope += f" {_scope(mount_from)}"
            query = urlencode({"mount": digest, "from": mount_from})
            answer = self.send("POST", f"{path}?{query}", scope=scope, good=(201, 202))
            if answer.status == 201:
                self.drain(answer)
                return "mounted"
        else:
            answer = self.send("POST", path, scope=scope, good=(201, 202))
        attempt = 0
        done = 0
        while True:
            self.drain(answer)
            place = self._place(answer)
            least = answer.headers.get("OCI-Chunk-Min-Length", "")
            step = max(chunk, _number(least) or 0)
            try:
                if size > step:
                    while done < size:
                        place = self._chunk(place, scope, read, done, min(size, done + step), size)
                        done = min(size, done + step)
                    self._close_upload(place, digest, scope)
                    return "chunked"
                headers = {
                    "Content-Length": str(size),
                    "Content-Type": "application/octet-stream",
                }
                self._close_upload(place, digest, scope, headers, lambda: read(0))
                return "uploaded"
            except _Broken as broken:
                attempt += 1
                if attempt >= ATTEMPTS:
                    raise broken.fault from None
                self.pause(back_off(attempt))
                kept, again = self._upload_state(place, scope) if size > step else (0, None)
                if again is None:
                    answer = self.send("POST", path, scope=scope, good=(202,))
                    done = 0
                else:
                    answer, done = again, kept

    def put_manifest(self, repository: str, name: str, media_type: str, data: bytes) -> str:
        """Upload a manifest below a tag or its digest; return its digest."""
        digest = f"sha256:{sha256(data).hexdigest()}"
        answer = self.send(
            "PUT",
            f"/v2/{repository}/manifests/{name}",
            {"Content-Type": media_type, "Content-Length": str(len(data))},
            scope=_scope(repository, push=True),
            good=(200, 201, 202),
            body=lambda: data,
        )
        self.drain(answer)
        said = answer.headers.get("Docker-Content-Digest", digest)
        if said.startswith("sha256:") and said != digest:
            raise RegistryError(f"{self.host} keeps the manifest as {said} instead of {digest}")
        return digest

    def _head(self, path: str, repository: str) -> bool:
        try:
            answer = self.send("HEAD", path, _ACCEPT, scope=_scope(repository, push=True))
        except RegistryError as error:
            if error.http_status == 404:
                return False
            raise
        self.drain(answer)
        return True

    def _place(self, answer: BaseHTTPResponse) -> str:
        """Where the upload goes on: absolute, or on this registry."""
        said = answer.headers.get("Location", "")
        place = meant(self.base, said)
        if not said or not place.hostname:
            raise RegistryError(f"{self.host} names no place for the upload")
        return place.geturl()

    def _close_upload(
        self,
        place: str,
        digest: str,
        scope: str,
        headers: dict[str, str] | None = None,
        body: Callable[[], Iterable[bytes]] | None = None,
    ) -> None:
        joiner = "&" if urlsplit(place).query else "?"
        place += joiner + urlencode({"digest": digest})
        answer = self._write("PUT", place, headers or {"Content-Length": "0"}, scope, body, (201,))
        self.drain(answer)

    def _chunk(
        self,
        place: str,
        scope: str,
        read: Callable[[int], Iterable[bytes]],
        begin: int,
        end: int,
        size: int,
    ) -> str:
        headers = {
            "Content-Length": str(end - begin),
            "Content-Range": f"{begin}-{end - 1}",
            "Content-Type": "application/octet-stream",
        }
        answer = self._write(
            "PATCH",
            place,
            headers,
            scope,
            lambda: _first(read(begin), end - begin),
            (202,),
            f" after {begin} of {size} bytes",
        )
        self.drain(answer)
        return self._place(answer)

    def _write(
        self,
        method: str,
        place: str,
        headers: dict[str, str],
        scope: str,
        body: Callable[[], Iterable[bytes]] | None,
        good: tuple[int, ...],
        where: str = "",
    ) -> BaseHTTPResponse:
        """Send a part of an upload once; a break is for the caller to go on after."""
        try:
            return self.send(
                method, place, headers, scope=scope, good=good, body=body, where=where, once=True
            )
        except RegistryError as error:
            if error.http_status in (0, 404, 416, *AGAIN):
                raise _Broken(error) from None
            raise

    def _upload_state(self, place: str, scope: str) -> tuple[int, BaseHTTPResponse | None]:
        """How many bytes of a broken upload the registry has, if it still knows of it."""
        try:
            answer = self.send("GET", place, {}, scope=scope, good=(204,))
        except RegistryError:
            return 0, None
        begin, dash, last = answer.headers.get("Range", "").partition("-")
        end = _number(last)
        if begin != "0" or not dash or end is None:
            return 0, None
        return end + 1, answer


def _scope(repository: str, *, push: bool = False) -> str:
    """What a token is asked for (token.md, "Resource Scope")."""
    return f"{REPOSITORY}{repository}:{'pull,push' if push else 'pull'}"


def _first(pieces: Iterable[bytes], count: int) -> Iterator[bytes]:
    """The first `count` bytes of a stream."""
    for piece in pieces:
        yield piece[:count]
        count -= len(piece)
        if count <= 0:
            return


def _next_page(answer: BaseHTTPResponse) -> str:
    """The path of the next page, from the header Link (RFC 8288); empty for the last one."""
    for link in answer.headers.get("Link", "").split(","):
        target, _, parameters = link.partition(";")
        if target.strip()[:1] == "<" and 'rel="next"' in parameters.replace(
            "rel=next", 'rel="next"'
        ):
            parts = meant("http://x/v2/", target.strip()[1:].rstrip("> "))
            return f"{parts.path}?{parts.query}" if parts.query else parts.path
    return ""


def _number(said: str) -> int | None:
    """Return the number of a header, in decimal digits; None for what is none."""
    return int(said) if said.isascii() and said.isdigit() and len(said) < 20 else None
