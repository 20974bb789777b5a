"""Pull: a reference in, an image of the store out.

The manifest decides everything: which configuration, which layers, how large each may be.
Layers come in parallel; each is hashed as it streams into a private file and gets its name in
the store only when size and digest are right. They can be unpacked while they come
(`layers.Ahead`). The image gets its name last. So an interrupted or failed pull leaves finished
layers, which the next pull does not fetch again, and of layers from a registry the part that
came, which the next pull goes on with.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, TypeVar

from ctrt.errors import CtrtError
from ctrt.images import partial, registries
from ctrt.images import policy as policies
from ctrt.images.exchange import RegistryError
from ctrt.images.layers import Ahead
from ctrt.images.progress import Progress
from ctrt.images.registry import Registry
from ctrt.images.store import Image, Store, check_image, layers_of
from ctrt.images.transports import Options, Source, source, split
from ctrt.oci import image as documents
from ctrt.oci import media
from ctrt.oci.reference import Reference, check_digest, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctrt.images.layers import Unpacker

__all__ = ["Progress", "choose", "fits", "in_parallel", "manifest_of", "platform_of", "pull"]

PARALLEL = 4
T = TypeVar("T")


def pull(
    store: Store,
    reference: Reference | str,
    *,
    platform: str | None = None,
    progress: Callable[[Progress], object] | None = None,
    plain_http: bool | None = None,
    registry: Registry | None = None,
    options: Options | None = None,
    policy: str = "",
    unpacker: Unpacker | None = None,
) -> Image:
    """Fetch an image from a registry or another transport into the store and return it.

    A text may be a short name, which the host's registries.conf resolves, or begin with a
    transport (`oci:`, `docker-archive:`, ...). `platform` is `OS/ARCHITECTURE[/VARIANT]`; None
    means this machine's. `progress` is called in the caller's thread. `plain_http`: see
    Registry; `options` says more about how registries are spoken to; `registry` replaces the
    client, for other time-outs. `policy` is the path of a policy.json instead of the host's. With
    an `unpacker` layers from a registry are unpacked while they come, so that `layers.unpack`
    finds them done.
    Failure is a CtrtError, "cannot pull NAME: why".
    """
    from ctrt.images.transports.docker import RegistrySource, of_reference

    wanted = platform_of(platform)
    strict = platform is not None
    options = options or Options(plain_http=plain_http)
    if isinstance(reference, str) and split(reference)[0] not in ("", "docker"):
        try:
            place = source(reference, options, registries.Config())
        except CtrtError as error:
            raise CtrtError(f"cannot pull {reference}: {error}") from None
        return _from(store, place, wanted, strict, progress, policy, unpacker)
    if isinstance(reference, str):
        reference = split(reference)[1]
        parse(reference)
    if registry is not None:
        name = parse(reference) if isinstance(reference, str) else reference
        place = RegistrySource(name, [(name, registry)])
        return _from(store, place, wanted, strict, progress, policy, unpacker, close=False)
    try:
        config = store.registries()
        names = (
            [candidate.reference for candidate in config.candidates(reference)]
            if isinstance(reference, str)
            else [reference]
        )
    except CtrtError as error:
        raise CtrtError(f"cannot pull {reference}: {error}") from None
    faults = []
    for name in names:
        try:
            place = of_reference(name, options, config)
        except CtrtError as error:
            raise CtrtError(f"cannot pull {name}: {error}") from None
        try:
            return _from(store, place, wanted, strict, progress, policy, unpacker)
        except _NotThereError as error:
            faults.append(str(error).removeprefix("cannot pull "))
    raise CtrtError(f"cannot pull {'; '.join(faults)}")


class _NotThereError(CtrtError):
    """The registry does not have the image, or does not answer: another may."""


def _from(
    store: Store,
    place: Source,
    wanted: documents.Platform,
    strict: bool,
    progress: Callable[[Progress], object] | None,
    policy: str,
    unpacker: Unpacker | None,
    *,
    close: bool = True,
) -> Image:
    name = place.name
    try:
        allowed = policies.load(policy)
        with store.hold():
            store.clean()
            return _pull(store, place, wanted, strict, progress, allowed, unpacker)
    except RegistryError as error:
        raise _NotThereError(f"cannot pull {name}: {error}") from None
    except CtrtError as error:
        raise CtrtError(f"cannot pull {name}: {error}") from None
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise CtrtError(
            f"cannot pull {name}: the store at {store.root} cannot be written:"
            f" {error.strerror}{where}"
        ) from None
    finally:
        if close:
            place.close()


def _pull(
    store: Store,
    place: Source,
    wanted: documents.Platform,
    strict: bool,
    progress: Callable[[Progress], object] | None,
    policy: policies.Policy | None,
    unpacker: Unpacker | None,
) -> Image:
    try:
        digest, data, manifest, through = manifest_of(place, wanted)
    except _OldFormatError as old:
        return _pull_schema1(store, place, old.data, old.digest, progress, policy)
    if policy is not None:
        policy.check(place, [digest, *through])
    if manifest.config.media_type not in media.CONFIGS:
        raise CtrtError(
            f"it is no container image but an artifact of type {manifest.config.media_type}"
        )
    if manifest.config.size > media.CONFIG_LIMIT:
        raise CtrtError(f"its configuration has more than {media.CONFIG_LIMIT >> 20} MiB")
    described = manifest.config
    if not store.has_blob(described.digest, described.size):
        _add(store, place.blob(described), described, "configuration")
    config = documents.read_config(
        store.read_blob(described.digest, media.CONFIG_LIMIT), "the image"
    )
    check_image(manifest, config, "the image")
    if (
        strict
        and config.architecture
        and not fits(documents.Platform(config.os, config.architecture, config.variant), wanted)
    ):
        raise CtrtError(f"it is for {config.os}/{config.architecture}, not for {wanted}")
    if unpacker is not None and place.remote and manifest.layers:
        with Ahead(store, layers_of(manifest, config), unpacker) as ahead:
            _fetch(store, place, manifest.layers, progress, ahead)
            ahead.finish()
    else:
        _fetch(store, place, manifest.layers, progress)
    store.add_blob(data, digest=digest)
    return store.tag(place.reference, digest)


class _OldFormatError(CtrtError):
    """The manifest is of Docker's schema 1, which is read apart from the others."""

    def __init__(self, digest: str, data: bytes) -> None:
        super().__init__("it is in Docker's old format (manifest schema 1)")
        self.digest = digest
        self.data = data


def _pull_schema1(
    store: Store,
    place: Source,
    data: bytes,
    digest: str,
    progress: Callable[[Progress], object] | None,
    policy: policies.Policy | None,
) -> Image:
    """Fetch the layers of an old manifest, and make an image of today of it."""
    from ctrt.images import schema1

    if policy is not None:
        policy.check(place, [digest])
    try:
        layers = [
            documents.Descriptor(media.DOCKER_LAYER_GZIP, layer, place.size(layer))
            for layer in dict.fromkeys(schema1.layers(data))
        ]
    except RegistryError as error:
        raise CtrtError(str(error)) from None
    _fetch(store, place, layers, progress)
    return schema1.adopt(store, str(place.reference), data)


def manifest_of(
    place: Source, wanted: documents.Platform
) -> tuple[str, bytes, documents.Manifest, list[str]]:
    """Fetch the manifest, choosing from an index; an index may lead to an index, twice.

    The last value is the digests of the indexes that led there.
    """
    asked: str | None = None
    size: int | None = None
    through: list[str] = []
    for _ in range(3):
        try:
            media_type, digest, data = place.manifest(asked)
        except RegistryError as error:
            if asked is None:
                raise
            raise CtrtError(str(error)) from None
        if media_type in media.DOCKER_SCHEMA1:
            raise _OldFormatError(digest, data)
        if size is not None and len(data) != size:
            raise CtrtError(f"the manifest {asked} has {len(data)} bytes; its index says {size}")
        if documents.kind(data, media_type, "the image") not in media.INDEXES:
            return digest, data, documents.read_manifest(data, "the image"), through
        chosen = choose(documents.read_index(data, "the image"), wanted)
        through.append(digest)
        asked, size = chosen.digest, chosen.size
    raise CtrtError("its index leads to an index again and again")


def choose(index: documents.Index, wanted: documents.Platform) -> documents.Descriptor:
    """Return the manifest of an index that suits a platform best; CtrtError names what it has."""
    best: documents.Descriptor | None = None
    rank = 99
    for entry in index.manifests:
        if entry.media_type not in media.MANIFESTS | media.INDEXES:
            continue
        there = entry.platform or documents.Platform()
        if not there.os:  # no platform given: any; taken when nothing says that it suits
            place = 50
        elif fits(there, wanted):
            place = _variants(wanted).index(there.variant)
        else:
            continue
        if place < rank:
            best, rank = entry, place
    if best is None:
        has = sorted({str(e.platform) for e in index.manifests if e.platform and e.platform.os})
        known = [platform for platform in has if not platform.startswith("unknown")]
        raise CtrtError(f"it has no image for {wanted}, only for {', '.join(known) or 'nothing'}")
    return best


def fits(there: documents.Platform, wanted: documents.Platform) -> bool:
    """Say whether an image for one platform runs on another."""
    return (there.os, there.architecture) == (
        wanted.os,
        wanted.architecture,
    ) and there.variant in _variants(wanted)


def _variants(wanted: documents.Platform) -> list[str]:
    """Return the variants that run on a platform, the best first.

    Source: image-spec, image-index.md, "Platform Variants"; containerd's platforms package.
    """
    if wanted.architecture == "arm":
        newest = int(wanted.variant[1:]) if wanted.variant[1:].isdigit() else 7
        return [f"v{number}" for number in range(newest, 4, -1)] + [""]
    if wanted.architecture == "arm64":
        return ["v8", ""] if wanted.variant in ("", "v8") else [wanted.variant, "v8", ""]
    if wanted.architecture == "amd64":
        level = int(wanted.variant[1:]) if wanted.variant[1:].isdigit() else 1
        return [f"v{number}" for number in range(level, 1, -1)] + ["", "v1"]
    return [wanted.variant, ""] if wanted.variant else [""]


def platform_of(text: str | None) -> documents.Platform:
    """Read OS/ARCHITECTURE[/VARIANT]; None is this machine's."""
    if text is None:
        text = "/".join(documents.host_platform().values())
    system, _, rest = text.partition("/")
    architecture, _, variant = rest.partition("/")
    if not system or not architecture or "/" in variant:
        raise CtrtError(
            f'"{text}" is not a platform; expected one like linux/amd64 or linux/arm/v7'
        )
    return documents.Platform(system, architecture, variant)


def _add(store: Store, pieces: Iterator[bytes], described: documents.Descriptor, what: str) -> None:
    try:
        store.add_blob(pieces, digest=described.digest, size=described.size)
    except RegistryError as error:
        raise CtrtError(f"{what} {described.digest[7:19]}: {error}") from None
    except CtrtError as error:
        raise CtrtError(f"{what} {described.digest[7:19]} is broken: {error}") from None


def _fetch(
    store: Store,
    place: Source,
    layers: list[documents.Descriptor],
    progress: Callable[[Progress], object] | None,
    ahead: Ahead | None = None,
) -> None:
    """Bring the layers that are missing, several at a time; the first failure ends all."""
    missing: dict[str, documents.Descriptor] = {}
    for layer in layers:
        if layer.digest in missing:
            continue
        if store.has_blob(layer.digest, layer.size):
            if progress:
                progress(Progress(layer.digest[7:19], layer.size, layer.size, "exists"))
        else:
            missing[check_digest(layer.digest)] = layer

    def fetch(
        layer: documents.Descriptor, tell: Callable[[Progress], None], stop: threading.Event
    ) -> None:
        short = layer.digest[7:19]

        def read(start: int) -> Iterator[bytes]:
            for piece in place.blob(layer, start):
                if stop.is_set():
                    raise CtrtError("the pull was interrupted")
                yield piece

        def told(done: int) -> None:
            if ahead:
                ahead.grown(layer.digest)
            tell(Progress(short, done, layer.size, "downloading"))

        told(0)
        if place.remote:
            try:
                partial.fetch(store, layer, read, told)
            except RegistryError as error:
                raise CtrtError(f"layer {short}: {error}") from None
            except partial.BrokenBlobError as error:
                raise CtrtError(f"layer {short} is broken: {error}") from None
        else:
            _add(store, _counted(read(0), told), layer, "layer")
        if ahead:
            ahead.done(layer.digest)
        tell(Progress(short, layer.size, layer.size, "done"))

    in_parallel(list(missing.values()), fetch, progress, place.close)


def _counted(pieces: Iterator[bytes], tell: Callable[[int], None]) -> Iterator[bytes]:
    done = 0
    for piece in pieces:
        done += len(piece)
        tell(done)
        yield piece


def in_parallel(
    items: list[T],
    work: Callable[[T, Callable[[Progress], None], threading.Event], None],
    progress: Callable[[Progress], object] | None,
    abort: Callable[[], None],
) -> None:
    """Do something with each item, several at a time; the first failure ends all.

    `work(item, tell, stop)` runs in a thread: what it tells goes to `progress` in this one, and
    it ends soon after `stop` is set. `abort` is called when threads have to be left behind.
    """
    if not items:
        return
    todo: queue.SimpleQueue[T] = queue.SimpleQueue()
    for item in items:
        todo.put(item)
    events: queue.SimpleQueue[Progress | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()

    def loop() -> None:
        try:
            while not stop.is_set():
                try:
                    item = todo.get_nowait()
                except queue.Empty:
                    break
                work(item, events.put, stop)
        except BaseException as error:
            events.put(error)
        finally:
            events.put(None)

    threads = [
        threading.Thread(target=loop, name="ctrt-images", daemon=True)
        for _ in range(min(PARALLEL, len(items)))
    ]
    for thread in threads:
        thread.start()
    left = len(threads)
    failure: BaseException | None = None
    try:
        while left:
            event = events.get()
            if event is None:
                left -= 1
            elif isinstance(event, BaseException):
                failure = failure or event
                stop.set()
            elif progress and failure is None:
                progress(event)
    finally:
        # Also when the user interrupts: threads see it with their next piece.
        stop.set()
        if left:
            abort()
        for thread in threads:
            thread.join(timeout=2)
    if failure is not None:
        raise failure
