"""A client of the registry API: manifests and blobs by HTTP, with tokens, redirects, retries.

It reads (manifests, blobs, tags, catalog, referrers) and writes (blobs at once, in chunks or
mounted from another repository; manifests).

Nothing that a registry sends is believed: a manifest's digest is taken over the bytes as they
came, a blob's size and digest come from its descriptor, and credentials go to the registry
and to the token server that it names, never to where it redirects.

Source: OCI distribution-spec 1.1; distribution's `spec/auth/token.md` and `oauth.md` for Bearer
tokens.
"""

from __future__ import annotations

import os
import threading
import time
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from ctrt import __version__
from ctrt.errors import CtrtError
from ctrt.images import auth, certificates
from ctrt.oci import fastjson, media
from ctrt.oci import image as documents
from ctrt.oci.reference import HUB

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator

HUB_HOST = "registry-1.docker.io"
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
ATTEMPTS = 5
PIECE_BYTES = 128 << 10
CHUNK_BYTES = 64 << 20
PAGE = 100
MAX_PAGES = 10_000
_REDIRECTS = (301, 302, 303, 307, 308)
_AGAIN = (408, 429, 500, 502, 503, 504)
_ACCEPT = {"Accept": ", ".join(media.ACCEPT)}
_REPO = "repository:"
# What a server says that misses a client's certificate; older ones call that a bad certificate.
_CLIENT_WANTED = ("CERTIFICATE_REQUIRED", "ALERT_HANDSHAKE_FAILURE", "ALERT_BAD_CERTIFICATE")


class RegistryError(CtrtError):
    """Why a registry did not give what was asked for: the end of a sentence.

    `http_status` and `code` are the answer's (distribution-spec, "Error Codes"), if one came.
    """

    def __init__(self, why: str, *, http_status: int = 0, code: str = "") -> None:
        super().__init__(why)
        self.http_status = http_status
        self.code = code


class _Broken(Exception):  # noqa: N818  # never seen by a person
    """An upload that broke and may go on."""

    def __init__(self, fault: RegistryError) -> None:
        super().__init__(str(fault))
        self.fault = fault


class Registry:
    """One registry; safe to use from several threads.

    `plain_http`: True speaks HTTP only, False HTTPS only; None tries HTTP too where TLS fails
    on a loopback address. `insecure` takes any certificate, and tries plain HTTP where TLS
    fails. `cert_dir` replaces the certs.d directories, `login` what the auth files say.
    `pause` is slept through between attempts (seconds); tests shorten it.
    """

    def __init__(
        self,
        host: str,
        *,
        plain_http: bool | None = None,
        insecure: bool = False,
        cert_dir: str = "",
        login: auth.Login | None = None,
        authfile: str = "",
        read_seconds: float = READ_SECONDS,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self.host = host
        self._pause = pause
        self._address = HUB_HOST if host == HUB else host
        self._schemes = {True: ["http"], False: ["https"]}.get(plain_http, ["https"])  # type: ignore[arg-type]
        if plain_http is None and (insecure or is_loopback(host)):
            self._schemes = ["https", "http"]
        self._scheme = self._schemes[0] if len(self._schemes) == 1 else ""
        self._insecure = insecure
        if insecure:
            # It was asked for; saying so at each request helps nobody.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._cert_dir = cert_dir
        self._login = login
        self._authfile = authfile
        self._timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds)
        self._read_seconds = read_seconds
        self._pools: dict[tuple[str, str], urllib3.PoolManager] = {}
        self._tokens: dict[str, str] = {}
        self._used: dict[str, auth.Login | None] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.clear()

    @property
    def plain(self) -> bool:
        """Say whether the registry turned out to speak plain HTTP."""
        return self._scheme == "http"

    # -- reading -------------------------------------------------------------------------------

    def manifest(self, repository: str, tag_or_digest: str) -> tuple[str, str, bytes]:
        """Fetch a manifest or index; return its media type, its digest and its very bytes."""
        path = f"/v2/{repository}/manifests/{tag_or_digest}"
        for attempt in range(ATTEMPTS):
            with self._send("GET", path, _ACCEPT, scope=_scope(repository)) as answer:
                try:
                    data = answer.read(media.MANIFEST_LIMIT + 1)
                except HTTPError as error:
                    if attempt == ATTEMPTS - 1:
                        raise self._fault(error) from None
                    self._pause(_back_off(attempt))
                    continue
                break
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
                answer = self._send("GET", path, headers, scope=_scope(repository), where=where)
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
                    raise self._fault(error, f" after {done} of {size} bytes") from None
                self._pause(_back_off(attempt))

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
        self._drain(self._send("GET", "/v2/", {}, scope=""))

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

    def _json(self, path: str, scope: str) -> tuple[bytes, urllib3.BaseHTTPResponse]:
        for attempt in range(ATTEMPTS):
            with self._send("GET", path, {}, scope=scope) as answer:
                try:
                    data = answer.read(media.MANIFEST_LIMIT + 1)
                    break
                except HTTPError as error:
                    if attempt == ATTEMPTS - 1:
                        raise self._fault(error) from None
                    self._pause(_back_off(attempt))
        if len(data) > media.MANIFEST_LIMIT:
            raise RegistryError(f"{self.host} sent more than {media.MANIFEST_LIMIT >> 20} MiB")
        return data, answer

    # -- writing -------------------------------------------------------------------------------

    def blob_size(self, repository: str, digest: str) -> int:
        """Return the size of a blob in bytes, for manifests that do not say it."""
        path = f"/v2/{repository}/blobs/{digest}"
        answer = self._send("HEAD", path, {}, scope=_scope(repository))
        self._drain(answer)
        size = _number(answer.headers.get("Content-Length", ""))
        if size is None:
            raise RegistryError(f"{self.host} does not say how large the blob {digest[7:19]} is")
        return size

    def has_blob(self, repository: str, digest: str) -> bool:
        """Say whether a repository has a blob."""
        return self._head(f"/v2/{repository}/blobs/{digest}", repository)

    def has_manifest(self, repository: str, digest: str) -> bool:
        """Say whether a repository has a manifest."""
        return self._head(f"/v2/{repository}/manifests/{digest}", repository)

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
            answer = self._send("POST", f"{path}?{query}", scope=scope, good=(201, 202))
            if answer.status == 201:
                self._drain(answer)
                return "mounted"
        else:
            answer = self._send("POST", path, scope=scope, good=(201, 202))
        attempt = 0
        done = 0
        while True:
            self._drain(answer)
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
                self._pause(_back_off(attempt))
                kept, again = self._upload_state(place, scope) if size > step else (0, None)
                if again is None:
                    answer = self._send("POST", path, scope=scope, good=(202,))
                    done = 0
                else:
                    answer, done = again, kept

    def put_manifest(self, repository: str, name: str, media_type: str, data: bytes) -> str:
        """Upload a manifest below a tag or its digest; return its digest."""
        digest = f"sha256:{sha256(data).hexdigest()}"
        answer = self._send(
            "PUT",
            f"/v2/{repository}/manifests/{name}",
            {"Content-Type": media_type, "Content-Length": str(len(data))},
            scope=_scope(repository, push=True),
            good=(200, 201, 202),
            body=lambda: data,
        )
        self._drain(answer)
        said = answer.headers.get("Docker-Content-Digest", digest)
        if said.startswith("sha256:") and said != digest:
            raise RegistryError(f"{self.host} keeps the manifest as {said} instead of {digest}")
        return digest

    def _head(self, path: str, repository: str) -> bool:
        try:
            answer = self._send("HEAD", path, _ACCEPT, scope=_scope(repository, push=True))
        except RegistryError as error:
            if error.http_status == 404:
                return False
            raise
        self._drain(answer)
        return True

    def _place(self, answer: urllib3.BaseHTTPResponse) -> str:
        """Where the upload goes on: absolute, or on this registry."""
        said = answer.headers.get("Location", "")
        place = meant(f"{self._scheme}://{self._address}/", said)
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
        self._drain(answer)

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
        self._drain(answer)
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
    ) -> urllib3.BaseHTTPResponse:
        """Send a part of an upload once; a break is for the caller to go on after."""
        try:
            return self._send(
                method, place, headers, scope=scope, good=good, body=body, where=where, once=True
            )
        except RegistryError as error:
            if error.http_status in (0, 404, 416, *_AGAIN):
                raise _Broken(error) from None
            raise

    def _upload_state(self, place: str, scope: str) -> tuple[int, urllib3.BaseHTTPResponse | None]:
        """How many bytes of a broken upload the registry has, if it still knows of it."""
        try:
            answer = self._send("GET", place, {}, scope=scope, good=(204,))
        except RegistryError:
            return 0, None
        begin, dash, last = answer.headers.get("Range", "").partition("-")
        end = _number(last)
        if begin != "0" or not dash or end is None:
            return 0, None
        return end + 1, answer

    # -- one request ---------------------------------------------------------------------------

    def _send(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        *,
        scope: str,
        good: tuple[int, ...] = (200, 206),
        body: Callable[[], Iterable[bytes] | bytes] | None = None,
        where: str = "",
        once: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """Answer with a good status; anything else ends in a RegistryError.

        `path` is one of the registry's, or a whole URL. `once`: an error is not tried again.
        """
        refreshed = False
        attempt = 0
        while True:
            try:
                answer = self._follow(method, path, headers or {}, scope, body)
            except HTTPError as error:
                fault = self._fault(error, where)
                attempt += 1
                lasting = (NewConnectionError, NameResolutionError, SSLError, ConnectTimeoutError)
                if isinstance(_cause(error), lasting) or attempt >= ATTEMPTS or once:
                    raise fault from None
                self._pause(_back_off(attempt))
                continue
            if answer.status in good:
                return answer
            said = self._drain(answer)
            if answer.status == 401 and not refreshed:
                refreshed = True
                if self._authorize(answer.headers.get_all("WWW-Authenticate") or [], scope):
                    continue
            if answer.status in _AGAIN and attempt + 1 < ATTEMPTS and not once:
                attempt += 1
                self._pause(_back_off(attempt, answer.headers.get("Retry-After", "")))
                continue
            raise self._refusal(self.host, answer.status, said, scope)

    def _follow(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        scope: str,
        body: Callable[[], Iterable[bytes] | bytes] | None,
    ) -> urllib3.BaseHTTPResponse:
        schemes = [self._scheme] if self._scheme else self._schemes
        whole = "://" in path
        for scheme in schemes:
            url = path if whole else f"{scheme}://{self._address}{path}"
            sent = dict(headers)
            # Credentials go to the registry only, wherever it says that something else is.
            ours = not whole or urlsplit(path).netloc == self._address
            if scope in self._tokens and ours:
                sent["Authorization"] = self._tokens[scope]
            try:
                answer = self._request(method, url, sent, body)
            except HTTPError as error:
                # Nothing listens on 443, or what listens speaks no TLS: plain HTTP is next. A
                # certificate that is not trusted, or wanted, is no such case.
                if (
                    scheme != schemes[-1]
                    and isinstance(_cause(error), (SSLError, NewConnectionError, ProtocolError))
                    and "CERTIFICATE" not in str(error)
                ):
                    continue
                raise
            if not whole:
                self._scheme = scheme
            break
        for _ in range(5):
            if answer.status not in _REDIRECTS:
                return answer
            self._drain(answer)
            to, was = meant(url, answer.headers.get("Location", "")), urlsplit(url)
            if to.scheme not in ("http", "https") or not to.hostname:
                raise RegistryError(f"{self.host} redirects to nowhere (HTTP {answer.status})")
            if was.scheme == "https" and to.scheme == "http":
                raise RegistryError(
                    f"{self.host} redirects from HTTPS to plain HTTP at {to.netloc}, which is"
                    " refused"
                )
            if (to.scheme, to.netloc) != (was.scheme, was.netloc):
                sent.pop("Authorization", None)
            url = to.geturl()
            answer = self._request(method, url, sent, body)
        if answer.status in _REDIRECTS:
            self._drain(answer)
            raise RegistryError(f"{self.host} redirects more than 5 times")
        return answer

    def _request(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: Callable[[], Iterable[bytes] | bytes] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        headers = {
            "User-Agent": f"ctrt/{__version__}",
            "Accept-Encoding": "identity",
            **headers,
        }
        return self._pool(url).request(
            method,
            url,
            body=body() if body else None,
            headers=headers,
            redirect=False,
            retries=False,
            preload_content=False,
            timeout=self._timeout,
        )

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = proxy_for(parts.scheme, parts.hostname or "")
        # A client certificate, or an authority of one host's, is for that host alone.
        place = parts.netloc if parts.scheme == "https" else ""
        with self._lock:
            pool = self._pools.get((proxy, place))
            if pool is None:
                context = self._context(place) if place else None
                if proxy:
                    pool = urllib3.ProxyManager(proxy, ssl_context=context, maxsize=8)
                else:
                    pool = urllib3.PoolManager(ssl_context=context, maxsize=8)
                self._pools[(proxy, place)] = pool
        return pool

    def _context(self, place: str) -> ssl.SSLContext:
        if place == self._address:
            return certificates.context(
                self.host, directory=self._cert_dir, verify=not self._insecure
            )
        return certificates.context(place)

    def _drain(self, answer: urllib3.BaseHTTPResponse) -> bytes:
        try:
            with answer:
                return answer.read(64 << 10)
        except HTTPError:
            return b""

    # -- who we are ----------------------------------------------------------------------------

    def _who(self, scope: str) -> auth.Login | None:
        """Whom to log in as for a scope; each is looked up once."""
        if self._login is not None:
            return self._login
        repository = scope.split(":")[1] if scope.startswith(_REPO) else ""
        if repository not in self._used:
            try:
                found = auth.lookup(self.host, repository, authfile=self._authfile)
            except CtrtError as error:
                raise RegistryError(str(error)) from None
            self._used[repository] = found
        return self._used[repository]

    def _authorize(self, challenges: list[str], scope: str) -> bool:
        """Do what a 401 asks for; False when there is nothing (more) that could help."""
        login = self._who(scope)
        for kind, fields in parse_challenges(challenges):
            if kind == "bearer" and "realm" in fields:
                self._tokens[scope] = f"Bearer {self._token(fields, scope, login)}"
                return True
            if kind == "basic" and login and not login.token:
                basic = login.basic()
                if self._tokens.get(scope) == basic:
                    return False
                self._tokens[scope] = basic
                return True
        return False

    def _token(self, fields: dict[str, str], scope: str, login: auth.Login | None) -> str:
        """Ask the token server that the challenge names (token.md, "Requesting a Token")."""
        realm = meant(f"{self._scheme}://{self._address}/", fields["realm"])
        if realm.scheme not in ("http", "https") or not realm.hostname:
            raise RegistryError(f"{self.host} names no usable token server: {fields['realm']}")
        if login and realm.scheme == "http" and self._scheme == "https":
            raise RegistryError(
                f"{self.host} wants the password sent over plain HTTP to {realm.netloc},"
                " which is refused"
            )
        # The challenge asks for what this request needs; what the next ones need is asked for
        # at once, so that one token serves a whole pull or push.
        scopes = dict.fromkeys([*scope.split(), *fields.get("scope", "").split()])
        merged = _merged(scopes)
        service = [("service", fields["service"])] if "service" in fields else []
        headers: dict[str, str] = {}
        method, body = "GET", None
        url = realm.geturl()
        if login and login.token:
            form = urlencode(
                [
                    ("grant_type", "refresh_token"),
                    *service,
                    ("client_id", "ctrt"),
                    ("scope", " ".join(merged)),
                    ("refresh_token", login.token),
                ]
            ).encode()
            method, body = "POST", lambda: form
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        else:
            if login:
                headers["Authorization"] = login.basic()
            query = urlencode([*service, *(("scope", one) for one in merged)])
            if query:
                url += ("&" if realm.query else "?") + query
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = self._request(method, url, headers, body)
                said = self._drain(answer)
            except HTTPError as error:
                raise self._fault(error, host=realm.netloc) from None
            if answer.status not in _AGAIN or attempt == ATTEMPTS:
                break
            self._pause(_back_off(attempt, answer.headers.get("Retry-After", "")))
        if answer.status != 200:
            raise self._refusal(realm.netloc, answer.status, said, scope, "its token server ")
        try:
            found = fastjson.loads(said)
            token = found.get("token") or found.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str) or not (token.isascii() and token.isprintable() and token):
            raise RegistryError(f"the token server {realm.netloc} sent no token")
        return token

    # -- what went wrong -----------------------------------------------------------------------

    def _refusal(
        self, host: str, status: int, body: bytes, scope: str, who: str = ""
    ) -> RegistryError:
        shown, code, text = _answer(status, body)
        where = f"{who}{host}"
        if status in (401, 403):
            login = self._who(scope)
            if login is not None:
                why = (
                    f"{where} refuses {login.name} ({shown}), whose credentials are in"
                    f" {login.origin}; log in again with: ctrt login {self.host}"
                )
            else:
                why = (
                    f"{where} refuses access ({shown}): the image is private or does not exist;"
                    f" log in with: ctrt login {self.host}"
                )
        elif status == 429:
            why = f"{where} has had too many requests from here ({shown}); wait a while or log in"
        elif status == 400 and "SSL certificate" in body.decode(errors="replace"):
            why = _wants_certificate(host)
        else:
            why = f"{where} answered {shown}" + (f": {text}" if text else "")
        return RegistryError(why, http_status=status, code=code)

    def _fault(self, error: Exception, where: str = "", host: str = "") -> RegistryError:
        host = host or self.host
        cause = _cause(error)
        if isinstance(cause, NameResolutionError):
            return RegistryError(
                f"the name {host} cannot be resolved; check its spelling and the network"
            )
        # It is a ConnectTimeoutError too, by inheritance.
        if isinstance(cause, NewConnectionError):
            return RegistryError(
                f"no registry answers at {host} ({reason_of(cause)}); check that it is running"
            )
        if isinstance(cause, ConnectTimeoutError):
            return RegistryError(f"{host} did not answer within {CONNECT_SECONDS:g} seconds")
        if isinstance(cause, ReadTimeoutError):
            return RegistryError(
                f"{host} sent nothing for {self._read_seconds:g} seconds{where}; try again"
            )
        if isinstance(cause, SSLError):
            text = str(cause)
            if "CERTIFICATE_VERIFY_FAILED" in text:
                why = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
                return RegistryError(
                    f"the TLS certificate of {host} is not trusted ({why}); put the certificate"
                    f" of its authority as ca.crt into {certificates.place(host)}"
                )
            if any(word in text for word in _CLIENT_WANTED):
                return RegistryError(_wants_certificate(host))
            if any(word in text for word in ("WRONG_VERSION_NUMBER", "RECORD_LAYER", "HTTP_REQ")):
                return RegistryError(
                    f"{host} speaks plain HTTP; allow that with --tls-verify=false"
                )
            return RegistryError(f"no TLS connection to {host} could be made ({text})")
        return RegistryError(f"the connection to {host} broke{where}; try again")


def is_loopback(host: str) -> bool:
    """Say whether the registry `host[:port]` is this machine's own loopback."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost") or name == "::1":
        return True
    parts = name.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() for part in parts)


def parse_challenges(headers: list[str]) -> list[tuple[str, dict[str, str]]]:
    """Read WWW-Authenticate headers: each scheme in lower case, with its parameters.

    Source: RFC 9110, section 11.6.1. A comma parts both parameters and challenges.
    """
    found: list[tuple[str, dict[str, str]]] = []
    for header in headers:
        text = header
        while text := text.lstrip(" \t,"):
            end = next((at for at, c in enumerate(text) if c in " \t,="), len(text))
            word, rest = text[:end], text[end:].lstrip(" \t")
            if not rest.startswith("="):
                found.append((word.lower(), {}))
                text = rest
                continue
            rest = rest[1:].lstrip(" \t")
            if rest.startswith('"'):
                value, at = "", 1
                while at < len(rest) and rest[at] != '"':
                    at += rest[at] == "\\"
                    value += rest[at : at + 1]
                    at += 1
                text = rest[at + 1 :]
            else:
                value, _, text = rest.partition(",")
                value = value.strip()
            if found and word:
                found[-1][1][word.lower()] = value
            elif not word:
                break
    return found


def _scope(repository: str, *, push: bool = False) -> str:
    """What a token is asked for (token.md, "Resource Scope")."""
    return f"{_REPO}{repository}:{'pull,push' if push else 'pull'}"


def _merged(scopes: Iterable[str]) -> list[str]:
    """Scopes with one entry for each resource, its actions put together."""
    found: dict[str, dict[str, None]] = {}
    for scope in scopes:
        what, _, actions = scope.rpartition(":")
        found.setdefault(what, {}).update(dict.fromkeys(actions.split(",")))
    return [f"{what}:{','.join(actions)}" for what, actions in found.items()]


def _first(pieces: Iterable[bytes], count: int) -> Iterator[bytes]:
    """The first `count` bytes of a stream."""
    for piece in pieces:
        yield piece[:count]
        count -= len(piece)
        if count <= 0:
            return


def _next_page(answer: urllib3.BaseHTTPResponse) -> str:
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


def meant(base: str, said: str) -> SplitResult:
    """Return the address that a header means, seen from another; an empty one for none."""
    try:
        parts = urlsplit(urljoin(base, said))
        parts.port  # noqa: B018  # ValueError where it is no number
    except ValueError:
        return SplitResult("", "", "", "", "")
    return parts


def proxy_for(scheme: str, host: str) -> str:
    """Return the proxy for a host as the environment names it; "" for none, and for loopback."""
    if is_loopback(host) or not any(name.lower() == f"{scheme}_proxy" for name in os.environ):
        return ""
    from urllib.request import getproxies, proxy_bypass  # with all that it imports, 0.5 MB

    proxies = getproxies()
    if scheme not in proxies or proxy_bypass(host):
        return ""
    return proxies[scheme]


def _cause(error: BaseException) -> BaseException:
    """Return what urllib3 wrapped in a MaxRetryError or ProxyError."""
    reason = getattr(error, "reason", None)
    return reason if isinstance(reason, HTTPError) else error


def reason_of(error: BaseException) -> str:
    """Return why a connection failed, in a few words."""
    inner: BaseException | None = _cause(error)
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror.lower()
        inner = inner.__cause__ or inner.__context__
    return str(error).rpartition(": ")[2].lower()


def _back_off(attempt: int, retry_after: str = "") -> float:
    """Return how many seconds to wait: doubling from half a second, at most 30."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(min(int(retry_after[:6]), 30))
    return float(min(0.5 * 2 ** max(attempt - 1, 0), 8.0))


def _answer(status: int, body: bytes) -> tuple[str, str, str]:
    """Read an error: how to show its status, its code, its message (if there is any)."""
    code = message = ""
    try:
        first = fastjson.loads(body)["errors"][0]
        code, message = str(first.get("code") or ""), str(first.get("message") or "")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        pass
    code = code if code.replace("_", "").isalnum() else ""
    text = "".join(c for c in message if c.isprintable())[:200]
    return f"HTTP {status} {code}".strip(), code, text


def _wants_certificate(host: str) -> str:
    return (
        f"{host} wants a client certificate; put it and its key as client.cert and client.key"
        f" into {certificates.place(host)}"
    )
