"""docker:// - registries, each through its mirrors and its place in registries.conf."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrt.errors import CtrtError
from ctrt.images.exchange import RegistryError
from ctrt.images.registry import Registry
from ctrt.images.transports.base import Destination, Options, Source
from ctrt.images.web import is_loopback
from ctrt.oci import fastjson, media
from ctrt.oci import image as documents
from ctrt.oci.reference import Reference, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ctrt.images.registries import Config

_COSIGN = "cosign container image signature"
_SIGNATURE = "dev.cosignproject.cosign/signature"
_PAYLOAD_LIMIT = 1 << 20


class RegistrySource(Source):
    """An image of a registry; `places` are where it may be had, mirrors first."""

    transport = "docker"
    remote = True

    def __init__(self, reference: Reference, places: list[tuple[Reference, Registry]]) -> None:
        super().__init__(str(reference), reference)
        self._places = places
        self._at = 0

    def scopes(self) -> list[str]:
        """See containers-policy.json(5), "docker:"."""
        name = f"{self.reference.registry}/{self.reference.repository}"
        found = [str(self.reference)]
        while True:
            found.append(name)
            if "/" not in name:
                break
            name = name.rpartition("/")[0]
        host = self.reference.registry
        while "." in host:
            host = host.partition(".")[2]
            found.append(f"*.{host}")
        return found

    def manifest(self, digest: str | None = None) -> tuple[str, str, bytes]:
        """Ask each place in turn; the first that answers is asked for the rest, too."""
        faults: list[str] = []
        for at in range(self._at, len(self._places)):
            place, client = self._places[at]
            try:
                found = client.manifest(
                    place.repository, digest or place.digest or place.tag or "latest"
                )
            except RegistryError as error:
                if at < len(self._places) - 1:
                    faults.append(f"the mirror {place.registry}: {error}")
                    continue
                why = str(error)
                if error.http_status == 404:
                    why = self._missing(error, place, client, digest)
                whole = "; ".join([why, *faults])
                raise RegistryError(whole, http_status=error.http_status, code=error.code) from None
            self._at = at
            return found
        raise AssertionError("a source has at least one place")

    def blob(self, described: documents.Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield a blob; where a mirror fails in the middle, the next place goes on."""
        done = start
        for at in range(self._at, len(self._places)):
            place, client = self._places[at]
            try:
                for piece in client.blob(
                    place.repository,
                    described.digest,
                    described.size,
                    start=done,
                    urls=described.urls or (),
                ):
                    done += len(piece)
                    yield piece
                return
            except RegistryError:
                if at == len(self._places) - 1:
                    raise

    def size(self, digest: str) -> int:
        """Ask how large a blob is."""
        place, client = self._places[self._at]
        return client.blob_size(place.repository, digest)

    def attachments(self, digest: str) -> list[tuple[bytes, str]]:
        """Return what cosign has put below the tag `sha256-HEX.sig`."""
        place, client = self._places[self._at]
        try:
            kind, _, data = client.manifest(place.repository, f"{digest.replace(':', '-')}.sig")
        except RegistryError as error:
            if error.http_status == 404:
                return []
            raise
        what = "the signatures"
        if documents.kind(data, kind, what) in media.INDEXES:
            return []
        found = []
        for layer in documents.read_manifest(data, what).layers:
            mark = (layer.annotations or {}).get(_SIGNATURE)
            if mark and layer.size <= _PAYLOAD_LIMIT:
                pieces = client.blob(place.repository, layer.digest, layer.size)
                found.append((b"".join(pieces), mark))
        return found

    def signatures(self, digest: str) -> list[bytes]:
        """Return the GPG signatures that the host's registries.d leads to."""
        from ctrt.images import lookaside

        return lookaside.fetch(lookaside.base(self.scopes()), self.reference, digest)

    def repository_on(self, registry: str) -> str:
        """Return the repository that it was read from, for mounting blobs instead of copying."""
        place = self._places[self._at][0]
        return place.repository if place.registry == registry else ""

    def close(self) -> None:
        """Close all connections."""
        for _, client in self._places:
            client.close()

    def _missing(
        self, error: RegistryError, place: Reference, client: Registry, digest: str | None
    ) -> str:
        """Say what a registry's "not found" means: no repository, or no such tag in it."""
        if digest:
            return f"its index names the manifest {digest}, which the registry does not have"
        shown = f"HTTP 404 {error.code}".strip()
        if error.code == "NAME_UNKNOWN" or not client.repository_exists(place.repository):
            return (
                f"the registry has no repository {place.repository} ({shown}); check its spelling"
            )
        insecure = " --tls-verify=false" if client.plain and not is_loopback(place.registry) else ""
        what = "image of that digest" if place.digest else "tag"
        return (
            f"the registry has no such {what} ({shown}); list its tags with:"
            f" ctrt tags{insecure} {place.registry}/{place.repository}"
        )


class RegistryDestination(Destination):
    """A repository of a registry, and the tag that the image gets there."""

    transport = "docker"

    def __init__(self, reference: Reference, place: Reference, client: Registry) -> None:
        super().__init__(str(reference))
        self._place = place
        self._client = client

    def put_blob(
        self,
        described: documents.Descriptor,
        read: Callable[[int], Iterable[bytes]],
        source: Source,
    ) -> str:
        """Upload a blob that is not there, or let the registry mount it from a repository."""
        repository = self._place.repository
        if self._client.has_blob(repository, described.digest):
            return "exists"
        mount = source.repository_on(self._place.registry)
        return self._client.put_blob(
            repository,
            described.digest,
            described.size,
            read,
            mount_from=mount if mount != repository else "",
        )

    def put_manifest(self, media_type: str, data: bytes, digest: str, *, top: bool) -> str:
        """Upload a manifest, by its digest or the tag."""
        name = self._place.digest or self._place.tag or "latest" if top else digest
        if top and self._place.digest and self._place.digest != digest:
            raise CtrtError(
                f"the image has the digest {digest}, so it cannot be pushed as {self._place}"
            )
        return self._client.put_manifest(self._place.repository, name, media_type, data)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


def client(registry: str, options: Options, *, insecure: bool = False) -> Registry:
    """Make the client of a registry."""
    return Registry(
        registry,
        plain_http=options.plain_http,
        insecure=options.insecure or insecure,
        cert_dir=options.cert_dir,
        login=options.login,
        authfile=options.authfile,
    )


def of_reference(reference: Reference, options: Options, config: Config) -> RegistrySource:
    """Open a full name."""
    return RegistrySource(
        reference,
        [
            (end.location, client(end.location.registry, options, insecure=end.insecure))
            for end in config.endpoints(reference)
        ],
    )


def open_source(text: str, options: Options, config: Config) -> RegistrySource:
    """Open a name; of a short one, what it means first."""
    return of_reference(config.candidates(text)[0].reference, options, config)


def open_destination(text: str, options: Options, config: Config) -> RegistryDestination:
    """Open a name for writing; mirrors are not written to."""
    reference = parse(text)
    end = config.endpoints(reference)[-1]
    return RegistryDestination(
        reference, end.location, client(end.location.registry, options, insecure=end.insecure)
    )


def signature_payload(data: bytes) -> tuple[str, str]:
    """Read a simple signing payload: the name and the manifest's digest that it vouches for."""
    try:
        critical = fastjson.loads(data)["critical"]
        name = critical["identity"]["docker-reference"]
        digest = critical["image"]["docker-manifest-digest"]
        if not isinstance(name, str) or not isinstance(digest, str):
            raise TypeError
        if critical["type"] not in ("atomic container signature", _COSIGN):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise CtrtError("its signature vouches for something that is no image") from None
    return name, digest
