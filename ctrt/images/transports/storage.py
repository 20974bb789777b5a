"""containers-storage: - the store of podman and buildah, read without them.

Their layers lie there unpacked. What is missing to make the same tar again, byte by byte, is
beside them (tar-split): its headers and paddings, and the order of the files. So each layer is
put together as it is read, and its digest still has to be right.

Source: containers/storage, docs; vbatts/tar-split, tar/storage.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import os
from typing import TYPE_CHECKING, Any

from ctrt.errors import CtrtError
from ctrt.images.transports.base import (
    PIECE_BYTES,
    Source,
    digest_of,
    local_reference,
    read_small,
)
from ctrt.oci import fastjson, media
from ctrt.oci import image as documents
from ctrt.oci.reference import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

_TABLE_LIMIT = 64 << 20
_SEGMENT, _FILE = 2, 1


class StorageSource(Source):
    """An image of a store: `[[DRIVER@]ROOT[+RUNROOT]]NAME`, where NAME is a name or an ID."""

    transport = "containers-storage"

    def __init__(self, rest: str) -> None:
        where, name = "", rest
        if rest.startswith("["):
            where, bracket, name = rest[1:].partition("]")
            if not bracket:
                raise CtrtError(f'"containers-storage:{rest}" has a "[" without a "]"')
        driver, at, path = where.rpartition("@")
        self._root = path.partition("+")[0] or _default_root()
        self._driver = driver if at else self._find_driver()
        self._list = f"{self._driver}-images"
        found = self._image(name)
        names = found.get("names") or []
        wanted = _full(name)
        full = wanted if wanted in names else (names[0] if names else "")
        super().__init__(
            f"containers-storage:{rest}",
            parse(full) if full else local_reference(str(found["id"])[:12]),
        )
        self._config = self._big_data(found)
        self._layers: dict[str, dict[str, Any]] = {}
        self._data = self._manifest(found)

    def scopes(self) -> list[str]:
        """See containers-policy.json(5), "containers-storage:"."""
        store = f"[{self._driver}@{self._root}]"
        return [f"{store}{self.reference}", store, f"[{self._root}]"]

    def manifest(self, digest: str | None = None) -> tuple[str, str, bytes]:
        """Return the manifest that was made: same configuration, layers as plain tars."""
        return media.OCI_MANIFEST, digest_of(self._data), self._data

    def blob(self, described: documents.Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield the configuration, or a layer put together again."""
        if described.digest == digest_of(self._config):
            yield self._config[start:]
            return
        for piece in self._tar(self._layers[described.digest]):
            if start >= len(piece):
                start -= len(piece)
                continue
            yield piece[start:]
            start = 0

    def _find_driver(self) -> str:
        for name in ("overlay", "vfs"):
            if os.path.isdir(os.path.join(self._root, f"{name}-images")):
                return name
        raise CtrtError(f"there is no store of podman's at {self._root}")

    def _table(self, name: str) -> list[dict[str, Any]]:
        path = os.path.join(self._root, name)
        data = read_small(path, _TABLE_LIMIT, "podman's store")
        try:
            rows = fastjson.loads(data)
            if not all(isinstance(row, dict) and isinstance(row["id"], str) for row in rows):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise CtrtError(f"{path} is not a list of podman's store") from None
        return list(rows)

    def _image(self, name: str) -> dict[str, Any]:
        images = self._table(f"{self._list}/images.json")
        wanted = name.removeprefix("@")
        for image in images:
            if len(wanted) >= 12 and image["id"].startswith(wanted):
                return image
        full = _full(name)
        for image in images:
            names = image.get("names") or []
            if full in names or f"localhost/{name}" in names or f"localhost/{name}:latest" in names:
                return image
        raise CtrtError(f"podman's store at {self._root} has no image {name}; see: podman images")

    def _big_data(self, image: dict[str, Any]) -> bytes:
        """The configuration; its key is its digest, which is the image's ID."""
        key = f"sha256:{image['id']}"
        name = "=" + base64.b64encode(key.encode()).decode()
        path = os.path.join(self._root, self._list, image["id"], name)
        data = read_small(path, media.CONFIG_LIMIT, "the image's configuration")
        if digest_of(data) != key:
            raise CtrtError(f"{path} is broken: it has the digest {digest_of(data)}")
        return data

    def _manifest(self, image: dict[str, Any]) -> bytes:
        rows = {row["id"]: row for row in self._table(f"{self._driver}-layers/layers.json")}
        chain = []
        at = image.get("layer")
        while at:
            row = rows.pop(at, None)
            if row is None:
                raise CtrtError(f"podman's store at {self._root} has no layer {at[:12]}")
            chain.append(row)
            at = row.get("parent")
        described = []
        for row in reversed(chain):
            digest = row.get("diff-digest")
            if not isinstance(digest, str) or not os.path.exists(self._split(row)):
                raise CtrtError(
                    f"layer {row['id'][:12]} in podman's store cannot be put together again: its"
                    " tar-split file is missing"
                )
            self._layers[digest] = row
            described.append(
                {"mediaType": media.OCI_LAYER, "digest": digest, "size": row.get("diff-size", 0)}
            )
        made = {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": {
                "mediaType": media.OCI_CONFIG,
                "digest": digest_of(self._config),
                "size": len(self._config),
            },
            "layers": described,
        }
        # diff-size leaves out headers in some versions: the size is counted.
        for row, entry in zip(reversed(chain), described, strict=True):
            entry["size"] = sum(size for size, _ in self._parts(row))
        return json.dumps(made, separators=(",", ":")).encode()

    def _split(self, row: dict[str, Any]) -> str:
        return os.path.join(self._root, f"{self._driver}-layers", f"{row['id']}.tar-split.gz")

    def _parts(self, row: dict[str, Any]) -> Iterator[tuple[int, bytes | str]]:
        """Yield the parts of the tar: (size, bytes) as they are, (size, name) from a file."""
        path = self._split(row)
        try:
            with gzip.open(path) as file:
                for line in file:
                    part = fastjson.loads(line)
                    if part["type"] == _SEGMENT:
                        data = base64.b64decode(part["payload"])
                        yield len(data), data
                    elif part["type"] == _FILE and part.get("size"):
                        raw = part.get("name_raw")
                        yield (
                            part["size"],
                            os.fsdecode(base64.b64decode(raw)) if raw else part["name"],
                        )
        except OSError as error:
            raise CtrtError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, EOFError, binascii.Error):
            raise CtrtError(f"{path} is not what tar-split writes") from None

    def _tar(self, row: dict[str, Any]) -> Iterator[bytes]:
        from ctrt.linux import calls

        top = (
            os.path.join(self._root, "overlay", row["id"], "diff")
            if self._driver == "overlay"
            else os.path.join(self._root, self._driver, "dir", row["id"])
        )
        directory = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for size, part in self._parts(row):
                if isinstance(part, bytes):
                    yield part
                    continue
                name = os.path.normpath(part).lstrip("/")
                try:
                    fd = calls.openat2(
                        directory,
                        name,
                        os.O_RDONLY | os.O_NOFOLLOW,
                        calls.RESOLVE_IN_ROOT | calls.RESOLVE_NO_SYMLINKS,
                    )
                except PermissionError:
                    raise CtrtError(
                        f"{name} in {top} belongs to another user; save the image with: podman"
                        " save --format oci-archive, and pull that"
                    ) from None
                except OSError as error:
                    raise CtrtError(f"{name} in {top} cannot be read: {error.strerror}") from None
                with open(fd, "rb") as file:
                    left = size
                    while left and (piece := file.read(min(PIECE_BYTES, left))):
                        left -= len(piece)
                        yield piece
                if left:
                    raise CtrtError(f"{name} in {top} has changed since it was unpacked")
        finally:
            os.close(directory)


def _default_root() -> str:
    if os.geteuid() == 0:
        return "/var/lib/containers/storage"
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return f"{home}/containers/storage"


def _full(name: str) -> str:
    try:
        return str(parse(name))
    except CtrtError:
        return name
