"""A difference as a table: what there is only before, only after, or in both but not the same."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import TYPE_CHECKING

from ctrt.draw import _labels as labels
from ctrt.draw._measure import fit, width
from ctrt.draw._scene import Cell, Column, Detail, Node, Picture, Raw, Row, Scene
from ctrt.draw._sheet import HEAD_SIZE, MARGIN, ROW_SIZE, Sheet, tidy
from ctrt.draw._text import Block, Line
from ctrt.words import plural, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctrt.observe import Change

_ROOM = (260.0, 300.0, 300.0)
_LINE = 26.0
_STEP = 24.0
_MOST = 400
_MOST_RAW = 40
_MOST_NAMES = 4
_FEW = 3
_NUMBER = re.compile(r":\[\d+\]")
_USUAL = ("rw", "relatime")
_GROUP = re.compile(r" (shared|master):\d+")
_KINDS = {
    "namespace": ("namespaces", "namespaces(7)", "lsns"),
    "process": ("processes", "proc(5)", "ps -ef"),
    "mount": ("mounts", "mount_namespaces(7)", "findmnt"),
    "capability": ("capabilities", "capabilities(7)", "getpcaps PID"),
    "credential": ("credentials", "credentials(7)", "cat /proc/PID/status"),
    "id map": ("id maps", "user_namespaces(7)", "cat /proc/PID/uid_map"),
    "cgroup": ("cgroups", "cgroups(7)", "cat /proc/PID/cgroup"),
    "path": ("paths", "mount_namespaces(7)", "nsenter -t PID -m findmnt"),
    "holder": ("what keeps namespaces", "namespaces(7)", "lsns"),
}


def difference(
    changes: Sequence[Change],
    before: str = "before",
    after: str = "after",
    *,
    title: str | None = None,
    ids: bool = False,
) -> Picture:
    """Draw changes; `before` and `after` are what the two sides are called.

    `ids` shows the kernel's numbers and the host's paths.
    """
    title = visible(title or f"From {before} to {after}")
    grouped: dict[str, list[Change]] = {}
    counts: dict[str, int] = {}
    for change in changes[:_MOST]:
        grouped.setdefault(change.kind, []).append(change)
    heads = ("What", before, after)
    table: list[tuple[str, str | None, int, tuple[str, str, str], str, Detail]] = []
    for kind, found in grouped.items():
        word, man, command = _KINDS.get(kind, (kind, "proc(5)", ""))
        about = Detail(f"{plural(len(found), 'change')} of {word}.", (), man, command)
        table.append((kind, None, 0, (f"{word} ({len(found)})", "", ""), "", about))
        for number, alike in enumerate(_alike(found, ids), 1):
            first = alike[0]
            label = _label(alike)
            cells = (label, _value(first, 0, ids), _value(first, 1, ids))
            said = {"+": "Only in", "-": "Only in", "~": "Not the same in"}[first.sign]
            where = {"+": after, "-": before, "~": f"{before} and {after}"}[first.sign]
            raw = tuple(
                Raw(command, visible(f"{change.what}: {values}"))
                for change in alike[:_MOST_RAW]
                if (values := _whole(change, ids))
            )
            detail = Detail(visible(f"{label}: {said.lower()} {where}."), raw, man, command)
            table.append((f"{kind}:{number}", kind, 1, cells, first.sign, detail))
            counts[f"{kind}:{number}"] = len(alike)
    notes = []
    if not changes:
        notes.append("Nothing differs.")
    elif len(changes) > _MOST:
        notes.append(f"The first {_MOST} of {len(changes)} changes are shown.")
    sheet, heading = Sheet(), Sheet()
    heading.text("title", MARGIN, 18, title, "title")
    wide, y = _draw(sheet, table, heads)
    for number, note in enumerate(notes, 1):
        wide = max(wide, MARGIN + sheet.text(f"note:{number}", MARGIN, y + 8, note).w)
        y += 26
    lines = tuple(
        Line(depth, (f"{sign} {cells[0]}" if sign else cells[0], *cells[1:]))
        for _, _, depth, cells, sign, _ in table
    )
    scene = Scene(
        "difference",
        title,
        _sentence(grouped, before, after),
        tidy(max(wide, MARGIN + heading.nodes[0].w, 460.0) + MARGIN),
        tidy(y + MARGIN),
        tuple(Column(f"c{number}", visible(head)) for number, head in enumerate(heads)),
        tuple(
            Row(name, parent, "note", tuple(map(visible, cells)), sign, counts.get(name, 1))
            for name, parent, _, cells, sign, _ in table
        ),
        (*heading.nodes, *sheet.nodes),
        (),
        {name: detail for name, *_, detail in table},
    )
    upper = tuple(head.upper() if head in ("What", "before", "after") else head for head in heads)
    return Picture(scene, (Block(title), Block("", upper if table else (), lines, tuple(notes))))


def _alike(changes: Sequence[Change], ids: bool) -> list[list[Change]]:
    """The changes, those of mounts and of sets that say the same put together."""
    together: dict[tuple[str, ...], list[Change]] = {}
    for change in changes:
        face: tuple[str, ...] = (change.sign, _whole(change, ids))
        if ids or change.kind not in ("mount", "capability"):
            face = (*face, change.what)
        together.setdefault(face, []).append(change)
    found: list[list[Change]] = []
    for members in together.values():
        if members[0].kind == "mount" and len(members) < _FEW:
            found += [[member] for member in members]
        else:
            found.append(members)
    place = {id(change): number for number, change in enumerate(changes)}
    return sorted(found, key=lambda members: place[id(members[0])])


def _label(alike: Sequence[Change]) -> str:
    """What a row is about: the thing, or how many things."""
    names = [change.what for change in alike]
    if len(names) == 1:
        return names[0]
    if alike[0].kind != "mount":
        counted = Counter(names)
        return ", ".join(name if n == 1 else f"{name} ×{n}" for name, n in counted.items())
    above = os.path.commonpath(names) if all(name.startswith("/") for name in names) else "/"
    return plural(len(names), "mount") + (f" below {above}" if above != "/" else f", as {names[0]}")


def _value(change: Change, side: int, ids: bool) -> str:
    """One side's value in a cell: of many capabilities how many."""
    value = _told(change, side, ids)
    if change.kind == "capability" and value.count(", ") >= _MOST_NAMES:
        return f"{value.count(', ') + 1} capabilities"
    return value


def _whole(change: Change, ids: bool) -> str:
    """Both values."""
    return " → ".join(filter(None, (_told(change, 0, ids), _told(change, 1, ids))))


def _told(change: Change, side: int, ids: bool) -> str:
    """One side's value, by default without what differs from one run to the next."""
    value = (change.before, change.after)[side]
    if ids or not value:
        return visible(value)
    if change.kind == "credential":
        return visible(labels.all_four(value))
    if change.kind == "mount":
        return visible(_mounted(value, (change.after, change.before)[side], after=bool(side)))
    if change.kind == "namespace":
        if value.endswith("of the host"):
            return "the host's"
        return "its own" if _NUMBER.search(value) else visible(value)
    if change.kind == "cgroup":
        if value == "/":
            return "/"
        return "another" if side and change.before not in ("", "/") else "a cgroup"
    if change.what in ("pid", "parent") and not side:
        return "a number of the host" if value != "0" else value
    if change.kind == "path" and not side:
        return "a path of the host"
    return visible(_NUMBER.sub("", value))


def _mounted(value: str, other: str, *, after: bool) -> str:
    """A mount's type and flags: only what the other side has not, and nothing that goes unsaid."""
    fstype, source, options, *spread = _GROUP.sub("", value).split(" ")
    flags = options.split(",")
    known: tuple[str, ...] = _USUAL
    if other:
        another, elsewhere, others, *beyond = _GROUP.sub("", other).split(" ")
        known = tuple(others.split(","))
        if spread and beyond and spread[0].rstrip(",") == beyond[0].rstrip(","):
            spread = spread[1:]
        # The source may be a path of the host, so only that it is another one is told.
        alike = (another, set(known)) == (fstype, set(flags)) and not spread
        if alike and source != elsewhere and after:
            spread = ["of another source"]
    elif spread[:1] == ["private"]:
        spread = spread[1:]
    return " ".join([fstype, *(flag for flag in flags if flag not in known), *spread])


def _draw(
    sheet: Sheet,
    table: Sequence[tuple[str, str | None, int, tuple[str, str, str], str, Detail]],
    heads: tuple[str, str, str],
) -> tuple[float, float]:
    """The rows below their heads; the right edge and the bottom."""
    widths = []
    for column, room in enumerate(_ROOM):
        texts = [
            width(cells[column], ROW_SIZE, mono=True) + (depth * _STEP if not column else 0)
            for _, _, depth, cells, _, _ in table
        ]
        widths.append(min(max([width(heads[column], HEAD_SIZE), *texts]), room))
    lefts = [MARGIN + 8]
    for wide in widths[:-1]:
        lefts.append(lefts[-1] + wide + 24)
    right = lefts[-1] + widths[-1]
    y = 58.0
    if table:
        for column, head in enumerate(heads):
            sheet.text(f"head:{column}", tidy(lefts[column]), y, visible(head), "head")
        y += 22
    for name, parent, depth, cells, sign, _ in table:
        x = lefts[0] + depth * _STEP
        label = fit(visible(cells[0]), lefts[1] - 20 - x, ROW_SIZE, mono=True)
        if sign:
            sheet.text(f"sign:{name}", tidy(x - 16), tidy(y + 5), sign, "sign")
        sheet.nodes.append(
            Node(
                name, parent, "note", "row", tidy(x), tidy(y), tidy(right - x), _LINE,
                code="" if depth else "family", label=label, diff=sign,
                cells=tuple(
                    Cell(tidy(lefts[n]), fit(visible(cells[n]), widths[n], ROW_SIZE, mono=True))
                    for n in (1, 2)
                ),
            )
        )  # fmt: skip
        y += _LINE
    return right, y


def _sentence(grouped: dict[str, list[Change]], before: str, after: str) -> str:
    if not grouped:
        return f"Nothing differs between {before} and {after}."
    told = [f"{len(found)} of {_KINDS.get(kind, (kind,))[0]}" for kind, found in grouped.items()]
    return f"Changes between {before} and {after}: {labels.enumerated(told)}."
