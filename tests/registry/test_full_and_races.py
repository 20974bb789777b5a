"""A disk that fills up while layers are unpacked, bombs, and many commands at once on one store."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import run
from images_tools import image, leftovers, member, tar

from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
from ctrt.images import registries, transports
from ctrt.images.copy import push
from ctrt.images.pull import pull
from ctrt.images.store import Image, Store
from ctrt.images.transports import Options, tarball

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture(scope="module")
def host(start_registry: Callable[..., str]) -> str:
    return start_registry()


def pushed(host: str, place: Path, name: str, *layers: bytes) -> Image:
    store = Store(str(place / f"source-{name}"))
    made = image(store, *layers, name=f"localhost/{name}")
    push(store, made, transports.destination(f"{host}/{name}:1", Options(), registries.Config()))
    return made


@pytest.fixture
def small() -> Iterator[tuple[str, Callable[[str], object]]]:
    """A file system of 100 MB, and what gives it another size."""
    place = tempfile.mkdtemp(prefix="ctrt-full-")
    words = ["mount", "-t", "tmpfs", "-o", "size=100M,mode=755", "none", place]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        os.rmdir(place)
        pytest.skip("tmpfs cannot be mounted")
    yield place, lambda size: run("mount", "-o", f"remount,size={size}", place)
    run("umount", place)
    shutil.rmtree(place)


def test_a_disk_that_is_full_in_the_middle_of_unpacking(
    host: str, tmp_path: Path, small: tuple[str, Callable[[str], object]]
) -> None:
    """Each layer has room for itself, but all together have not."""
    place, resize = small
    layers = [tar(member(f"f{n}", bytes(32 << 20)), member(f"g{n}", b"x")) for n in range(4)]
    pushed(host, tmp_path, "full", *layers)
    engine = Engine(f"{place}/root")
    try:
        assert str(VERBS["pull"](engine, [f"{host}/full:1"])) == f"{host}/full:1"
        for _ in range(2):
            with pytest.raises(CtrtError) as caught:
                engine.lowers(engine.image(f"{host}/full:1"))
            assert str(caught.value).startswith(f"cannot unpack {host}/full:1: layer ")
            assert "there is no space left on the disk" in str(caught.value)
            assert "\n" not in str(caught.value)
            assert os.listdir(engine.store.path("layers")) == []
            assert leftovers(engine.store) == []
        resize("400M")
        tops = engine.lowers(engine.image(f"{host}/full:1"))
        assert [Path(top, f"g{3 - n}").read_bytes() for n, top in enumerate(tops)] == [b"x"] * 4
    finally:
        engine.close()


def test_a_layer_larger_than_the_disk(
    host: str, tmp_path: Path, small: tuple[str, Callable[[str], object]]
) -> None:
    place, resize = small
    pushed(host, tmp_path, "large", tar(member("f", bytes(120 << 20))))
    store = Store(f"{place}/store")
    engine = Engine(f"{place}/store")
    try:
        with pytest.raises(CtrtError, match="there is no space left on the disk for it"):
            engine.lowers(engine.image(f"{host}/large:1"))
        assert os.listdir(store.path("layers")) == leftovers(store) == []
        resize("400M")
        assert os.stat(f"{engine.lowers(engine.image(f'{host}/large:1'))[0]}/f").st_size == (
            120 << 20
        )
    finally:
        engine.close()


def test_a_full_disk_while_an_image_is_made(
    tmp_path: Path, small: tuple[str, Callable[[str], object]]
) -> None:
    """save, import, load and a build's COPY: a sentence, and nothing half-made."""
    place, resize = small
    noise = random.Random(3)
    engine = Engine(f"{place}/root")
    image(engine.store, tar(member("f", noise.randbytes(6 << 20))), name="localhost/big")
    (tmp_path / "context").mkdir()
    (tmp_path / "context/data").write_bytes(noise.randbytes(20 << 20))
    (tmp_path / "Containerfile").write_text("FROM scratch\nCOPY data /\n")
    run("tar", "-cf", str(tmp_path / "root.tar"), "-C", str(tmp_path / "context"), "data")
    resize("14M")
    before = sorted(os.listdir(engine.store.path("blobs/sha256")))
    build = ["build", "-t", "x", "-f", str(tmp_path / "Containerfile"), str(tmp_path / "context")]
    for words in (
        ["save", "-o", f"{place}/out.tar", "localhost/big"],
        ["save", "--format=oci-archive", "-o", f"{place}/out.tar", "localhost/big"],
        ["import", str(tmp_path / "root.tar"), "localhost/imported"],
        build,
    ):
        done = ctrt(engine.root, *words)
        assert done.returncode == 125, (words, done.stderr)
        lines = [line for line in done.stderr.splitlines() if not line.startswith("STEP")]
        assert len(lines) == 1, done.stderr
        assert "No space left on device" in lines[0]
        assert sorted(os.listdir(place)) == ["root"]
        assert leftovers(engine.store) == []
        assert sorted(os.listdir(engine.store.path("blobs/sha256"))) == before
    resize("400M")
    assert ctrt(engine.root, *build).returncode == 0
    assert ctrt(engine.root, "import", str(tmp_path / "root.tar"), "localhost/i").returncode == 0


COMMAND = "from ctrt.cli.main import command; command()"


def ctrt(root: str, *words: str) -> subprocess.CompletedProcess[str]:
    packages = str(Path(tarball.__file__).resolve().parents[3])
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": packages, "CTRT_ROOT": root},
    )  # fmt: skip


def test_a_bomb_in_a_packed_archive_is_stopped(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarball, "ALWAYS_BYTES", 1 << 20)
    bomb = tmp_path / "bomb.tar.gz"
    bomb.write_bytes(gzip.compress(tar(member("manifest.json", bytes(64 << 20)))))
    with pytest.raises(CtrtError) as caught:
        pull(store, f"docker-archive:{bomb}")
    limit = max(1 << 20, tarball.RATIO * bomb.stat().st_size) >> 20
    assert str(caught.value) == (
        f"cannot pull docker-archive:{bomb}: {bomb} grows to more than {limit} MiB when it is"
        " unpacked"
    )


def test_texts_that_multiply_are_not_asked_for(store: Store, tmp_path: Path) -> None:
    """metadata.yaml of LXD, where each text stands for ten of the one before."""
    from ctrt.images.formats import import_image

    rows = ["p0: &p0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"p{n}: &p{n} [{', '.join([f'*p{n - 1}'] * 10)}]" for n in range(1, 9)]
    text = "architecture: x86_64\nproperties:\n" + "".join(f"  {row}\n" for row in rows)
    path = tmp_path / "image.tar"
    path.write_bytes(tar(member("metadata.yaml", text.encode()), member("rootfs/", kind="dir")))
    with pytest.raises(CtrtError, match=r"metadata.yaml in \S+ is not LXD's: its property p0"):
        import_image(store, str(path), "localhost/x")
    assert store.images() == []


BUSY = """
import os, random, sys
from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError
name, seed = sys.argv[1], int(sys.argv[2])
choose = random.Random(seed)
engine = Engine()
for turn in range(6):
    what = choose.choice(["pull", "pull", "use", "use", "rmi", "prune", "all", "images"])
    try:
        if what == "use":
            with engine.store.hold():
                top, *_ = engine.lowers(engine.image(name))
                assert len(open(top + "/d2/large", "rb").read()) == 300_000
                assert os.listdir(top + "/d2") != []
        elif what == "all":
            VERBS["prune"](engine, ["--all"])
        elif what in ("prune", "images"):
            VERBS[what](engine, [])
        else:
            VERBS[what](engine, [name])
    except CtrtError as error:
        if what != "rmi":
            raise
        assert "there is no image" in str(error), error
engine.close()
"""


def test_pull_use_rmi_and_prune_at_once(host: str, tmp_path: Path) -> None:
    """Several processes do all of it on one store: no one fails, and nothing is left behind."""
    noise = random.Random(5)
    layers = [
        tar(member(f"d{n}/", kind="dir"), member(f"d{n}/large", noise.randbytes(300_000)))
        for n in range(3)
    ]
    pushed(host, tmp_path, "raced", *layers)
    root = str(tmp_path / "raced")
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(tarball.__file__).resolve().parents[3]),
        "CTRT_ROOT": root,
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-c", BUSY, f"{host}/raced:1", str(seed)], env=environment,
            stderr=subprocess.PIPE, text=True,
        )
        for seed in range(4)
    ]  # fmt: skip
    said = [child.communicate(timeout=120)[1] for child in children]
    assert [child.returncode for child in children] == [0] * 4, "\n".join(said)
    store = Store(root)
    store.clean()
    assert os.listdir(store.path("tmp")) == []
    assert ctrt(root, "pull", f"{host}/raced:1").returncode == 0
    assert len(json.loads(ctrt(root, "images", "--json").stdout)) == 1
    assert ctrt(root, "rmi", f"{host}/raced:1").returncode == 0
    assert os.listdir(store.path("blobs", "sha256")) == os.listdir(store.path("layers")) == []
