"""cgroups as trees: a trapezoid for each, with its limits; use and pressure when asked.

What changes from one moment to the next (use, pressure) and what an engine makes up (the hashes
in names) is left out unless `ids` asks for it, so that the same notebook gives the same picture.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ctrt.draw._measure import fit, width
from ctrt.draw._scene import Column, Detail, Edge, Node, Picture, Raw, Row, Scene
from ctrt.draw._sheet import LABEL_SIZE, LONGEST, MARGIN, SUB_SIZE, Sheet, tidy
from ctrt.draw._text import Block, Line
from ctrt.observe import Unknown, of_cgroup
from ctrt.words import in_order, plural, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctrt.observe import Cgroup, Hierarchy

    Forest = Sequence[tuple[Hierarchy, Sequence[tuple[Cgroup, int]]]]

_STEP = 26.0
_LINE = 38.0
_HIGH = 28.0
_MOST = 200
_LONG = 8
_HASH = re.compile(r"[0-9a-f]{12,}|(?<=-)[0-9a-f]{8}$")
_UID = re.compile(r"[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_HEADS = ("CGROUP", "LIMITS", "USE", "PROCESSES", "")


class Entry(NamedTuple):
    """A cgroup, or the heading of a hierarchy (`depth` -1)."""

    id: str
    parent: str | None
    depth: int
    label: str
    limits: str
    use: str
    processes: str
    notes: str
    detail: Detail
    number: int = 1


def cgroups(
    forest: Forest,
    *,
    title: str = "cgroups",
    ids: bool = False,
    all: bool = False,  # noqa: A002
    target: int | None = None,
) -> Picture:
    """Draw hierarchies, each with a walk through (a part of) its tree, and the depths.

    The trees of version 1 are drawn as one, since engines make the same paths in each.
    `target` is a pid whose cgroups are marked. `ids` shows use, pressure and whole names, `all`
    also the cgroups without processes and limits; without both, siblings that look the same are
    one row, and so is a long way of cgroups with nothing in them but the next.
    """
    title = visible(title)
    forest = _merged(forest)
    if not all:
        forest = [(tree, _telling(walk)) for tree, walk in forest]
    entries = [entry for tree in forest for entry in _entries(*tree, ids, target)]
    if not (all or ids):
        entries = _together(_shortened(entries))
    left = max(len(entries) - _MOST, 0)
    entries = entries[:_MOST]
    notes = [f"{left} more cgroups are not shown."] if left else []
    sheet, heading = Sheet(), Sheet()
    heading.text("title", MARGIN, 18, title, "title")
    wide, bottom = _draw(sheet, entries)
    for number, note in enumerate(notes, 1):
        sheet.text(f"note:{number}", MARGIN, bottom + 8, note)
        bottom += 26
    wide = max(wide, heading.nodes[0].w) + 2 * MARGIN
    bottom = sheet.legend(bottom, wide)
    lines = tuple(
        Line(entry.depth + 1, (entry.label, entry.limits, entry.use, entry.processes, entry.notes))
        for entry in entries
    )
    columns = ("cgroup", "limits", "use", "processes", "notes")
    scene = Scene(
        "cgroups",
        title,
        _sentence(forest, entries),
        tidy(wide),
        tidy(bottom + MARGIN),
        tuple(Column(name, name.capitalize()) for name in columns),
        tuple(
            Row(
                entry.id, entry.parent, "cgroup",
                (entry.label, entry.limits, entry.use, entry.processes, entry.notes),
                "", entry.number,
            )
            for entry in entries
        ),
        (*heading.nodes, *sheet.nodes),
        tuple(sheet.edges),
        sheet.details,
    )  # fmt: skip
    return Picture(scene, (Block(title), Block("", _HEADS, lines, tuple(notes))))


def _merged(forest: Forest) -> Forest:
    """The forest with its version-1 trees put together by the paths of their cgroups."""
    old = [(tree, walk) for tree, walk in forest if tree.version == 1]
    if len(old) < 2:
        return forest
    by_path: dict[str, Cgroup] = {}
    for _, walk in old:
        for group, _ in walk:
            known = by_path.get(group.path)
            by_path[group.path] = group if known is None else _both(known, group)
    names = [name for tree, _ in old for name in tree.controllers or (tree.name,)]
    tree = old[0][0]._replace(
        controllers=tuple(names), name="", mount=f"{_above(old[0][0].mount)}/*"
    )
    return [*(one for one in forest if one[0].version == 2), (tree, _walk(by_path))]


def _walk(by_path: dict[str, Cgroup]) -> list[tuple[Cgroup, int]]:
    """Cgroups in the order of a walk, with their depths."""
    below: dict[str, list[tuple[list[tuple[int, str]], str]]] = {}
    for path in by_path:
        above, _, name = path.rpartition("/")
        # Below no path that is known: the root, and where the walk could not begin there.
        above = (above or "/") if name and (above or "/") in by_path else ""
        below.setdefault(above, []).append((in_order(name), path))
    walk = []
    waiting = [path for _, path in sorted(below.get("", ()), reverse=True)]
    while waiting:
        path = waiting.pop()
        walk.append((by_path[path], path.rstrip("/").count("/")))
        waiting += [one for _, one in sorted(below.get(path, ()), reverse=True)]
    return walk


def _above(path: str) -> str:
    return path.rpartition("/")[0]


def _both(one: Cgroup, other: Cgroup) -> Cgroup:
    """Two cgroups of the same path in two trees."""
    processes = one.processes
    if isinstance(processes, Unknown):
        processes = other.processes
    elif not isinstance(other.processes, Unknown):
        processes = tuple(sorted({*processes, *other.processes}))
    return one._replace(
        processes=processes,
        limits={**one.limits, **other.limits},
        use={**one.use, **other.use},
        frozen=one.frozen if other.frozen is None else other.frozen,
        delegated=one.delegated or other.delegated,
        raw=(*one.raw, *other.raw),
    )


def _telling(walk: Sequence[tuple[Cgroup, int]]) -> list[tuple[Cgroup, int]]:
    """Without the cgroups that neither hold nor limit anything, nor have one below that does."""
    kept: list[tuple[Cgroup, int]] = []
    wanted = -1
    for group, depth in reversed(walk):
        limited = any(v is not None and not _usual(w, v) for w, v in group.limits.items())
        if group.processes or limited or group.frozen or group.delegated or depth < wanted:
            kept.append((group, depth))
            wanted = depth
        elif depth == 0:
            kept.append((group, depth))
    return kept[::-1]


def _entries(
    tree: Hierarchy, walk: Sequence[tuple[Cgroup, int]], ids: bool, target: int | None
) -> list[Entry]:
    words = "version 2" if tree.version == 2 else "version 1"
    name = ", ".join(tree.controllers) or tree.name or "no controllers"
    top = f"tree:{'v2' if tree.version == 2 else '+'.join(tree.controllers) or tree.name}"
    detail = Detail(
        f"A tree of cgroups of {words}" + (f" with {name}." if tree.controllers else "."),
        (Raw("/proc/self/mountinfo", f"… {tree.mount} …"),),
        "cgroups(7)",
        "systemd-cgls" if tree.version == 2 else f"ls {tree.mount}",
    )
    found = [Entry(top, None, -1, f"{words}: {name}", "", "", "", "", detail)]
    above = {-1: top}
    for number, (group, depth) in enumerate(walk):
        entry = _entry(tree, group, depth, above[depth - 1], f"{top}:{number}", ids, target)
        above[depth] = entry.id
        found.append(entry)
    return found


def _shortened(entries: list[Entry]) -> list[Entry]:
    """The entries with a long way of cgroups, each with nothing in it but the next, as one."""
    below: dict[str | None, int] = {}
    for entry in entries:
        below[entry.parent] = below.get(entry.parent, 0) + 1
    ways: list[list[Entry]] = []
    inside = False
    for entry in entries:
        told = entry.limits or entry.use or entry.processes or entry.notes
        passed = entry.depth > 0 and not told and below.get(entry.id) == 1
        # The one below follows at once, as it is the only one.
        if passed and inside:
            ways[-1].append(entry)
        else:
            ways.append([entry])
        inside = passed
    found: list[Entry] = []
    depths: dict[str | None, int] = {}
    stands: dict[str, str] = {}  # the last of a way, and what is shown for the whole
    for way in ways:
        for number, entry in enumerate(way):
            if number and len(way) > _LONG:
                continue
            parent = stands.get(entry.parent or "", entry.parent)
            shown = entry._replace(parent=parent, depth=depths.get(parent, -2) + 1)
            depths[entry.id] = shown.depth
            found.append(shown)
        if len(way) > _LONG:
            count = len(way) - 1
            found[-1] = found[-1]._replace(
                label=f"{way[0].label}/…", number=len(way),
                notes=f"and {count} below, each with nothing but the next",
            )  # fmt: skip
            stands[way[-1].id] = way[0].id
    return found


def _together(entries: list[Entry]) -> list[Entry]:
    """The entries with siblings that look the same, and have none below, as one."""
    parents = {entry.parent for entry in entries}
    alike: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        # Only what an engine made up has a name that is shown without its distinction.
        key: tuple[object, ...] = (entry.parent, entry.label, entry.limits, entry.notes)
        alike.setdefault((entry.id,) if entry.id in parents else key, []).append(entry)
    found = []
    for first, *others in alike.values():
        if not others:
            found.append(first)
            continue
        total = sum(int(entry.processes or 0) for entry in (first, *others))
        number = len(others) + 1
        found.append(
            first._replace(
                label=f"{first.label} ×{number}", processes=str(total or ""), number=number
            )
        )
    return found


def _entry(
    tree: Hierarchy, group: Cgroup, depth: int, parent: str, name: str, ids: bool,
    target: int | None,
) -> Entry:  # fmt: skip
    base = group.path.rstrip("/").rpartition("/")[2] or "/"
    label = base
    if not ids:
        label = _HASH.sub("…", _UID.sub("…", base)).removesuffix("-…")
        owner = of_cgroup(group.path) if label == "…" else None
        if owner is not None:
            label = f"a container of {owner.engine}"
    notes = []
    processes = ""
    if isinstance(group.processes, Unknown):
        notes.append(f"processes could not be read: {group.processes.reason}")
    else:
        # The root holds whatever runs on the machine.
        if group.processes and (ids or group.path != "/"):
            processes = str(len(group.processes))
        if target is not None and target in group.processes:
            notes.append("← here")
    killed = int(group.use.get("killed", 0))
    if killed:
        notes.append(f"{killed} killed for lack of memory")
    if group.frozen:
        notes.append("frozen")
    if group.delegated:
        notes.append(f"delegated to uid {group.owner}" if ids else "delegated")
    if group.type and group.type != "domain":
        notes.append(group.type)
    limits = [
        _amount(what, value)
        for what, value in group.limits.items()
        if value is not None and not _usual(what, value)
    ]
    use = []
    if ids:
        use = [_amount(what, value) for what, value in group.use.items() if what != "killed"]
        use += [
            f"{what} pressure {found.some[0]:.1f} %"
            for what, found in group.pressure.items()
            if found.some[0] >= 0.1
        ]
    place = f"{tree.mount}{group.path}" if ids else f"{tree.mount}/…/{label}"
    meaning = "Its processes are counted and limited together with those of the cgroups below."
    raw = tuple(
        Raw(visible(path if ids else f"{place}/{path.rpartition('/')[2]}"), visible(text))
        for path, text in group.raw
    )
    return Entry(
        name, parent, depth, visible(label), ", ".join(limits), ", ".join(use), processes,
        visible(", ".join(notes)), Detail(meaning, raw, "cgroups(7)", f"ls {visible(place)}"),
    )  # fmt: skip


def _usual(what: str, value: float | str) -> bool:
    """Whether a value is the kernel's own default, or only tells what the machine has."""
    return (what, value) in (("cpu weight", 100), ("cpu shares", 1024)) or what in (
        "cpu set",
        "memory nodes",
    )


def _amount(what: str, value: float | str) -> str:
    if isinstance(value, str):
        return f"{what} {value}"
    if what in ("memory", "memory high", "swap", "memory and swap"):
        return f"{what} {_bytes(value)}"
    if what == "cpu time":
        return f"{value:.2f} s of cpu time"
    if what == "throttled":
        return f"throttled for {value:.2f} s"
    if what in ("processes", "cpus"):
        one = {"processes": "process", "cpus": "cpu"}[what]
        return f"{value:g} {one if value == 1 else what}"
    return f"{what} {value:g}"


def _bytes(value: float) -> str:
    unit = 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{value:.1f}".removesuffix(".0") + f" {_UNITS[unit]}"


def _draw(sheet: Sheet, entries: list[Entry]) -> tuple[float, float]:
    y, wide = 58.0, 0.0
    ends: dict[str, tuple[float, float]] = {}
    for entry in entries:
        sheet.details[entry.id] = entry.detail
        if entry.depth < 0:
            y += 8
            made = sheet.text(entry.id, MARGIN, y, entry.label, "heading")
            wide = max(wide, made.w)
            ends[entry.id] = (MARGIN + 8, y + 22)
            y += 32
            continue
        x = MARGIN + (entry.depth + 1) * _STEP
        label = fit(entry.label, LONGEST, LABEL_SIZE, bold=True)
        sub = fit(entry.limits, 2 * LONGEST, SUB_SIZE)
        room = 16 + width(label, LABEL_SIZE, bold=True) + 20
        room += 8 + width(sub, SUB_SIZE) if sub else 0
        sheet.nodes.append(
            Node(
                entry.id, entry.parent, "cgroup", "trapezoid", tidy(x), tidy(y), tidy(room), _HIGH,
                code="cgroup", label=label, sub=sub,
                border="dotted" if "could not be read" in entry.notes else "solid",
            )
        )  # fmt: skip
        quiet = [f"{entry.processes} in it" if entry.processes else "", entry.use, entry.notes]
        words = "  ·  ".join(filter(None, quiet))
        right = x + room
        if words:
            told = sheet.text(f"{entry.id}:words", tidy(right + 12), tidy(y + 5), words)
            right += 12 + told.w
        wide = max(wide, right - MARGIN)
        middle = tidy(y + _HIGH / 2)
        trunk, start = ends[entry.parent or ""]
        points = ((tidy(trunk), tidy(start)), (tidy(trunk), middle), (tidy(x + 3), middle))
        sheet.edges.append(Edge(entry.parent or "", entry.id, "tree", points))
        ends[entry.parent or ""] = (trunk, y + _HIGH / 2)
        ends[entry.id] = (x + 12, y + _HIGH)
        y += _LINE
    return wide, y


def _sentence(forest: Forest, entries: list[Entry]) -> str:
    count = sum(entry.depth >= 0 for entry in entries)
    words = f"{plural(count, 'cgroup')} of {plural(len(forest), 'tree')}."
    limited = [entry for entry in entries if entry.limits]
    if limited:
        words += " " + "; ".join(f"{e.label}: {e.limits}" for e in limited[:3]) + "."
    return words
