"""A picture in characters: trees and tables that line up in any fixed-width font."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from ctrt.draw._measure import cells, clip


class Line(NamedTuple):
    """A line of a table: the depth of its first cell in the tree, or -1 for no tree."""

    depth: int
    cells: tuple[str, ...]
    strike: bool = False


class Block(NamedTuple):
    """A part of the text: a heading, a table with or without heads, and notes below it."""

    title: str = ""
    heads: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    notes: tuple[str, ...] = ()


GAP = "  "
_NARROWEST = 6


def render(blocks: tuple[Block, ...], width: int) -> str:
    """The blocks below each other, an empty line between them, no blanks at the ends of lines."""
    parts = []
    for block in blocks:
        lines = _wrapped(block.title, width) if block.title else []
        lines += _table(block, width)
        for note in block.notes:
            lines += _wrapped(note, width)
        parts.append("\n".join(line.rstrip() for line in lines))
    return "\n\n".join(part for part in parts if part)


def _table(block: Block, width: int) -> list[str]:
    if not block.lines:
        return []
    guides = _guides(block.lines)
    table = [line.cells for line in block.lines]
    columns = max(len(row) for row in table)
    table = [row + ("",) * (columns - len(row)) for row in table]
    used = [column for column in range(columns) if any(row[column] for row in table)]
    if block.heads:
        guides.insert(0, "")
        table.insert(0, block.heads)
    # A line with nothing behind its first cell may run on below the further columns.
    alone = [not any(row[1:]) for row in table]
    widths = [max(cells(row[column]) for row in table) for column in range(columns)]
    widths[0] = max(
        (
            cells(guide + row[0])
            for guide, row, single in zip(guides, table, alone, strict=True)
            if not single
        ),
        default=width,
    )
    # The widest columns give way first, down to what can still be recognised; the tree last.
    while sum(widths[column] for column in used) + len(GAP) * (len(used) - 1) > width:
        further = [column for column in used[1:] if widths[column] > 3 * _NARROWEST]
        widest = max(further or used, key=lambda column: widths[column])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    lines = []
    starts, left = [], 0
    for column in used:
        starts.append(left)
        left += widths[column] + len(GAP)
    for guide, row, single in zip(guides, table, alone, strict=True):
        room = width if single else widths[0]
        line = guide + clip(row[0], max(room - cells(guide), 1))
        filled = [place for place, column in enumerate(used) if place and row[column]]
        placed = []
        end = width
        for before, place in reversed(list(pairwise([0, *filled]))):
            text = row[used[place]]
            # What does not fit begins further left where nothing stands there.
            while cells(text) > end - starts[place] and place - 1 > before:
                place -= 1  # noqa: PLW2901
            placed.append((starts[place], clip(text, end - starts[place])))
            end = starts[place] - len(GAP)
        for start, text in reversed(placed):
            line = _padded(line, start) + text
        lines.append(line)
    return lines


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cells(text))


def _guides(lines: tuple[Line, ...]) -> list[str]:
    """The branches of the tree before each line's first cell."""
    guides = []
    more: list[bool] = []  # by level: whether a later line of the same branch is there
    for line in reversed(lines):
        depth = max(line.depth, 0)
        more = (more + [False] * (depth + 1))[: depth + 1]
        guide = "".join("│  " if on else "   " for on in more[1:depth])
        if depth:
            guide += "├─ " if more[depth] else "└─ "
        guides.append(guide)
        more[depth] = True
    return guides[::-1]


def _wrapped(text: str, width: int) -> list[str]:
    """Words in lines of at most `width` columns; a longer word loses its middle."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and cells(lines[-1]) + 1 + cells(word) <= width:
            lines[-1] += " " + word
        else:
            indent = "  " if lines else ""
            lines.append(indent + clip(word, width - len(indent)))
    return lines
