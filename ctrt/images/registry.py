"""A client of the registry API: manifests and blobs by HTTP, with tokens, redirects, retries.

Nothing that a registry sends is believed: a manifest's digest is taken over the bytes as they
came, a blob's size and digest come from its descriptor, and credentials go to the registry
and to the token server that it names, never to where it redirects.

Source: OCI distribution-spec 1.1; distribution's `spec/auth/token.md` for Bearer tokens;
containers-auth.json(5) for where credentials are.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import ssl
import time
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urljoin, urlsplit

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
from ctrt.oci import media
from ctrt.oci.reference import HUB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

HUB_HOST = "registry-1.docker.io"
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
ATTEMPTS = 5
PIECE_BYTES = 256 << 10
_REDIRECTS = (301, 302, 303, 307, 308)
_AGAIN = (408, 429, 500, 502, 503, 504)


class RegistryError(CtrtError):
    """Why a registry did not give what was asked for: the end of a sentence.

    `http_status` and `code` are the answer's (distribution-spec, "Error Codes"), if one came.
    """

    def __init__(self, why: str, *, http_status: int = 0, code: str = "") -> None:
        super().__init__(why)
        self.http_status = http_status
        self.code = code


class Registry:
    """One registry; safe to use from several threads.

    `plain_http`: True speaks HTTP only, False HTTPS only; None tries HTTP too where TLS fails
    on a loopback address. `pause` is slept through between attempts (seconds); tests shorten it.
    """

    def __init__(
        self,
        host: str,
        *,
        plain_http: bool | None = None,
        read_seconds: float = READ_SECONDS,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self.host = host
        self._pause = pause
        self._address = HUB_HOST if host == HUB else host
        self._schemes = {True: ["http"], False: ["https"]}.get(plain_http, ["https"])  # type: ignore[arg-type]
        if plain_http is None and is_loopback(host):
            self._schemes = ["https", "http"]
        self._scheme = self._schemes[0] if len(self._schemes) == 1 else ""
        self._timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds)
        self._read_seconds = read_seconds
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._tokens: dict[str, str] = {}

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.clear()

    @property
    def plain(self) -> bool:
        """Say whether the registry turned out to speak plain HTTP."""
        return self._scheme == "http"

    def manifest(self, repository: str, tag_or_digest: str) -> tuple[str, str, bytes]:
        """Fetch a manifest or index; return its media type, its digest and its very bytes."""
        headers = {"Accept": ", ".join(media.ACCEPT)}
        for attempt in range(ATTEMPTS):
            with self._get(f"/v2/{repository}/manifests/{tag_or_digest}", headers) as answer:
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
        said = answer.headers.get("Docker-Content-Digest", "")
        if said.startswith("sha256:") and said != digest:
            raise RegistryError(
                f"the registry says that the manifest's digest is {said}, but what came has"
                f" {digest}"
            )
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return media_type, digest, data

    def blob(self, repository: str, digest: str, size: int) -> Iterator[bytes]:
        """Yield a blob's bytes, never more than one piece beyond `size`.

        A connection that breaks is taken up again where it broke. The digest is for the caller
        to check, who sees the bytes in any case.
        """
        done = 0
        attempt = 0
        path = f"/v2/{repository}/blobs/{digest}"
        while True:
            headers = {"Range": f"bytes={done}-"} if done else {}
            answer = self._get(path, headers, f" after {done} of {size} bytes" if done else "")
            skip = done
            if answer.status == 206:
                begin = answer.headers.get("Content-Range", "").removeprefix("bytes ")
                skip = done - int(begin.partition("-")[0]) if begin[:1].isdigit() else 0
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
            with self._get(f"/v2/{repository}/tags/list?n=1", {}) as answer:
                return bool(answer.status == 200)
        except CtrtError as error:
            return not (isinstance(error, RegistryError) and error.http_status == 404)

    # -- one request ---------------------------------------------------------------------------

    def _get(self, path: str, headers: dict[str, str], where: str = "") -> urllib3.BaseHTTPResponse:
        """Answer with 200 or 206; anything else ends in a RegistryError."""
        repository = path.removeprefix("/v2/").rsplit("/", 2)[0]
        scope = f"repository:{repository}:pull"
        refreshed = False
        attempt = 0
        while True:
            try:
                answer = self._follow(path, headers, scope)
            except HTTPError as error:
                fault = self._fault(error, where)
                attempt += 1
                lasting = (NewConnectionError, NameResolutionError, SSLError, ConnectTimeoutError)
                if isinstance(_cause(error), lasting) or attempt >= ATTEMPTS:
                    raise fault from None
                self._pause(_back_off(attempt))
                continue
            if answer.status in (200, 206):
                return answer
            body = self._drain(answer)
            if answer.status == 401 and not refreshed:
                refreshed = True
                if self._authorize(answer.headers.get_all("WWW-Authenticate") or [], scope):
                    continue
            if answer.status in _AGAIN and attempt + 1 < ATTEMPTS:
                attempt += 1
                self._pause(_back_off(attempt, answer.headers.get("Retry-After", "")))
                continue
            raise _refusal(self.host, answer.status, body)

    def _follow(self, path: str, headers: dict[str, str], scope: str) -> urllib3.BaseHTTPResponse:
        schemes = [self._scheme] if self._scheme else self._schemes
        for scheme in schemes:
            url = f"{scheme}://{self._address}{path}"
            sent = dict(headers)
            if scope in self._tokens:
                sent["Authorization"] = self._tokens[scope]
            try:
                answer = self._request(url, sent)
            except HTTPError as error:
                # Nothing listens on 443, or what listens speaks no TLS: plain HTTP is next. A
                # certificate that is not trusted is no such case.
                if (
                    scheme != schemes[-1]
                    and isinstance(_cause(error), (SSLError, NewConnectionError, ProtocolError))
                    and "CERTIFICATE_VERIFY_FAILED" not in str(error)
                ):
                    continue
                raise
            self._scheme = scheme
            break
        for _ in range(5):
            if answer.status not in _REDIRECTS:
                return answer
            self._drain(answer)
            target = urljoin(url, answer.headers.get("Location", ""))
            to, was = urlsplit(target), urlsplit(url)
            if to.scheme not in ("http", "https") or not to.hostname:
                raise RegistryError(f"{self.host} redirects to nowhere (HTTP {answer.status})")
            if was.scheme == "https" and to.scheme == "http":
                raise RegistryError(
                    f"{self.host} redirects from HTTPS to plain HTTP at {to.netloc}, which is"
                    " refused"
                )
            if (to.scheme, to.netloc) != (was.scheme, was.netloc):
                sent.pop("Authorization", None)
            url = target
            answer = self._request(url, sent)
        if answer.status in _REDIRECTS:
            self._drain(answer)
            raise RegistryError(f"{self.host} redirects more than 5 times")
        return answer

    def _request(self, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        headers = {
            "User-Agent": f"ctrt/{__version__}",
            "Accept-Encoding": "identity",
            **headers,
        }
        return self._pool(url).request(
            "GET",
            url,
            headers=headers,
            redirect=False,
            retries=False,
            preload_content=False,
            timeout=self._timeout,
        )

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = _proxy(parts.scheme, parts.hostname or "")
        pool = self._pools.get(proxy)
        if pool is None:
            # The default context reads SSL_CERT_FILE and SSL_CERT_DIR.
            context = ssl.create_default_context()
            if proxy:
                pool = urllib3.ProxyManager(proxy, ssl_context=context, maxsize=8)
            else:
                pool = urllib3.PoolManager(ssl_context=context, maxsize=8)
            pool = self._pools.setdefault(proxy, pool)
        return pool

    def _drain(self, answer: urllib3.BaseHTTPResponse) -> bytes:
        try:
            with answer:
                return answer.read(64 << 10)
        except HTTPError:
            return b""

    # -- who we are ----------------------------------------------------------------------------

    def _authorize(self, challenges: list[str], scope: str) -> bool:
        """Do what a 401 asks for; False when there is nothing (more) that could help."""
        repository = scope.partition(":")[2].rpartition(":")[0]
        user = credentials(self.host, repository)
        for kind, fields in parse_challenges(challenges):
            if kind == "bearer" and "realm" in fields:
                self._tokens[scope] = f"Bearer {self._token(fields, scope, user)}"
                return True
            if kind == "basic" and user:
                basic = "Basic " + base64.b64encode(":".join(user).encode()).decode()
                if self._tokens.get(scope) == basic:
                    return False
                self._tokens[scope] = basic
                return True
        return False

    def _token(self, fields: dict[str, str], scope: str, user: tuple[str, str] | None) -> str:
        """Ask the token server that the challenge names (token.md, "Requesting a Token")."""
        realm = urlsplit(urljoin(f"{self._scheme}://{self._address}/", fields["realm"]))
        if realm.scheme not in ("http", "https") or not realm.hostname:
            raise RegistryError(f"{self.host} names no usable token server: {fields['realm']}")
        headers = {}
        if user:
            if realm.scheme == "http" and self._scheme == "https":
                raise RegistryError(
                    f"{self.host} wants the password sent over plain HTTP to {realm.netloc},"
                    " which is refused"
                )
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(user).encode()).decode()
        query = [("scope", fields.get("scope") or scope)]
        if "service" in fields:
            query.insert(0, ("service", fields["service"]))
        joiner = "&" if realm.query else "?"
        url = realm.geturl() + joiner + urlencode(query)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = self._request(url, headers)
                body = self._drain(answer)
            except HTTPError as error:
                raise self._fault(error, host=realm.netloc) from None
            if answer.status not in _AGAIN or attempt == ATTEMPTS:
                break
            self._pause(_back_off(attempt, answer.headers.get("Retry-After", "")))
        if answer.status != 200:
            raise _refusal(realm.netloc, answer.status, body, "its token server ")
        try:
            said = json.loads(body)
            token = said.get("token") or said.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str) or not token or not token.isprintable():
            raise RegistryError(f"the token server {realm.netloc} sent no token")
        return token

    # -- what went wrong -----------------------------------------------------------------------

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
                f"no registry answers at {host} ({_reason(cause)}); check that it is running"
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
                    f"the TLS certificate of {host} is not trusted ({why}); point SSL_CERT_FILE"
                    " at the certificate of its authority"
                )
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


def credentials(host: str, repository: str) -> tuple[str, str] | None:
    """Return user and password for a registry, from the first auth file that has them.

    Source: containers-auth.json(5): podman's files first, then Docker's; within a file the
    most specific of `host/group/repository`, `host/group`, `host`.
    """
    home = os.path.expanduser("~")
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    run = os.environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.getuid()}"
    docker = os.environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker")
    explicit = os.environ.get("REGISTRY_AUTH_FILE")
    files = (
        [explicit]
        if explicit
        else [
            os.path.join(run, "containers", "auth.json"),
            os.path.join(config, "containers", "auth.json"),
            os.path.join(docker, "config.json"),
        ]
    )
    keys = []
    parts = [host, *repository.split("/")]
    while parts:
        keys.append("/".join(parts))
        parts.pop()
    if host == HUB:
        keys += ["https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io"]
    keys += [f"https://{host}", f"http://{host}", f"https://{host}/v2/", f"https://{host}/v1/"]
    for path in files:
        try:
            with open(path, "rb") as file:
                auths: Any = json.load(file).get("auths") or {}
            for key in keys:
                if key in auths:
                    found = _user(auths[key])
                    if found:
                        return found
        except FileNotFoundError:
            continue
        except (ValueError, AttributeError, TypeError, OSError, binascii.Error) as error:
            raise RegistryError(f"the credentials in {path} cannot be read ({error})") from None
    return None


def _user(entry: dict[str, str]) -> tuple[str, str] | None:
    if entry.get("auth"):
        user, colon, password = base64.b64decode(entry["auth"]).decode().partition(":")
        return (user, password.rstrip("\0")) if colon else None
    if entry.get("username"):
        return entry["username"], entry.get("password", "")
    return None


def _proxy(scheme: str, host: str) -> str:
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    if scheme not in proxies or is_loopback(host) or proxy_bypass(host):
        return ""
    return proxies[scheme]


def _cause(error: BaseException) -> BaseException:
    """Return what urllib3 wrapped in a MaxRetryError or ProxyError."""
    reason = getattr(error, "reason", None)
    return reason if isinstance(reason, HTTPError) else error


def _reason(error: BaseException) -> str:
    inner: BaseException | None = error
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


def _refusal(host: str, status: int, body: bytes, who: str = "") -> RegistryError:
    code = message = ""
    try:
        first = json.loads(body)["errors"][0]
        code, message = str(first.get("code") or ""), str(first.get("message") or "")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        pass
    code = code if code.replace("_", "").isalnum() else ""
    shown = f"HTTP {status} {code}".strip()
    where = host if not who else f"{who}{host}"
    if status in (401, 403):
        why = (
            f"{where} refuses access ({shown}): the image is private or does not exist; log in"
            f" with: podman login {host}"
        )
    elif status == 429:
        why = f"{where} has had too many requests from here ({shown}); wait a while or log in"
    else:
        text = "".join(c for c in message if c.isprintable())[:200]
        why = f"{where} answered {shown}" + (f": {text}" if text else "")
    return RegistryError(why, http_status=status, code=code)
