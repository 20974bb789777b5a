"""The chain of capabilities: now, after an execve, and in each user namespace, side by side.

A row is a capability, or several for which all columns are alike. The first five columns are the
sets of the process, the next five what executing a program would leave, and the last ones the
user namespaces from the outermost inward: is the capability held there? Below stand the rules that
decided it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ctrt.draw._cap_words import MEANINGS
from ctrt.draw._caps import MARKS, Entry, families, matrix, short
from ctrt.draw._measure import fit, width
from ctrt.draw._scene import Cell, Column, Detail, Edge, Node, Picture, Raw, Row, Scene
from ctrt.draw._sheet import (
    CHIP,
    HEAD_SIZE,
    LABEL_SIZE,
    MARGIN,
    ROW_SIZE,
    SUB_SIZE,
    Sheet,
    chip,
    pill,
    tidy,
)
from ctrt.draw._text import Block, Line
from ctrt.linux.namespaces import INITIAL
from ctrt.words import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctrt.observe import Reach
    from ctrt.observe.rules import Answer, Credentials, Outcome

_SETS = ("effective", "permitted", "inheritable", "bounding", "ambient")
_SHORT = ("Eff", "Prm", "Inh", "Bnd", "Amb")
_LETTERS = (
    "E effective, P permitted, I inheritable, B bounding, A ambient; a small letter: some of them; "
    "+ gained, - lost"
)
_STEP = 20.0
_LINE = 26.0
_COLUMN = 44.0
_GAP = 40.0
_APART = 16.0
_INSET = 17.0
_LONGEST = 32
_ANSWERS = {True: "on", False: "off", None: "unknown"}
_BECAUSE = {
    "member": "held, since they are in its effective set and this is its user namespace",
    "ancestor": "held, since they are in its effective set and its user namespace is above",
    "owner": "held, since its effective user id made it, from the user namespace above",
    "lacking": "not held, since they are not in its effective set",
    "not above": "not held, since its own user namespace is not above this one",
    "unknown": "not known",
}


class Group(NamedTuple):
    """Columns that belong together, under a shape."""

    shape: Node
    heads: tuple[str, ...]
    lefts: tuple[float, ...]


def chain(
    name: str,
    now: Credentials,
    outcome: Outcome,
    reach: Sequence[Reach],
    *,
    program: str = "",
    title: str | None = None,
    ids: bool = False,
    all: bool = False,  # noqa: A002
) -> Picture:
    """Draw what a process may do now, after executing a program, and where it counts.

    `outcome` is what `rules.execve` says of `now`, `program` the path of the program executed
    (one without privileges if empty), `reach` what `observe.reach` says. `ids` shows the numbers
    of namespaces, `all` gives every capability a row of its own.
    """
    title = visible(title or f"Capabilities of {name}")
    names = _names(reach, ids)
    parts = _parts(now, outcome, reach)
    entries = matrix(parts, all, _counted, _LONGEST)
    what = visible(program) or "a plain program"
    reasons = _reasons(now, outcome, reach, names, what)
    heading, sheet = Sheet(), Sheet()
    heading.text("title", MARGIN, 18, title, "title")
    groups = _groups(entries, visible(name), what, reach, names)
    wide, y = _draw(sheet, entries, groups, reach, names)
    for number, reason in enumerate(reasons, 1):
        told = sheet.text(f"note:{number}", MARGIN, tidy(y), fit(reason, 1000, SUB_SIZE))
        wide = max(wide, MARGIN + told.w)
        y += 20
    legend = "square: in the set, or held  ·  dot: not  ·  plus: gained  ·  minus: lost"
    legend += "  ·  Eff effective, Prm permitted, Inh inheritable, Bnd bounding, Amb ambient"
    wide = max(wide, MARGIN + sheet.text("legend:1", MARGIN, tidy(y + 6), legend, "head").w)
    heads = ("", "NOW", "AFTER", *names)
    lines = tuple(Line(entry.depth, (entry.label, *_brief(entry))) for entry in entries)
    scene = Scene(
        "chain",
        title,
        _sentence(now, outcome, reach, names, what),
        tidy(max(wide, MARGIN + heading.nodes[0].w) + MARGIN),
        tidy(y + 6 + HEAD_SIZE * 1.5 + MARGIN),
        (
            Column("name", "Capability"),
            *(Column(word, word.capitalize()) for word in _SETS),
            *(Column(f"{word}'", f"{word.capitalize()} after") for word in _SETS),
            *(Column(f"in:{number}", word) for number, word in enumerate(names, 1)),
        ),
        tuple(sheet.rows),
        (*heading.nodes, *sheet.nodes),
        tuple(sheet.edges),
        sheet.details,
    )
    notes = (*reasons, f"AFTER: after executing {what}. {_LETTERS}")
    return Picture(scene, (Block(title), Block("", heads, lines, notes)))


def _names(reach: Sequence[Reach], ids: bool) -> list[str]:
    """What the user namespaces are called: by their place from the outermost inward."""
    names = []
    for number, one in enumerate(reach):
        name = f"user[{one.space.inode if ids else number or 'host'}]"
        names.append(f"{name} ×{len(one.others) + 1}" if one.others else name)
    return names


def _parts(
    now: Credentials, outcome: Outcome, reach: Sequence[Reach]
) -> list[tuple[str, tuple[int, ...], list[tuple[str, ...]]]]:
    union = now.effective | now.permitted | now.inheritable | now.bounding | now.ambient
    return [
        (name, bits, [_marks(bit, now, outcome.after, reach) for bit in bits])
        for name, bits in families(union)
    ]


def _marks(
    bit: int, now: Credentials, after: Credentials | None, reach: Sequence[Reach]
) -> tuple[str, ...]:
    first = [getattr(now, name) >> bit & 1 for name in _SETS]
    marks = ["on" if here else "off" for here in first]
    for name, here in zip(_SETS, first, strict=True):
        then = 0 if after is None else getattr(after, name) >> bit & 1
        if after is None:
            marks.append("off")
        else:
            marks.append(("on" if here else "gained") if then else ("lost" if here else "off"))
    for one in reach:
        answer = one.answers[bit] if bit < len(one.answers) else None
        marks.append(_ANSWERS[answer.holds if answer else None])
    return tuple(marks)


def _counted(here: list[str]) -> str:
    """A column of a family in as few characters as can be."""
    count = sum(mark in ("on", "gained") for mark in here)
    if "unknown" in here:
        return "?"
    return "all" if count == len(here) else "none" if not count else f"{count}/{len(here)}"


def _words(entry: Entry) -> tuple[str, ...]:
    return entry.words or tuple(MARKS.get(mark, "?") for mark in entry.marks)


def _brief(entry: Entry) -> tuple[str, ...]:
    """The words of a line of text: of the five sets a letter each, at a place of its own."""
    words = _words(entry)
    cells = []
    for start in (0, len(_SETS)):
        told = ""
        for name, word in zip(_SETS, words[start : start + len(_SETS)], strict=True):
            letter = name[0].upper()
            if word in ("all", MARKS["on"]):
                told += letter
            elif word in ("none", MARKS["off"]):
                told += MARKS["off"]
            else:
                told += word if len(word) == 1 else letter.lower()
        cells.append(told)
    return (*cells, *words[2 * len(_SETS) :])


def _groups(
    entries: list[Entry], name: str, what: str, reach: Sequence[Reach], names: list[str]
) -> list[Group]:
    """The shapes above the columns, and where the columns begin."""
    first = max(entry.depth * _STEP + width(entry.label, ROW_SIZE, mono=True) for entry in entries)
    left = MARGIN + max(first, 150.0) + 24
    groups = []
    room = _COLUMN * len(_SETS)
    for code, label, sub in (("now", name, "now"), ("after", what, "executed")):
        spare = room - 38 - width(sub, SUB_SIZE)
        label = fit(label, spare, LABEL_SIZE, mono=True, bold=True)  # noqa: PLW2901
        shape = chip(f"caps:{code}", label, sub, None)
        shape = shape._replace(x=tidy(left), y=58)
        lefts = tuple(tidy(left + column * _COLUMN) for column in range(len(_SETS)))
        groups.append(Group(shape, _SHORT, lefts))
        left += room + _GAP
    for number, (one, label) in enumerate(zip(reach, names, strict=True), 1):
        border = "dashed" if one.space.inode == INITIAL["user"] else "solid"
        sub = {"own": "its own", "above": "", "below": "below"}[one.relation]
        shape = pill(f"user:{number}", "user", "U", label, sub, border, None)
        groups.append(Group(shape._replace(x=tidy(left), y=58), ("",), (tidy(left),)))
        left += shape.w + _APART
    return groups


def _draw(
    sheet: Sheet,
    entries: list[Entry],
    groups: list[Group],
    reach: Sequence[Reach],
    names: list[str],
) -> tuple[float, float]:
    """The shapes, the rows below them, and the details; right edge and bottom."""
    for group in groups:
        sheet.nodes.append(group.shape)
    now, after, *spaces = (group.shape for group in groups)
    middle = 58 + CHIP / 2
    points = ((tidy(now.x + now.w), middle), (after.x, middle))
    sheet.edges.append(Edge(now.id, after.id, "link", points, "end"))
    for (outer, inner), there in zip(pairwise(spaces), reach[1:], strict=False):
        if there.relation != "below":
            points = ((tidy(outer.x + outer.w), middle), (inner.x, middle))
            sheet.edges.append(Edge(outer.id, inner.id, "link", points))
    for one, shape, name in zip(reach, spaces, names, strict=True):
        sheet.details[shape.id] = _space_detail(one, name)
    lefts = [left for group in groups for left in group.lefts]
    heads = [head for group in groups for head in group.heads]
    y = 58 + CHIP + 12
    for number, (left, head) in enumerate(zip(lefts, heads, strict=True)):
        if head:
            sheet.text(f"caps:head:{number}", tidy(left + _INSET - 9), y, head, "head")
    y += 22
    last = groups[-1].shape
    wide = max(last.x + last.w, lefts[-1] + _COLUMN)
    ends: dict[str, float] = {}
    for row, entry in enumerate(entries):
        top = tidy(y + row * _LINE)
        x = MARGIN + entry.depth * _STEP
        words = _words(entry)
        sheet.nodes.append(
            Node(
                entry.id, entry.parent, "caps", "row", tidy(x), top, tidy(wide - x), _LINE,
                code="family" if entry.words else "caps", label=entry.label, sub=" ".join(words),
                diff=entry.diff,
                cells=tuple(_cell(left, entry, at) for at, left in enumerate(lefts)),
            )
        )  # fmt: skip
        sheet.rows.append(
            Row(entry.id, entry.parent, "caps", (entry.label, *words), entry.diff, len(entry.bits))
        )
        sheet.details[entry.id] = _detail(entry, reach, names)
        if entry.parent:
            trunk, centre = tidy(MARGIN + 6.5), tidy(top + _LINE / 2 + 0.5)
            start = ends.get(entry.parent, tidy(top - 1))
            branch = ((trunk, start), (trunk, centre), (trunk + 9, centre))
            sheet.edges.append(Edge(entry.parent, entry.id, "tree", branch))
            ends[entry.parent] = centre
    return wide, y + len(entries) * _LINE + 14


def _cell(left: float, entry: Entry, at: int) -> Cell:
    if entry.words:
        return Cell(tidy(left + _INSET - 8), entry.words[at])
    mark = entry.marks[at]
    return Cell(tidy(left + _INSET), *(("", mark) if mark in MARKS else ("?", "")))


def _reasons(
    now: Credentials,
    outcome: Outcome,
    reach: Sequence[Reach],
    names: list[str],
    what: str,
) -> list[str]:
    """The rules that decided, a line each."""
    told = [f"{change.sentence} [{change.man}]" for change in outcome.changes]
    if not told:
        told = ["all sets stay as they are [capabilities(7)]"]
    lines = [f"executing {what}, as user id {now.euid}: {sentence}" for sentence in told]
    for one, name in zip(reach, names, strict=True):
        clauses: dict[str, list[Answer]] = {}
        for answer in one.answers:
            clauses.setdefault(answer.clause, []).append(answer)
        parts = []
        for clause, answers in clauses.items():
            count = "all" if len(answers) == len(one.answers) else str(len(answers))
            reason = _BECAUSE[clause]
            if clause == "unknown":
                reason = answers[0].sentence
            parts.append(f"{count} {reason}")
        lines.append(f"{name}: {'; '.join(parts)} [user_namespaces(7)]")
    return [visible(line) for line in lines]


def _detail(entry: Entry, reach: Sequence[Reach], names: list[str]) -> Detail:
    bits = entry.bits[:12]
    meaning = "; ".join(
        f"{short(bit)}: {MEANINGS[bit]}" if bit < len(MEANINGS) else short(bit) for bit in bits
    )
    if len(entry.bits) > len(bits):
        meaning = "Every privilege that the kernel knows by name."
    raw = tuple(
        Raw(name, visible(one.answers[entry.bits[0]].sentence))
        for one, name in zip(reach, names, strict=True)
        if entry.marks and entry.bits[0] < len(one.answers)
    )
    return Detail(meaning, raw, "capabilities(7)", "getpcaps PID")


def _space_detail(one: Reach, name: str) -> Detail:
    held = sum(answer.holds is True for answer in one.answers)
    relation = {
        "own": "the process's own user namespace",
        "above": "a user namespace above the process's own",
        "below": "a user namespace below the process's own",
    }[one.relation]
    words = f"{name} is {relation}. The process holds {held} of {len(one.answers)} there."
    return Detail(visible(words), (), "user_namespaces(7)", "lsns -t user")


def _sentence(
    now: Credentials,
    outcome: Outcome,
    reach: Sequence[Reach],
    names: list[str],
    what: str,
) -> str:
    words = f"Effective capabilities: {now.effective.bit_count()} now"
    if outcome.after is None:
        words += f"; executing {what} is refused."
    else:
        words += f", {outcome.after.effective.bit_count()} after executing {what}."
    for one, name in zip(reach, names, strict=True):
        held = sum(answer.holds is True for answer in one.answers)
        words += f" Held in {name}: {held}."
    return visible(words)
