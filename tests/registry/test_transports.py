"""Images outside of registries, made by skopeo, umoci, buildah and podman: read, run, written."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import run
from images_tools import image, member, tar

from ctrt.engine import Engine
from ctrt.errors import CtrtError
from ctrt.images import registries, transports
from ctrt.images.copy import copy, push
from ctrt.images.pull import pull
from ctrt.images.store import Store
from ctrt.images.transports import Options

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="buildah and podman run as root here")
NO_CONFIG = registries.Config()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, podman: list[str]) -> dict[str, str]:
    """One busybox image in every transport, each file written by another tool."""
    place = tmp_path_factory.mktemp("made")
    tree = place / "tree"
    (tree / "bin").mkdir(parents=True)
    found = shutil.which("busybox")
    assert found is not None
    shutil.copy(found, tree / "bin/busybox")
    (tree / "bin/sh").symlink_to("busybox")
    (tree / "bin/hard").hardlink_to(tree / "bin/busybox")
    (tree / "long").mkdir()
    (tree / "long" / ("x" * 200)).write_text("a long name\n")
    run("umoci", "init", "--layout", f"{place}/oci")
    run("umoci", "new", "--image", f"{place}/oci:1.0")
    run("umoci", "insert", "--image", f"{place}/oci:1.0", str(tree), "/")
    run("umoci", "config", "--image", f"{place}/oci:1.0", "--config.cmd", "/bin/sh")
    first = f"oci:{place}/oci:1.0"
    run("skopeo", "copy", "-q", first, f"oci-archive:{place}/skopeo.tar:q.io/x/box:2")
    run("skopeo", "copy", "-q", first, f"docker-archive:{place}/docker.tar:localhost/x/box:3")
    run("skopeo", "copy", "-q", first, f"dir:{place}/dir")
    identifier = run(*podman, "pull", "-q", first).strip()
    run(*podman, "tag", identifier, "localhost/boxes/podman:4")
    for form in ("docker-archive", "oci-archive"):
        run(*podman, "save", "-q", "--format", form, "-o", f"{place}/podman-{form}.tar",
            "localhost/boxes/podman:4")  # fmt: skip
    with open(place / "docker.tar", "rb") as plain, gzip.open(place / "docker.tar.gz", "wb") as to:
        shutil.copyfileobj(plain, to)
    buildah = ["buildah", *podman[1:]]
    box = run(*buildah, "from", "localhost/boxes/podman:4").strip()
    (place / "more").write_text("more")
    run(*buildah, "copy", "-q", box, str(place / "more"), "/more")
    run(*buildah, "commit", "-q", "--rm", box, "localhost/boxes/buildah:5")
    storage = f"[vfs@{podman[2]}+{podman[4]}]"
    return {
        "oci": first,
        "oci-archive": f"oci-archive:{place}/skopeo.tar",
        "oci-archive by podman": f"oci-archive:{place}/podman-oci-archive.tar",
        "docker-archive": f"docker-archive:{place}/docker.tar",
        "docker-archive by name": f"docker-archive:{place}/docker.tar:localhost/x/box:3",
        "docker-archive by podman": f"docker-archive:{place}/podman-docker-archive.tar",
        "docker-archive gzipped": f"docker-archive:{place}/docker.tar.gz",
        "dir": f"dir:{place}/dir",
        "containers-storage": f"containers-storage:{storage}localhost/boxes/podman:4",
        "containers-storage by buildah": f"containers-storage:{storage}boxes/buildah:5",
    }


NAMES = {
    "oci": "localhost/oci:1.0",
    "oci-archive": "q.io/x/box:2",
    "oci-archive by podman": "localhost/boxes/podman:4",
    "docker-archive": "localhost/x/box:3",
    "docker-archive by name": "localhost/x/box:3",
    "docker-archive by podman": "localhost/boxes/podman:4",
    "docker-archive gzipped": "localhost/x/box:3",
    "dir": "localhost/dir:latest",
    "containers-storage": "localhost/boxes/podman:4",
    "containers-storage by buildah": "localhost/boxes/buildah:5",
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    place = tempfile.mkdtemp(prefix="ctrt-transports-")
    os.chmod(place, 0o755)
    engine = Engine(f"{place}/root")
    yield engine
    engine.destroy()
    shutil.rmtree(place)


@pytest.mark.parametrize("kind", NAMES)
def test_it_is_pulled_and_runs(engine: Engine, made: dict[str, str], kind: str) -> None:
    found = pull(engine.store, made[kind])
    assert found.reference == NAMES[kind]
    script = "busybox cmp /bin/hard /bin/sh && busybox cat /long/* && { cat /more 2>&1 || :; }"
    result = engine.run(found.reference, ["/bin/sh", "-c", script])
    assert result.stdout.startswith(b"a long name\n")
    assert result.stdout.endswith(b"more") == ("buildah" in kind)
    said = json.loads(run("skopeo", "inspect", f"oci:{engine.store.root}:{found.reference}"))
    assert said["Digest"] == found.digest


def test_oci_and_dir_keep_the_digest(engine: Engine, made: dict[str, str]) -> None:
    digests = {pull(engine.store, made[kind]).digest for kind in ("oci", "oci-archive")}
    assert len(digests) == 1
    # skopeo writes a manifest as Docker has it into dir: only when it is told to.
    assert pull(engine.store, made["dir"]).digest in digests


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive", "dir"])
def test_what_we_write_others_read(
    store: Store, made: dict[str, str], tmp_path: Path, podman: list[str], form: str
) -> None:
    found = pull(store, made["oci"])
    name = "" if form == "dir" else ":localhost/w/box:1"
    where = f"{form}:{tmp_path}/out{name}"
    said = push(store, found, transports.destination(where, Options(), NO_CONFIG))
    assert said == found.digest
    inspected = json.loads(run("skopeo", "inspect", where))
    if form == "docker-archive":
        assert inspected["Layers"] == [layer.diff_id for layer in found.layers]
    else:
        assert inspected["Digest"] == found.digest
    run("skopeo", "copy", "-q", where, f"dir:{tmp_path}/again")
    again = pull(Store(str(tmp_path / "again-store")), where)
    assert again.id == found.id
    if form.endswith("archive"):
        run(*podman, "load", "-q", "-i", f"{tmp_path}/out")
        row = json.loads(run(*podman, "image", "inspect", "localhost/w/box:1"))[0]
        assert row["Id"] == found.id[7:]
        run(*podman, "rmi", "localhost/w/box:1")
        assert os.listdir(tmp_path).count("out") == 1
        assert not [name for name in os.listdir(tmp_path) if name.startswith((".ctrt", "out."))]


def test_a_layout_takes_several_images(store: Store, tmp_path: Path) -> None:
    for number in (1, 2, 1):
        one = image(store, tar(member(f"f{number}")), name=f"localhost/n{number}")
        to = transports.destination(f"oci:{tmp_path}/all:n{number}", Options(), NO_CONFIG)
        push(store, one, to)
    index = json.loads((tmp_path / "all/index.json").read_text())
    assert len(index["manifests"]) == 2
    run("umoci", "stat", "--image", f"{tmp_path}/all:n2")
    with pytest.raises(CtrtError) as caught:
        pull(store, f"oci:{tmp_path}/all")
    assert str(caught.value) == (
        f"cannot pull oci:{tmp_path}/all: {tmp_path}/all has 2 images; name one of its images as"
        f" oci:{tmp_path}/all:NAME (it has n2, n1)"
    )


def test_copy_from_a_registry_into_a_directory(registry: str, tmp_path: Path) -> None:
    copy(
        transports.source(f"docker://{registry}/group/tool:oci", Options(), NO_CONFIG),
        transports.destination(f"dir:{tmp_path}/out", Options(), NO_CONFIG),
    )
    assert json.loads(run("skopeo", "inspect", f"dir:{tmp_path}/out"))["Layers"]


def broken(tmp_path: Path) -> dict[str, tuple[str, str]]:
    """Places with something wrong in them, and what is said about it."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no tar at all" * 100)
    with tarfile.open(tmp_path / "nothing.tar", "w") as tar_file:
        tar_file.addfile(tarfile.TarInfo("x"))
    with tarfile.open(tmp_path / "lost.tar", "w") as tar_file:
        data = json.dumps([{"Config": "../../etc/passwd", "Layers": [], "RepoTags": []}]).encode()
        info = tarfile.TarInfo("manifest.json")
        info.size = len(data)
        import io

        tar_file.addfile(info, io.BytesIO(data))
    return {
        f"oci:{tmp_path}/none": ("there is no directory", ""),
        f"oci:{tmp_path}/empty": ("the layout cannot be read: No such file or directory", ""),
        f"oci-archive:{tmp_path}/text": (f"{tmp_path}/text is no whole tar archive", ""),
        f"oci-archive:{tmp_path}/nothing.tar": (f"{tmp_path}/nothing.tar has no index.json", ""),
        f"docker-archive:{tmp_path}/nothing.tar": ("has no manifest.json", ""),
        f"docker-archive:{tmp_path}/lost.tar": ("has no ../../etc/passwd", ""),
        f"dir:{tmp_path}/empty": ("it has no manifest.json", ""),
        f"containers-storage:[vfs@{tmp_path}/empty]x": ("podman's store cannot be read", ""),
        f"containers-storage:[overlay@{tmp_path}": ('has a "[" without a "]"', ""),
        "oci:": ('"oci:" names no place after "oci:"', ""),
    }


def test_what_is_wrong_with_a_place_is_a_sentence(store: Store, tmp_path: Path) -> None:
    for name, (sentence, _) in broken(tmp_path).items():
        with pytest.raises(CtrtError) as caught:
            pull(store, name)
        assert sentence in str(caught.value), name
        assert "\n" not in str(caught.value)
        assert store.images() == []


def test_a_changed_blob_is_found_out(store: Store, made: dict[str, str], tmp_path: Path) -> None:
    source = made["oci"].split(":")[1]
    copied = tmp_path / "layout"
    shutil.copytree(source, copied)
    layer = max((copied / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(layer.read_bytes())
    data[1000] ^= 1
    layer.write_bytes(data)
    with pytest.raises(CtrtError, match="is broken: its digest should be"):
        pull(store, f"oci:{copied}")
    layer.unlink()
    with pytest.raises(CtrtError, match="the layout has no blob sha256:"):
        pull(store, f"oci:{copied}")


def test_a_file_that_podman_s_store_has_changed(
    store: Store, made: dict[str, str], tmp_path: Path
) -> None:
    """The tar is put together again from the files: one that is another now is found out."""
    name = made["containers-storage by buildah"]
    root = name.partition("@")[2].partition("+")[0]
    copied = tmp_path / "storage"
    shutil.copytree(root, copied, symlinks=True)
    for path in copied.glob("vfs/dir/*/more"):
        path.write_text("MORE")
    with pytest.raises(CtrtError, match="is broken: its digest should be"):
        pull(store, f"containers-storage:[vfs@{copied}]boxes/buildah:5")
    with pytest.raises(CtrtError, match="has no image nothing; see: podman images"):
        pull(store, f"containers-storage:[vfs@{copied}]nothing")


def test_containers_storage_is_not_written_to(store: Store) -> None:
    with pytest.raises(CtrtError, match="can only be read here"):
        transports.destination("containers-storage:x", Options(), NO_CONFIG)
