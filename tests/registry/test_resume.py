"""Connections that are cut, disks that are full: the next pull goes on where the last one was."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import run
from cutting import Cutting
from faulty import Faulty, Request
from images_tools import image, leftovers, member, tar

from ctrt.errors import CtrtError
from ctrt.images import registries, transports
from ctrt.images.copy import push
from ctrt.images.progress import Progress
from ctrt.images.pull import pull
from ctrt.images.registry import Registry
from ctrt.images.store import Image, Store
from ctrt.images.transports import Options

LAYERS = 6
SIZE = 400_000


@pytest.fixture(scope="module")
def pushed(
    start_registry: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Image]:
    """A real registry with an image of several layers of random bytes."""
    host = start_registry()
    store = Store(str(tmp_path_factory.mktemp("resume")))
    noise = random.Random(7)
    layers = [tar(member(f"f{n}", noise.randbytes(SIZE))) for n in range(LAYERS)]
    made = image(store, *layers, name="localhost/x")
    to = transports.destination(f"{host}/x:1", Options(), registries.Config())
    push(store, made, to)
    return host, made


@pytest.fixture
def proxy(pushed: tuple[str, Image]) -> Iterator[Cutting]:
    with Cutting(pushed[0]) as proxy:
        yield proxy


def fetch(store: Store, host: str, **options: Any) -> Image:
    client = Registry(host, plain_http=True, read_seconds=5, pause=lambda _: None)
    try:
        return pull(store, f"{host}/x:1", registry=client, **options)
    finally:
        client.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_cut_at_a_random_point(
    store: Store, pushed: tuple[str, Image], proxy: Cutting, seed: int
) -> None:
    _, made = pushed
    total = sum(layer.size for layer in made.layers)
    limit = random.Random(seed).randrange(1, total)
    proxy.revive(limit)
    with pytest.raises(CtrtError, match=r"^cannot pull \S+: ") as caught:
        fetch(store, proxy.host)
    assert "\n" not in str(caught.value)
    assert leftovers(store) == []
    assert store.images() == []
    finished = {layer.digest for layer in made.layers if store.has_blob(layer.digest)}
    halves = {
        f"sha256:{name}": os.stat(store.path("partial", name)).st_size
        for name in (
            os.listdir(store.path("partial")) if os.path.isdir(store.path("partial")) else ()
        )
    }
    proxy.revive()
    proxy.asked.clear()
    again = fetch(store, proxy.host)
    assert (again.digest, len(again.layers)) == (made.digest, LAYERS)
    asked = {path.rpartition("/")[2]: begin for _, path, begin in proxy.asked if "/blobs/" in path}
    assert not finished & set(asked), "a finished layer was fetched again"
    for digest, size in halves.items():
        assert asked[digest] == size, "half a layer was not gone on with"
    assert proxy.passed < total - sum(halves.values()) - SIZE * len(finished) + 60_000
    assert os.listdir(store.path("partial")) == []


def test_an_old_half_that_is_wrong_is_fetched_from_the_start(
    store: Store, pushed: tuple[str, Image], proxy: Cutting
) -> None:
    _, made = pushed
    layer = made.layers[2]
    Path(store.root, "partial").mkdir(parents=True)
    half = Path(store.path("partial", layer.digest[7:]))
    half.write_bytes(b"what a power cut left" * 1000)
    assert fetch(store, proxy.host).digest == made.digest
    begins = [begin for _, path, begin in proxy.asked if layer.digest in path]
    assert begins == [21_000, 0]


def test_a_half_that_is_too_long_is_no_help(
    store: Store, pushed: tuple[str, Image], proxy: Cutting
) -> None:
    _, made = pushed
    Path(store.root, "partial").mkdir(parents=True)
    Path(store.path("partial", made.layers[0].digest[7:])).write_bytes(bytes(SIZE * 2))
    assert fetch(store, proxy.host).digest == made.digest


def test_two_pulls_at_once_fetch_each_layer_once(
    store: Store, pushed: tuple[str, Image], proxy: Cutting
) -> None:
    problems: list[BaseException] = []

    def work() -> None:
        try:
            fetch(Store(store.root), proxy.host)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    for layer in pushed[1].layers:
        asked = [path for _, path, _ in proxy.asked if layer.digest in path]
        assert len(asked) == 1
    assert os.listdir(store.path("partial")) == []


def test_an_interrupted_pull_keeps_its_halves(
    store: Store, pushed: tuple[str, Image], proxy: Cutting
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done > 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(store, proxy.host, progress=interrupt)
    assert leftovers(store) == []
    seen: list[Progress] = []
    assert fetch(store, proxy.host, progress=seen.append).layers
    assert sum(layer.size for layer in pushed[1].layers) > 0


def test_garbage_collection_takes_halves(store: Store, pushed: tuple[str, Image]) -> None:
    with Cutting(pushed[0]) as proxy:
        proxy.revive(700_000)
        with pytest.raises(CtrtError):
            fetch(store, proxy.host)
    assert os.listdir(store.path("partial"))
    store.collect()
    assert os.listdir(store.path("partial")) == []


def test_the_other_layers_of_a_pull_that_fails_are_kept(store: Store) -> None:
    server = Faulty()
    try:
        server.image(layers=3)

        def lies(request: Request) -> bool:
            _, body = request.server.content[request.path]
            request.answer(200, body[: len(body) // 2] + b"?" + body[len(body) // 2 + 1 :])
            return True

        bad = next(path for path in server.content if "/blobs/" in path)
        server.acts[bad] = [lies]
        with pytest.raises(CtrtError, match="its digest should be"):
            fetch(store, server.host)
        assert os.path.basename(bad)[7:] not in os.listdir(store.path("partial"))
        server.acts.clear()
        assert fetch(store, server.host).layers
    finally:
        server.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk(pushed: tuple[str, Image], proxy: Cutting) -> None:
    place = tempfile.mkdtemp(prefix="ctrt-full-")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "none", place],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        os.rmdir(place)
        pytest.skip("tmpfs cannot be mounted")
    try:
        store = Store(f"{place}/store")
        with pytest.raises(CtrtError) as caught:
            fetch(store, proxy.host)
        assert "cannot be written: No space left on device" in str(caught.value)
        assert leftovers(store) == []
        assert store.images() == []
        run("mount", "-o", "remount,size=20M", place)
        assert fetch(store, proxy.host).digest == pushed[1].digest
    finally:
        run("umount", place)
        shutil.rmtree(place)
