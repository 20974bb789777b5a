"""Ids as rulers: each user namespace has one, and ribbons join the ids that are the same.

The innermost namespace is at the top, the host at the bottom. A ruler is not to scale: a range
of 65,536 ids is only a little wider than a single one, or single ones would not be seen.
"""

from __future__ import annotations

from itertools import pairwise
from math import log2
from typing import TYPE_CHECKING, NamedTuple

from ctrt.draw import _labels as labels
from ctrt.draw._measure import width
from ctrt.draw._scene import Column, Detail, Edge, Node, Picture, Raw, Row, Scene
from ctrt.draw._sheet import BOX_SIZE, LABEL_SIZE, MARGIN, SUB_SIZE, Sheet, tidy
from ctrt.draw._text import Block, Line
from ctrt.linux.processes import IdRange
from ctrt.observe import Unknown, compose
from ctrt.words import plural, visible

if TYPE_CHECKING:
    from ctrt.observe import Snapshot

_RULER = 34.0
_BETWEEN = 62.0
_GAP_WIDTH = 30.0
_MOST = 12
_ALL = 1 << 32
_MAN = "user_namespaces(7)"


class Level(NamedTuple):
    """A user namespace with its ids as the next one outward has them."""

    name: str
    initial: bool
    uid: tuple[IdRange, ...]
    gid: tuple[IdRange, ...]
    unknown: str


class Segment(NamedTuple):
    """A piece of a ruler; `used` where ids of it are the same as others' in the picture."""

    start: int
    end: int
    used: bool
    x: float
    w: float


def ids(snapshot: Snapshot, *, title: str | None = None, ids: bool = False) -> Picture:
    """Which id inside is which outside, through every user namespace between.

    `ids` shows inodes instead of stable names.
    """
    title = visible(title or f"Ids of {snapshot.command}")
    every = _levels(snapshot, ids)
    levels = _known(every)
    same = all(level.uid == level.gid for level in levels)
    sheet = Sheet()
    heading = Sheet()
    heading.text("title", MARGIN, 18, title, "title")
    y, wide = 62.0, heading.nodes[0].w + 2 * MARGIN
    blocks = [Block(title)]
    left = MARGIN + max(width(level.name, LABEL_SIZE, bold=True) for level in levels) + 22
    for kind in ("ids",) if same else ("uid", "gid"):
        right, y = _section(sheet, levels, kind, left, y)
        wide = max(wide, right + MARGIN)
        blocks.append(_block(levels, kind))
    notes = _notes(levels)
    notes += [
        f"{level.name} lies between, and is left out: {level.unknown}."
        for level in every
        if level not in levels
    ]
    for number, note in enumerate(notes, 1):
        wide = max(wide, sheet.text(f"note:{number}", MARGIN, y, note, "head").w + 2 * MARGIN)
        y += 18
    blocks[-1] = blocks[-1]._replace(notes=tuple(notes))
    wide = max(wide, 480.0)
    y = sheet.legend(y - 14, wide)
    scene = Scene(
        "ids",
        title,
        _sentence(levels),
        tidy(wide),
        tidy(y + MARGIN - 6),
        (
            Column("inside", "Inside"),
            Column("outside", "Outside"),
            Column("count", "Count"),
            Column("what", "What"),
        ),
        tuple(sheet.rows),
        (*heading.nodes, *sheet.nodes),
        tuple(sheet.edges),
        sheet.details,
    )
    return Picture(scene, tuple(blocks))


def _levels(snapshot: Snapshot, inodes: bool) -> list[Level]:
    """The user namespaces from the target's outward, each map made relative to the next."""
    found: list[Level] = []
    for index, user in reversed(list(enumerate(snapshot.users))):
        name = labels.user_name(user, index, inodes)
        if isinstance(user.uid_map, Unknown) or isinstance(user.gid_map, Unknown):
            reason = next(m.reason for m in (user.uid_map, user.gid_map) if isinstance(m, Unknown))
            found.append(Level(name, index == 0, (), (), reason))
            continue
        uid, gid = user.uid_map, user.gid_map
        # What could not be read is left out: the ids are those of the next one that could.
        for outer in snapshot.users[index - 1 : 0 : -1]:
            if not isinstance(outer.uid_map, Unknown) and not isinstance(outer.gid_map, Unknown):
                uid, gid = compose(uid, outer.uid_map), compose(gid, outer.gid_map)
                break
        found.append(Level(name, index == 0, uid, gid, ""))
    return found or [Level("user[host]", True, (), (), "")]


def _known(levels: list[Level]) -> list[Level]:
    """Without the namespaces in between that could not be read."""
    return [level for level in levels if not level.unknown or level is levels[0]]


def _map(level: Level, kind: str) -> tuple[IdRange, ...]:
    return () if level.initial else (level.gid if kind == "gid" else level.uid)[:_MOST]


def _section(
    sheet: Sheet, levels: list[Level], kind: str, left: float, y: float
) -> tuple[float, float]:
    """One stack of rulers; where it ends on the right and at the bottom."""
    words = {"ids": "User and group ids", "uid": "User ids", "gid": "Group ids"}[kind]
    sheet.text(f"{kind}:heading", MARGIN, y, words, "heading")
    y += BOX_SIZE * 1.5 + 12
    right = left
    above: list[Segment] = []
    from_above: tuple[IdRange, ...] = ()
    for index, level in enumerate(levels):
        extents = _map(level, kind)
        ruler = _segments(left, extents, from_above, level.initial)
        name = f"{kind}:{index}"
        box = Node(
            name, None, "user", "text", MARGIN, tidy(y + 8), tidy(left - MARGIN - 14), 20,
            code="heading", label=level.name,
        )  # fmt: skip
        sheet.nodes.append(box)
        _rows(sheet, level, kind, name, extents)
        seen: set[str] = set()
        for number, piece in enumerate(ruler):
            if not piece.used:
                sheet.text(f"{name}:left{number}", tidy(piece.x + 9), tidy(y + 8), "…")
                continue
            own = next(
                (n for n, e in enumerate(extents) if e.inside <= piece.start < e.inside + e.length),
                number,
            )
            # The first piece of a range has the id of its row; the others are told apart.
            key = f"{name}:{own}" if f"{name}:{own}" not in seen else f"{name}:{own}@{number}"
            seen.add(key)
            sheet.nodes.append(
                Node(
                    key, name, "user", "segment", tidy(piece.x), tidy(y), tidy(piece.w), _RULER,
                    code="user", label=_range(piece.start, piece.end),
                    border="dashed" if level.initial else "solid",
                )
            )  # fmt: skip
        for number, extent in enumerate(from_above):
            sheet.edges.append(_ribbon(f"{kind}:{index - 1}:{number}", name, extent, above, ruler,
                                       y - _BETWEEN, y))  # fmt: skip
        right = max(right, ruler[-1].x + ruler[-1].w if ruler else left)
        above, from_above = ruler, extents
        y += _RULER + _BETWEEN
    return right, y - _BETWEEN + 18


def _segments(
    left: float, own: tuple[IdRange, ...], used: tuple[IdRange, ...], initial: bool
) -> list[Segment]:
    """A ruler's pieces, from id 0 on; what is of no interest is one narrow piece."""
    spans = [(e.inside, e.inside + e.length) for e in own]
    spans += [(e.outside, e.outside + e.length) for e in used]
    cuts = sorted({0, _ALL, *(edge for span in spans for edge in span)})
    pieces: list[tuple[int, int, bool]] = []
    for start, end in pairwise(cuts):
        inside = any(a <= start and end <= b for a, b in spans)
        if not inside and pieces and not pieces[-1][2]:
            pieces[-1] = (pieces[-1][0], end, False)
        else:
            pieces.append((start, end, inside))
    if initial and not used:
        pieces = [(0, _ALL, True)]
    x = left
    made = []
    for start, end, shown in pieces:
        wide = _GAP_WIDTH
        if shown:
            wide = max(44 + 9 * log2(end - start), width(_range(start, end), SUB_SIZE) + 20)
        made.append(Segment(start, end, shown, x, wide))
        x += wide + 4
    return made


def _at(ruler: list[Segment], start: int, end: int) -> tuple[float, float]:
    """Where a range of ids begins and ends on a ruler."""
    first = next(piece for piece in ruler if piece.start <= start < piece.end)
    last = next(piece for piece in ruler if piece.start < end <= piece.end)
    return first.x, last.x + last.w


def _ribbon(
    source: str, target: str, extent: IdRange, above: list[Segment], below: list[Segment],
    top: float, bottom: float,
) -> Edge:  # fmt: skip
    a, b = _at(above, extent.inside, extent.inside + extent.length)
    c, d = _at(below, extent.outside, extent.outside + extent.length)
    points = ((a, top), (b, top), (d, bottom), (c, bottom))
    return Edge(source, target, "ribbon", tuple((tidy(x), tidy(y)) for x, y in points))


def _range(start: int, end: int) -> str:
    return f"{start}" if end - start == 1 else f"{start}–{end - 1}"


def _rows(sheet: Sheet, level: Level, kind: str, name: str, extents: tuple[IdRange, ...]) -> None:
    what = {"ids": "uid and gid", "uid": "uid", "gid": "gid"}[kind]
    total = sum(e.length for e in (level.gid if kind == "gid" else level.uid))
    words = f"{what}: the machine's first user namespace" if level.initial else what
    if level.unknown:
        words = f"could not be read: {level.unknown}"
    count = "" if level.initial or level.unknown else str(total)
    sheet.rows.append(Row(name, None, "user", (level.name, "", count, words)))
    file = f"/proc/PID/{'gid' if kind == 'gid' else 'uid'}_map"
    raw = tuple(Raw(file, f"{e.inside:10d} {e.outside:10d} {e.length:10d}") for e in extents)
    meaning = (
        "Its ids are those that the disk and every other user of the machine know."
        if level.initial
        else f"{total} ids are mapped; any other shows as the overflow id, 65534 (nobody)."
    )
    sheet.details[name] = Detail(meaning, raw, _MAN, f"cat {file}")
    for number, extent in enumerate(extents):
        own = f"{name}:{number}"
        inside = _range(extent.inside, extent.inside + extent.length)
        outside = _range(extent.outside, extent.outside + extent.length)
        sheet.rows.append(Row(own, name, "user", (inside, outside, str(extent.length), what)))
        sheet.details[own] = Detail(
            f"Id {extent.inside} inside is id {extent.outside} in the next namespace outward"
            + (f", and so on for {extent.length} ids." if extent.length > 1 else "."),
            (raw[number],),
            _MAN,
            f"cat {file}",
        )


def _block(levels: list[Level], kind: str) -> Block:
    lines = []
    title = {"ids": "uid and gid", "uid": "uid", "gid": "gid"}[kind].upper()
    for index, level in enumerate(levels):
        if level.initial:
            continue
        outer = levels[index + 1].name if index + 1 < len(levels) else "outside"
        where = f"{level.name} in {outer}"
        lines.append(Line(0, (where, level.unknown and f"could not be read: {level.unknown}")))
        lines += [
            Line(
                1,
                (
                    _range(e.inside, e.inside + e.length),
                    _range(e.outside, e.outside + e.length),
                    str(e.length),
                ),
            )
            for e in _map(level, kind)
        ]
    if not lines:
        lines = [Line(0, (levels[0].name, "every id is the host's own"))]
        return Block("", (title, ""), tuple(lines))
    return Block("", (f"{title} INSIDE", "OUTSIDE", "COUNT"), tuple(lines))


def _notes(levels: list[Level]) -> list[str]:
    notes = []
    if len(levels) == 1:
        notes.append("No user namespace of its own: every id is the host's.")
    else:
        notes.append("Ids that are not mapped show inside as 65534, the overflow id.")
    most = max(max(len(level.uid), len(level.gid)) for level in levels)
    if most > _MOST:
        notes.append(f"The first {_MOST} of {most} ranges are shown.")
    return notes


def _sentence(levels: list[Level]) -> str:
    inner = levels[0]
    if len(levels) == 1:
        return "The process has no user namespace of its own; every id is the host's."
    total = sum(e.length for e in inner.uid)
    below = plural(len(levels) - 1, "user namespace")
    words = [f"{below} below the host's; {plural(total, 'user id')} of {inner.name} mapped."]
    if inner.uid:
        first = inner.uid[0]
        words.append(f"User id {first.inside} is {first.outside} in {levels[1].name}.")
    return " ".join(words)
