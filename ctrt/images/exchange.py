"""One request to a registry: tokens, redirects, certificates, retries, and what went wrong.

Credentials go to the registry and to the token server that it names, never to where it
redirects.

Source: distribution-spec 1.1, "Error Codes"; distribution's `spec/auth/token.md` and `oauth.md`
for Bearer tokens.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

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
from ctrt.images.web import cause, is_loopback, meant, proxy_for, reason_of
from ctrt.oci import fastjson
from ctrt.oci.reference import HUB

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

HUB_HOST = "registry-1.docker.io"
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
ATTEMPTS = 5
AGAIN = (408, 429, 500, 502, 503, 504)
REPOSITORY = "repository:"
_REDIRECTS = (301, 302, 303, 307, 308)
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


class Exchange:
    """Requests to one registry; safe to use from several threads.

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
        self.pause = pause
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

    @property
    def base(self) -> str:
        """The address that the registry's own paths are below, as the last request had it."""
        return f"{self._scheme}://{self._address}/"

    def send(
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
                fault = self.fault(error, where)
                attempt += 1
                lasting = (NewConnectionError, NameResolutionError, SSLError, ConnectTimeoutError)
                if isinstance(cause(error), lasting) or attempt >= ATTEMPTS or once:
                    raise fault from None
                self.pause(back_off(attempt))
                continue
            if answer.status in good:
                return answer
            said = self.drain(answer)
            if answer.status == 401 and not refreshed:
                refreshed = True
                if self._authorize(answer.headers.get_all("WWW-Authenticate") or [], scope):
                    continue
            if answer.status in AGAIN and attempt + 1 < ATTEMPTS and not once:
                attempt += 1
                self.pause(back_off(attempt, answer.headers.get("Retry-After", "")))
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
                    and isinstance(cause(error), (SSLError, NewConnectionError, ProtocolError))
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
            self.drain(answer)
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
            self.drain(answer)
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

    def drain(self, answer: urllib3.BaseHTTPResponse) -> bytes:
        """Read what a small answer says, so that its connection serves the next request."""
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
        repository = scope.split(":")[1] if scope.startswith(REPOSITORY) else ""
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
        realm = meant(self.base, fields["realm"])
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
                said = self.drain(answer)
            except HTTPError as error:
                raise self.fault(error, host=realm.netloc) from None
            if answer.status not in AGAIN or attempt == ATTEMPTS:
                break
            self.pause(back_off(attempt, answer.headers.get("Retry-After", "")))
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

    def fault(self, error: Exception, where: str = "", host: str = "") -> RegistryError:
        """Put into words why a request did not come through."""
        host = host or self.host
        why = cause(error)
        if isinstance(why, NameResolutionError):
            return RegistryError(
                f"the name {host} cannot be resolved; check its spelling and the network"
            )
        # It is a ConnectTimeoutError too, by inheritance.
        if isinstance(why, NewConnectionError):
            return RegistryError(
                f"no registry answers at {host} ({reason_of(why)}); check that it is running"
            )
        if isinstance(why, ConnectTimeoutError):
            return RegistryError(f"{host} did not answer within {CONNECT_SECONDS:g} seconds")
        if isinstance(why, ReadTimeoutError):
            return RegistryError(
                f"{host} sent nothing for {self._read_seconds:g} seconds{where}; try again"
            )
        if isinstance(why, SSLError):
            text = str(why)
            if "CERTIFICATE_VERIFY_FAILED" in text:
                said = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
                return RegistryError(
                    f"the TLS certificate of {host} is not trusted ({said}); put the certificate"
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


def _merged(scopes: Iterable[str]) -> list[str]:
    """Scopes with one entry for each resource, its actions put together."""
    found: dict[str, dict[str, None]] = {}
    for scope in scopes:
        what, _, actions = scope.rpartition(":")
        found.setdefault(what, {}).update(dict.fromkeys(actions.split(",")))
    return [f"{what}:{','.join(actions)}" for what, actions in found.items()]


def back_off(attempt: int, retry_after: str = "") -> float:
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
