"""The stack: who stands between a person and a process, one below the other.

What belongs to the container stands in a box of its own, so that it is seen which processes are
the engine's and which are the container's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctrt.draw import _labels as labels
from ctrt.draw._measure import width
from ctrt.draw._scene import Column, Detail, Edge, Node, Picture, Raw, Row, Scene
from ctrt.draw._sheet import BOX_SIZE, CHIP, MARGIN, PAD, SUB_SIZE, Sheet, chip, pill, tidy
from ctrt.draw._text import Block, Line
from ctrt.words import plural, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctrt.observe import Station

_BETWEEN = 26.0
_HEADER = 50.0


class Entry(NamedTuple):
    """A line of the stack: stations that are alike and follow each other are one."""

    id: str
    stations: tuple[Station, ...]

    @property
    def first(self) -> Station:
        """The outermost of them."""
        return self.stations[0]

    @property
    def label(self) -> str:
        """The program, and how often."""
        count = len(self.stations)
        return visible(self.first.name) + (f" ×{count}" if count > 1 else "")


def stack(stations: Sequence[Station], *, title: str | None = None, ids: bool = False) -> Picture:
    """Draw a chain of processes, outermost first, as `observe.stack` gives it.

    `ids` shows pids.
    """
    entries = _entries(stations)
    title = visible(title or f"From the machine's first process to {entries[-1].first.name}")
    heading, sheet = Sheet(), Sheet()
    heading.text("title", MARGIN, 18, title, "title")
    bottom, wide = _draw(sheet, entries, ids)
    lines = tuple(
        Line(depth, (entry.label, *_cells(entry, ids))) for depth, entry in enumerate(entries)
    )
    scene = Scene(
        "stack",
        title,
        _sentence(entries),
        tidy(max(wide, heading.nodes[0].w + 2 * MARGIN, 480.0)),
        tidy(bottom + MARGIN),
        (Column("process", "Process"), Column("role", "Role"), Column("new", "New namespaces")),
        tuple(sheet.rows),
        (*heading.nodes, *sheet.nodes),
        tuple(sheet.edges),
        sheet.details,
    )
    return Picture(scene, (Block(title), Block("", ("PROCESS", "ROLE", "NEW NAMESPACES"), lines)))


def _entries(stations: Sequence[Station]) -> list[Entry]:
    entries: list[Entry] = []
    for station in stations:
        last = entries[-1] if entries else None
        if (
            last is not None
            and (last.first.name, last.first.role) == (station.name, station.role)
            and not station.apart
            and len(entries) > 1
        ):
            entries[-1] = last._replace(stations=(*last.stations, station))
        else:
            entries.append(Entry(f"station:{len(entries) + 1}", (station,)))
    return entries


def _cells(entry: Entry, ids: bool) -> tuple[str, str]:
    role = entry.first.role
    numbers = [str(station.pid) for station in entry.stations if station.pid]
    if ids and numbers:
        role = f"{role} (pid {', '.join(numbers)})".strip()
    return role, " ".join(entry.first.apart)


def _inside(entries: list[Entry]) -> int:
    """The index of the first entry that is in the container; their number if none is."""
    for index, entry in enumerate(entries):
        if entry.first.role.endswith("of the container"):
            return index
    return len(entries)


def _draw(sheet: Sheet, entries: list[Entry], ids: bool) -> tuple[float, float]:
    y, wide = 62.0, 0.0
    start = _inside(entries)
    box: Node | None = None
    above: tuple[str, float] | None = None
    for index, entry in enumerate(entries):
        if index == start:
            owner = entry.first.owner
            words = "container" if owner is None else f"{owner.engine} container"
            named = "" if owner is None else owner.name or (owner.id if ids else "")
            box = Node(
                "container", None, "pid", "container", MARGIN, tidy(y), 0, 0, icon="P",
                code="pid", label=words, sub=visible(named),
            )  # fmt: skip
            sheet.nodes.append(box)
            y += _HEADER
        x = MARGIN + (PAD if box else 0)
        gone = entry.first.pid == 0
        drawn = chip(entry.id, entry.label, "", "container" if box else None)._replace(
            x=tidy(x), y=tidy(y), border="dashed" if gone else "solid"
        )
        sheet.nodes.append(drawn)
        role, apart = _cells(entry, ids)
        right = x + drawn.w + 14
        if role:
            told = sheet.text(f"{entry.id}:role", tidy(right), tidy(y + 7), visible(role))
            right += told.w + 14
        for kind in entry.first.apart:
            word = labels.KIND_WORDS[kind]
            made = pill(f"{entry.id}:{kind}", kind, word.icon, kind, "", "solid", entry.id)
            sheet.nodes.append(made._replace(x=tidy(right), y=tidy(y)))
            right += made.w + 8
        wide = max(wide, right)
        middle = MARGIN + PAD + 12
        if above is not None:
            end = box.y if box is not None and index == start else y
            points = ((middle, tidy(above[1])), (middle, tidy(end)))
            sheet.edges.append(Edge(above[0], entry.id, "link", points, "end", gone))
        sheet.rows.append(Row(entry.id, None, "process", (entry.label, role, apart)))
        sheet.details[entry.id] = _detail(entry)
        above = (entry.id, y + CHIP)
        y += CHIP + _BETWEEN
    bottom = y - _BETWEEN
    if box is not None:
        place = sheet.nodes.index(box)
        bottom += PAD
        label = 46 + width(box.label, BOX_SIZE, bold=True) + 12 + width(box.sub, SUB_SIZE) + PAD
        wide = max(wide, MARGIN + label) + PAD
        sheet.nodes[place] = box._replace(w=tidy(wide - MARGIN), h=tidy(bottom - box.y))
    return bottom, wide + MARGIN


def _detail(entry: Entry) -> Detail:
    first = entry.first
    meaning = f"{first.name}: {first.role or 'a process on the way'}."
    if first.owner is not None:
        meaning += f" Told by its {first.owner.evidence.split(' ')[0]}."
    if first.apart:
        meaning += f" It has {labels.enumerated(list(first.apart))} namespaces of its own."
    return Detail(
        visible(meaning),
        (Raw("/proc/PID/stat", "PPid: the one above"),) if first.pid else (),
        "proc_pid_stat(5)",
        "ps axf -o pid,ppid,args",
    )


def _sentence(entries: list[Entry]) -> str:
    names = [entry.label for entry in entries]
    words = f"A chain of {plural(len(names), 'program')}: {', then '.join(names)}."
    start = _inside(entries)
    if start < len(entries):
        words += f" The container begins at {names[start]}."
    return visible(words)
