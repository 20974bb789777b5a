"""The steps of a start: two lanes, outside and inside, and in each what its steps make.

Time goes down. A line from lane to lane is where one side waits for the other. Steps of the same
sort that follow each other (mounts, most often) are one, with a count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctrt.draw import _labels as labels
from ctrt.draw._changed import changed
from ctrt.draw._made import Made, made
from ctrt.draw._measure import fit, width, wrapped
from ctrt.draw._scene import Column, Detail, Edge, Node, Picture, Raw, Row, Scene
from ctrt.draw._sheet import CHIP, GAP, LABEL_SIZE, MARGIN, PAD, SUB_SIZE, Sheet, chip, pill, tidy
from ctrt.draw._text import Block, Line
from ctrt.runtime.plan import INSIDE, OUTSIDE, describe
from ctrt.words import plural, visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctrt.observe import Change
    from ctrt.runtime.plan import Plan, Step

    Hidden = tuple[tuple[str, str], ...]

_LANE = 470.0
_HEADER = 54.0
_BETWEEN = 20.0
_WORDS = 18.0
_LINES = 3
_LONGEST = 240.0
_SEEN = "✓ "
_LEGEND = "✓: what has changed after the step, as the kernel tells it"
_NEW = "NEW is the directory where the new root is put together, until it becomes /."
_SUBS = {OUTSIDE: "the process that starts it", INSIDE: "the first process of the container"}


class Entry(NamedTuple):
    """A line of the picture: one step, or several of a sort, with the number of the first."""

    id: str
    number: int
    steps: tuple[Step, ...]

    @property
    def where(self) -> str:
        """The lane."""
        return self.steps[0].where

    @property
    def label(self) -> str:
        """The step's name; the sort and how many for several."""
        count = len(self.steps)
        name = self.steps[0].name
        return visible(name if count == 1 else f"{_sort(self.steps[0])} ×{count}")

    @property
    def place(self) -> str:
        """The number, or the numbers from the first to the last."""
        last = self.number + len(self.steps) - 1
        return f"{self.number}" if last == self.number else f"{self.number}–{last}"


def steps(
    plan: Plan,
    *,
    title: str | None = None,
    hide: Mapping[str, str] | None = None,
    ids: bool = False,
    all: bool = False,  # noqa: A002
    changes: Mapping[int, Sequence[Change]] | None = None,
    at: int = -1,
) -> Picture:
    """Draw the plan of a start.

    `hide` are words (a directory of the host, say) with what is shown instead unless `ids` asks
    for them; `all` shows each step by itself. `changes` are what steps have changed, by their
    indexes, where the start has been made and looked at: then each step is by itself too. `at` is
    the index of the step that is to be done next, and is marked.
    """
    title = visible(title or f"The start of {plan.subject}")
    longest_first = sorted((hide or {}).items(), key=lambda pair: -len(pair[0]))
    hidden = () if ids else tuple((word, shown) for word, shown in longest_first if word)
    entries = _entries(plan, all or changes is not None)
    heading, sheet = Sheet(), Sheet()
    heading.text("title", MARGIN, 18, title, "title")
    bottom = _draw(sheet, entries, hidden, changes, at)
    notes = [*plan.notes]
    if any(instead == "NEW" for _, instead in hidden) and changes:
        notes.append(_NEW)
    for number, note in enumerate(notes, 1):
        words = fit(f"note: {_shown(note, hidden)}", 2 * _LANE, SUB_SIZE)
        sheet.text(f"note:{number}", MARGIN, tidy(bottom + 14), words)
        bottom += 22
    if changes:
        sheet.text("legend:1", MARGIN, tidy(bottom + 14), _LEGEND, "head")
        bottom += 20
    lines = tuple(Line(-1, row.cells) for row in sheet.rows)
    heads = ("Step", "Name", "Where", "Makes", *(() if changes is None else ("Changed",)))
    scene = Scene(
        "steps",
        title,
        _sentence(plan, entries),
        tidy(max(2 * MARGIN + 2 * _LANE + GAP, heading.nodes[0].w + 2 * MARGIN)),
        tidy(bottom + MARGIN),
        tuple(Column(head.lower(), head) for head in heads),
        tuple(sheet.rows),
        (*heading.nodes, *sheet.nodes),
        tuple(sheet.edges),
        sheet.details,
    )
    told = tuple(f"note: {_shown(note, hidden)}" for note in notes)
    table = Block("", tuple(head.upper() for head in heads), lines, told)
    return Picture(scene, (Block(title), table))


def _sort(step: Step) -> str:
    """What steps have in common that differ in a path only: "mount" of "mount /proc"."""
    return step.name.partition(" /")[0]


def _entries(plan: Plan, everything: bool) -> list[Entry]:
    entries: list[Entry] = []
    for number, step in enumerate(plan.steps, 1):
        last = entries[-1] if entries else None
        if (
            last is not None
            and not everything
            and " /" in step.name
            and " /" in last.steps[0].name
            and (last.where, _sort(last.steps[0])) == (step.where, _sort(step))
        ):
            entries[-1] = last._replace(steps=(*last.steps, step))
        else:
            entries.append(Entry(f"step:{number}", number, (step,)))
    return entries


def _draw(
    sheet: Sheet,
    entries: list[Entry],
    hidden: Hidden,
    changes: Mapping[int, Sequence[Change]] | None,
    at: int,
) -> float:
    """The lanes with everything in them; the bottom of them."""
    lefts = {OUTSIDE: MARGIN, INSIDE: MARGIN + _LANE + GAP}
    places = {lane: len(sheet.nodes) + index for index, lane in enumerate(lefts)}
    for lane, left in lefts.items():
        sheet.nodes.append(
            Node(
                lane, None, "pid" if lane == INSIDE else "note", "container", tidy(left), 58,
                _LANE, 0, icon="P" if lane == INSIDE else "i", code=lane,
                label=lane.capitalize(), sub=_SUBS[lane],
                border="solid" if lane == INSIDE else "dashed",
            )
        )  # fmt: skip
    columns = {
        lane: max((_chip(entry, at).w for entry in entries if entry.where == lane), default=0.0)
        + PAD
        for lane in lefts
    }
    y = 58 + _HEADER
    before: Node | None = None
    for entry in entries:
        x = lefts[entry.where] + PAD
        found = made(entry.steps)
        seen = changed((changes or {}).get(entry.number - 1, ()))
        drawn = _chip(entry, at)._replace(x=tidy(x), y=tidy(y))
        sheet.nodes.append(drawn)
        column = columns[entry.where]
        told = tuple(f"{_SEEN}{_shown(words, hidden)}" for words in seen)
        # What is only said again, with its place, is said once.
        planned = (
            () if found.words and told == (f"{_SEEN}mounted: NEW{found.words[0]}",) else found.words
        )
        shown = found._replace(words=(*planned, *told))
        bottom = _makes(sheet, entry, shown, hidden, x + column, y, _LANE - column - 2 * PAD)
        if before is not None:
            sheet.edges.append(_line(before, drawn, y))
        sheet.rows.append(
            Row(
                entry.id,
                None,
                "process",
                (
                    _mark(entry, at) + entry.place,
                    entry.label,
                    entry.where,
                    _shown(found.text(), hidden),
                    *(() if changes is None else (_shown("; ".join(seen), hidden),)),
                ),
                "",
                len(entry.steps),
            )
        )
        sheet.details[entry.id] = _detail(entry, hidden, seen)
        before = drawn
        y = max(bottom, y + CHIP) + _BETWEEN
    y += PAD - _BETWEEN
    for place in places.values():
        sheet.nodes[place] = sheet.nodes[place]._replace(h=tidy(y - 58))
    return y


def _mark(entry: Entry, at: int) -> str:
    """What is done, and what comes next, in a start that waits before the step `at`."""
    index = entry.number - 1
    return "" if at < index else "▶ " if at == index else "✓ "


def _chip(entry: Entry, at: int) -> Node:
    """The step itself: its number and its name."""
    label = f"{_mark(entry, at)}{entry.place} {entry.label}"
    return chip(entry.id, fit(label, _LONGEST, LABEL_SIZE, mono=True, bold=True), "", entry.where)


def _makes(
    sheet: Sheet, entry: Entry, found: Made, hidden: Hidden, x: float, y: float, room: float
) -> float:
    """What a step makes, beside it; the bottom of that."""
    shapes = [
        pill(f"{entry.id}:{kind}", kind, labels.KIND_WORDS[kind].icon, kind, "", "solid", entry.id)
        for kind in found.spaces
    ]
    bottom = sheet.flow(shapes, x, y, room) + 4 if shapes else y
    for number, name in enumerate(found.cgroups, 1):
        label = fit(_shown(name, hidden), room - 40, LABEL_SIZE, bold=True)
        wide = tidy(32 + width(label, LABEL_SIZE, bold=True))
        sheet.nodes.append(
            Node(f"{entry.id}:cgroup:{number}", entry.id, "cgroup", "trapezoid", tidy(x),
                 tidy(bottom + 2), wide, CHIP - 4, code="cgroup", label=label)
        )  # fmt: skip
        bottom += CHIP
    lines = [
        (line, "seen" if words.startswith(_SEEN) else "")
        for words in found.words
        for line in wrapped(_shown(words, hidden), room, SUB_SIZE, _LINES)
    ]
    # One line of words stands in the middle of the chip, several begin at its top.
    top = bottom + (7 if bottom == y and len(lines) < 2 else 0)
    for number, (words, code) in enumerate(lines, 1):
        told = sheet.text(f"{entry.id}:makes:{number}", tidy(x), tidy(top), words, code)
        sheet.nodes[-1] = told._replace(parent=entry.id)
        top += _WORDS
        bottom = top
    return bottom


def _line(before: Node, after: Node, y: float) -> Edge:
    """From one step to the next: straight down, or across to the other lane."""
    start = (tidy(before.x + 20), tidy(before.y + before.h))
    end = (tidy(after.x + 20), after.y)
    if before.parent == after.parent:
        return Edge(before.id, after.id, "link", (start, end), "end")
    middle = tidy(y - _BETWEEN / 2)
    points = (start, (start[0], middle), (end[0], middle), end)
    return Edge(before.id, after.id, "link", points, "end", dash=True)


def _shown(text: str, hidden: Hidden) -> str:
    for word, instead in hidden:
        text = text.replace(word, instead)
    return visible(text)


def _detail(entry: Entry, hidden: Hidden, seen: Sequence[str]) -> Detail:
    first = entry.steps[0]
    meaning = f"{first.why[:1].upper()}{first.why[1:]}."
    if len(entry.steps) == 1 and first.needs:
        meaning += f" It needs {first.needs}."
    if seen:
        meaning += f" After it was seen: {_shown('; '.join(seen), hidden)}."
    raw = [
        Raw(step.name, _shown(describe(call), hidden))
        for step in entry.steps
        for call in step.calls
    ]
    return Detail(visible(meaning), tuple(raw), first.source, "ctrt run --plan IMAGE")


def _sentence(plan: Plan, entries: Sequence[Entry]) -> str:
    outside = sum(step.where == OUTSIDE for step in plan.steps)
    crossings = sum(
        one.where != other.where for one, other in zip(plan.steps, plan.steps[1:], strict=False)
    )
    kinds = list(dict.fromkeys(kind for entry in entries for kind in made(entry.steps).spaces))
    words = (
        f"{plural(len(plan.steps), 'step')}: {outside} outside, {len(plan.steps) - outside} inside;"
        f" {plural(crossings, 'time')} one side waits for the other."
    )
    if kinds:
        words += f" New namespaces: {labels.enumerated(kinds)}."
    return visible(words)
