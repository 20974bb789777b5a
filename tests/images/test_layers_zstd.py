"""Layers packed with zstd: by skopeo, by the zstd command, in the shape of zstd:chunked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import listing, needs, run
from images_tools import digest, image, leftovers, member, tar

from ctrt.errors import CtrtError
from ctrt.images import layers
from ctrt.images.store import Store

WORLD = "root" if os.geteuid() == 0 else "single"
LAYER = tar(
    member("d/", kind="dir"), member("d/a", b"a" * 100_000), member("d/b", os.urandom(300_000))
)


def zstd(data: bytes, *options: str) -> bytes:
    needs("zstd")
    return subprocess.run(["zstd", "-c", *options], input=data, capture_output=True,
                          check=True).stdout  # fmt: skip


def unpacked(store: Store, blob: bytes, layer: bytes = LAYER) -> Path:
    made = image(store, layer, blobs=[blob])
    (path,) = layers.unpack(store, made, layers.Unpacker(WORLD))
    return Path(path)


def skippable(data: bytes) -> bytes:
    return 0x184D2A50.to_bytes(4, "little") + len(data).to_bytes(4, "little") + data


def test_skopeo_packs_with_zstd(tmp_path: Path) -> None:
    needs("skopeo")
    plain, packed = Store(str(tmp_path / "a")), Store(str(tmp_path / "b"))
    image(plain, LAYER, name="localhost/x")
    run("skopeo", "copy", "-q", "--dest-compress-format", "zstd",
        f"oci:{plain.root}:localhost/x:latest",
        f"oci:{packed.root}:localhost/x:latest")  # fmt: skip
    found = packed.find("localhost/x")
    assert found is not None
    assert found.layers[0].media_type.endswith("+zstd")
    (path,) = layers.unpack(packed, found, layers.Unpacker(WORLD))
    (same,) = layers.unpack(plain, plain.find("localhost/x"), layers.Unpacker(WORLD))  # type: ignore[arg-type]
    ours, theirs = listing(path), listing(same)
    assert ours["entries"]["d/b"] == theirs["entries"]["d/b"]


@pytest.mark.parametrize("options", [["-1"], ["-19"], ["--ultra", "-22", "--long=27"]])
def test_the_zstd_command(store: Store, options: list[str]) -> None:
    path = unpacked(store, zstd(LAYER, *options))
    assert (path / "d/a").read_bytes() == b"a" * 100_000


def test_many_frames_with_a_table_of_contents_as_in_zstd_chunked(store: Store) -> None:
    """A frame for every file, its table of contents and footer in frames that are skipped."""
    pieces = [LAYER[:512], LAYER[512:1024], LAYER[1024:200_000], LAYER[200_000:]]
    blob = b"".join(zstd(piece) for piece in pieces)
    blob += skippable(zstd(b'{"version":1,"entries":[]}')) + skippable(b"GnUlInUx" * 8)
    path = unpacked(store, blob)
    assert (path / "d/a").read_bytes() == b"a" * 100_000
    assert (path / "d/b").stat().st_size == 300_000


@pytest.mark.parametrize(
    ("blob", "sentence"),
    [
        (lambda: zstd(LAYER)[:-20], "its zstd data ends too early"),
        (lambda: zstd(LAYER, "--check")[:-1] + b"!", "its zstd data is broken ("),
        (lambda: zstd(LAYER) + b"more", "its zstd data is broken ("),
        # RFC 8878, 3.1.1.1.2: the byte says 2 GiB; then a last raw block of one byte.
        (lambda: b"\x28\xb5\x2f\xfd\x00\xa8\x09\x00\x00x", "its zstd data is broken ("),
    ],
    ids=["cut", "checksum", "tail", "window of a gigabyte"],
)
def test_hostile_zstd_is_a_sentence_and_leaves_nothing(
    store: Store, blob: object, sentence: str | None
) -> None:
    data = blob()  # type: ignore[operator]
    made = image(store, LAYER, blobs=[data], diff_ids=[digest(LAYER)])
    with pytest.raises(CtrtError) as caught:
        layers.unpack(store, made, layers.Unpacker(WORLD))
    start = f"cannot unpack localhost/test:latest: layer {made.layers[0].digest[7:19]}: "
    assert str(caught.value).startswith(start + (sentence or ""))
    assert "\n" not in str(caught.value)
    assert leftovers(store) == []
