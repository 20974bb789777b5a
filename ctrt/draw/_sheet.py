"""A sheet to draw on: what the parts of a picture have in common while they are laid out."""

from __future__ import annotations

from ctrt.draw._measure import fit, width
from ctrt.draw._scene import Cell, Detail, Edge, Node, Row

MARGIN = 20.0
PAD = 16.0
GAP = 8.0
PILL = 32.0
CHIP = 32.0
LABEL_SIZE = 13.0
SUB_SIZE = 12.0
BOX_SIZE = 14.0
ROW_SIZE = 12.5
TITLE_SIZE = 18.0
HEAD_SIZE = 11.0
LONGEST = 280.0
WIDEST = 2 * LONGEST + 64
_BORDERS = {
    "dashed": "dashed border: the machine's first namespace",
    "double": "double border: less privileged than where it comes from",
    "dotted": "dotted border: could not be read",
}
_HEXAGON = "hexagon: a peer group, dashed where it is only received from"
_LOCKED = "locked: cannot be unmounted alone, since more privileged namespaces have it too"


class Sheet:
    """Shapes, rows and details in the order they are added."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.rows: list[Row] = []
        self.details: dict[str, Detail] = {}

    def text(self, name: str, x: float, y: float, words: str, code: str = "") -> Node:
        """Words whose line begins at `x` and has its top at `y`."""
        size = {"title": TITLE_SIZE, "heading": BOX_SIZE, "head": HEAD_SIZE}.get(code, SUB_SIZE)
        bold = code in ("title", "heading")
        node = Node(
            name, None, "note", "text", x, y, tidy(width(words, size, bold=bold)),
            tidy(size * 1.5), code=code, label=words,
        )  # fmt: skip
        self.nodes.append(node)
        return node

    def flow(
        self, items: list[Node], x: float, y: float, room: float, height: float = PILL
    ) -> float:
        """Place shapes side by side, in as many lines as they need; the bottom of the last."""
        left = x
        for item in items:
            if left > x and left + item.w > x + room:
                left = x
                y += height + GAP
            self.nodes.append(item._replace(x=tidy(left), y=tidy(y)))
            left += item.w + GAP
        return y + height if items else y

    def legend(self, bottom: float, wide: float) -> float:
        """Say below everything what borders, hexagons and marks mean, if there are any."""
        borders = {node.border for node in self.nodes if node.shape not in ("hexagon", "row")}
        words = [meaning for border, meaning in _BORDERS.items() if border in borders]
        if any(node.kind == "mount" and "locked" in node.sub.split() for node in self.nodes):
            words.append(_LOCKED)
        if any(node.shape == "hexagon" for node in self.nodes):
            words.append(_HEXAGON)
        if not words:
            return bottom
        bottom += 14
        lines = [words[0]]
        for word in words[1:]:
            longer = f"{lines[-1]}  ·  {word}"
            if width(longer, HEAD_SIZE) <= wide - 2 * MARGIN:
                lines[-1] = longer
            else:
                lines.append(word)
        for number, line in enumerate(lines, 1):
            self.text(f"legend:{number}", MARGIN, tidy(bottom), line, "head")
            bottom += 17
        return bottom


def pill(
    name: str, kind: str, icon: str, label: str, sub: str, border: str, parent: str | None
) -> Node:
    """A pill that is as wide as its words, still without a place."""
    label = fit(label, LONGEST, LABEL_SIZE, bold=True)
    sub = fit(sub, LONGEST, SUB_SIZE)
    wide = 34 + width(label, LABEL_SIZE, bold=True) + (8 + width(sub, SUB_SIZE) if sub else 0) + 10
    return Node(
        name, parent, kind, "pill", 0, 0, tidy(wide), PILL,
        icon=icon, code=kind, label=label, sub=sub, border=border,
    )  # fmt: skip


def chip(name: str, label: str, sub: str, parent: str | None, diff: str = "") -> Node:
    """A process, as wide as its words, still without a place."""
    label = fit(label, LONGEST, LABEL_SIZE, mono=True, bold=True)
    sub = fit(sub, LONGEST, SUB_SIZE)
    wide = 14 + width(label, LABEL_SIZE, mono=True) + (10 + width(sub, SUB_SIZE) if sub else 0) + 14
    return Node(
        name, parent, "process", "chip", 0, 0, tidy(wide), CHIP, code="process",
        label=label, sub=sub, diff=diff,
    )  # fmt: skip


def cell(x: float, words: str, room: float) -> Cell:
    """A further column of a row."""
    return Cell(tidy(x), fit(words, room, ROW_SIZE, mono=True))


def tidy(value: float) -> float:
    """A coordinate with at most one decimal, and none when it is whole: the same everywhere."""
    rounded = round(value, 1)
    return int(rounded) if rounded == int(rounded) else rounded
