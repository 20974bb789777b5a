"""Whom to trust: TLS contexts with the authorities and client certificates of a host.

A directory named after the registry (`HOST[:PORT]`) may hold `*.crt` (authorities, beside the
system's) and pairs of `NAME.cert` and `NAME.key` (to show who we are).

Source: containers-certs.d(5).
"""

from __future__ import annotations

import os
import ssl

from ctrt.errors import CtrtError


def directories(host: str) -> list[str]:
    """Return where a host's certificates are looked for; the first that exists is taken."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return [
        os.path.join(place, "certs.d", host)
        for place in (f"{home}/containers", "/etc/containers", "/etc/docker")
    ]


def place(host: str) -> str:
    """Return the directory where this user puts a host's certificates."""
    user, system, _ = directories(host)
    return system if os.geteuid() == 0 else user


def context(host: str, *, directory: str = "", verify: bool = True) -> ssl.SSLContext:
    """Make the TLS context for a host; CtrtError names a file that is wrong.

    `directory` replaces the certs.d directories; without `verify` any certificate is taken.
    """
    # The default context reads SSL_CERT_FILE and SSL_CERT_DIR.
    made = ssl.create_default_context()
    if directory and not os.path.isdir(directory):
        raise CtrtError(f"there is no directory {directory} of certificates")
    found = [directory] if directory else [d for d in directories(host) if os.path.isdir(d)]
    for path in found[:1]:
        try:
            _read(made, path)
        except OSError as error:
            raise CtrtError(
                f"the certificates in {path} cannot be read: {error.strerror}"
            ) from None
    if not verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


def _read(made: ssl.SSLContext, directory: str) -> None:
    names = sorted(os.listdir(directory))
    for name in names:
        path = os.path.join(directory, name)
        stem, end = os.path.splitext(name)
        try:
            if end == ".crt":
                made.load_verify_locations(path)
            elif end == ".cert":
                if f"{stem}.key" not in names:
                    raise CtrtError(
                        f"the client certificate {path} has no key {stem}.key beside it"
                    )
                made.load_cert_chain(path, os.path.join(directory, f"{stem}.key"))
            elif end == ".key" and f"{stem}.cert" not in names:
                raise CtrtError(f"the key {path} has no client certificate {stem}.cert beside it")
        except ssl.SSLError as error:
            raise CtrtError(
                f"{path} is no certificate in PEM format, or its key does not fit"
                f" ({error.reason or error})"
            ) from None
