"""Capabilities as a matrix: families of capabilities by the five sets of a process.

A family of which all members are alike is one row that says "all" or "none"; otherwise its
members follow, those alike on one line. What changed against `before` is marked + and -.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctrt.draw._cap_words import FAMILIES, MEANINGS
from ctrt.draw._measure import cells as columns_of
from ctrt.draw._measure import width
from ctrt.draw._scene import Cell, Column, Detail, Edge, Node, Picture, Raw, Row, Scene
from ctrt.draw._sheet import HEAD_SIZE, MARGIN, ROW_SIZE, SUB_SIZE, Sheet, tidy
from ctrt.draw._text import Block, Line
from ctrt.linux.capabilities import NAMES
from ctrt.words import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctrt.observe import CapabilitySets

    Marks = tuple[str, ...]

_SETS = ("effective", "permitted", "inheritable", "bounding", "ambient")
_PROC = ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")
MARKS = {"on": "■", "off": "·", "gained": "+", "lost": "-"}
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
    entries = matrix(_patterns(sets, before), all, _counted, _LONGEST)
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


def _patterns(
    sets: CapabilitySets, before: CapabilitySets | None
) -> list[tuple[str, tuple[int, ...], list[Marks]]]:
    union = sets.effective | sets.permitted | sets.inheritable | sets.bounding | sets.ambient
    return [
        (name, bits, [_pattern(bit, sets, before) for bit in bits])
        for name, bits in families(union)
    ]


def families(union: int) -> list[tuple[str, tuple[int, ...]]]:
    """The families, with one more for what of a mask has no name yet."""
    found = list(FAMILIES)
    known = sum(1 << bit for _, bits in found for bit in bits)
    newer = tuple(bit for bit in range(union.bit_length()) if union & ~known & 1 << bit)
    return [*found, ("newer", newer)] if newer else found


def matrix(
    parts: list[tuple[str, tuple[int, ...], list[Marks]]],
    everything: bool,
    words_of: Callable[[list[str]], str],
    longest: int,
) -> list[Entry]:
    """The rows of a matrix: families, and their members where they are not alike.

    A part is a family's name, its bits, and for each the marks of all columns. `words_of` says
    a column of a family in a word; lines of members are at most `longest` characters.
    """
    every = [marks for _, _, here in parts for marks in here]
    if len(set(every)) == 1 and not everything:
        bits = tuple(bit for _, found, _ in parts for bit in found)
        return [_family("caps:all", f"all {len(bits)} capabilities", bits, every, words_of)]
    entries = []
    for name, bits, here in parts:
        patterns = dict(zip(bits, here, strict=True))
        family = f"caps:{name}"
        entries.append(_family(family, f"{name} ({len(bits)})", bits, here, words_of))
        if len(set(here)) == 1 and not everything:
            continue
        alike: dict[Marks | int, list[int]] = {}
        for bit in bits:
            alike.setdefault(bit if everything else patterns[bit], []).append(bit)
        # What is there comes before what is not, unless each has a row of its own.
        for found in sorted(
            alike.values(), key=lambda bits: not everything and set(patterns[bits[0]]) == {"off"}
        ):
            for line in _split(found, longest):
                entries.append(
                    Entry(
                        f"caps:{short(line[0])}", family, 1, ", ".join(map(short, line)),
                        patterns[line[0]], (), tuple(line), _diff([patterns[line[0]]]),
                    )
                )  # fmt: skip
    return entries


def _family(
    name: str,
    label: str,
    bits: tuple[int, ...],
    marks: list[Marks],
    words_of: Callable[[list[str]], str],
) -> Entry:
    words = tuple(
        words_of([pattern[column] for pattern in marks]) for column in range(len(marks[0]))
    )
    return Entry(name, None, 0, label, (), words, bits, _diff(marks))


def _counted(here: list[str]) -> str:
    count = sum(mark in ("on", "gained") for mark in here)
    word = "all" if count == len(here) else "none" if not count else f"{count} of {len(here)}"
    for mark in ("gained", "lost"):
        if mark in here:
            word += f" {MARKS[mark]}{here.count(mark)}"
    return word


def _pattern(bit: int, sets: CapabilitySets, before: CapabilitySets | None) -> Marks:
    """In which sets a capability is, or has come or gone."""
    marks = []
    for name in _SETS:
        now = getattr(sets, name) >> bit & 1
        then = now if before is None else getattr(before, name) >> bit & 1
        marks.append(("on" if then else "gained") if now else ("lost" if then else "off"))
    return tuple(marks)


def _diff(patterns: list[Marks]) -> str:
    marks = {mark for pattern in patterns for mark in pattern}
    if {"gained", "lost"} <= marks:
        return "~"
    return "+" if "gained" in marks else "-" if "lost" in marks else ""


def short(bit: int) -> str:
    """The name as people write it: "net_admin"; the number where there is no name yet."""
    return NAMES[bit].removeprefix("CAP_").lower() if bit < len(NAMES) else str(bit)


def _split(bits: list[int], longest: int) -> list[list[int]]:
    """Capabilities in lines that are not too long."""
    lines: list[list[int]] = []
    room = 0
    for bit in bits:
        length = columns_of(short(bit)) + 2
        if not lines or length > room:
            lines.append([])
            room = longest
        lines[-1].append(bit)
        room -= length
    return lines


def _words(entry: Entry) -> tuple[str, ...]:
    return entry.words or tuple(MARKS[mark] for mark in entry.marks)


def _notes(sets: CapabilitySets, before: CapabilitySets | None) -> list[str]:
    notes = [f"no_new_privs: {'on' if sets.no_new_privs else 'off'}", f"seccomp: {sets.seccomp}"]
    if sets.securebits is not None:
        bits = [name for bit, name in enumerate(_SECUREBITS) if sets.securebits >> bit & 1]
        notes.append(f"securebits: {', '.join(bits) or 'none'}")
    # Everything has one where AppArmor runs; this is the one of what is not confined.
    if sets.label is not None and sets.label != "unconfined":
        if isinstance(sets.label, str):
            notes.append(f"label: {visible(sets.label)}")
        else:
            notes.append(f"label: could not be read: {sets.label.reason}")
    line = ",  ".join(notes)
    marks = f"{MARKS['on']} in the set   {MARKS['off']} not in the set"
    if before is not None:
        marks += f"   {MARKS['gained']} gained   {MARKS['lost']} lost"
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
        f"{short(bit)}: {MEANINGS[bit]}" if bit < len(MEANINGS) else short(bit)
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
