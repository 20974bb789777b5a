"""What holds of every picture, whatever it shows: for the tests of drawings."""

from __future__ import annotations

import json
from itertools import combinations
from xml.etree import ElementTree

from ctrt.draw import _measure, _svg

SIZES = {"title": 18, "box": 14, "label": 13, "sub": 12, "head": 11, "row": 12.5, "icon": 11}
CLOSE = 1.0


def texts(scene):
    """The boxes of all words in the SVG, by the same conservative measure, with the words."""
    root = ElementTree.fromstring(_svg.render(scene))
    for element in root.iter("{http://www.w3.org/2000/svg}text"):
        if not element.text:
            continue
        classes = element.get("class").split()
        size = next(size for name, size in SIZES.items() if name in classes)
        mono = "mono" in classes or "row" in classes
        bold = not mono and bool({"title", "box", "label", "icon"} & set(classes))
        wide = _measure.width(element.text, size, mono=mono, bold=bold)
        x = float(element.get("x")) - (wide / 2 if {"icon", "mid"} & set(classes) else 0)
        y = float(element.get("y"))
        yield (x, y - size * 0.78, x + wide, y + size * 0.22), element.text


def words_apart(picture):
    """No two texts overlap, and none leaves the picture."""
    found = sorted(texts(picture.scene))
    for (left, top, right, bottom), words in found:
        assert left >= 0, words
        assert top >= 0, words
        assert right <= picture.scene.width, words
        assert bottom <= picture.scene.height, words
    for at, (one, first) in enumerate(found):
        for other, second in found[at + 1 :]:
            if one[2] <= other[0]:
                break  # they are sorted by their left ends
            assert one[3] <= other[1] or other[3] <= one[1], (first, second)


def boxes_apart(picture):
    """What is inside stays inside, and what stands side by side does not overlap."""
    scene = picture.scene
    nodes = {node.id: node for node in scene.nodes}
    assert len(nodes) == len(scene.nodes)
    seen = set()
    for node in scene.nodes:
        around = nodes.get(node.parent)
        if around is not None:
            assert around.id in seen, "a parent comes before its children"
            if around.shape in ("container", "tabbed"):
                assert around.x <= node.x
                assert node.x + node.w <= around.x + around.w + 0.1, node
                assert around.y <= node.y
                assert node.y + node.h <= around.y + around.h + 0.1, node
        seen.add(node.id)
        assert node.x + node.w <= scene.width, node
        assert node.y + node.h <= scene.height, node
    small = [n for n in scene.nodes if n.shape in ("pill", "chip", "trapezoid", "hexagon")]
    boxes = [n for n in scene.nodes if n.shape in ("container", "tabbed")]
    for one, other in (*combinations(small, 2), *combinations(boxes, 2)):
        assert apart(one, other) or other.id in _above(one, nodes) or one.id in _above(
            other, nodes
        ), (one, other)  # fmt: skip
    for one in small:
        for box in boxes:
            assert apart(one, box) or box.id in _above(one, nodes), (one, box)


def _above(node, nodes):
    """The ids of all that a node is in."""
    found = set()
    while node is not None and node.parent is not None:
        found.add(node.parent)
        node = nodes.get(node.parent)
    return found


def apart(one, other):
    """Whether two shapes do not overlap."""
    return (
        one.x + one.w <= other.x
        or other.x + other.w <= one.x
        or one.y + one.h <= other.y
        or other.y + other.h <= one.y
    )


def edges_end_at_shapes(picture):
    """Each line begins and ends at the border of a shape, or within a row that it belongs to."""
    for edge in picture.scene.edges:
        if edge.kind == "ribbon":
            continue  # an area, whose corners are those of two segments
        for x, y in (edge.points[0], edge.points[-1]):
            touched = any(
                node.x - 16 <= x <= node.x + node.w + CLOSE
                and node.y - 2 * CLOSE <= y <= node.y + node.h + 2 * CLOSE
                for node in picture.scene.nodes
            )
            assert touched, (edge, (x, y))


def json_holds_together(picture):
    """The JSON can be written, and its parts name each other rightly."""
    found = picture.json()
    assert json.loads(json.dumps(found)) == found
    assert found["version"] == 1
    rows = [row["id"] for row in found["rows"]]
    assert len(set(rows)) == len(rows)
    known = set()
    for row in found["rows"]:
        assert row["parent"] is None or row["parent"] in known, "a parent comes first"
        assert len(row["cells"]) == len(found["columns"])
        assert row["count"] >= 1
        known.add(row["id"])
    nodes = {node["id"] for node in found["nodes"]}
    assert known - nodes == set()
    assert known - set(found["details"]) == set()
    for edge in found["edges"]:
        assert {edge["from"], edge["to"]} <= nodes
        assert edge["arrow"] in ("none", "end", "both")
    for detail in found["details"].values():
        assert detail["meaning"]
        assert detail["command"]


def sound(picture):
    """Everything above."""
    words_apart(picture)
    boxes_apart(picture)
    edges_end_at_shapes(picture)
    json_holds_together(picture)
