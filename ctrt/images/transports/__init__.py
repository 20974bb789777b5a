"""Transports: where images are outside of the store, as skopeo and podman write it.

    docker://NAME                     a registry (what a name without a transport means, too)
    oci:DIRECTORY[:NAME]              an OCI image layout
    oci-archive:FILE[:NAME]           an OCI image layout in a tar archive
    docker-archive:FILE[:NAME]        what `docker save` and `podman save` write
    dir:DIRECTORY                     manifest and blobs side by side, as skopeo writes them
    containers-storage:NAME           the store of podman and buildah; it can only be read here

A `Source` gives manifests and blobs, a `Destination` takes them. Nothing here knows the store
of ctrt; `pull` and `copy` join the two.

Source: containers-transports(5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrt.errors import CtrtError
from ctrt.images.transports.base import Destination, Options, Source

if TYPE_CHECKING:
    from ctrt.images.registries import Config

__all__ = ["Destination", "Options", "Source", "destination", "source", "split"]

NAMES = ("docker", "oci", "oci-archive", "docker-archive", "dir", "containers-storage")


def split(text: str) -> tuple[str, str]:
    """Part a transport from the rest; the transport is empty where none is named.

    >>> split("oci:/tmp/layout:1")
    ('oci', '/tmp/layout:1')
    """
    name, colon, rest = text.partition(":")
    if not colon or name not in NAMES:
        return "", text
    if name != "docker":
        return name, rest
    # "docker:latest" is an image of that name; the transport has two slashes.
    return ("docker", rest[2:]) if rest.startswith("//") else ("", text)


def source(text: str, options: Options, config: Config) -> Source:
    """Open what a text names for reading; `config` is the host's registries.conf."""
    transport, rest = split(text)
    if transport in ("", "docker"):
        from ctrt.images.transports import docker

        return docker.open_source(rest, options, config)
    if not rest:
        raise CtrtError(f'"{text}" names no place after "{transport}:"')
    if transport in ("oci", "oci-archive"):
        from ctrt.images.transports import layout

        return layout.LayoutSource(rest, archive=transport == "oci-archive")
    if transport == "dir":
        from ctrt.images.transports import directory

        return directory.DirectorySource(rest)
    if transport == "docker-archive":
        from ctrt.images.transports import archive

        return archive.ArchiveSource(rest)
    from ctrt.images.transports import storage

    return storage.StorageSource(rest)


def images_in(transport: str, path: str) -> list[str]:
    """Return what to put after `TRANSPORT:PATH` to name each image of an archive."""
    if transport == "docker-archive":
        from ctrt.images.transports import archive

        return archive.images_in(path)
    from ctrt.images.transports import layout

    return layout.images_in(path)


def destination(text: str, options: Options, config: Config) -> Destination:
    """Open what a text names for writing."""
    transport, rest = split(text)
    if transport in ("", "docker"):
        from ctrt.images.transports import docker

        return docker.open_destination(rest, options, config)
    if not rest:
        raise CtrtError(f'"{text}" names no place after "{transport}:"')
    if transport in ("oci", "oci-archive"):
        from ctrt.images.transports import layout

        return layout.LayoutDestination(rest, archive=transport == "oci-archive")
    if transport == "dir":
        from ctrt.images.transports import directory

        return directory.DirectoryDestination(rest)
    if transport == "docker-archive":
        from ctrt.images.transports import archive

        return archive.ArchiveDestination(rest)
    raise CtrtError(
        "containers-storage: can only be read here; to bring an image there, save it with"
        " oci-archive: and load that with: podman load"
    )
