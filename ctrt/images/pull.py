"""Pull: a reference in, an image of the store out.

The manifest decides everything: which configuration, which layers, how large each may be.
Layers come in parallel; each is hashed as it streams into a private file and gets its name in
the store only when size and digest are right. The image gets its name last. So an interrupted
or failed pull leaves finished layers, which the next pull does not fetch again, and nothing else.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from ctrt.errors import CtrtError
from ctrt.images.progress import Progress
from ctrt.images.registry import Registry, RegistryError
from ctrt.images.store import Image, Store, check_image
from ctrt.oci import image as documents
from ctrt.oci import media
from ctrt.oci.reference import Reference, check_digest, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Progress", "choose", "pull"]

PARALLEL = 4


def pull(
    store: Store,
    reference: Reference | str,
    *,
    platform: str | None = None,
    progress: Callable[[Progress], object] | None = None,
    plain_http: bool | None = None,
    registry: Registry | None = None,
) -> Image:
    """Fetch an image from its registry into the store and return it.

    `platform` is `OS/ARCHITECTURE[/VARIANT]`; None means this machine's. `progress` is called
    in the caller's thread. `plain_http`: see Registry; `registry` replaces the client, for
    other time-outs. Failure is a CtrtError, "cannot pull NAME: why".
    """
    name = parse(reference) if isinstance(reference, str) else reference
    wanted = _platform(platform)
    client = registry or Registry(name.registry, plain_http=plain_http)
    try:
        with store.hold():
            store.clean()
            return _pull(store, name, wanted, platform is not None, client, progress)
    except CtrtError as error:
        raise CtrtError(f"cannot pull {name}: {error}") from None
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise CtrtError(
            f"cannot pull {name}: the store at {store.root} cannot be written:"
            f" {error.strerror}{place}"
        ) from None
    finally:
        if registry is None:
            client.close()


def _pull(
    store: Store,
    name: Reference,
    wanted: documents.Platform,
    strict: bool,
    client: Registry,
    progress: Callable[[Progress], object] | None,
) -> Image:
    repository = name.repository
    digest, data, manifest = _manifest(client, name, wanted)
    if manifest.config.media_type not in media.CONFIGS:
        raise CtrtError(
            f"it is no container image but an artifact of type {manifest.config.media_type}"
        )
    if manifest.config.size > media.CONFIG_LIMIT:
        raise CtrtError(f"its configuration has more than {media.CONFIG_LIMIT >> 20} MiB")
    described = manifest.config
    if not store.has_blob(described.digest, described.size):
        pieces = client.blob(repository, described.digest, described.size)
        _add(store, pieces, described, "configuration")
    config = documents.read_config(
        store.read_blob(described.digest, media.CONFIG_LIMIT), "the image"
    )
    check_image(manifest, config, "the image")
    if (
        strict
        and config.architecture
        and not _fits(documents.Platform(config.os, config.architecture, config.variant), wanted)
    ):
        raise CtrtError(f"it is for {config.os}/{config.architecture}, not for {wanted}")
    _fetch(store, repository, manifest.layers, client, progress)
    store.add_blob(data, digest=digest)
    return store.tag(name, digest)


def _manifest(
    client: Registry, name: Reference, wanted: documents.Platform
) -> tuple[str, bytes, documents.Manifest]:
    """Fetch the manifest, choosing from an index; an index may lead to an index, twice."""
    asked = name.digest or name.tag or "latest"
    size: int | None = None
    for _ in range(3):
        try:
            media_type, digest, data = client.manifest(name.repository, asked)
        except RegistryError as error:
            if error.http_status != 404:
                raise
            if size is not None:
                raise CtrtError(
                    f"its index names the manifest {asked}, which the registry does not have"
                ) from None
            raise CtrtError(_missing(error, name, client)) from None
        if size is not None and len(data) != size:
            raise CtrtError(f"the manifest {asked} has {len(data)} bytes; its index says {size}")
        if documents.kind(data, media_type, "the image") not in media.INDEXES:
            return digest, data, documents.read_manifest(data, "the image")
        chosen = choose(documents.read_index(data, "the image"), wanted)
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
        elif _fits(there, wanted):
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


def _fits(there: documents.Platform, wanted: documents.Platform) -> bool:
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


def _platform(text: str | None) -> documents.Platform:
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
    repository: str,
    layers: list[documents.Descriptor],
    client: Registry,
    progress: Callable[[Progress], object] | None,
) -> None:
    """Download the layers that are missing, several at a time; the first failure ends all."""
    missing: dict[str, documents.Descriptor] = {}
    for layer in layers:
        if layer.digest in missing:
            continue
        if store.has_blob(layer.digest, layer.size):
            if progress:
                progress(Progress(layer.digest[7:19], layer.size, layer.size, "exists"))
        else:
            missing[check_digest(layer.digest)] = layer
    if not missing:
        return
    todo: queue.SimpleQueue[documents.Descriptor] = queue.SimpleQueue()
    for layer in missing.values():
        todo.put(layer)
    events: queue.SimpleQueue[Progress | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()

    def watched(layer: documents.Descriptor) -> Iterator[bytes]:
        done = 0
        for piece in client.blob(repository, layer.digest, layer.size):
            if stop.is_set():
                raise CtrtError("the pull was interrupted")
            done += len(piece)
            events.put(Progress(layer.digest[7:19], done, layer.size, "downloading"))
            yield piece

    def work() -> None:
        try:
            while not stop.is_set():
                try:
                    layer = todo.get_nowait()
                except queue.Empty:
                    break
                events.put(Progress(layer.digest[7:19], 0, layer.size, "downloading"))
                _add(store, watched(layer), layer, "layer")
                events.put(Progress(layer.digest[7:19], layer.size, layer.size, "done"))
        except BaseException as error:
            events.put(error)
        finally:
            events.put(None)

    threads = [
        threading.Thread(target=work, name="ctrt-pull", daemon=True)
        for _ in range(min(PARALLEL, len(missing)))
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
            client.close()
        for thread in threads:
            thread.join(timeout=2)
    if failure is not None:
        raise failure


def _missing(error: RegistryError, name: Reference, client: Registry) -> str:
    """Say what a registry's "not found" means: no repository, or no such tag in it."""
    shown = f"HTTP 404 {error.code}".strip()
    if error.code == "NAME_UNKNOWN" or not client.repository_exists(name.repository):
        return f"the registry has no repository {name.repository} ({shown}); check its spelling"
    insecure = " --tls-verify=false" if client.plain else ""
    what = "image of that digest" if name.digest else "tag"
    return (
        f"the registry has no such {what} ({shown}); list its tags with:"
        f" skopeo list-tags{insecure} docker://{name.registry}/{name.repository}"
    )
