"""Which images may come in: the host's policy.json.

Before a blob is fetched, the narrowest scope that the image is in says what is required of it:
nothing, a signature by a known key, or that it be refused.

Source: containers-policy.json(5); cosign's SIGNATURE_SPEC.md for where signatures are and what
they sign, containers-signature(5) for those of GPG.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import TYPE_CHECKING, Any

from ctrt.errors import CtrtError
from ctrt.oci import fastjson
from ctrt.oci.reference import parse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctrt.images.transports import Source
    from ctrt.oci.reference import Reference

_KEYS = {
    "insecureAcceptAnything": frozenset(("type",)),
    "reject": frozenset(("type",)),
    "signedBy": frozenset(("type", "keyType", "keyPath", "keyPaths", "keyData", "signedIdentity")),
    "sigstoreSigned": frozenset(
        (
            *("type", "keyPath", "keyPaths", "keyData", "keyDatas", "signedIdentity", "fulcio"),
            *("pki", "rekorPublicKeyPath", "rekorPublicKeyData"),
            *("rekorPublicKeyPaths", "rekorPublicKeyDatas"),
        )
    ),
}
_IDENTITIES = (
    *("matchExact", "matchRepoDigestOrExact", "matchRepository"),
    *("exactReference", "exactRepository", "remapIdentity"),
)


class Policy:
    """The requirements of one policy.json; `path` is where it was read."""

    def __init__(self, path: str, said: dict[str, Any]) -> None:
        self.path = path
        self._default = self._requirements(said.get("default"), "$.default")
        self._transports: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for transport, scopes in (said.get("transports") or {}).items():
            where = f"$.transports.{transport}"
            if not isinstance(scopes, dict):
                raise self._wrong(where, "it must be an object")
            self._transports[transport] = {
                scope: self._requirements(value, f'{where}["{scope}"]')
                for scope, value in scopes.items()
            }

    def required(self, source: Source) -> tuple[str, list[dict[str, Any]]]:
        """Return the scope that decides about an image, in words, and its requirements."""
        scopes = self._transports.get(source.transport, {})
        for scope in source.scopes():
            if scope in scopes:
                return f"the scope {scope}", scopes[scope]
        if "" in scopes:
            return f"the transport {source.transport}", scopes[""]
        return "the default", self._default

    def check(self, source: Source, digests: Iterable[str]) -> None:
        """Raise a CtrtError if the image may not come in.

        `digests` are the manifest's and those of the indexes that led to it: whoever signed
        one of them vouches for what it names.
        """
        where, requirements = self.required(source)
        digests = list(dict.fromkeys(digests))
        for requirement in requirements:
            kind = requirement["type"]
            if kind == "reject":
                raise CtrtError(f"{self.path} refuses it: {where} has the type reject")
            if kind == "signedBy":
                self._gpg(source, requirement, digests, where)
            if kind == "sigstoreSigned":
                self._sigstore(source, requirement, digests, where)

    def _sigstore(
        self, source: Source, requirement: dict[str, Any], digests: list[str], where: str
    ) -> None:
        keys = self._read_keys(requirement, where)
        reasons = []
        for digest in digests:
            for payload, mark in source.attachments(digest):
                why = _not_signed(payload, mark, keys) or _not_for(
                    payload, requirement, source.reference, digest
                )
                if not why:
                    return
                reasons.append(why)
        self._none_does(reasons, where)

    def _gpg(
        self, source: Source, requirement: dict[str, Any], digests: list[str], where: str
    ) -> None:
        from ctrt.images.lookaside import Keyring

        kind = requirement.get("keyType")
        if kind != "GPGKeys":
            raise CtrtError(f"{self.path} wants keys of the type {kind} for {where}, not GPGKeys")
        keys = Keyring(self._key_texts(requirement))
        reasons = []
        for digest in digests:
            for signature in source.signatures(digest):
                payload, why = keys.opened(signature)
                why = why or _not_for(payload, requirement, source.reference, digest)
                if not why:
                    return
                reasons.append(why)
        self._none_does(reasons, where)

    def _none_does(self, reasons: list[str], where: str) -> None:
        if not reasons:
            raise CtrtError(f"{self.path} wants a signature for {where}, and it has none")
        raise CtrtError(
            f"{self.path} wants a signature for {where}, and none of its {len(reasons)} will do:"
            f" {reasons[0]}"
        )

    def _read_keys(self, requirement: dict[str, Any], where: str) -> list[Any]:
        for word in ("fulcio", "pki", *(key for key in requirement if key.startswith("rekor"))):
            if word in requirement:
                raise CtrtError(
                    f"{self.path} wants {word} for {where}, which cannot be checked here; a key"
                    " (keyPath) can"
                )
        try:
            from cryptography.hazmat.primitives.asymmetric import ec, ed25519
            from cryptography.hazmat.primitives.serialization import load_pem_public_key
        except ImportError:
            raise CtrtError(
                f"{self.path} wants a signature for {where}; to check it, install: pip install"
                " 'ctrt[signatures]'"
            ) from None
        keys = []
        for path, text in self._key_texts(requirement):
            try:
                key = load_pem_public_key(text)
            except (ValueError, TypeError):
                key = None
            if not isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)):
                raise CtrtError(
                    f"the key {path} of {self.path} is no public key in PEM format for ECDSA or"
                    " Ed25519"
                )
            keys.append(key)
        return keys

    def _key_texts(self, requirement: dict[str, Any]) -> list[tuple[str, bytes]]:
        """Return the keys that a requirement names, with what errors call them."""
        texts = []
        paths = [requirement["keyPath"]] if "keyPath" in requirement else []
        for path in paths + list(requirement.get("keyPaths") or []):
            try:
                with open(path, "rb") as file:
                    texts.append((path, file.read(1 << 20)))
            except OSError as error:
                raise CtrtError(
                    f"the key {path} that {self.path} names cannot be read: {error.strerror}"
                ) from None
        datas = [requirement["keyData"]] if "keyData" in requirement else []
        for data in datas + list(requirement.get("keyDatas") or []):
            try:
                texts.append(("in keyData", base64.b64decode(data, validate=True)))
            except (binascii.Error, TypeError, ValueError):
                raise CtrtError(f"keyData in {self.path} is not base64") from None
        return texts

    def _requirements(self, value: Any, where: str) -> list[dict[str, Any]]:
        if not isinstance(value, list) or not value:
            raise self._wrong(where, "it must be a list of requirements, not empty")
        for number, entry in enumerate(value):
            here = f"{where}[{number}]"
            kind = entry.get("type") if isinstance(entry, dict) else None
            if kind not in _KEYS:
                raise self._wrong(f"{here}.type", f"it is one of {', '.join(_KEYS)}")
            for key in entry:
                if key not in _KEYS[kind]:
                    raise self._wrong(f"{here}.{key}", f"{kind} has no such field")
            identity = entry.get("signedIdentity")
            if identity is not None and (
                not isinstance(identity, dict) or identity.get("type") not in _IDENTITIES
            ):
                raise self._wrong(
                    f"{here}.signedIdentity.type", f"it is one of {', '.join(_IDENTITIES)}"
                )
            named = [key for key in entry if key in ("keyPath", "keyData", "keyPaths", "keyDatas")]
            if kind == "signedBy" and not named:
                raise self._wrong(here, "signedBy needs keyPath, keyPaths or keyData")
            if kind == "sigstoreSigned" and not named and not entry.keys() & {"fulcio", "pki"}:
                raise self._wrong(here, "sigstoreSigned needs keyPath, keyPaths or keyData")
            for key in named:
                wanted = list if key.endswith("s") else str
                if not isinstance(entry[key], wanted) or not entry[key]:
                    raise self._wrong(f"{here}.{key}", "it must be a text (of keyPaths: a list)")
        return value

    def _wrong(self, where: str, rule: str) -> CtrtError:
        return CtrtError(f"{self.path} is broken at {where}: {rule}")


def load(path: str = "") -> Policy | None:
    """Read policy.json: the given one, the user's, or the host's; None where there is none."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    for place in [path] if path else [f"{home}/containers/policy.json", HOST_POLICY]:
        try:
            with open(place, "rb") as file:
                said = fastjson.loads(file.read())
        except FileNotFoundError:
            if path:
                raise CtrtError(f"there is no policy at {path}") from None
            continue
        except OSError as error:
            raise CtrtError(f"the policy {place} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise CtrtError(f"{place} is not JSON: {error}") from None
        if not isinstance(said, dict):
            raise CtrtError(f"{place} is broken at $: it must be an object")
        return Policy(place, said)
    return None


HOST_POLICY = "/etc/containers/policy.json"


def _not_signed(payload: bytes, mark: str, keys: list[Any]) -> str:
    """Say why none of the keys made a signature, or nothing."""
    try:
        signature = base64.b64decode(mark, validate=True)
    except binascii.Error:
        return "it is not base64"
    if not any(_verifies(key, signature, payload) for key in keys):
        return "it is not made with the key that the policy names"
    return ""


def _not_for(payload: bytes, requirement: dict[str, Any], reference: Reference, digest: str) -> str:
    """Say why what was signed is not about an image, or nothing."""
    from ctrt.images.transports.docker import signature_payload

    try:
        name, signed = signature_payload(payload)
    except CtrtError as error:
        return str(error)
    if signed != digest:
        return f"it vouches for another manifest ({signed[:19]})"
    identity = requirement.get("signedIdentity") or {"type": "matchRepoDigestOrExact"}
    if not _identifies(identity, name, reference):
        return f"it vouches for another name ({name})"
    return ""


def _verifies(key: Any, signature: bytes, payload: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
        else:
            key.verify(signature, payload)
    except InvalidSignature:
        return False
    return True


def _identifies(identity: dict[str, Any], name: str, reference: Reference) -> bool:
    """Say whether the signed name is the one that was asked for, as the policy compares them.

    cosign writes the repository without a tag; then only rules about repositories can hold.
    """
    try:
        signed = parse(name)
    except CtrtError:
        return False
    tagged = ":" in name.rpartition("/")[2] or "@" in name
    wanted = reference
    kind = identity["type"]
    if kind == "exactReference":
        return _same_text(identity.get("dockerReference"), name)
    if kind == "exactRepository":
        return _same_repository(_parsed(identity.get("dockerRepository")), signed)
    if kind == "remapIdentity":
        prefix, other = identity.get("prefix", ""), identity.get("signedPrefix", "")
        text = str(reference)
        if text.startswith(prefix) and text[len(prefix) : len(prefix) + 1] in ("", "/", ":", "@"):
            moved = _parsed(other + text[len(prefix) :])
            if moved is None:
                return False
            wanted = moved
        kind = "matchRepoDigestOrExact"
    if kind == "matchRepository" or (kind == "matchRepoDigestOrExact" and wanted.digest):
        return _same_repository(wanted, signed)
    return tagged and signed == wanted


def _parsed(text: Any) -> Reference | None:
    try:
        return parse(text) if isinstance(text, str) else None
    except CtrtError:
        return None


def _same_text(one: Any, other: str) -> bool:
    first, second = _parsed(one), _parsed(other)
    return first is not None and first == second


def _same_repository(one: Reference | None, other: Reference) -> bool:
    return one is not None and (one.registry, one.repository) == (other.registry, other.repository)
