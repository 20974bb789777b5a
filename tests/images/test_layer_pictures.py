"""The layer view: what each layer does to the files, as values and as a picture."""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
from images_tools import member, tar

from ctrt import draw
from ctrt.engine import Engine
from ctrt.engine.verbs import VERBS
from ctrt.images import compose
from ctrt.images.contents import Change, Tree, read
from ctrt.images.stack import stack
from ctrt.images.store import Image, Store

BELOW = tar(
    member("etc/", kind="dir"),
    member("etc/old", b"o" * 1000),
    member("etc/changed", b"c" * 500),
    member("etc/link", kind="symlink", link="old"),
    member("dir/", kind="dir"),
    member("dir/one", b"1" * 10),
    member("dir/two", b"2" * 20),
    member("hidden/", kind="dir"),
    member("hidden/a", b"a" * 30),
    member("same/", kind="dir", mode=0o755),
)
MIDDLE = tar(
    member("etc/.wh.old"),
    member("etc/changed", b"C" * 700),
    member("etc/hard", kind="link", link="etc/changed"),
    member("dir", b"now a file"),
    member("hidden/.wh..wh..opq"),
    member("hidden/b", b"b" * 40),
    member("same/", kind="dir", mode=0o755),
    member("etc/.wh.never-was"),
)
LEFT = tar(member("left", b"l" * 5))
RIGHT = tar(*(member(f"many/d{at % 3}/f{at}", b"x" * at) for at in range(40)))
HISTORY = ["FROM the beginning", 'RUN <change> & "more"', "COPY last /"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def made(store: Store, name: str, *parts: bytes) -> Image:
    history: list[dict[str, object]] = [{"created_by": line} for line in HISTORY[: len(parts)]]
    history.insert(1, {"created_by": "ENV X=1", "empty_layer": True})
    config = {"architecture": "amd64", "os": "linux", "config": {}, "history": history}
    with store.hold():
        blobs = [compose.add_layer(store, [part]) for part in parts]
        return compose.add_image(store, name, config, blobs)


def test_what_each_layer_does(store: Store) -> None:
    image = made(store, "localhost/x", BELOW, MIDDLE)
    first, second = stack(store, image)
    assert [(c.what, c.path) for c in second.changes] == [
        ("changed", "dir"),
        ("deleted", "dir/one"),
        ("deleted", "dir/two"),
        ("changed", "etc/changed"),
        ("added", "etc/hard"),
        ("deleted", "etc/old"),
        ("deleted", "hidden/a"),
        ("added", "hidden/b"),
    ]
    assert (first.hidden, second.hidden) == (0, 10 + 20 + 500 + 1000 + 30)
    assert second.files == 10 + 700 + 40, "a second name of a file weighs nothing"
    assert second.made_by == HISTORY[1], "lines without a layer are not counted"
    assert Change("etc/hard", "added", 0, 0, "0") in second.changes


def test_the_tree_follows_links_and_reads_through_layers(store: Store) -> None:
    image = made(store, "localhost/x", BELOW, MIDDLE)
    tree = Tree.of(store, image.layers)
    node = tree.get("etc/hard")
    assert node is not None
    assert read(store, image.layers, node) == b"C" * 700
    assert tree.get("etc/link") is None, "what it pointed to is gone"
    assert tree.resolve("etc/link/../x") == "etc/x"
    assert tree.resolve("../../etc") == "etc"


def test_the_lists_are_kept_and_a_broken_one_is_made_again(store: Store) -> None:
    image = made(store, "localhost/x", BELOW)
    before = stack(store, image)
    place = store.path("cache", "contents")
    (name,) = os.listdir(place)
    (Path(place) / name).write_text("{broken")
    assert stack(store, image) == before
    json.loads((Path(place) / name).read_text())


def test_the_picture_in_its_three_forms(store: Store) -> None:
    image = made(store, "localhost/x", BELOW, MIDDLE, RIGHT)
    picture = draw.layers("localhost/x", stack(store, image))
    text = picture.text()
    lines = text.split("\n")
    assert lines[0] == "Layers of localhost/x"
    heads = [line.split()[0] for line in lines[3:] if line[:1].isdigit()]
    assert heads == ["3", "2", "1"], "the topmost stands above"
    assert "- /etc/old" in text
    assert "1.6 kB of it wasted" in text
    scene = picture.json()
    assert scene["view"] == "layers"
    shown = {row["cells"][0]: row["diff"] for row in scene["rows"] if row["kind"] == "file"}
    assert shown["/etc/old"] == "-", "the sign is a row's, and not in its words, too"
    assert not [words for words in shown if words[:1] in "+~-"]
    ids = {row["id"] for row in scene["rows"]}
    assert {"layer:1", "layer:2", "layer:3", "layer:3/1"} <= ids
    known = {node["id"] for node in scene["nodes"]}
    assert ids <= known
    assert scene["details"]["layer:2"]["raw"][0]["line"] == image.layers[1].digest[7:]
    for node in scene["nodes"]:
        assert node["x"] >= 0
        assert node["x"] + node["w"] <= scene["width"], node["id"]
        assert node["y"] + node["h"] <= scene["height"], node["id"]
    root = ElementTree.fromstring(picture.svg())
    words = "".join(root.itertext())
    assert 'RUN <change> & "more"' in words
    assert picture.svg() == draw.layers("localhost/x", stack(store, image)).svg()


def test_two_images_share_what_they_share(store: Store) -> None:
    first = made(store, "localhost/a", BELOW, MIDDLE, LEFT)
    second = made(store, "localhost/b", BELOW, MIDDLE, RIGHT)
    picture = draw.layers("localhost/a", stack(store, first), "localhost/b", stack(store, second))
    scene = picture.json()
    slabs = [node["id"] for node in scene["nodes"] if node["code"] == "layer"]
    assert slabs == ["layer:a3", "layer:b3", "layer:2", "layer:1"]
    assert "They share 2 layers." in scene["description"]
    nothing = draw.layers("localhost/a", stack(store, first), "localhost/c", [])
    assert "They share 0 layers." in nothing.json()["description"]


def test_a_name_of_a_stranger_does_no_harm_to_the_terminal(store: Store) -> None:
    image = made(store, "localhost/x", tar(member("\x1b[31m\nred", b"x")))
    text = draw.layers("localhost/x", stack(store, image)).text()
    assert "\x1b" not in text


def test_the_verbs(tmp_path: Path) -> None:
    engine = Engine(str(tmp_path / "root"))
    made(engine.store, "localhost/x", BELOW, MIDDLE)
    shown = str(VERBS["layers"](engine, ["localhost/x"]))
    assert shown == str(VERBS["graph"](engine, ["image", "localhost/x"]))
    out = tmp_path / "x.svg"
    VERBS["graph"](engine, ["image", "localhost/x", "localhost/x", "--svg", str(out)])
    assert out.read_text().startswith("<svg")
    found = json.loads(str(VERBS["layers"](engine, ["localhost/x", "--json"])))
    assert found["title"] == "Layers of localhost/x"
