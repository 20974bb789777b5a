"""Manifests, indexes and image configurations as checked, typed values.

A registry is not trusted: what it sends is read into these structures before anything in it
is used, and an error says where in the document it is (`$.layers[0].digest`). Unknown fields
are left out, as the image-spec asks ("Extensibility").

Source: OCI image-spec 1.1 (`descriptor.md`, `manifest.md`, `image-index.md`, `config.md`) and
distribution's `manifest-v2-2.md`; the two differ in media types only.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, TypeVar

import msgspec

from ctrt.errors import CtrtError
from ctrt.oci import media

Digest = Annotated[str, msgspec.Meta(pattern="^sha256:[a-f0-9]{64}$")]
# RFC 6838, section 4.2: a type and a subtype have at most 127 characters each.
MediaType = Annotated[str, msgspec.Meta(max_length=255)]
Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
T = TypeVar("T")
# uname(2)'s machines by Go's names, which image-spec uses (image-index.md, `platform`).
_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv8l": "arm/v7",
    "armv7l": "arm/v7",
    "armv6l": "arm/v6",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "loongarch64": "loong64",
}


class Platform(msgspec.Struct, frozen=True):
    """Which machine an image is for: `linux/arm64/v8`."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def host_platform() -> dict[str, str]:
    """Return this machine's `os`, `architecture` and, where it has one, `variant`."""
    machine = os.uname().machine
    architecture, _, variant = _MACHINES.get(machine, machine).partition("/")
    platform = {"os": "linux", "architecture": architecture}
    return {**platform, "variant": variant} if variant else platform


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A pointer to a blob: what it is, its digest, its size in bytes."""

    media_type: MediaType
    digest: Digest
    size: Size
    platform: Platform | None = None
    annotations: dict[str, str] | None = None
    urls: list[str] | None = None
    artifact_type: str = ""


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """One image for one platform: its configuration and its layers, the lowest first."""

    schema_version: int
    config: Descriptor
    layers: list[Descriptor]
    media_type: str = ""
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True, rename="camel"):
    """Several manifests under one name, one for each platform."""

    schema_version: int
    manifests: list[Descriptor]
    media_type: str = ""
    annotations: dict[str, str] | None = None


class Process(msgspec.Struct, frozen=True, rename="pascal"):
    """What a container of the image runs, unless told otherwise (config.md, `config`)."""

    user: str = ""
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    volumes: dict[str, Any] | None = None
    exposed_ports: dict[str, Any] | None = None
    stop_signal: str = ""
    on_build: list[str] | None = None
    shell: list[str] | None = None


class RootFs(msgspec.Struct, frozen=True):
    """The digests of the uncompressed layers, the lowest first."""

    type: str
    diff_ids: list[Digest]


class History(msgspec.Struct, frozen=True):
    """A line of an image's history; what made a layer, or changed only the configuration."""

    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class ImageConfig(msgspec.Struct, frozen=True):
    """The image's configuration: platform, process and layers."""

    architecture: str
    os: str
    rootfs: RootFs
    config: Process | None = None
    variant: str = ""
    created: str | None = None
    author: str = ""
    history: list[History] | None = None


class _Shape(msgspec.Struct, rename="camel"):
    """What tells an image from an index."""

    media_type: str = ""
    schema_version: int = 2
    layers: Any = None
    config: Any = None
    manifests: Any = None


def read_manifest(data: bytes, what: str) -> Manifest:
    """Read a manifest; `what` names it in the error."""
    what = f"the manifest of {what}"
    manifest = _read(data, Manifest, media.MANIFEST_LIMIT, what)
    _check(manifest.schema_version == 2, what, "$.schemaVersion", "it must be 2")
    return manifest


def read_index(data: bytes, what: str) -> Index:
    """Read an index (Docker: a manifest list); `what` names it in the error."""
    what = f"the index of {what}"
    index = _read(data, Index, media.MANIFEST_LIMIT, what)
    _check(index.schema_version == 2, what, "$.schemaVersion", "it must be 2")
    return index


def read_config(data: bytes, what: str) -> ImageConfig:
    """Read an image configuration; `what` names it in the error."""
    what = f"the configuration of {what}"
    config = _read(data, ImageConfig, media.CONFIG_LIMIT, what)
    _check(config.rootfs.type == "layers", what, "$.rootfs.type", 'it must be "layers"')
    return config


def kind(data: bytes, media_type: str, what: str) -> str:
    """Return the media type of a manifest or index: from its header, itself or its shape.

    A document that could be read as both is refused (CVE-2021-41190), and so is one whose
    own `mediaType` is not the one it was sent with.
    """
    shape = _read(data, _Shape, media.MANIFEST_LIMIT, f"the manifest of {what}")
    if media_type in media.DOCKER_SCHEMA1 or shape.schema_version == 1:
        raise CtrtError(
            f"{what} is in Docker's old format (manifest schema 1), which is not read any more;"
            " push it again with a current tool"
        )
    _check(
        not (
            shape.manifests is not None and (shape.layers is not None or shape.config is not None)
        ),
        f"the manifest of {what}",
        "$",
        "it is an image and an index at once",
    )
    known = media.INDEXES | media.MANIFESTS
    if media_type in known and shape.media_type and shape.media_type != media_type:
        _check(False, f"the manifest of {what}", "$.mediaType", f"it was sent as {media_type}")
    if media_type in known:
        return media_type
    if shape.media_type in known:
        return shape.media_type
    if shape.media_type:
        raise CtrtError(f"{what} is no container image: its media type is {shape.media_type}")
    return media.OCI_INDEX if shape.manifests is not None else media.OCI_MANIFEST


def _read(data: bytes, form: type[T], limit: int, what: str) -> T:
    if len(data) > limit:
        raise CtrtError(f"{what} has more than {limit >> 20} MiB")
    try:
        return msgspec.json.decode(data, type=form)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at ")
        text = text.replace("`", "").replace(
            "str matching regex '^sha256:[a-f0-9]{64}$'", "a digest"
        )
        where = place.strip("`") or "$"
        raise CtrtError(f"{what} is broken at {where}: {text[:1].lower()}{text[1:]}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CtrtError(f"{what} is not JSON: {str(error)[:1].lower()}{str(error)[1:]}") from None


def _check(right: bool, what: str, where: str, rule: str) -> None:
    if not right:
        raise CtrtError(f"{what} is broken at {where}: {rule}")
