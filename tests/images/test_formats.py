"""Images of other formats, written by other tools, become images that run."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from conftest import needs, run
from images_tools import member, tar

from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
from ctrt.images.contents import Tree

ACI = {
    "acKind": "ImageManifest",
    "acVersion": "0.8.11",
    "name": "example.com/tool",
    "labels": [{"name": "version", "value": "1.0"}, {"name": "os", "value": "linux"},
               {"name": "arch", "value": "amd64"}],
    "app": {
        "exec": ["/bin/sh", "-c", "echo $GREETING from $(pwd)"],
        "user": "0", "group": "0", "workingDirectory": "/opt",
        "environment": [{"name": "GREETING", "value": "hello"}],
        "mountPoints": [{"name": "data", "path": "/data"}],
        "ports": [{"name": "www", "protocol": "tcp", "port": 80}],
    },
    "annotations": [{"name": "created", "value": "2015-05-13T23:12:34Z"}],
}  # fmt: skip
LXD = """architecture: x86_64
creation_date: 1424284563
properties:
  description: Small box
  os: Box
  release: "1"
templates:
  /etc/hostname:
    when: [create, copy]
    template: hostname.tpl
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system made by hand around busybox."""
    needs("busybox")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    place = tmp_path_factory.mktemp("tree") / "rootfs"
    (place / "bin").mkdir(parents=True)
    (place / "opt").mkdir()
    shutil.copy(shutil.which("busybox") or "", place / "bin/busybox")
    for applet in ("sh", "cat", "echo", "stat", "pwd"):
        (place / "bin" / applet).symlink_to("busybox")
    (place / "note").write_text("inside\n")
    os.chown(place / "note", 33, 44)
    os.link(place / "note", place / "hard")
    return place


def imported(engine: Engine, *words: str) -> str:
    return str(VERBS["import"](engine, words))


def check(engine: Engine, name: str) -> None:
    said = engine.run(name, ["stat", "-c", "%u:%g %h", "/note"]).text()
    assert said == "33:44 2\n"
    assert engine.run(name, ["cat", "/hard"]).text() == "inside\n"


@pytest.mark.parametrize("option", ["", "--gzip", "--zstd", "--xz", "--bzip2"])
def test_a_plain_root_file_system(engine: Engine, tree: Path, tmp_path: Path, option: str) -> None:
    file = tmp_path / "root.tar"
    run("tar", *filter(None, [option]), "-cf", str(file), "-C", str(tree), ".")
    check(engine, imported(engine, str(file), "localhost/plain"))
    image = engine.store.find("localhost/plain")
    assert image is not None
    assert image.config["config"]["Cmd"] == ["/bin/sh"]


def test_an_aci(engine: Engine, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest").write_text(json.dumps(ACI))
    file = tmp_path / "tool.aci"
    run("tar", "-czf", str(file), "-C", str(tmp_path), "manifest", "-C", str(tree.parent), "rootfs")
    check(engine, imported(engine, str(file), "localhost/aci"))
    assert engine.run("localhost/aci").text() == "hello from /opt\n"
    image = engine.store.find("localhost/aci")
    assert image is not None
    assert image.config["created"] == "2015-05-13T23:12:34Z"
    assert image.config["config"]["ExposedPorts"] == {"80/tcp": {}}
    assert image.config["config"]["Volumes"] == {"/data": {}}


def test_lxd_unified_and_split(engine: Engine, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "metadata.yaml").write_text(LXD)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/hostname.tpl").write_text("{{ container.name }}\n")
    meta = ["-C", str(tmp_path), "metadata.yaml", "templates"]
    unified, split, root = (str(tmp_path / name) for name in ("u.tar.xz", "m.tar.xz", "r.tar.gz"))
    run("tar", "-cJf", unified, *meta, "-C", str(tree.parent), "rootfs")
    run("tar", "-cJf", split, *meta)
    run("tar", "-czf", root, "-C", str(tree), ".")
    check(engine, imported(engine, unified, "localhost/unified"))
    check(engine, imported(engine, split, root, "localhost/split"))
    image = engine.store.find("localhost/unified")
    assert image is not None
    assert image.config["created"] == "2015-02-18T18:36:03Z"
    assert image.config["config"]["Labels"]["lxd.description"] == "Small box"
    assert not any(path.startswith(("rootfs", "templates", "metadata"))
                   for path in Tree.of(engine.store, image.layers).nodes)  # fmt: skip
    with pytest.raises(CtrtError, match="is one half of a split LXD image; name the other half"):
        imported(engine, split, "localhost/half")


@pytest.mark.parametrize("alone", [True, False])
def test_squashfs(engine: Engine, tree: Path, tmp_path: Path, alone: bool) -> None:
    needs("mksquashfs", "unsquashfs")
    file = str(tmp_path / "rootfs.squashfs")
    run("mksquashfs", str(tree), file, "-quiet", "-no-progress")
    if alone:
        check(engine, imported(engine, file, "localhost/squash"))
        return
    (tmp_path / "metadata.yaml").write_text(LXD)
    run("tar", "-cJf", f"{tmp_path}/meta.tar.xz", "-C", str(tmp_path), "metadata.yaml")
    check(engine, imported(engine, f"{tmp_path}/meta.tar.xz", file, "localhost/squash-split"))


def test_schema_1_as_skopeo_writes_it(engine: Engine, tmp_path: Path) -> None:
    needs("skopeo")
    engine.build("FROM localhost/base\nRUN echo one > /one\nCMD [\"cat\", \"/one\"]", None,
                 "localhost/to-schema1")  # fmt: skip
    run("skopeo", "copy", "-q", "--format", "v2s1",
        f"oci:{engine.store.root}:localhost/to-schema1:latest", f"dir:{tmp_path}/old")  # fmt: skip
    manifest = json.loads((tmp_path / "old/manifest.json").read_text())
    assert manifest["schemaVersion"] == 1
    imported(engine, str(tmp_path / "old"), "localhost/schema1")
    assert engine.run("localhost/schema1").text() == "one\n"
    made, old = engine.store.find("localhost/schema1"), engine.store.find("localhost/to-schema1")
    assert made is not None
    assert old is not None
    assert [layer.diff_id for layer in made.layers] == [layer.diff_id for layer in old.layers]


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "dir", "oci"])
def test_what_skopeo_writes(engine: Engine, tmp_path: Path, form: str) -> None:
    needs("skopeo")
    place = tmp_path / "image"
    tag = ":localhost/base:latest" if "archive" in form else ":x" if form == "oci" else ""
    run("skopeo", "copy", "-q", f"oci:{engine.store.root}:localhost/base:latest",
        f"{form}:{place}{tag}")  # fmt: skip
    imported(engine, str(place), f"localhost/from-{form}")
    assert engine.run(f"localhost/from-{form}", ["cat", "/etc/passwd"]).text().startswith("root:")


BROKEN = {
    "text": (b"not an image at all, but long enough to be read" * 30, "is no archive of an image"),
    "nothing": (b"", "is no archive of an image or root file system: it has no entries"),
    "an ACI of another kind": (
        tar(member("manifest", b'{"acKind": "PodManifest"}'), member("rootfs", kind="dir")),
        "is no Appc image manifest: its acKind is 'PodManifest'",
    ),
    "an ACI with dependencies": (
        tar(member("manifest", json.dumps(ACI | {"dependencies": [{"imageName": "a.b/c"}]})
                   .encode()), member("rootfs", kind="dir")),
        "stands on another image, a.b/c, which an import cannot fetch; flatten it first",
    ),
    "metadata that is no YAML": (
        tar(member("metadata.yaml", b"a: [b"), member("rootfs", kind="dir")),
        "is not LXD's: while parsing",
    ),
    "metadata nested without end": (
        tar(member("metadata.yaml", b"a: " + b"[" * 3000 + b"]" * 3000),
            member("rootfs", kind="dir")),
        "is not LXD's: maximum recursion depth exceeded",
    ),
    "a way out": (tar(member("../../evil", b"1")), 'leaves the image with ".."'),
    "cut": (tar(member("big", bytes(5000)))[:3000], "it ends in the middle of an entry"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_a_sentence_and_nothing_stays(
    engine: Engine, tmp_path: Path, case: str
) -> None:
    data, sentence = BROKEN[case]
    file = tmp_path / "file"
    file.write_bytes(data)
    with pytest.raises(CtrtError) as caught:
        imported(engine, str(file), "localhost/broken")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert engine.store.find("localhost/broken") is None
    assert os.listdir(engine.store.path("tmp")) == []


def test_a_tar_made_by_python(engine: Engine, tree: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "p.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(tree, ".")
    check(engine, imported(engine, str(tmp_path / "p.tar"), "localhost/python"))
