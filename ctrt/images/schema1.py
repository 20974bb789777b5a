"""Docker's old manifests (version 2, schema 1): read, and made into images of today.

Such a manifest holds a JSON text for each layer, the newest first; there is no configuration
and no digest of the unpacked layers, so both are made here from what is there.

Source: distribution, docs/spec/manifest-v2-1.md; containers/image, "schema1 to OCI".
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ctrt.errors import CtrtError
from ctrt.images import _tar
from ctrt.images.compose import Blob, add_image
from ctrt.oci import fastjson, media
from ctrt.oci.reference import check_digest

if TYPE_CHECKING:
    from ctrt.images.store import Image, Store

# Layers without files are this one: a gzipped tar of nothing.
EMPTY = "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
_NOT_OF_AN_IMAGE = ("id", "parent", "parent_id", "layer_id", "throwaway", "Size")


def is_schema1(data: bytes) -> bool:
    """Say whether a manifest is of this kind."""
    try:
        document = fastjson.loads(data)
    except ValueError:
        return False
    return isinstance(document, dict) and document.get("schemaVersion") == 1


def layers(data: bytes) -> list[str]:
    """The digests of the layers that hold files, the lowest first."""
    return [digest for digest, past in _parts(data) if not _empty(digest, past)]


def adopt(store: Store, name: str, data: bytes) -> Image:
    """Make an image of the manifest and name it; its layers are blobs of the store by now."""
    parts = _parts(data)
    blobs: list[Blob] = []
    history: list[dict[str, Any]] = []
    for digest, past in parts:
        container = past.get("container_config") or {}
        entry: dict[str, Any] = {"created_by": " ".join(container.get("Cmd") or ())}
        for key, old in (("created", "created"), ("author", "author"), ("comment", "comment")):
            if past.get(old):
                entry[key] = past[old]
        if _empty(digest, past):
            entry["empty_layer"] = True
        else:
            size = 0
            hashed = sha256()
            try:
                with store.open_blob(digest) as file:
                    size = file.seek(0, 2)
                for piece in _tar.pieces(store.blob_path(digest)):
                    hashed.update(piece)
            except _tar.BrokenLayerError as error:
                raise CtrtError(f"layer {digest[7:19]} of {name}: {error}") from None
            blobs.append(
                Blob(digest, size, f"sha256:{hashed.hexdigest()}", media.DOCKER_LAYER_GZIP)
            )
        history.append(entry)
    newest = parts[-1][1]
    config = {key: value for key, value in newest.items() if key not in _NOT_OF_AN_IMAGE}
    config.setdefault("os", "linux")
    config.setdefault("architecture", fastjson.loads(data).get("architecture") or "amd64")
    return add_image(store, name, {**config, "history": history}, blobs)


def _parts(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """(digest, version 1 JSON) of each layer, the lowest first."""
    try:
        document = fastjson.loads(data)
        digests = [check_digest(entry["blobSum"]) for entry in document["fsLayers"]]
        past = [fastjson.loads(entry["v1Compatibility"]) for entry in document["history"]]
        if not digests or not all(isinstance(entry, dict) for entry in past):
            raise ValueError("it has no layers")
        return list(zip(digests, past, strict=True))[::-1]
    except (ValueError, KeyError, TypeError) as error:
        raise CtrtError(f"the manifest (schema 1) is broken: {error}") from None


def _empty(digest: str, past: dict[str, Any]) -> bool:
    return bool(past.get("throwaway")) or digest == EMPTY
