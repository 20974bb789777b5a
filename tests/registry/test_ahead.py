"""Layers are unpacked while they come: the same trees, and nothing of it where a pull fails."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_ISCHR, S_ISREG

import pytest
from cutting import Cutting
from images_tools import digest, image, member, tar

from ctrt.errors import CtrtError
from ctrt.images import layers, registries, transports
from ctrt.images.copy import push
from ctrt.images.progress import Progress
from ctrt.images.pull import pull
from ctrt.images.registry import Registry
from ctrt.images.store import Image, Store
from ctrt.images.transports import Options

SIZE = 600_000

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="unpacks as root")


def layer(noise: random.Random, number: int) -> bytes:
    return tar(
        member(f"d{number}/", kind=b"5"),
        member(f"d{number}/large", noise.randbytes(SIZE)),
        member(f"d{number}/small", b"x"),
        # Links into the layer below and a whiteout need the layers in their order.
        *([member(f"d{number}/link", kind=b"1", link=f"d{number - 1}/large"),
           member(f"d{number - 1}/.wh.small")] if number else []),
    )  # fmt: skip


@pytest.fixture(scope="module")
def pushed(
    start_registry: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Image]:
    host = start_registry()
    store = Store(str(tmp_path_factory.mktemp("ahead")))
    noise = random.Random(3)
    contents = [layer(noise, number) for number in range(5)]
    contents.append(contents[0])  # the same blob twice
    made = image(store, *contents, name="localhost/x")
    push(store, made, transports.destination(f"{host}/x:1", Options(), registries.Config()))
    return host, made


@pytest.fixture
def proxy(pushed: tuple[str, Image]) -> Iterator[Cutting]:
    with Cutting(pushed[0]) as proxy:
        yield proxy


class Watched:
    """An unpacker that tells when it begins and ends."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.how = layers.Unpacker("root", self._spawn)

    def _spawn(self, argv: list[str]) -> int:
        self.events.append(f"{argv[-2]} begins")
        status = layers.run_here(argv)
        self.events.append(f"{argv[-2]} ends")
        return status

    def take(self, news: Progress) -> None:
        if news.status == "done":
            self.events.append("layer done")


def fetch(store: Store, host: str, unpacker: layers.Unpacker | None, **options: object) -> Image:
    client = Registry(host, plain_http=True, read_seconds=5, pause=lambda _: None)
    try:
        return pull(store, f"{host}/x:1", registry=client, unpacker=unpacker, **options)  # type: ignore[arg-type]
    finally:
        client.close()


def looks(place: str) -> dict[str, tuple[object, ...]]:
    """Every path with its mode, owner, time, number of links and content."""
    found = {}
    for above, directories, files in os.walk(place):
        for name in (".", *directories, *files):
            path = os.path.join(above, name)
            stat = os.lstat(path)
            data = Path(path).read_bytes() if S_ISREG(stat.st_mode) else b""
            found[os.path.relpath(path, place)] = (
                stat.st_mode, stat.st_uid, stat.st_gid, stat.st_nlink, data,
                # A whiteout is made by whoever unpacks, at some time.
                0 if S_ISCHR(stat.st_mode) else stat.st_mtime_ns,
            )  # fmt: skip
    return found


def test_it_begins_before_the_last_layer_is_there_and_makes_the_same(
    pushed: tuple[str, Image], tmp_path: Path
) -> None:
    host, _ = pushed
    ahead, after = Store(str(tmp_path / "ahead")), Store(str(tmp_path / "after"))
    watched = Watched()
    made = fetch(ahead, host, watched.how, progress=watched.take)
    first = watched.events.index("unpack begins")
    assert "layer done" in watched.events[first:], "the program ran beside the fetching"
    assert len(os.listdir(ahead.path("layers"))) == 6
    assert os.listdir(ahead.path("tmp")) == []
    watched.events.clear()
    there = layers.unpack(ahead, made, watched.how)
    assert watched.events == [], "there was nothing left to do"
    fetch(after, host, None)
    plain = layers.unpack(after, made, layers.Unpacker("root"))
    assert len(there) == len(plain) == 6
    for one, other in zip(there, plain, strict=True):
        assert looks(one) == looks(other)


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_leaves_neither_a_program_nor_a_layer(
    store: Store, pushed: tuple[str, Image], proxy: Cutting, seed: int
) -> None:
    total = sum(layer.size for layer in pushed[1].layers[:5])
    proxy.revive(random.Random(seed).randrange(1, total))
    watched = Watched()
    with pytest.raises(CtrtError, match=r"^cannot pull \S+: "):
        fetch(store, proxy.host, watched.how)
    # A cut before the layers were named did not even begin.
    assert watched.events.count("unpack begins") == watched.events.count("unpack ends")
    for place in ("tmp", "layers"):
        assert os.listdir(store.path(place)) == []
    proxy.revive()
    made = fetch(store, proxy.host, watched.how)
    assert len(os.listdir(store.path("layers"))) == 6
    assert Path(layers.unpack(store, made, watched.how)[1], "d4/small").read_bytes() == b"x"


def test_an_interrupted_pull_ends_the_program(
    store: Store, pushed: tuple[str, Image], proxy: Cutting
) -> None:
    watched = Watched()

    def interrupt(news: Progress) -> None:
        if news.done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(store, proxy.host, watched.how, progress=interrupt)
    assert watched.events.count("unpack ends") == watched.events.count("unpack begins") == 1
    assert os.listdir(store.path("layers")) == os.listdir(store.path("tmp")) == []


def test_a_half_that_was_wrong_is_no_harm(
    store: Store, pushed: tuple[str, Image], proxy: Cutting
) -> None:
    """What was unpacked of it is thrown away; `unpack` reads the right blob."""
    wrong = pushed[1].layers[2].digest[7:]
    os.makedirs(store.path("partial"))
    Path(store.path("partial", wrong)).write_bytes(b"what a power cut left" * 1000)
    watched = Watched()
    made = fetch(store, proxy.host, watched.how)
    below = layers.unpack(store, made, watched.how)
    assert Path(below[1], "d4/small").read_bytes() == b"x"


def test_a_layer_that_is_not_what_the_image_says(
    start_registry: Callable[..., str], tmp_path: Path
) -> None:
    """The pull is well, as every blob is what its digest says; unpacking tells what is wrong."""
    host = start_registry()
    source, store = Store(str(tmp_path / "source")), Store(str(tmp_path / "store"))
    made = image(
        source, tar(member("a", b"1")), tar(member("b", b"2")), name="localhost/x",
        diff_ids=[digest(tar(member("a", b"1"))), digest(b"another")],
    )  # fmt: skip
    push(source, made, transports.destination(f"{host}/x:1", Options(), registries.Config()))
    watched = Watched()
    pulled = fetch(store, host, watched.how)
    assert os.listdir(store.path("layers")) == []
    with pytest.raises(CtrtError, match="its content has the digest"):
        layers.unpack(store, pulled, watched.how)
    assert os.listdir(store.path("layers")) == os.listdir(store.path("tmp")) == []
