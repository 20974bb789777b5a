"""Addresses on the web: what a header means, what is loopback, which proxy leads there."""

from __future__ import annotations

import os
from urllib.parse import SplitResult, urljoin, urlsplit

from urllib3.exceptions import HTTPError


def is_loopback(host: str) -> bool:
    """Say whether the registry `host[:port]` is this machine's own loopback."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost") or name == "::1":
        return True
    parts = name.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() for part in parts)


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


def cause(error: BaseException) -> BaseException:
    """Return what urllib3 wrapped in a MaxRetryError or ProxyError."""
    reason = getattr(error, "reason", None)
    return reason if isinstance(reason, HTTPError) else error


def reason_of(error: BaseException) -> str:
    """Return why a connection failed, in a few words."""
    inner: BaseException | None = cause(error)
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror.lower()
        inner = inner.__cause__ or inner.__context__
    return str(error).rpartition(": ")[2].lower()
