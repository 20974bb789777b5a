"""An index of images that are in different places, as one source to copy from.

Source: OCI image-spec 1.1, `image-index.md`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ctrt.errors import CtrtError
from ctrt.images.transports.base import Source, digest_of
from ctrt.oci import image as documents
from ctrt.oci import media

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctrt.images.policy import Policy


class Together(Source):
    """An index made of the images of `places`, each for a platform of its own.

    A place that leads to an index gives all that is in it. `policy` is asked about each place;
    those of our own store have been let in before. Closes the places.
    """

    transport = "index"

    def __init__(self, places: list[Source], policy: Policy | None = None) -> None:
        super().__init__(", ".join(place.name for place in places), places[0].reference)
        self._places = places
        self._manifests: dict[str, tuple[str, bytes]] = {}
        self._owners: dict[str, Source] = {}
        self._platforms: dict[str, str] = {}
        entries = []
        for place in places:
            media_type, digest, data = place.manifest()
            if policy is not None and place.transport != "ctrt":
                policy.check(place, [digest])
            kind = documents.kind(data, media_type, place.name)
            if kind not in media.INDEXES:
                entries.append(self._image(place, kind, digest, data))
                continue
            for entry in documents.read_index(data, place.name).manifests:
                media_type, digest, data = place.manifest(entry.digest)
                kind = documents.kind(data, media_type or entry.media_type, place.name)
                if kind in media.INDEXES:
                    raise CtrtError(f"{place.name} is an index of indexes; name those in it")
                given = entry.platform if entry.platform and entry.platform.os else None
                entries.append(self._image(place, kind, digest, data, given))
        docker = all(entry["mediaType"] == media.DOCKER_MANIFEST for entry in entries)
        self._kind = media.DOCKER_INDEX if docker else media.OCI_INDEX
        index = {"schemaVersion": 2, "mediaType": self._kind, "manifests": entries}
        self._data = json.dumps(index, separators=(",", ":")).encode()

    def _image(
        self,
        place: Source,
        kind: str,
        digest: str,
        data: bytes,
        platform: documents.Platform | None = None,
    ) -> dict[str, Any]:
        """Take in one image; its entry of the index."""
        manifest = documents.read_manifest(data, place.name)
        for part in (manifest.config, *manifest.layers):
            self._owners.setdefault(part.digest, place)
        self._manifests[digest] = kind, data
        if platform is None and manifest.config.media_type in media.CONFIGS:
            if manifest.config.size > media.CONFIG_LIMIT:
                raise CtrtError(f"the configuration of {place.name} is too large")
            config = documents.read_config(b"".join(place.blob(manifest.config)), place.name)
            platform = documents.Platform(config.os, config.architecture, config.variant)
        if platform is None:
            raise CtrtError(f"{place.name} is for no platform: it is no container image")
        other = self._platforms.setdefault(str(platform), place.name)
        # Attestations, of which there may be many, are for unknown/unknown.
        if other is not place.name and platform.os != "unknown":
            raise CtrtError(f"{other} and {place.name} are both for {platform}")
        fields = {"architecture": platform.architecture, "os": platform.os}
        if platform.variant:
            fields["variant"] = platform.variant
        return {"mediaType": kind, "digest": digest, "size": len(data), "platform": fields}

    def manifest(self, digest: str | None = None) -> tuple[str, str, bytes]:
        """Return the index, or the manifest of one of its images."""
        if digest is None:
            return self._kind, digest_of(self._data), self._data
        kind, data = self._manifests[digest]
        return kind, digest, data

    def blob(self, described: documents.Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield a blob from the place that has it."""
        return self._owners[described.digest].blob(described, start)

    def repository_on(self, registry: str) -> str:
        """Return where one of them is already."""
        found = (place.repository_on(registry) for place in self._places)
        return next((name for name in found if name), "")

    def close(self) -> None:
        """Let go of all places."""
        for place in self._places:
            place.close()
