"""Copy: an image from one place to another, as it is.

Blobs first (what is there already is left alone, several at a time), manifests last, so that
nobody ever sees an image with a part missing. Manifests go byte by byte: the digest stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrt.errors import CtrtError
from ctrt.images import policy as policies
from ctrt.images.exchange import RegistryError
from ctrt.images.progress import Progress
from ctrt.images.pull import choose, in_parallel, platform_of
from ctrt.images.transports.base import Source, checked
from ctrt.oci import image as documents
from ctrt.oci import media
from ctrt.oci.reference import parse

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator

    from ctrt.images.store import Image, Store
    from ctrt.images.transports import Destination

_ARTIFACT_LIMIT = 3


class StoreSource(Source):
    """An image of our own store."""

    transport = "ctrt"

    def __init__(self, store: Store, image: Image) -> None:
        super().__init__(image.reference or image.digest, parse(image.reference))
        self._store = store
        self._image = image

    def manifest(self, digest: str | None = None) -> tuple[str, str, bytes]:
        """Return the image's manifest."""
        if digest not in (None, self._image.digest):
            raise CtrtError(f"the image {self.name} has no manifest {digest}")
        data = self._store.read_blob(self._image.digest, media.MANIFEST_LIMIT)
        return self._image.media_type, self._image.digest, data

    def blob(self, described: documents.Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield a blob of the store."""
        with self._store.open_blob(described.digest) as file:
            file.seek(start)
            while piece := file.read(256 << 10):
                yield piece

    def repository_on(self, registry: str) -> str:
        """Return where the image, or one that shares its lowest layer, came from."""
        lowest = {layer.digest for layer in self._image.layers[:1]}
        for image in [self._image, *self._store.images()]:
            other = parse(image.reference)
            if other.registry == registry and lowest & {layer.digest for layer in image.layers}:
                return other.repository
        return ""


def copy(
    place: Source,
    to: Destination,
    *,
    platform: str | None = None,
    everything: bool = False,
    progress: Callable[[Progress], object] | None = None,
    policy: str | None = None,
) -> str:
    """Copy an image and return the digest that it has at its destination.

    Of an index one image is taken, for `platform` or this machine, or with `everything` all of
    it. `policy` names a policy.json, empty for the host's; None asks none. Closes both ends.
    Failure is a CtrtError, "cannot copy NAME to NAME: why".
    """
    try:
        return _copy(place, to, platform, everything, progress, policy)
    except CtrtError as error:
        raise CtrtError(f"cannot copy {place.name} to {to.name}: {error}") from None
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise CtrtError(f"cannot copy {place.name} to {to.name}: {error.strerror}{where}") from None
    finally:
        place.close()
        to.close()


def push(
    store: Store,
    image: Image,
    to: Destination,
    *,
    progress: Callable[[Progress], object] | None = None,
) -> str:
    """Bring an image of the store somewhere else; see `copy`."""
    with store.hold():
        return copy(StoreSource(store, image), to, progress=progress)


def _copy(
    place: Source,
    to: Destination,
    platform: str | None,
    everything: bool,
    progress: Callable[[Progress], object] | None,
    policy: str | None,
) -> str:
    media_type, digest, data = place.manifest()
    kind = documents.kind(data, media_type, "the image")
    through: list[str] = []
    allowed = policies.load(policy) if policy is not None else None
    if kind in media.INDEXES and not everything:
        for _ in range(_ARTIFACT_LIMIT):
            chosen = choose(documents.read_index(data, "the image"), platform_of(platform))
            through.append(digest)
            media_type, digest, data = place.manifest(chosen.digest)
            kind = documents.kind(data, media_type, "the image")
            if kind not in media.INDEXES:
                break
    if allowed is not None:
        allowed.check(place, [digest, *through])
    manifests = list(_below(place, data)) if kind in media.INDEXES else []
    manifests.append((kind, digest, data))
    blobs: dict[str, documents.Descriptor] = {}
    for one, _, text in manifests:
        if one in media.MANIFESTS:
            manifest = documents.read_manifest(text, "the image")
            for part in (*manifest.layers, manifest.config):
                blobs.setdefault(part.digest, part)

    def work(
        part: documents.Descriptor, tell: Callable[[Progress], None], stop: threading.Event
    ) -> None:
        short = part.digest[7:19]
        # A registry that is pushed to asks for a stream again where a connection broke.
        counts = [0]

        def read(start: int) -> Iterator[bytes]:
            counts[0] = start
            for piece in checked(place.blob(part, start), part, start):
                if stop.is_set():
                    raise CtrtError("the copy was interrupted")
                counts[0] += len(piece)
                tell(Progress(short, counts[0], part.size, "uploading"))
                yield piece

        try:
            said = to.put_blob(part, read, place)
        except RegistryError as error:
            raise CtrtError(f"blob {short}: {error}") from None
        tell(Progress(short, part.size, part.size, "exists" if said == "exists" else "done"))

    def abort() -> None:
        place.close()
        to.close()

    _in_order(list(blobs.values()), work, progress, abort, to)
    made = digest
    for number, (one, name, text) in enumerate(manifests, 1):
        made = to.put_manifest(one, text, name, top=number == len(manifests))
    return made


def _in_order(
    blobs: list[documents.Descriptor],
    work: Callable[[documents.Descriptor, Callable[[Progress], None], threading.Event], None],
    progress: Callable[[Progress], object] | None,
    abort: Callable[[], None],
    to: Destination,
) -> None:
    """Several blobs at a time, except into a file that is written from front to back."""
    if to.transport != "docker-archive":
        in_parallel(blobs, work, progress, abort)
        return
    for blob in blobs:
        in_parallel([blob], work, progress, abort)


def _below(place: Source, data: bytes, depth: int = 0) -> Iterable[tuple[str, str, bytes]]:
    """Yield all manifests of an index, the lower ones first, without the index itself."""
    if depth >= _ARTIFACT_LIMIT:
        raise CtrtError("its index leads to an index again and again")
    for entry in documents.read_index(data, "the image").manifests:
        media_type, found, text = place.manifest(entry.digest)
        if len(text) != entry.size:
            raise CtrtError(
                f"the manifest {entry.digest} has {len(text)} bytes; its index says {entry.size}"
            )
        below = documents.kind(text, media_type or entry.media_type, "the image")
        if below in media.INDEXES:
            yield from _below(place, text, depth + 1)
        yield below, found, text
