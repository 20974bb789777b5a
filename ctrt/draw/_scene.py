"""The picture as a value: rows of a tree-table, and shapes with places and sizes.

Coordinates are in user units, from the top left corner. What a shape looks like is said
here once, and every renderer follows it:

- container: a rounded box; its label stands at the top left, what is inside comes after it
- tabbed: a box with a tab at the top left that holds the label
- pill: icon (one letter in a disc), label, and `sub` in a quieter tone behind it
- chip: a small box with the label in a fixed-width font and `sub` behind it
- row: a line of a table; the label at `x`, further columns in `cells` with their own places
- hexagon: a peer group's number
- segment: a piece of a ruler, its label in the middle
- trapezoid: a cgroup, label and `sub`
- text: words without a border; `code` is "title", "heading", "head" (of a column), "sign" (of a
  difference), "seen" (what the kernel tells of a step that was made) or ""
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ctrt.draw._text import Block

MIME = "application/vnd.ctrt.graph.v1+json"


class Column(NamedTuple):
    """A column of the tree-table; the first one holds the tree."""

    key: str
    title: str


class Row(NamedTuple):
    """A line of the tree-table; `number` says how many things it stands for."""

    id: str
    parent: str | None
    kind: str
    cells: tuple[str, ...]
    diff: str = ""
    number: int = 1


class Cell(NamedTuple):
    """A text at a place of its own within a row, or a mark: "on", "off", "gained", "lost"."""

    x: float
    text: str
    mark: str = ""


class Node(NamedTuple):
    """A shape with its place.

    `border` is solid, dashed (initial namespace), double (less privileged than its origin)
    or dotted (could not be read).
    """

    id: str
    parent: str | None
    kind: str
    shape: str
    x: float
    y: float
    w: float
    h: float
    icon: str = ""
    code: str = ""
    label: str = ""
    sub: str = ""
    border: str = "solid"
    diff: str = ""
    strike: bool = False
    lane: int | None = None
    cells: tuple[Cell, ...] = ()


class Edge(NamedTuple):
    """A line. `kind`: tree, peer, slave, from or link; `arrow`: none, end or both.

    A "ribbon" is an area instead: its points are the corners, and it joins what is the same.
    """

    source: str
    target: str
    kind: str
    points: tuple[tuple[float, float], ...]
    arrow: str = "none"
    dash: bool = False


class Raw(NamedTuple):
    """A line of the kernel's that something was read from."""

    path: str
    line: str


class Detail(NamedTuple):
    """What is said about one thing when it is asked for."""

    meaning: str
    raw: tuple[Raw, ...]
    man: str
    command: str


class Scene(NamedTuple):
    """Everything a renderer needs."""

    view: str
    title: str
    description: str
    width: float
    height: float
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    details: dict[str, Detail]


class Picture:
    """A drawing that shows itself in a notebook, in a terminal and in a web page.

    Its three forms are made when they are asked for, always the same ones from the same scene.
    """

    __slots__ = ("_blocks", "scene")

    def __init__(self, scene: Scene, blocks: tuple[Block, ...]) -> None:
        self.scene = scene
        self._blocks = blocks

    def text(self, width: int | None = None) -> str:
        """The picture in characters, at most `width` columns wide (100 if None)."""
        from ctrt.draw._text import render

        return render(self._blocks, 100 if width is None else width)

    def svg(self) -> str:
        """The picture as an SVG document, in light or dark as the viewer prefers."""
        from ctrt.draw._svg import render

        return render(self.scene)

    def json(self) -> dict[str, Any]:
        """The scene as JSON, for the renderer of `application/vnd.ctrt.graph.v1+json`."""
        scene = self.scene
        return {
            "version": 1,
            "view": scene.view,
            "title": scene.title,
            "description": scene.description,
            "width": scene.width,
            "height": scene.height,
            "columns": [column._asdict() for column in scene.columns],
            "rows": [
                {
                    "id": row.id,
                    "parent": row.parent,
                    "kind": row.kind,
                    "cells": list(row.cells),
                    "diff": row.diff,
                    "count": row.number,
                }
                for row in scene.rows
            ],
            "nodes": [_node(node) for node in scene.nodes],
            "edges": [
                {
                    "from": edge.source,
                    "to": edge.target,
                    "kind": edge.kind,
                    "points": [list(point) for point in edge.points],
                    "arrow": edge.arrow,
                    "dash": edge.dash,
                }
                for edge in scene.edges
            ],
            "details": {
                name: {**detail._asdict(), "raw": [raw._asdict() for raw in detail.raw]}
                for name, detail in scene.details.items()
            },
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Picture):
            return NotImplemented
        return self.scene == other.scene and self._blocks == other._blocks

    def __hash__(self) -> int:
        return hash((self.scene.title, self.scene.rows, self.scene.nodes))

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return {"text/plain": self.text(), "image/svg+xml": self.svg(), MIME: self.json()}


def _node(node: Node) -> dict[str, Any]:
    found = node._asdict()
    found["cells"] = [cell._asdict() for cell in node.cells]
    for name, nothing in (("strike", False), ("lane", None), ("cells", [])):
        if found[name] == nothing:
            del found[name]
    return found
