"""commit, diff, export, save and load, and the verbs about the store."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import needs, run
from images_tools import image, member, tar

from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
from ctrt.images.store import Store

DO = (
    "mkdir /new && echo n > /new/file && chown 5:6 /new/file && chmod 4711 /new/file"
    " && rm /etc/group && echo more >> /etc/passwd && ln /new/file /new/hard && rm -r /root"
    " && mkdir /root && touch /ready && exec sleep 100"
)


def verb(engine: Engine, *words: str) -> str:
    return str(VERBS[words[0]](engine, words[1:]))


@pytest.fixture(scope="module")
def written(engine: Engine) -> Iterator[str]:
    """A running container that has changed its files."""
    prepared = engine.prepare("localhost/base", ["sh", "-c", DO])
    container = engine.start(prepared)
    place = Path(engine.containers) / container.name / "upper/ready"
    for _ in range(500):
        if place.exists():
            break
        time.sleep(0.01)
    yield container.name
    container.close()
    for _ in range(1000):  # whoever looks after it cleans up now
        if not engine.states():
            break
        time.sleep(0.01)


def test_diff_of_a_container(engine: Engine, written: str) -> None:
    assert verb(engine, "diff", written).split("\n") == [
        "D /etc/group",
        "C /etc/passwd",
        "A /new",
        "A /new/file",
        "A /new/hard",
        "A /ready",
        "C /root",
    ]


def test_commit_and_run(engine: Engine, written: str) -> None:
    verb(engine, "commit", "--change", 'CMD ["cat", "/new/hard"]', "-m", "why", written,
         "localhost/committed")  # fmt: skip
    assert engine.run("localhost/committed").text() == "n\n"
    assert engine.run("localhost/committed", ["stat", "-c", "%a %u:%g %h", "/new/file"]).text() == (
        "4711 5:6 2\n"
    )
    history = json.loads(verb(engine, "history", "--json", "localhost/committed"))
    assert history[0]["comment"] == "why"
    assert history[0]["created_by"] == f"ctrt commit {written}"
    assert verb(engine, "diff", "localhost/base", "localhost/committed").split("\n") == verb(
        engine, "diff", "localhost/committed"
    ).split("\n")


def test_export_of_a_container(engine: Engine, written: str, tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    verb(engine, "export", "-o", str(out), written)
    with tarfile.open(out) as archive:
        assert archive.getmember("new/file").mode == 0o4711
        hard = archive.getmember("new/hard")
        assert (hard.islnk(), hard.linkname) == (True, "new/file")
        assert "etc/group" not in archive.getnames()
        assert "etc/passwd" in archive.getnames()
    verb(engine, "import", str(out), "localhost/imported")
    assert engine.run("localhost/imported", ["cat", "/new/file"]).text() == "n\n"


def test_export_to_a_device_or_through_a_link_replaces_neither(
    engine: Engine, tmp_path: Path
) -> None:
    """`-o /dev/null` must not make a file of the machine's null device."""
    device = tmp_path / "null"
    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    verb(engine, "export", "-o", str(device), "localhost/base")
    assert stat.S_ISCHR(device.stat().st_mode)
    (tmp_path / "link").symlink_to("real.tar")
    verb(engine, "export", "-o", str(tmp_path / "link"), "localhost/base")
    assert (tmp_path / "link").is_symlink()
    assert tarfile.is_tarfile(tmp_path / "real.tar")
    assert sorted(os.listdir(tmp_path))[:2] == ["link", "null"]
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_what_does_not_run_is_a_sentence(engine: Engine, tmp_path: Path) -> None:
    for words in (("diff", "nobody"), ("commit", "nobody", "x"), ("export", "nobody")):
        with pytest.raises(CtrtError, match="nobody") as caught:
            verb(engine, *words)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_save_is_read_by_skopeo_and_load_reads_it(
    engine: Engine, tmp_path: Path, form: str
) -> None:
    needs("skopeo")
    file = tmp_path / "image.tar"
    verb(engine, "save", "--format", form, "-o", str(file), "localhost/base")
    seen = json.loads(run("skopeo", "inspect", "--config", f"{form}:{file}"))
    base = engine.store.find("localhost/base")
    assert base is not None
    assert seen["rootfs"]["diff_ids"] == [layer.diff_id for layer in base.layers]
    other = Engine(str(tmp_path / "other"))
    try:
        name = verb(other, "load", "-i", str(file))
        found = other.store.find(name)
        assert found is not None
        assert found.id == base.id
        assert other.run(name, ["cat", "/etc/passwd"]).text().startswith("root:")
    finally:
        other.destroy()
    plain = tmp_path / "plain.tar"
    plain.write_bytes(tar(member("x", b"1")))
    with pytest.raises(CtrtError, match="neither a docker-archive nor an oci-archive"):
        verb(engine, "load", str(plain))


def test_inspect_has_podmans_shape(engine: Engine) -> None:
    (found,) = json.loads(verb(engine, "image", "inspect", "localhost/base"))
    base = engine.store.find("localhost/base")
    assert base is not None
    assert found["Id"] == base.id[7:]
    assert "localhost/base:latest" in found["RepoTags"]
    assert found["RepoDigests"] == [f"localhost/base@{base.digest}"]
    assert found["Config"]["Cmd"] == ["/bin/sh"]
    assert found["RootFS"] == {"Type": "layers", "Layers": [base.layers[0].diff_id]}


def test_tag_images_prune_and_df(tmp_path: Path) -> None:
    engine = Engine(str(tmp_path / "root"))
    store = engine.store
    one = image(store, tar(member("a", os.urandom(300_000))), name="localhost/one")
    image(store, tar(member("b", b"b")), name="localhost/two")
    assert verb(engine, "tag", "localhost/one", "more:1", "localhost/x/y") == (
        "docker.io/library/more:1\nlocalhost/x/y:latest"
    )
    found = json.loads(verb(engine, "images", "--json"))
    assert [entry["Name"] for entry in found] == [
        "docker.io/library/more:1", "localhost/one:latest", "localhost/two:latest",
        "localhost/x/y:latest",
    ]  # fmt: skip
    assert found[1]["Digest"] == one.digest
    assert verb(engine, "images", "-q").split("\n")[0] == one.id[7:19]
    assert one.digest in verb(engine, "images", "--digests", "localhost/one")
    store.remember("key", one.digest)
    for name in ("more:1", "localhost/one", "localhost/x/y"):
        verb(engine, "rmi", name)
    assert store.has_blob(one.digest), "a step of a build stands on it"
    before = {row["Type"]: row["Size"] for row in json.loads(verb(engine, "df", "--json"))}
    assert before["images"] > 300_000
    said = verb(engine, "prune")
    assert said.startswith("3 blobs removed, 3")
    assert not store.has_blob(one.digest)
    assert verb(engine, "prune", "--all").split("\n")[0] == "localhost/two:latest"
    assert store.images() == []
    assert json.loads(verb(engine, "df", "--json"))[0]["Size"] == 0


BUSY = """
import os, sys
sys.path[:0] = sys.argv[2:]
from images_tools import image, member, tar
from ctrt.images import contents, layers
from ctrt.images.store import Store
store = Store(sys.argv[1])
for turn in range(4):
    name = f"localhost/p{os.getpid()}-{turn}"
    with store.hold():
        made = image(store, tar(member("shared", b"s" * 5000)), tar(member("own", name.encode())),
                     name=name)
        world = layers.Unpacker("root" if os.geteuid() == 0 else "single")
        top = layers.unpack(store, made, world)[0]
        assert open(top + "/own").read() == name
        tree = contents.Tree.of(store, made.layers)
        assert contents.read(store, made.layers, tree.nodes["own"]) == name.encode()
        store.remember(name, made.digest)
    if turn % 2:
        store.remove(name)
    else:
        store.prune()
    assert all(store.find(image.reference) for image in store.images()) in (True, False)
"""


def test_many_processes_make_read_remove_and_prune_at_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    here = Path(__file__).resolve()
    paths = [str(here.parents[2]), str(here.parents[1] / "unit")]
    children = [
        subprocess.Popen([sys.executable, "-c", BUSY, store.root, *paths], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for child in children:
        _, said = child.communicate(timeout=60)
        assert child.returncode == 0, said.decode()
    assert len(store.images()) == 8
    for found in store.images():
        for layer in found.layers:
            assert store.has_blob(layer.digest, layer.size)
    store.prune(lambda _: False)
    assert os.listdir(store.path("blobs", "sha256")) == []
    assert os.listdir(store.path("layers")) == []
    assert os.listdir(store.path("tmp")) == []
