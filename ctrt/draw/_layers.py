"""Layers: an image as a stack of slabs, the topmost above; two images side by side.

A slab says its size, how much it adds, changes and deletes, and the line of history that made
it; below that stand the paths that weigh most, put together by directory where they are many.
What two images share is drawn once, as wide as both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctrt.draw._measure import fit
from ctrt.draw._measure import width as text_width
from ctrt.draw._scene import Cell, Column, Detail, Node, Picture, Raw, Row, Scene
from ctrt.draw._sheet import BOX_SIZE, HEAD_SIZE, MARGIN, ROW_SIZE, SUB_SIZE, Sheet, cell, tidy
from ctrt.draw._text import Block, Line
from ctrt.words import plural, size_text, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctrt.images.contents import Change
    from ctrt.images.stack import Slab

_WIDE = 760.0
_HALF = 560.0
_GAP = 20.0
_LINE = 24.0
_HEAD = 66.0
_SHOWN = 6
_MARKS = {"added": "+", "changed": "~", "deleted": "-"}
_DRAWN = {"added": "gained", "deleted": "lost"}


class _Shown(NamedTuple):
    """Some changes of a layer that are shown as one."""

    what: str
    path: str
    number: int
    size: int


def layers(
    name: str,
    slabs: Sequence[Slab],
    other_name: str = "",
    other: Sequence[Slab] | None = None,
    *,
    title: str | None = None,
) -> Picture:
    """The stack of an image, or with `other` the stacks of two with what they share."""
    shared = 0
    if other is not None:
        for mine, theirs in zip(slabs, other, strict=False):
            if mine.chain_id != theirs.chain_id:
                break
            shared += 1
    names = [name] if other is None else [name, other_name]
    title = visible(title or f"Layers of {' and '.join(names)}")
    sheet = Sheet()
    sheet.text("title", MARGIN, 18, title, "title")
    if other is None:
        notes = [_total(name, slabs)]
    else:
        notes = [f"A  {_total(name, slabs)}", f"B  {_total(other_name, other)}"]
    y = 50.0
    for number, note in enumerate(notes, 1):
        sheet.text(f"note:{number}", MARGIN, y, note)
        y += 20
    y += 12
    lines: list[Line] = []
    wide = _WIDE if other is None else 2 * _HALF + _GAP
    if other is None:
        y = _column(sheet, lines, slabs[::-1], MARGIN, y, wide, "")
    else:
        tops = []
        for at, (words, own, side) in enumerate(((name, slabs, "a"), (other_name, other, "b"))):
            left = MARGIN + at * (_HALF + _GAP)
            shown = fit(f"{side.upper()}  {visible(words)}", _HALF, BOX_SIZE, bold=True)
            sheet.text(f"head:{side}", left, y, shown, "heading")
            mark = side.upper()
            tops.append(_column(sheet, lines, own[shared:][::-1], left, y + 30, _HALF, side, mark))
        y = max(tops)
        y = _column(sheet, lines, slabs[:shared][::-1], MARGIN, y, wide, "", "both")
    legend = (
        "+ added  ·  ~ changed  ·  - deleted  ·  hides: bytes below that nobody can reach any more"
    )
    sheet.text("legend:1", MARGIN, y + 4, legend, "head")
    wide = max(
        wide + 2 * MARGIN,
        *(text_width(note, SUB_SIZE) + 2 * MARGIN for note in notes),
        text_width(legend, HEAD_SIZE) + 2 * MARGIN,
        sheet.nodes[0].w + 2 * MARGIN,
    )
    heads = ("Layer", "Size", "Added", "Changed", "Deleted", "Hides", "Made by")
    scene = Scene(
        "layers",
        title,
        " ".join(f"{note}." for note in notes)
        + (f" They share {plural(shared, 'layer')}." if other is not None else ""),
        tidy(wide),
        tidy(y + 4 + HEAD_SIZE * 1.5 + MARGIN),
        tuple(Column(head.lower().replace(" ", "_"), head) for head in heads),
        tuple(sheet.rows),
        tuple(sheet.nodes),
        tuple(sheet.edges),
        sheet.details,
    )
    table = Block("", tuple(head.upper() for head in heads), tuple(lines), tuple(notes))
    return Picture(scene, (Block(title), table))


def _total(name: str, slabs: Sequence[Slab]) -> str:
    packed, files = sum(slab.size for slab in slabs), sum(slab.files for slab in slabs)
    hidden = sum(slab.hidden for slab in slabs)
    wasted = f"{size_text(hidden)} of it wasted" if hidden else "nothing of it wasted"
    return (
        f"{visible(name)}: {plural(len(slabs), 'layer')}, {size_text(packed)} packed,"
        f" {size_text(files)} of files, {wasted}"
    )


def _column(
    sheet: Sheet,
    lines: list[Line],
    slabs: Sequence[Slab],
    x: float,
    y: float,
    wide: float,
    side: str,
    whose: str = "",
) -> float:
    """Draw slabs below each other; the bottom of the last."""
    for slab in slabs:
        y = _slab(sheet, lines, slab, x, y, wide, side, whose) + 8
    return y


def _slab(
    sheet: Sheet,
    lines: list[Line],
    slab: Slab,
    x: float,
    y: float,
    wide: float,
    side: str,
    whose: str,
) -> float:
    name = f"layer:{side}{slab.number}"
    shown = _lines(slab.changes)
    counts = [slab.count(what) for what in _MARKS]
    marks = "  ".join(
        f"{mark}{count}" for mark, count in zip(_MARKS.values(), counts, strict=True) if count
    )
    sub = f"{size_text(slab.size)}   {marks or 'no files'}"
    if slab.hidden:
        sub += f"   hides {size_text(slab.hidden)}"
    made = visible(slab.made_by) or "history does not say what made it"
    high = _HEAD + len(shown) * _LINE + (8 if shown else 0)
    sheet.nodes.append(
        Node(
            name, None, "mnt", "container", tidy(x), tidy(y), tidy(wide), tidy(high),
            icon=str(slab.number), code="layer", label=slab.digest[7:19], sub=sub,
            diff={"a": "-", "b": "+"}.get(side, ""),
        )
    )  # fmt: skip
    words = fit(made, wide - 46 - 20, SUB_SIZE)
    sheet.nodes.append(
        Node(f"{name}/by", name, "note", "text", tidy(x + 46), tidy(y + 40),
             tidy(text_width(words, SUB_SIZE)), tidy(SUB_SIZE * 1.5), label=words)
    )  # fmt: skip
    cells = (
        f"{slab.number}  {slab.digest[7:19]}" + (f"  {whose}" if whose else ""),
        size_text(slab.size), *map(str, counts), size_text(slab.hidden) if slab.hidden else "",
        made,
    )  # fmt: skip
    sheet.rows.append(Row(name, None, "layer", cells, "", 1))
    lines.append(Line(0, cells))
    sheet.details[name] = Detail(
        f"Layer {slab.number}, made by: {made}",
        (
            Raw("blobs/sha256", slab.digest[7:]),
            Raw("mediaType", slab.media_type),
            Raw("rootfs.diff_ids", slab.diff_id),
        ),
        "image-spec, layer.md",
        "ctrt history IMAGE",
    )
    top = y + _HEAD
    for number, line in enumerate(shown, 1):
        row = f"{name}/{number}"
        text = visible(line.path)
        mark = _MARKS.get(line.what, "")
        room = wide - 46 - 20 - 190
        label = fit(text, room, ROW_SIZE, mono=True)
        marked: tuple[Cell, ...] = ()
        if line.what in _DRAWN:
            marked = (Cell(tidy(x + 34), "", _DRAWN[line.what]),)
        elif mark:
            marked = (cell(x + 30, mark, 20),)
        paths = plural(line.number, "path") if line.number > 1 else ""
        columns = (
            *marked,
            cell(x + wide - 196, size_text(line.size) if line.size else "", 90),
            cell(x + wide - 106, paths, 100),
        )
        sheet.nodes.append(
            Node(row, name, "mount", "row", tidy(x + 52), tidy(top), tidy(wide - 64), _LINE,
                 code="together" if line.number > 1 else "file", label=label, sub=paths,
                 diff=mark, cells=columns)
        )  # fmt: skip
        shown_size = size_text(line.size) if line.size else ""
        beside = (shown_size, "", "", "", "", paths)
        # A row shows its sign in front of its cells; a line of text has it in the first of them.
        sheet.rows.append(Row(row, name, "file", (text, *beside), mark, line.number))
        lines.append(Line(1, (f"{mark} {text}".strip(), *beside)))
        top += _LINE
    return y + high


def _lines(changes: Sequence[Change]) -> list[_Shown]:
    """The changes that weigh most, by directory where they are many."""
    if len(changes) <= _SHOWN:
        return [
            _Shown(change.what, f"/{change.path}", 1, change.size or change.hidden)
            for change in changes
        ]
    groups: dict[tuple[str, str], list[Change]] = {}
    deep = 1
    while True:
        groups = {}
        for change in changes:
            above = "/".join(change.path.split("/")[:deep])
            groups.setdefault((change.what, above), []).append(change)
        # One directory that holds all says little: look into it.
        if len(groups) > 1 or deep > 6:
            break
        deep += 1
    found = [
        _Shown(what, f"/{group[0].path}" if len(group) == 1 else f"/{above}/", len(group),
              sum(change.size or change.hidden for change in group))
        for (what, above), group in groups.items()
    ]  # fmt: skip
    found.sort(key=lambda line: (-line.size, line.path, line.what))
    rest = found[_SHOWN - 1 :] if len(found) > _SHOWN else []
    if rest:
        number, size = sum(line.number for line in rest), sum(line.size for line in rest)
        found = [*found[: _SHOWN - 1], _Shown("", "others", number, size)]
    return found
