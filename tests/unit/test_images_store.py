"""The content store: names, blobs, garbage, and processes that die in it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from images_tools import digest, image, member, tar

from ctrt.errors import CtrtError
from ctrt.images.store import Store
from ctrt.oci import media
from ctrt.oci.reference import parse

ONE = tar(member("one", b"1"))
TWO = tar(member("two", b"2"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def blobs(store: Store) -> set[str]:
    return {f"sha256:{name}" for name in os.listdir(store.path("blobs", "sha256"))}


def test_an_absent_store_is_empty_and_stays_absent(store: Store) -> None:
    assert store.find("debian") is None
    assert store.images() == []
    assert not os.path.exists(store.root)


def test_it_is_an_oci_layout(store: Store) -> None:
    made = image(store, ONE, name="quay.io/a/b:1")
    with open(store.path("oci-layout")) as file:
        assert json.load(file) == {"imageLayoutVersion": "1.0.0"}
    with open(store.path("index.json")) as file:
        (entry,) = json.load(file)["manifests"]
    assert entry["digest"] == made.digest
    assert entry["annotations"] == {media.REF_NAME: "quay.io/a/b:1"}
    assert entry["size"] == os.path.getsize(store.blob_path(made.digest))


def test_an_image_says_what_it_is(store: Store) -> None:
    image(store, ONE, TWO, name="debian")
    found = store.find("debian")
    assert found is not None
    assert found.reference == "docker.io/library/debian:latest"
    assert found.config["config"]["Cmd"] == ["/bin/sh"]
    assert [layer.diff_id for layer in found.layers] == [digest(ONE), digest(TWO)]
    assert found.layers[0].chain_id == digest(ONE)
    assert found.layers[1].chain_id == digest(f"{digest(ONE)} {digest(TWO)}".encode())
    assert found.size == sum(os.path.getsize(store.blob_path(blob)) for blob in blobs(store))


def test_an_image_is_found_by_all_its_names(store: Store) -> None:
    made = image(store, ONE, name="localhost/tour/shell")
    image(store, TWO, name="debian:12")
    for text in (
        "localhost/tour/shell",
        "localhost/tour/shell:latest",
        "tour/shell",
        f"localhost/tour/shell@{made.digest}",
        made.id,
        made.id[7:],
        made.id[7:19],
        made.id[7:10],
    ):
        found = store.find(text)
        assert found is not None, text
        assert found.id == made.id
    assert store.find(parse("debian:12")) is not None
    for text in ("debian", "shell", made.id[7:9], f"debian@{made.digest}", "quay.io/tour/shell"):
        assert store.find(text) is None, text


def test_naming_again_moves_the_name(store: Store) -> None:
    image(store, ONE, name="x")
    second = image(store, TWO, name="x")
    image(store, TWO, name="y")
    assert [(i.reference, i.digest) for i in store.images()] == [
        ("docker.io/library/x:latest", second.digest),
        ("docker.io/library/y:latest", second.digest),
    ]


@pytest.mark.parametrize(
    ("data", "wanted", "size", "sentence"),
    [
        ([b"abc"], None, 2, "more than the 2 bytes that it should have came"),
        ([b"abc"], None, 4, "only 3 of its 4 bytes came"),
        (
            [b"a", b"bd"],
            digest(b"abc"),
            3,
            f"its digest should be {digest(b'abc')}, but what came has {digest(b'abd')}",
        ),
    ],
)
def test_a_wrong_blob_is_kept_nowhere(
    store: Store, data: list[bytes], wanted: str | None, size: int, sentence: str
) -> None:
    with pytest.raises(CtrtError) as caught:
        store.add_blob(iter(data), digest=wanted, size=size)
    assert str(caught.value) == sentence
    assert not blobs(store)
    assert not os.listdir(store.path("tmp"))


def test_more_than_its_size_is_not_read(store: Store) -> None:
    taken = []

    def endless() -> object:
        while True:
            taken.append(1)
            yield b"x" * 10

    with pytest.raises(CtrtError):
        store.add_blob(endless(), size=25)  # type: ignore[arg-type]
    assert len(taken) == 3


def test_only_a_whole_image_gets_a_name(store: Store) -> None:
    made = image(store, ONE, name="x")
    os.unlink(store.blob_path(made.layers[0].digest))
    with pytest.raises(CtrtError, match=f"has no blob {made.layers[0].digest}$"):
        store.tag("y", made.digest)
    with pytest.raises(CtrtError, match="is broken at"):
        store.tag("y", store.add_blob(b'{"schemaVersion":2,"layers":[]}')[0])
    with pytest.raises(CtrtError) as caught:
        image(store, ONE, name="y", diff_ids=[digest(ONE), digest(TWO)])
    assert str(caught.value) == (
        "the configuration of docker.io/library/y:latest is broken at $.rootfs.diff_ids:"
        " it has 2 entries for 1 layers"
    )
    assert [i.reference for i in store.images()] == ["docker.io/library/x:latest"]


def test_removing_removes_what_nobody_else_needs(store: Store) -> None:
    both = image(store, ONE, TWO, name="both")
    one = image(store, ONE, name="one")
    for layer in both.layers:
        os.makedirs(store.path("layers", layer.chain_id[7:], "diff"))
    removed = store.remove("both")
    assert set(removed) == {both.digest, both.id, both.layers[1].digest}
    assert blobs(store) == {one.digest, one.id, one.layers[0].digest}
    assert os.listdir(store.path("layers")) == [one.layers[0].chain_id[7:]]
    store.remove("one")
    assert not blobs(store)
    assert not os.listdir(store.path("layers"))


def test_a_second_name_keeps_the_image(store: Store) -> None:
    made = image(store, ONE, name="a")
    store.tag("b", made.digest)
    assert store.remove("a") == []
    assert store.find("a") is None
    assert store.find("b") is not None


def test_layers_of_containers_are_kept(tmp_path: Path) -> None:
    used: list[str] = []
    store = Store(str(tmp_path / "s"), in_use=lambda: used)
    made = image(store, ONE, name="a")
    chain = made.layers[0].chain_id
    os.makedirs(store.path("layers", chain[7:], "diff"))
    used.append(chain)
    store.remove("a")
    assert os.listdir(store.path("layers")) == [chain[7:]]
    used.clear()
    store.collect()
    assert os.listdir(store.path("layers")) == []


def test_removing_what_is_not_there_is_a_sentence(store: Store) -> None:
    with pytest.raises(CtrtError) as caught:
        store.remove("debian:13")
    assert str(caught.value) == f"there is no image debian:13 in the store at {store.root}"


def test_garbage_waits_for_the_last_holder(store: Store) -> None:
    made = image(store, ONE, name="a")
    with store.hold():
        with store.hold():
            assert store.remove("a") == []
            assert store.has_blob(made.digest)
        assert store.has_blob(made.digest)
    assert not blobs(store)


def test_a_broken_index_is_a_sentence(store: Store) -> None:
    image(store, ONE, name="a")
    with open(store.path("index.json"), "w") as file:
        file.write('{"manifests":[{"digest":1}]}')
    with pytest.raises(CtrtError) as caught:
        store.find("a")
    path = store.path("index.json")
    assert str(caught.value) == f"the image store's {path} is broken: a digest is missing"


def test_a_broken_image_can_be_removed(store: Store) -> None:
    made = image(store, ONE, name="a")
    with open(store.blob_path(made.id), "w") as file:
        file.write("{")
    with pytest.raises(
        CtrtError, match=r"^the stored image .*/a:latest is broken .*; remove it and"
    ):
        store.find("a")
    store.remove("a")
    assert store.images() == []
    assert not blobs(store)


def test_a_store_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(str(tmp_path / "file" / "store"))
    with pytest.raises(CtrtError) as caught:
        store.add_blob(b"x")
    assert str(caught.value).startswith(f"the image store at {store.root} cannot be written: Not a")


def test_others_cannot_reach_the_layers(store: Store) -> None:
    store.add_blob(b"x")
    for name in ("", "layers", "tmp"):
        assert os.stat(store.path(name)).st_mode & 0o077 == 0


WRITER = """
import sys, os
sys.path[:0] = eval(sys.argv[1])
from ctrt.images.store import Store
store = Store(sys.argv[2])
def endless():
    while True:
        print("writing", flush=True)
        yield b"x" * 100000
        import time; time.sleep(0.01)
store.add_blob(endless())
"""


def test_kill_9_leaves_nothing_that_the_next_one_does_not_clean(store: Store) -> None:
    kept = image(store, ONE, name="kept")
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, repr([p for p in sys.path if p]), store.root],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    for _ in range(3):
        child.stdout.readline()
    (work,) = os.listdir(store.path("tmp"))
    Store(store.root).clean()
    assert os.listdir(store.path("tmp")) == [work], "the living are left alone"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert os.listdir(store.path("tmp")) == [work]
    Store(store.root).clean()
    assert os.listdir(store.path("tmp")) == []
    found = store.find("kept")
    assert found is not None
    assert found.digest == kept.digest


def test_many_processes_name_images_at_once(store: Store) -> None:
    made = image(store, ONE, name="first")
    code = (
        "import sys; sys.path[:0] = eval(sys.argv[1]); from ctrt.images.store import Store\n"
        "store = Store(sys.argv[2])\n"
        "for i in range(8): store.tag(f'{sys.argv[3]}:{i}', sys.argv[4])\n"
    )
    path = repr([p for p in sys.path if p])
    children = [
        subprocess.Popen([sys.executable, "-c", code, path, store.root, name, made.digest])
        for name in ("aa", "bb", "cc")
    ]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert len(store.images()) == 25
    assert os.listdir(store.path("tmp")) == []


def test_a_store_made_by_many_threads_at_once_is_whole(tmp_path: Path) -> None:
    root = str(tmp_path / "s")
    threads = [
        threading.Thread(target=lambda n=n: image(Store(root), ONE, name=f"n{n}")) for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Store(root).images()) == 6


def test_a_cleaner_between_mkdir_and_lock_does_no_harm(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_blob(b"x")
    real, raced = fcntl.flock, []

    def flock(fd: int, how: int) -> None:
        if not raced and how & fcntl.LOCK_SH:
            raced.append(fd)
            Store(store.root).clean()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with store.temporary() as work:
        assert os.path.isdir(work.path)
    assert raced
