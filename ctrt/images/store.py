"""The content store: every image's blobs, once each, as a valid OCI image layout.

    ROOT/oci-layout, ROOT/index.json     the layout (image-spec, image-layout.md); each manifest's
                                         `org.opencontainers.image.ref.name` is the image's name
    ROOT/blobs/sha256/HEX                manifests, configurations, layers
    ROOT/layers/CHAIN-ID/diff            layers unpacked as overlay lower directories
    ROOT/tmp/NAME/                       work in progress
    ROOT/locks/                          flock(2) files: `index`, `hold`, `unpack`

Anything finished arrives by rename(2), so a reader needs no lock and a killed writer leaves
nothing half-made. Work in progress is in a directory of `tmp` that its owner holds a shared
flock on; the next writer removes those that nobody holds. Who needs blobs or layers to stay
takes `hold()`; garbage is collected only when nobody does.

Finding an image is on the path of every container start: nothing heavy is imported for it.
Documents are checked when an image is named (`tag`), not each time that it is found.
"""

from __future__ import annotations

import fcntl
import os

from ctrt.errors import CtrtError
from ctrt.images.locks import Lock, Temporary, remove
from ctrt.oci import fastjson, media
from ctrt.oci.digest import chain_ids
from ctrt.oci.reference import Reference, check_digest, is_short, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any, BinaryIO

    from ctrt.images.locks import Spawn
    from ctrt.images.registries import Config

BUILD_STEP = "io.ctrt.build.step"
_EMPTY_INDEX = f'{{"schemaVersion":2,"mediaType":"{media.OCI_INDEX}","manifests":[]}}'


class Layer:
    """One layer of an image; `size` is that of the (compressed) blob in bytes."""

    __slots__ = ("chain_id", "diff_id", "digest", "media_type", "size")

    def __init__(
        self, digest: str, diff_id: str, chain_id: str, size: int, media_type: str
    ) -> None:
        self.digest = digest
        self.diff_id = diff_id
        self.chain_id = chain_id
        self.size = size
        self.media_type = media_type

    def __repr__(self) -> str:
        return f"Layer({self.digest!r}, size={self.size})"


class Image:
    """An image of the store.

    `digest` is its manifest's, `id` its configuration's; `config` is the whole OCI image
    configuration as a dict; `layers` the lowest first; `size` the bytes of all its blobs.
    """

    __slots__ = ("config", "digest", "id", "layers", "media_type", "reference", "size")

    def __init__(
        self,
        reference: str,
        digest: str,
        media_type: str,
        id: str,  # noqa: A002  # the field's word
        config: dict[str, Any],
        layers: list[Layer],
        size: int,
    ) -> None:
        self.reference = reference
        self.digest = digest
        self.media_type = media_type
        self.id = id
        self.config = config
        self.layers = layers
        self.size = size

    def __repr__(self) -> str:
        return f"Image({self.reference!r}, {self.digest[:19]!r})"


class _Hold(Lock):
    """A shared lock; whoever leaves last collects the garbage that waited for it."""

    __slots__ = ("_store",)

    def __init__(self, store: Store) -> None:
        super().__init__(store.path("locks", "hold"), fcntl.LOCK_SH)
        self._store = store

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, value, trace)
        if os.path.exists(self._store.path("locks", "garbage")):
            try:
                self._store.collect()
            except CtrtError:
                pass  # some image is broken; whoever uses or removes that one is told


class Store:
    """The content store at `root`; the directory is made when something is first stored.

    `in_use` names the layers (chain IDs) that containers still stand on: they are kept when
    their image is removed.
    """

    def __init__(self, root: str, *, in_use: Callable[[], Iterable[str]] | None = None) -> None:
        self.root = os.path.abspath(root)
        self._in_use = in_use
        self._ready = False

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    def path(self, *names: str) -> str:
        """Return the path of something in the store."""
        return os.path.join(self.root, *names)

    # -- reading -------------------------------------------------------------------------------

    def find(self, reference: Reference | str) -> Image | None:
        """Return the image of that name, or None; no lock, no network.

        A text may also be a short name of a local image (`shell` for `localhost/shell:latest`,
        as podman has it), a manifest's digest with its repository, or the first three or more
        digits of an image ID, where no image has them for its name.
        """
        entry = self._lookup(reference)
        return self._image(entry) if entry else None

    def has_name(self, name: str) -> bool:
        """Say whether there is an image of exactly that name, as `images` lists it."""
        return bool(name) and any(_name(entry) == name for entry in self._entries())

    def names(self) -> list[str]:
        """Return the names of all images, also of broken ones, sorted."""
        return sorted({_name(entry) for entry in self._entries()} - {""})

    def images(self, said: list[str] | None = None) -> list[Image]:
        """Return all named images, sorted by name, but for those that cannot be read.

        A sentence about each of these is added to `said`.
        """
        named = [entry for entry in self._entries() if _name(entry)]
        return sorted(self._whole(named, said), key=lambda image: image.reference)

    def broken(self) -> list[str]:
        """Return a sentence for each named image that cannot be read, sorted."""
        said: list[str] = []
        self.images(said)
        return sorted(said)

    def names_of(self, identity: str) -> list[str]:
        """Return the names of all images with that ID, sorted."""
        return [image.reference for image in self.images() if image.id == identity]

    def registries(self) -> Config:
        """Return the host's registries.conf, as it is now; CtrtError if it is broken."""
        from ctrt.images import registries

        return registries.load(self.path("cache", "registries"))

    def steps(self) -> list[Image]:
        """Return what builds have left without a name (see `remember`)."""
        return list(self._whole([entry for entry in self._entries() if not _name(entry)]))

    def has_blob(self, digest: str, size: int | None = None) -> bool:
        """Say whether the blob is there (and, after a power cut, whole: of that size)."""
        try:
            there = os.stat(self.blob_path(digest)).st_size
        except FileNotFoundError:
            return False
        return size is None or there == size

    def blob_path(self, digest: str) -> str:
        """Return where the blob of that digest is, or will be."""
        return self.path("blobs", "sha256", check_digest(digest)[7:])

    def open_blob(self, digest: str) -> BinaryIO:
        """Open a blob for reading; CtrtError if the store has none of that digest."""
        try:
            return open(self.blob_path(digest), "rb")
        except FileNotFoundError:
            raise CtrtError(f"the store at {self.root} has no blob {digest}") from None

    def read_blob(self, digest: str, limit: int) -> bytes:
        """Return a small blob; CtrtError if it is missing or larger than `limit` bytes."""
        with self.open_blob(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise CtrtError(f"blob {digest} has more than {limit} bytes")
        return data

    # -- writing -------------------------------------------------------------------------------

    def add_blob(
        self,
        data: bytes | Iterable[bytes],
        *,
        digest: str | None = None,
        size: int | None = None,
    ) -> tuple[str, int]:
        """Store bytes and return their digest and size.

        With `digest` and `size` they must match; if they do not, nothing is kept. Reading
        stops as soon as there is more than `size`.
        """
        from hashlib import sha256 as openssl_sha256

        self._prepare()
        hashed = openssl_sha256()
        count = 0
        with self.temporary() as work:
            aside = os.path.join(work.path, "blob")
            with open(aside, "xb", buffering=0) as file:
                for piece in (data,) if isinstance(data, bytes) else data:
                    count += len(piece)
                    if size is not None and count > size:
                        raise CtrtError(f"more than the {size} bytes that it should have came")
                    hashed.update(piece)
                    _write(file.fileno(), piece)
                if size is not None and count != size:
                    raise CtrtError(f"only {count} of its {size} bytes came")
                found = f"sha256:{hashed.hexdigest()}"
                if digest is not None and found != digest:
                    raise CtrtError(f"its digest should be {digest}, but what came has {found}")
            self.adopt_blob(aside, found)
        return found, count

    def adopt_blob(self, path: str, digest: str) -> None:
        """Make a finished file of a `temporary()` a blob; the digest is the caller's word."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
        os.rename(path, self.blob_path(digest))

    def tag(self, reference: Reference | str, digest: str) -> Image:
        """Give the image whose manifest is the blob `digest` a name; it may have several.

        This is the gate: manifest and configuration are checked here, and that every blob is
        there. CtrtError says what is wrong; then nothing has changed.
        """
        from ctrt.oci import image as documents

        name = str(parse(reference) if isinstance(reference, str) else reference)
        with self.hold():
            data = self.read_blob(digest, media.MANIFEST_LIMIT)
            media_type = documents.kind(data, "", name)
            if media_type in media.INDEXES:
                raise CtrtError(f"{digest} is an index, not an image; name one of its manifests")
            manifest = documents.read_manifest(data, name)
            for part in (manifest.config, *manifest.layers):
                if not self.has_blob(part.digest, part.size):
                    raise CtrtError(f"the store at {self.root} has no blob {part.digest}")
            config = documents.read_config(
                self.read_blob(manifest.config.digest, media.CONFIG_LIMIT), name
            )
            check_image(manifest, config, name)
            entry = {
                "mediaType": media_type,
                "digest": digest,
                "size": len(data),
                "annotations": {media.REF_NAME: name},
            }
            self._change(lambda entries: [e for e in entries if _name(e) != name] + [entry])
            return self._image(entry)

    def remember(self, key: str, digest: str) -> None:
        """Keep the image whose manifest is the blob `digest` without a name, for `recall`.

        So a build finds its steps again. `prune` forgets them.
        """
        data = self.read_blob(digest, media.MANIFEST_LIMIT)
        entry = {
            "mediaType": media.OCI_MANIFEST,
            "digest": digest,
            "size": len(data),
            "annotations": {BUILD_STEP: key},
        }
        self._change(lambda entries: [e for e in entries if _step(e) != key] + [entry])

    def recall(self, key: str) -> Image | None:
        """Return what was remembered under a key, if it is still whole."""
        entry = next((entry for entry in self._entries() if _step(entry) == key), None)
        if entry is None:
            return None
        try:
            image = self._image(entry)
        except CtrtError:
            return None
        whole = all(self.has_blob(layer.digest, layer.size) for layer in image.layers)
        return image if whole else None

    def prune(
        self, keep: Callable[[Image], bool] = lambda _: True, *, spawn: Spawn | None = None
    ) -> tuple[list[str], list[str]]:
        """Forget the steps of builds and the named images that `keep` does not want.

        Return the names taken away, and the digests of the blobs that nothing needs any more.
        """
        gone = [image.reference for image in self.images() if not keep(image)]
        self._change(lambda entries: [e for e in entries if _name(e) and _name(e) not in gone])
        return gone, self.collect(spawn=spawn)

    def remove(
        self, reference: Reference | str | Image, *, spawn: Spawn | None = None
    ) -> list[str]:
        """Take the name from an image, then collect garbage; return the digests removed.

        `spawn` runs a program where the ids of the layers' files are mapped (see layers.py);
        without it, an ordinary user's layers may have to wait for the next call that has it.
        """
        if isinstance(reference, Image):
            name, digest = reference.reference, reference.digest
        else:
            entry = self._lookup(reference)
            if entry is None:
                raise CtrtError(f"there is no image {reference} in the store at {self.root}")
            name, digest = _name(entry), entry["digest"]
        # A step of a build has no name; the others of its kind stay.
        self._change(
            lambda entries: [
                e for e in entries if _name(e) != name or (not name and e["digest"] != digest)
            ]
        )
        return self.collect(spawn=spawn)

    def collect(self, *, spawn: Spawn | None = None) -> list[str]:
        """Remove blobs and unpacked layers that no image needs; return the blobs' digests.

        While somebody holds the store nothing is removed, and the last holder does it.
        """
        self._prepare()
        self.clean(spawn)
        marker = self.path("locks", "garbage")
        with Lock(self.path("locks", "hold"), fcntl.LOCK_EX | fcntl.LOCK_NB) as lock:
            if not lock.taken:
                os.close(os.open(marker, os.O_CREAT | os.O_CLOEXEC, 0o600))
                return []
            if os.path.exists(marker):
                os.unlink(marker)
            blobs, chains = self._needed()
            removed = []
            if os.path.isdir(self.path("partial")):
                from ctrt.images import partial

                partial.clean(self.path("partial"))
            with Temporary(self.path("tmp"), spawn) as work:
                for name in os.listdir(self.path("blobs", "sha256")):
                    if f"sha256:{name}" not in blobs:
                        os.unlink(self.path("blobs", "sha256", name))
                        removed.append(f"sha256:{name}")
                for name in os.listdir(self.path("layers")):
                    if name.partition(".")[0] not in chains:
                        os.rename(self.path("layers", name), os.path.join(work.path, name))
        return sorted(removed)

    def clean(self, spawn: Spawn | None = None) -> None:
        """Remove what killed processes left in ROOT/tmp."""
        self._prepare()
        for name in os.listdir(self.path("tmp")):
            path = self.path("tmp", name)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(path, spawn)
            except BlockingIOError:
                pass
            finally:
                os.close(fd)

    def hold(self) -> _Hold:
        """Keep garbage from being collected while a `with` block runs.

        Whoever finds an image and then uses its layers does both inside: `with store.hold():`.
        """
        self._prepare()
        return _Hold(self)

    def unpacking(self) -> Lock:
        """Let one process at a time unpack layers into this store."""
        self._prepare()
        return Lock(self.path("locks", "unpack"), fcntl.LOCK_EX)

    def temporary(self, spawn: Spawn | None = None) -> Temporary:
        """Make a private directory for work in progress, on the store's file system."""
        self._prepare()
        return Temporary(self.path("tmp"), spawn)

    # -- inside --------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if self._ready:
            return
        try:
            os.makedirs(self.root, 0o700, exist_ok=True)
            for name in ("blobs", "blobs/sha256", "layers", "tmp", "locks"):
                # Layers hold set-uid programs of strangers: nobody else may reach them.
                private = name in ("layers", "tmp")
                try:
                    os.mkdir(self.path(name), 0o700 if private else 0o755)
                except FileExistsError:
                    pass
            for name, text in (
                ("oci-layout", '{"imageLayoutVersion":"1.0.0"}'),
                ("index.json", _EMPTY_INDEX),
            ):
                if not os.path.exists(self.path(name)):
                    with Temporary(self.path("tmp")) as work:
                        aside = os.path.join(work.path, name)
                        _save(aside, text)
                        try:
                            os.link(aside, self.path(name))  # never over another process's
                        except FileExistsError:
                            pass
        except OSError as error:
            raise CtrtError(
                f"the image store at {self.root} cannot be written: {error.strerror}"
                f" ({error.filename})"
            ) from None
        self._ready = True

    def _lookup(self, reference: Reference | str) -> dict[str, Any] | None:
        entries = self._entries()
        if isinstance(reference, Reference):
            return _named(entries, reference)
        if not reference.startswith("sha256:"):
            asked = parse(reference)
            for meant in [asked] if not is_short(reference) else self._meanings(reference):
                entry = _named(entries, meant)
                if entry:
                    return entry
        prefix = reference.removeprefix("sha256:")
        if len(prefix) < 3 or prefix.strip("0123456789abcdef"):
            return None
        found = {
            image.id: entry
            for entry in sorted(entries, key=_name, reverse=True)  # of several names, the first
            for image in self._whole([entry])
            if image.id[7:].startswith(prefix)
        }
        if len(found) > 1:
            raise CtrtError(f'"{reference}" begins the IDs of several images; give more of it')
        return next(iter(found.values()), None)

    def _meanings(self, short: str) -> Iterator[Reference]:
        """What a short name may be here: localhost's, or what the host's configuration says."""
        yield parse(f"localhost/{short}")
        yield from self.registries().local(short)

    def _entries(self) -> list[dict[str, Any]]:
        path = self.path("index.json")
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CtrtError(f"the image store's {path} cannot be read: {error.strerror}") from None
        try:
            entries = fastjson.loads(data)["manifests"]
            if all(isinstance(entry["digest"], str) for entry in entries):
                return list(entries)
            raise ValueError("a digest is missing")
        except (ValueError, KeyError, TypeError) as error:
            raise CtrtError(f"the image store's {path} is broken: {error}") from None

    def _change(self, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
        self._prepare()
        with Lock(self.path("locks", "index"), fcntl.LOCK_EX), self.temporary() as work:
            aside = os.path.join(work.path, "index.json")
            index = {
                "schemaVersion": 2,
                "mediaType": media.OCI_INDEX,
                "manifests": change(self._entries()),
            }
            _save(aside, fastjson.dumps(index))
            os.rename(aside, self.path("index.json"))

    def _whole(
        self, entries: Iterable[dict[str, Any]], said: list[str] | None = None
    ) -> Iterator[Image]:
        """The images of these entries that can be read; of the others a sentence in `said`."""
        for entry in entries:
            try:
                yield self._image(entry)
            except (CtrtError, OSError) as error:
                if said is not None:
                    said.append(
                        str(error)
                        if isinstance(error, CtrtError)
                        else f"the stored image {_name(entry)} cannot be read: {error.strerror}"
                    )

    def _image(self, entry: dict[str, Any]) -> Image:
        name = _name(entry)
        digest = entry["digest"]
        try:
            data = self.read_blob(digest, media.MANIFEST_LIMIT)
            manifest = fastjson.loads(data)
            config_blob = manifest["config"]
            config = fastjson.loads(self.read_blob(config_blob["digest"], media.CONFIG_LIMIT))
            diff_ids = config["rootfs"]["diff_ids"]
            layers = [
                Layer(part["digest"], diff_id, chain_id, part["size"], part["mediaType"])
                for part, diff_id, chain_id in zip(
                    manifest["layers"], diff_ids, chain_ids(diff_ids), strict=True
                )
            ]
            size = (
                len(data)
                + config_blob["size"]
                + sum({part.digest: part.size for part in layers}.values())
            )
            media_type = manifest.get("mediaType") or entry.get("mediaType") or media.OCI_MANIFEST
        except CtrtError as error:
            raise CtrtError(
                f"the stored image {name or digest} is broken: {error}; remove it and pull again"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CtrtError(
                f"the stored image {name or digest} is broken ({error!r}); remove it and pull again"
            ) from None
        return Image(name, digest, media_type, config_blob["digest"], config, layers, size)

    def _needed(self) -> tuple[set[str], set[str]]:
        """Return the digests of all blobs and the chain IDs (hex) of all layers to keep."""
        blobs: set[str] = set()
        chains = {chain.rpartition(":")[2] for chain in (self._in_use() if self._in_use else ())}
        for entry in self._entries():
            try:
                image = self._image(entry)
            except CtrtError:
                blobs |= self._remains(entry)
                continue
            blobs.update((image.digest, image.id), [layer.digest for layer in image.layers])
            chains.update(layer.chain_id[7:] for layer in image.layers)
        return blobs, chains

    def _remains(self, entry: dict[str, Any]) -> set[str]:
        """What is still known to belong to a broken image: pulled again, it needs less."""
        found = {entry["digest"]}
        try:
            manifest = fastjson.loads(self.read_blob(entry["digest"], media.MANIFEST_LIMIT))
            found |= {part["digest"] for part in (manifest["config"], *manifest["layers"])}
        except (CtrtError, ValueError, KeyError, TypeError):
            pass
        return found


def layers_of(manifest: Any, config: Any) -> list[Layer]:
    """Return the layers of a checked manifest and configuration, both as documents."""
    diff_ids = config.rootfs.diff_ids
    return [
        Layer(part.digest, diff_id, chain, part.size, part.media_type)
        for part, diff_id, chain in zip(manifest.layers, diff_ids, chain_ids(diff_ids), strict=True)
    ]


def check_image(manifest: Any, config: Any, name: str) -> None:
    """Check that manifest and configuration fit each other and that the layers can be read."""
    layers, diff_ids = manifest.layers, config.rootfs.diff_ids
    for at, layer in enumerate(layers):
        if layer.media_type not in media.LAYERS:
            raise CtrtError(
                f"layer {at + 1} of {name} is no file system layer: its media type is"
                f" {layer.media_type}"
            )
    if len(layers) != len(diff_ids):
        raise CtrtError(
            f"the configuration of {name} is broken at $.rootfs.diff_ids: it has {len(diff_ids)}"
            f" entries for {len(layers)} layers"
        )


def _name(entry: dict[str, Any]) -> str:
    annotations = entry.get("annotations")
    name = annotations.get(media.REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else ""


def _step(entry: dict[str, Any]) -> str:
    annotations = entry.get("annotations")
    step = annotations.get(BUILD_STEP) if isinstance(annotations, dict) else None
    return step if isinstance(step, str) else ""


def _named(entries: list[dict[str, Any]], reference: Reference) -> dict[str, Any] | None:
    name = str(reference)
    for entry in entries:
        if _name(entry) == name:
            return entry
    if reference.digest:
        repository = f"{reference.registry}/{reference.repository}"
        for entry in entries:
            if entry["digest"] == reference.digest:
                other = _name(entry)
                rest = other.removeprefix(repository)
                if rest != other and rest[:1] in (":", "@"):
                    return entry
    return None


def _save(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        _write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
