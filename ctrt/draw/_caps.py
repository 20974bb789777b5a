"""Capabilities as a matrix: families of capabilities by the five sets of a process.

A family of which all members are alike is one row that says "all" or "none"; otherwise its
members follow, those alike on one line. What changed against `before` is marked + and -.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctrt.draw._cap_words import FAMILIES, MEANINGS
from ctrt.draw._measure import cells as columns_of
from ctrt.draw._measure import visible, width
from ctrt.draw._scene import Cell, Column, Detail, Edge, Node, Picture, Raw, Row, Scene
from ctrt.draw._sheet import HEAD_SIZE, MARGIN, ROW_SIZE, SUB_SIZE, Sheet, tidy
from ctrt.draw._text import Block, Line
from ctrt.linux.capabilities import NAMES

if TYPE_CHECKING:
    from ctrt.observe import CapabilitySets

_SETS = ("effective", "permitted", "inheritable", "bounding", "ambient")
_PROC = ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")
_MARKS = {"on": "■", "off": "·", "gained": "+", "lost": "-"}
_LONGEST = 42
_SECUREBITS = (
    "noroot", "noroot locked", "no setuid fixup", "no setuid fixup locked", "keep caps",
    "keep caps locked", "no ambient raise", "no ambient raise locked",
)  # fmt: skip
_STEP = 20.0
_LINE = 26.0
_COLUMN = 92.0


class Entry(NamedTuple):
    """A row of the matrix; `marks` are one for each set, or empty where `words` are."""

    id: str
    parent: str | None
    depth: int
    label: str
    marks: tuple[str, ...]
    words: tuple[str, ...]
    bits: tuple[int, ...]
    diff: str


def capabilities(
    sets: CapabilitySets,
    before: CapabilitySets | None = None,
    *,
    title: str | None = None,
    all: bool = False,  # noqa: A002
) -> Picture:
    """What a process may do, and what changed since `before`.

    `all` gives every capability a row of its own.
    """
    title = visible(title or f"Capabilities of {sets.name}")
    entries = _entries(sets, before, all)
    notes = _notes(sets, before)
    sheet = Sheet()
    wide, bottom = _draw(sheet, entries, sets, notes)
    heading = Sheet()
    heading.text("title", MARGIN, 18, title, "title")
    wide = max(wide, heading.nodes[0].w + 2 * MARGIN)
    scene = Scene(
        "caps",
        title,
        _sentence(sets, before, notes),
        tidy(wide),
        tidy(bottom + MARGIN),
        (Column("name", "Capability"), *(Column(name, name.capitalize()) for name in _SETS)),
        tuple(sheet.rows),
        (*heading.nodes, *sheet.nodes),
        tuple(sheet.edges),
        sheet.details,
    )
    lines = tuple(Line(entry.depth, (entry.label, *_words(entry))) for entry in entries)
    heads = ("", *(name.upper() for name in _SETS))
    return Picture(scene, (Block(title), Block("", heads, lines, tuple(notes))))


def _entries(sets: CapabilitySets, before: CapabilitySets | None, everything: bool) -> list[Entry]:
    families = [(name, bits) for name, bits in FAMILIES]
    known = sum(1 << bit for _, bits in families for bit in bits)
    union = sets.effective | sets.permitted | sets.inheritable | sets.bounding | sets.ambient
    newer = tuple(bit for bit in range(union.bit_length()) if union & ~known & 1 << bit)
    if newer:
        families.append(("newer", newer))
    patterns = {bit: _pattern(bit, sets, before) for _, bits in families for bit in bits}
    every = tuple(patterns)
    if len(set(patterns.values())) == 1 and not everything:
        marks = patterns[every[0]]
        return [_family("caps:all", f"all {len(every)} capabilities", every, [marks] * len(every))]
    entries = []
    for name, bits in families:
        family = f"caps:{name}"
        marks_here = [patterns[bit] for bit in bits]
        entries.append(_family(family, f"{name} ({len(bits)})", bits, marks_here))
        if len(set(marks_here)) == 1 and not everything:
            continue
        alike: dict[tuple[str, ...] | int, list[int]] = {}
        for bit in bits:
            alike.setdefault(bit if everything else patterns[bit], []).append(bit)
        # What is there comes before what is not, unless each has a row of its own.
        for found in sorted(
            alike.values(), key=lambda bits: not everything and set(patterns[bits[0]]) == {"off"}
        ):
            for line in _split(found):
                entries.append(
                    Entry(
                        f"caps:{_short(line[0])}", family, 1, ", ".join(map(_short, line)),
                        patterns[line[0]], (), tuple(line), _diff([patterns[line[0]]]),
                    )
                )  # fmt: skip
    return entries


def _family(name: str, label: str, bits: tuple[int, ...], marks: list[tuple[str, ...]]) -> Entry:
    words = []
    for column in range(len(_SETS)):
        here = [pattern[column] for pattern in marks]
        count = sum(mark in ("on", "gained") for mark in here)
        word = "all" if count == len(here) else "none" if not count else f"{count} of {len(here)}"
        for mark in ("gained", "lost"):
            if mark in here:
                word += f" {_MARKS[mark]}{here.count(mark)}"
        words.append(word)
    return Entry(name, None, 0, label, (), tuple(words), bits, _diff(marks))


def _pattern(bit: int, sets: CapabilitySets, before: CapabilitySets | None) -> tuple[str, ...]:
    """In which sets a capability is, or has come or gone."""
    marks = []
    for name in _SETS:
        now = getattr(sets, name) >> bit & 1
        then = now if before is None else getattr(before, name) >> bit & 1
        marks.append(("on" if then else "gained") if now else ("lost" if then else "off"))
    return tuple(marks)


def _diff(patterns: list[tuple[str, ...]]) -> str:
    marks = {mark for pattern in patterns for mark in pattern}
    if {"gained", "lost"} <= marks:
        return "~"
    return "+" if "gained" in marks else "-" if "lost" in marks else ""


def _short(bit: int) -> str:
    """The name as people write it: "net_admin"; the number where there is no name yet."""
    return NAMES[bit].removeprefix("CAP_").lower() if bit < len(NAMES) else str(bit)


def _split(bits: list[int]) -> list[list[int]]:
    """Capabilities in lines that are not too long."""
    lines: list[list[int]] = []
    room = 0
    for bit in bits:
        length = columns_of(_short(bit)) + 2
        if not lines or length > room:
            lines.append([])
            room = _LONGEST
        lines[-1].append(bit)
        room -= length
    return lines


def _words(entry: Entry) -> tuple[str, ...]:
    return entry.words or tuple(_MARKS[mark] for mark in entry.marks)


def _notes(sets: CapabilitySets, before: CapabilitySets | None) -> list[str]:
    notes = [f"no_new_privs: {'on' if sets.no_new_privs else 'off'}", f"seccomp: {sets.seccomp}"]
    if sets.securebits is not None:
        bits = [name for bit, name in enumerate(_SECUREBITS) if sets.securebits >> bit & 1]
        notes.append(f"securebits: {', '.join(bits) or 'none'}")
    line = ",  ".join(notes)
    marks = f"{_MARKS['on']} in the set   {_MARKS['off']} not in the set"
    if before is not None:
        marks += f"   {_MARKS['gained']} gained   {_MARKS['lost']} lost"
    return [line, marks]


def _draw(
    sheet: Sheet, entries: list[Entry], sets: CapabilitySets, notes: list[str]
) -> tuple[float, float]:
    first = max(entry.depth * _STEP + width(entry.label, ROW_SIZE, mono=True) for entry in entries)
    left = MARGIN + max(first, 150.0) + 24
    wide = left + _COLUMN * len(_SETS) + MARGIN
    y = 62.0
    for column, name in enumerate(_SETS):
        sheet.text(f"caps:head:{name}", left + column * _COLUMN, y, name.capitalize(), "head")
    y += 22
    ends: dict[str, float] = {}
    for row, entry in enumerate(entries):
        top = y + row * _LINE
        words = _words(entry)
        x = MARGIN + entry.depth * _STEP
        sheet.nodes.append(
            Node(
                entry.id, entry.parent, "caps", "row", tidy(x), tidy(top),
                tidy(wide - MARGIN - x), _LINE, code="family" if entry.words else "caps",
                label=entry.label, sub=" ".join(words), diff=entry.diff,
                cells=tuple(
                    Cell(
                        tidy(left + column * _COLUMN + (0 if entry.words else 7)),
                        words[column],
                        entry.marks[column] if entry.marks else "",
                    )
                    for column in range(len(_SETS))
                ),
            )
        )  # fmt: skip
        sheet.rows.append(
            Row(entry.id, entry.parent, "caps", (entry.label, *words), entry.diff, len(entry.bits))
        )
        sheet.details[entry.id] = _detail(entry, sets)
        if entry.parent:
            middle = tidy(top + _LINE / 2 + 0.5)
            trunk = tidy(MARGIN + 6.5)
            start = ends.get(entry.parent, tidy(top - 1))
            points = ((trunk, start), (trunk, middle), (trunk + 9, middle))
            sheet.edges.append(Edge(entry.parent, entry.id, "tree", points))
            ends[entry.parent] = middle
    y += len(entries) * _LINE + 12
    sheet.text("caps:note", MARGIN, y, notes[0])
    legend = "square: in the set  ·  dot: not in the set"
    if any(mark in entry.marks for entry in entries for mark in ("gained", "lost")):
        legend += "  ·  plus: gained  ·  minus: lost"
    sheet.text("legend:1", MARGIN, y + 24, legend, "head")
    wide = max(wide, 2 * MARGIN + width(notes[0], SUB_SIZE), 2 * MARGIN + width(legend, HEAD_SIZE))
    return wide, y + 24 + HEAD_SIZE * 1.5


def _detail(entry: Entry, sets: CapabilitySets) -> Detail:
    meaning = "; ".join(
        f"{_short(bit)}: {MEANINGS[bit]}" if bit < len(MEANINGS) else _short(bit)
        for bit in entry.bits[:12]
    )
    if len(entry.bits) > 12:
        meaning = "Every privilege that the kernel knows by name."
    raw = tuple(
        Raw("/proc/PID/status", f"{field}:\t{getattr(sets, name):016x}")
        for field, name in zip(_PROC, _SETS, strict=True)
    )
    return Detail(meaning, raw, "capabilities(7)", "getpcaps PID")


def _sentence(sets: CapabilitySets, before: CapabilitySets | None, notes: list[str]) -> str:
    total = len(NAMES)
    parts = []
    for name in _SETS:
        count = getattr(sets, name).bit_count()
        parts.append(f"{name} {'none' if not count else 'all' if count >= total else count}")
    words = f"Of {total} capabilities: {', '.join(parts)}; {notes[0]}."
    if before is not None:
        gained = (sets.effective & ~before.effective).bit_count()
        lost = (before.effective & ~sets.effective).bit_count()
        words += f" The effective set gained {gained} and lost {lost}."
    return words
