"""Images of other formats: what `ctrt import` takes, and how it knows what it has.

    Appc ACI        a tar with `manifest` (JSON) and `rootfs/`            appc/spec, aci.md
    LXD, Incus      a tar with `metadata.yaml` and `rootfs/` (unified), or two files: a tar
                    with `metadata.yaml`, and the root file system as tar or squashfs (split)
    squashfs        a root file system alone; needs unsquashfs
    docker-archive, oci-archive, oci and dir layouts: as `ctrt pull TRANSPORT:PATH`
    schema 1        a `dir:` with Docker's old manifest
    plain tar       anything else: a root file system

tars may be packed by gzip, bzip2, xz or zstd. All become one OCI image with one layer. Entries
are not unpacked here but renamed on their way into the layer, so nothing of a hostile archive
touches a file system before the unpack program looks at it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

from ctrt.errors import CtrtError
from ctrt.images import _tar, context
from ctrt.images.compose import END, Blob, add_image, add_layer
from ctrt.images.contents import Files, Tree
from ctrt.images.difference import Upper, layer
from ctrt.oci import fastjson
from ctrt.oci.image import host_platform
from ctrt.oci.reference import parse_new

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctrt.images.locks import Spawn
    from ctrt.images.store import Image, Store

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SMALL = 1 << 20
_SQUASHFS = b"hsqs"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "i386": "386",
             "armv7l": "arm", "armhf": "arm", "armv7b": "arm"}  # fmt: skip


def import_image(
    store: Store,
    path: str,
    name: str,
    rootfs: str | None = None,
    *,
    spawn: Spawn | None = None,
) -> Image:
    """Make an image of a file or directory, whatever its format, and name it.

    `rootfs` is the second file of a split LXD image. `spawn` runs a program where an ordinary
    user's containers' ids are mapped. CtrtError says what the file is not.
    """
    parse_new(name)
    for given in (path, *([rootfs] if rootfs else [])):
        if not os.path.exists(given):
            raise CtrtError(f"there is no file {given}")
    if os.path.isdir(path):
        return _directory(store, path, name)
    if rootfs is None and _starts_with(path, _SQUASHFS):
        return _from_layer(store, name, _squashfs(store, path, spawn), f"ctrt import {_base(path)}")
    small = _small_files(path)
    if "oci-layout" in small:
        return _pulled(store, f"oci-archive:{path}", name)
    if "manifest.json" in small:
        return _pulled(store, f"docker-archive:{path}", name)
    if "metadata.yaml" in small:
        return _lxd(store, path, name, small, rootfs, spawn)
    if rootfs is not None:
        raise CtrtError(f"{path} has no metadata.yaml, so {rootfs} is not its second half")
    if "manifest" in small and "rootfs" in small:
        return _aci(store, path, name, small["manifest"])
    blob = add_layer(store, _entries(path, lambda entry: entry))
    return _from_layer(store, name, blob, f"ctrt import {_base(path)}")


def archive_kind(path: str) -> str | None:
    """The transport that reads an archive of whole images; None for any other file."""
    small = _small_files(path)
    return next(
        (
            kind
            for file, kind in (("oci-layout", "oci-archive"), ("manifest.json", "docker-archive"))
            if file in small
        ),
        None,
    )


def _base(path: str) -> str:
    return os.path.basename(os.path.abspath(path))


def _starts_with(path: str, mark: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(mark)) == mark
    except OSError as error:
        raise CtrtError(f"{path} cannot be read: {error.strerror}") from None


def _small_files(path: str) -> dict[str, bytes]:
    """The files and the names at the top of an archive that tell what it is."""
    wanted = ("oci-layout", "manifest.json", "metadata.yaml", "manifest")
    found: dict[str, bytes] = {}
    try:
        with Files(path) as files:
            empty = True
            for entry in files:
                empty = False
                name = os.fsdecode(_tar.clean(entry.name))
                if name in wanted and entry.kind == b"0" and entry.length <= _SMALL:
                    found[name] = b"".join(files.data(entry))
                elif name.partition("/")[0] == "rootfs":
                    found.setdefault("rootfs", b"")
            if empty:
                raise _tar.BrokenLayerError("it has no entries")
    except _tar.BrokenLayerError as error:
        raise CtrtError(f"{path} is no archive of an image or root file system: {error}") from None
    except OSError as error:
        raise CtrtError(f"{path} cannot be read: {error.strerror}") from None
    return found


def _entries(path: str, name: Callable[[str], str | None]) -> Iterator[bytes]:
    yield from context.archive(path, name, {})
    yield END


def _below_rootfs(name: str) -> str | None:
    if name == "rootfs":
        return ""
    return name[7:] if name.startswith("rootfs/") else None


def _pulled(store: Store, source: str, name: str) -> Image:
    """Take an image by its transport, then give it the name that was asked for."""
    from ctrt.images.pull import pull

    with store.hold():
        before = {image.reference: image.digest for image in store.images()}
        image = pull(store, source)
        named = store.tag(name, image.digest)
        # The name that the archive itself gives was not asked for.
        if image.reference in before:
            store.tag(image.reference, before[image.reference])
        elif image.reference != named.reference:
            store.remove(image)
        return store.find(named.reference) or named


def _from_layer(store: Store, name: str, blob: Blob, created_by: str, **config: Any) -> Image:
    """An image of one layer; without a command it runs the shell or init that it has."""
    process = config.pop("config", {})
    process.setdefault("Env", [f"PATH={PATH}"])
    with store.hold():
        if not process.get("Cmd") and not process.get("Entrypoint"):
            from ctrt.images.store import Layer

            part = Layer(blob.digest, blob.diff_id, blob.diff_id, blob.size, blob.media_type)
            tree = Tree.of(store, [part])
            programs = ("/bin/sh", "/bin/bash", "/sbin/init", "/init")
            process["Cmd"] = [next((p for p in programs if tree.get(p)), "/bin/sh")]
        document = {
            **host_platform(),
            **config,
            "config": process,
            "history": [{"created_by": created_by}],
        }
        if "created" in document:
            document["history"][0]["created"] = document["created"]
        return add_image(store, name, document, [blob])


# -- Appc ----------------------------------------------------------------------------------------


def _aci(store: Store, path: str, name: str, data: bytes) -> Image:
    """An application container image (appc/spec: aci.md, "Image Manifest Schema")."""
    try:
        manifest = fastjson.loads(data)
        if manifest["acKind"] != "ImageManifest":
            raise ValueError(f"its acKind is {manifest['acKind']!r}")
        if manifest.get("dependencies"):
            wanted = manifest["dependencies"][0]["imageName"]
            raise CtrtError(
                f"{path} stands on another image, {wanted}, which an import cannot fetch; flatten"
                " it first"
            )
        labels = {entry["name"]: entry["value"] for entry in manifest.get("labels") or ()}
        notes = {entry["name"]: entry["value"] for entry in manifest.get("annotations") or ()}
        app = manifest.get("app") or {}
        process: dict[str, Any] = {}
        if app:
            user, group = str(app.get("user", "0")), str(app.get("group", "0"))
            process["User"] = "" if (user, group) == ("0", "0") else f"{user}:{group}"
            process["Cmd"] = [str(word) for word in app.get("exec") or ()]
            process["WorkingDir"] = app.get("workingDirectory") or ""
            env = {entry["name"]: entry["value"] for entry in app.get("environment") or ()}
            process["Env"] = [f"{key}={value}" for key, value in {"PATH": PATH, **env}.items()]
            process["Volumes"] = {entry["path"]: {} for entry in app.get("mountPoints") or ()}
            process["ExposedPorts"] = {
                f"{entry['port']}/{entry.get('protocol', 'tcp')}": {}
                for entry in app.get("ports") or ()
            }
        process["Labels"] = {
            "appc.name": manifest["name"],
            **{f"appc.{k}": v for k, v in labels.items()},
        }
        more = {"config": process, **_platform(labels.get("os"), labels.get("arch"))}
        if notes.get("created"):
            more["created"] = notes["created"]
        if notes.get("authors"):
            more["author"] = notes["authors"]
        allowed = {text.strip("/") for text in manifest.get("pathWhitelist") or ()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CtrtError(f"the manifest of {path} is no Appc image manifest: {error}") from None

    def below(entry: str) -> str | None:
        found = _below_rootfs(entry)
        return found if not allowed or not found or found in allowed else None

    blob = add_layer(store, _entries(path, below))
    return _from_layer(store, name, blob, f"ctrt import {_base(path)} (Appc)", **more)


def _platform(system: str | None, machine: str | None) -> dict[str, str]:
    found = host_platform()
    if system:
        found["os"] = system
    if machine and _MACHINES.get(machine, machine) != found["architecture"]:
        found = {"os": found["os"], "architecture": _MACHINES.get(machine, machine)}
    return found


# -- LXD and Incus -------------------------------------------------------------------------------


def _lxd(
    store: Store,
    path: str,
    name: str,
    small: dict[str, bytes],
    rootfs: str | None,
    spawn: Spawn | None,
) -> Image:
    """An image of LXD or Incus (their documentation, "Image format")."""
    try:
        import yaml
    except ImportError:
        raise CtrtError("images of LXD need PyYAML; install it with: pip install PyYAML") from None
    try:
        metadata = yaml.safe_load(small["metadata.yaml"])
        properties = metadata.get("properties") or {}
        # What a text that leads to itself many times over would become is better not asked.
        nested = [key for key, value in properties.items() if isinstance(value, dict | list)]
        if nested:
            raise ValueError(f"its property {nested[0]} is no text")
        labels = {f"lxd.{key}": str(value) for key, value in properties.items()}
        more: dict[str, Any] = {
            "config": {"Labels": labels},
            **_platform(None, str(metadata["architecture"])),
        }
        created = metadata.get("creation_date")
        if created:
            more["created"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(created)))
    except (
        yaml.YAMLError,
        RecursionError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
    ) as error:
        why = " ".join(str(error).split())
        raise CtrtError(f"metadata.yaml in {path} is not LXD's: {why}") from None
    if "rootfs" in small:
        if rootfs is not None:
            raise CtrtError(f"{path} holds a root file system itself; leave out {rootfs}")
        blob = add_layer(store, _entries(path, _below_rootfs))
    elif rootfs is None:
        raise CtrtError(
            f"{path} is one half of a split LXD image; name the other half too, as in:"
            f" ctrt import {_base(path)} rootfs.squashfs IMAGE"
        )
    elif _starts_with(rootfs, _SQUASHFS):
        blob = _squashfs(store, rootfs, spawn)
    else:
        blob = add_layer(store, _entries(rootfs, lambda entry: entry))
    return _from_layer(store, name, blob, f"ctrt import {_base(path)} (LXD)", **more)


def _squashfs(store: Store, path: str, spawn: Spawn | None) -> Blob:
    """The files of a squashfs as a layer, by unsquashfs of squashfs-tools."""
    program = shutil.which("unsquashfs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise CtrtError(
            f"{path} is a squashfs, which needs unsquashfs; install it with:"
            " apt-get install squashfs-tools"
        )
    with store.temporary(spawn) as work:
        tree = os.path.join(work.path, "tree")
        command = [program, "-no-progress", "-quiet", "-dest", tree, os.path.abspath(path)]
        if spawn is not None:
            status, said = spawn(command), ""
        else:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            status, said = done.returncode, done.stderr.strip().partition("\n")[0]
        # 2: all was made, but some attribute or device was not allowed to an ordinary user.
        if status and not (status == 2 and spawn is not None):
            raise CtrtError(
                f"{path} cannot be unpacked: {said or f'unsquashfs ended with {status}'}"
            )
        return layer(store, Upper(tree, [], spawn=spawn))


# -- directories ---------------------------------------------------------------------------------


def _directory(store: Store, path: str, name: str) -> Image:
    if os.path.exists(os.path.join(path, "oci-layout")):
        return _pulled(store, f"oci:{path}", name)
    manifest = os.path.join(path, "manifest.json")
    if not os.path.exists(manifest):
        raise CtrtError(
            f"{path} is neither an OCI layout nor a dir: of skopeo's; pack a root file system"
            f" first: tar -C {path} -cf rootfs.tar ."
        )
    with open(manifest, "rb") as file:
        data = file.read()
    from ctrt.images import schema1

    if not schema1.is_schema1(data):
        return _pulled(store, f"dir:{path}", name)
    with store.hold():
        for digest in schema1.layers(data):
            blob = os.path.join(path, digest[7:])
            try:
                with open(blob, "rb") as file:
                    store.add_blob(iter(lambda: file.read(1 << 20), b""), digest=digest)
            except FileNotFoundError:
                raise CtrtError(f"{path} has no layer {digest[7:19]}") from None
        return schema1.adopt(store, name, data)
