"""GPG signatures beside images: where they are kept, and whether a key that we know made them.

A signature of a registry's image is a file of its own at an address that the host's registries.d
names ("lookaside"). gpgv, which Debian's apt uses too, says who made it and what it says.

Sources: containers-registries.d(5); containers-signature(5); gpgv(1) and GnuPG's doc/DETAILS for
the status lines.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import TYPE_CHECKING, Any

from ctrt.errors import CtrtError

if TYPE_CHECKING:
    from ctrt.oci.reference import Reference

_LIMIT_BYTES = 4 << 20
_LIMIT_COUNT = 100
HOST_DIRECTORY = "/etc/containers/registries.d"


def base(scopes: list[str]) -> str:
    """The address that signatures of an image are kept under; `scopes` go from it to its registry.

    Without a word about it, that is a directory of the host's (or the user's) own.
    """
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    place = f"{config}/containers/registries.d"
    if not os.path.isdir(place):
        place = HOST_DIRECTORY
    found: dict[str, str] = {}
    for path in _files(place):
        said = _read(path)
        parts = {f"docker.{scope}": value for scope, value in (said.get("docker") or {}).items()}
        if "default-docker" in said:
            parts["default-docker"] = said["default-docker"]
        for where, value in parts.items():
            if where in found:
                raise CtrtError(f"{path} has {where}, and so has another file beside it")
            found[where] = _address(value, path, where)
    for where in (*(f"docker.{scope}" for scope in scopes), "default-docker"):
        if found.get(where):
            return found[where]
    if os.geteuid():
        data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
        return f"file://{data}/containers/sigstore"
    return "file:///var/lib/containers/sigstore"


def _files(place: str) -> list[str]:
    try:
        return [f"{place}/{name}" for name in sorted(os.listdir(place)) if name.endswith(".yaml")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CtrtError(f"{place} cannot be read: {error.strerror}") from None


def _read(path: str) -> dict[str, Any]:
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            said = yaml.safe_load(file)
    except OSError as error:
        raise CtrtError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError):
        raise CtrtError(f"{path} is not YAML") from None
    if said is None:
        return {}
    if not isinstance(said, dict) or not isinstance(said.get("docker") or {}, dict):
        raise CtrtError(f"{path} is broken: it must hold default-docker and docker, both objects")
    return said


def _address(value: Any, path: str, where: str) -> str:
    if not isinstance(value, dict):
        raise CtrtError(f"{path} is broken at {where}: it must be an object")
    found = value.get("lookaside", value.get("sigstore", ""))
    if not isinstance(found, str) or (
        found and not found.startswith(("file:///", "http://", "https://"))
    ):
        raise CtrtError(
            f"{path} is broken at {where}.lookaside: it must be an address with file://, http://"
            " or https://"
        )
    return found


def fetch(address: str, reference: Reference, digest: str) -> list[bytes]:
    """Fetch the signatures of a manifest from below an address, `signature-1` and so on."""
    above = f"{address.rstrip('/')}/{reference.repository}@{digest.replace(':', '=')}"
    found: list[bytes] = []
    while len(found) < _LIMIT_COUNT:
        name = f"{above}/signature-{len(found) + 1}"
        data = from_file(name[7:]) if name.startswith("file://") else _download(name)
        if data is None:
            break
        found.append(data)
    return found


def from_file(path: str) -> bytes | None:
    """Read a signature; None where there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LIMIT_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CtrtError(f"the signature {path} cannot be read: {error.strerror}") from None
    return _bounded(data, path)


def _bounded(data: bytes, name: str) -> bytes:
    if len(data) > _LIMIT_BYTES:
        raise CtrtError(f"the signature {name} has more than 4 MiB")
    return data


def _download(url: str) -> bytes | None:
    import urllib3

    try:
        with urllib3.request(
            "GET", url, preload_content=False, timeout=30, retries=2
        ) as answer:  # fmt: skip
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise CtrtError(f"the signature {url} cannot be fetched: HTTP {answer.status}")
            return _bounded(answer.read(_LIMIT_BYTES + 1), url)
    except urllib3.exceptions.HTTPError as error:
        raise CtrtError(f"the signature {url} cannot be fetched: {error}") from None


class Keyring:
    """Public keys of OpenPGP, each a text or binary file's content, and gpgv that knows them."""

    def __init__(self, texts: list[tuple[str, bytes]]) -> None:
        from shutil import which

        program = which("gpgv")
        if program is None:
            raise CtrtError("GPG signatures are checked by gpgv, which is not installed here")
        self._program = program
        self._keys = b"".join(_binary(text, name) for name, text in texts)

    def opened(self, signature: bytes) -> tuple[bytes, str]:
        """Return what a signature says, if one of the keys made it, else why it does not do."""
        import subprocess
        import tempfile

        with tempfile.TemporaryDirectory(prefix="ctrt-gpg-") as place:
            for name, data in (("keys", self._keys), ("signature", signature)):
                with open(f"{place}/{name}", "xb") as file:
                    file.write(data)
            words = [
                self._program, "--homedir", place, "--keyring", f"{place}/keys", "--status-fd=1",
                "--output", f"{place}/said", f"{place}/signature",
            ]  # fmt: skip
            done = subprocess.run(
                words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                check=False, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            )  # fmt: skip
            lines = done.stdout.decode(errors="replace").splitlines()
            kinds = [line.split()[1] for line in lines if line.startswith("[GNUPG:] ")]
            for kind, why in _REASONS.items():
                if kind in kinds:
                    return b"", why
            # One signature over one text: of more, it would not be clear who says what.
            if done.returncode or any(
                kinds.count(kind) != 1 for kind in ("NEWSIG", "GOODSIG", "VALIDSIG", "PLAINTEXT")
            ):
                return b"", "it is no GPG signature"
            with open(f"{place}/said", "rb") as file:
                return file.read(), ""


_REASONS = {
    "NO_PUBKEY": "it is not made with a key that the policy names",
    "BADSIG": "it is broken",
    "EXPSIG": "it has expired",
    "EXPKEYSIG": "its key has expired",
    "REVKEYSIG": "its key was revoked",
    "ERRSIG": "it cannot be checked",
}


def _binary(text: bytes, name: str) -> bytes:
    """Public keys without their armour (RFC 4880, section 6.2)."""
    if b"-----BEGIN PGP" not in text:
        return text
    found = b""
    for block in text.replace(b"\r\n", b"\n").split(b"-----BEGIN PGP PUBLIC KEY BLOCK-----")[1:]:
        body = block.partition(b"-----END PGP")[0].partition(b"\n\n")[2]
        lines = [line for line in body.split(b"\n") if not line.startswith(b"=")]
        try:
            found += base64.b64decode(b"".join(lines), validate=True)
        except binascii.Error:
            found = b""
            break
    if not found:
        raise CtrtError(f"the key {name} is no public key of GPG")
    return found
