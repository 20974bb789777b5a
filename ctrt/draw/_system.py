"""The whole machine: user namespaces inside one another, and in each the processes that are alike.

Five thousand processes in 250 containers are a few groups: whatever has the same namespaces of
its own, the same commands and the same engine is drawn once, with a count. So are user namespaces
that hold the same.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from ctrt.draw import _labels as labels
from ctrt.draw._measure import fit, width
from ctrt.draw._scene import Column, Detail, Node, Picture, Raw, Row, Scene
from ctrt.draw._sheet import (
    BOX_SIZE,
    CHIP,
    GAP,
    LONGEST,
    MARGIN,
    PAD,
    PILL,
    SUB_SIZE,
    WIDEST,
    Sheet,
    chip,
    pill,
    tidy,
)
from ctrt.draw._text import Block, Line
from ctrt.linux.namespaces import KINDS
from ctrt.observe import Unknown
from ctrt.words import plural, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ctrt.observe import Owner, Process, Space, System, Unseen

_HEADER = 50.0
_BETWEEN = 14.0
_MOST_COMMANDS = 4
_MOST_RANGES = 6
_MOST_NODES = 300
_HEADS = ("NAMESPACE", "OWN NAMESPACES", "WHOSE")


class Group(NamedTuple):
    """Sets of processes that are alike: `times` sets, each in namespaces of its own.

    `apart` are the kinds in which they are not where the machine's first process is.
    """

    label: str
    apart: tuple[str, ...]
    whose: str
    reason: str
    times: int
    pids: tuple[int, ...]
    raw: tuple[Raw, ...] = ()


class Empty(NamedTuple):
    """Namespaces of a kind without a process, and what keeps them."""

    kind: str
    keeper: str
    times: int
    raw: Raw


class Nest(NamedTuple):
    """User namespaces that are alike, with what is in each of them."""

    name: str
    words: str
    initial: bool
    groups: tuple[Group, ...]
    empty: tuple[Empty, ...]
    nests: tuple[Nest, ...]
    times: int
    raw: tuple[Raw, ...] = ()


def system(
    seen: System,
    owners: Mapping[int, Owner] | None = None,
    *,
    title: str = "Namespaces of this machine",
    ids: bool = False,
    all: bool = False,  # noqa: A002
) -> Picture:
    """Draw a scan of the whole machine; `owners` says whose container each process is in.

    `ids` names namespaces by the kernel's numbers and processes by their pids; then nothing is
    put together. `all` too puts nothing together.
    """
    title = visible(title)
    nests = _Reader(seen, owners or {}, ids, all or ids).nests()
    sheet, heading = Sheet(), Sheet()
    heading.text("title", MARGIN, 18, title, "title")
    lines: list[Line] = []
    _rows(sheet, lines, nests, None, 0)
    # Processes whose namespaces are unknown are drawn; what else is unknown is told.
    notes = [_unseen(one) for one in seen.unseen if one.what != "namespaces"]
    y, wide = 62.0, 0.0
    if len(sheet.rows) <= _MOST_NODES:
        for nest in nests:
            bottom, right = _box(sheet, nest, _id(None, nest), None, MARGIN, y)
            y, wide = bottom + _BETWEEN, max(wide, right)
    else:
        words = f"{len(sheet.rows)} things are too many for a drawing; the table has them all."
        wide = MARGIN + sheet.text("note:many", MARGIN, y, words).w
        y += 30
    for number, note in enumerate(notes, 1):
        wide = max(wide, MARGIN + sheet.text(f"note:{number}", MARGIN, y, visible(note)).w)
        y += 20
    wide = max(wide, MARGIN + heading.nodes[0].w, 460.0) + MARGIN
    y = sheet.legend(y - _BETWEEN, wide)
    scene = Scene(
        "system",
        title,
        _sentence(seen),
        tidy(wide),
        tidy(y + MARGIN),
        (Column("name", "Namespace"), Column("own", "Own namespaces"), Column("whose", "Whose")),
        tuple(sheet.rows),
        (*heading.nodes, *sheet.nodes),
        (),
        sheet.details,
    )
    return Picture(scene, (Block(title), Block("", _HEADS, tuple(lines), tuple(notes))))


class _Reader:
    """From the scan to nests: by user namespace, then by what is alike."""

    def __init__(
        self, seen: System, owners: Mapping[int, Owner], ids: bool, separate: bool
    ) -> None:
        self.seen = seen
        self.owners = owners
        self.ids = ids
        self.separate = separate
        self.first = {s.kind: s.key for s in seen.spaces.values() if s.initial}
        for kind in KINDS:
            # Where the machine's own may not be seen, the observer's take their place.
            mine = seen.processes[seen.me].namespace(kind)
            if not isinstance(mine, Unknown):
                self.first.setdefault(kind, mine)
        self.numbers: Counter[str] = Counter()
        self.by_user: dict[object, dict[object, list[Process]]] = {}
        for process in seen.processes.values():
            user = process.namespace("user")
            owner = owners.get(process.pid)
            engine = (owner.engine, owner.id) if owner is not None else None
            cell = (process.namespaces, engine)
            self.by_user.setdefault(user, {}).setdefault(cell, []).append(process)

    def nests(self) -> tuple[Nest, ...]:
        """The outermost ones: the machine's own, and those whose parents may not be seen."""
        users = self.seen.of_kind("user")
        tops = [s for s in users if s.parent not in self.seen.spaces]
        nests = [self._nest(space, 0) for space in tops]
        unread = {user: cells for user, cells in self.by_user.items() if isinstance(user, Unknown)}
        for user, cells in unread.items():
            groups = tuple(group._replace(reason="") for group in self._groups(cells))
            reason = user.reason if isinstance(user, Unknown) else ""
            nests.append(Nest("user[?]", f"could not be read: {reason}", False, groups, (), (), 1))
        return self._named(self._together(nests))

    def _nest(self, space: Space, depth: int) -> Nest:
        if depth > 40:
            return Nest("", "more namespaces inside", False, (), (), (), 1)
        below = [self._nest(child, depth + 1) for child in self.seen.children(space.key)]
        words = "the machine's first" if space.initial else labels.ranges_words(space)
        if space.hidden and not below:
            words += " (nobody in it)"
        name = f"user[{space.key.inode}]" if self.ids else ""
        return Nest(
            name,
            words,
            space.initial,
            self._groups(self.by_user.get(space.key, {})),
            self._empty(space),
            self._together(below),
            1,
            self._user_lines(space),
        )

    def _user_lines(self, space: Space) -> tuple[Raw, ...]:
        """What the kernel says of a user namespace."""
        if not space.processes:
            return ()
        proc = f"/proc/{space.processes[0] if self.ids else 'PID'}"
        number = space.key.inode if self.ids or space.initial else "…"
        found = [Raw(f"{proc}/ns/user", f"user:[{number}]")]
        for kind, ranges in (("uid", space.uid_map), ("gid", space.gid_map)):
            if isinstance(ranges, Unknown):
                found.append(Raw(f"{proc}/{kind}_map", f"could not be read: {ranges.reason}"))
            for one in () if isinstance(ranges, Unknown) else (ranges or ())[:_MOST_RANGES]:
                words = f"{one.inside} {one.outside} {one.length}"
                found.append(Raw(f"{proc}/{kind}_map", words))
        return tuple(found)

    def _groups(self, cells: Mapping[object, list[Process]]) -> tuple[Group, ...]:
        found: dict[object, Group] = {}
        for members in cells.values():
            first = members[0]
            apart = tuple(
                kind
                for kind, key in zip(KINDS, first.namespaces, strict=True)
                if kind != "user" and not isinstance(key, Unknown) and key != self.first.get(kind)
            )
            unread = [key.reason for key in first.namespaces if isinstance(key, Unknown)]
            owner = self.owners.get(first.pid)
            whose = _whose(owner, self.separate)
            label = self._label(members, first.namespace("user") != self.first.get("user") or apart)
            pids = tuple(sorted(process.pid for process in members))
            links = " ".join(
                f"{kind}:[{key.inode if self.ids else '…'}]"
                for kind, key in zip(KINDS, first.namespaces, strict=True)
                if kind in apart and not isinstance(key, Unknown)
            )
            raw = (Raw(f"/proc/{pids[0] if self.ids else 'PID'}/ns", links),) if links else ()
            group = Group(label, apart, whose, unread[0] if unread else "", 1, pids, raw)
            key = pids if self.separate else (label, apart, whose, group.reason)
            known = found.get(key)
            found[key] = (
                group
                if known is None
                else known._replace(times=known.times + 1, pids=known.pids + pids)
            )
        return tuple(
            sorted(found.values(), key=lambda g: (bool(g.apart), g.whose, g.label, g.pids))
        )

    def _label(self, members: list[Process], told: object) -> str:
        if not told and not self.ids:
            # What runs on the machine itself differs from machine to machine.
            return "processes of the machine"
        names = Counter(visible(process.name) for process in members)
        words = [f"{name} ×{n}" if n > 1 else name for name, n in sorted(names.items())]
        if len(words) > _MOST_COMMANDS:
            words = [*words[:_MOST_COMMANDS], "…"]
        return ", ".join(words)

    def _empty(self, user: Space) -> tuple[Empty, ...]:
        found: Counter[tuple[str, str]] = Counter()
        lines: dict[tuple[str, str], Raw] = {}
        for space in self.seen.owned(user.key):
            if space.processes or space.initial or space.key == self.first.get(space.kind):
                continue
            face = space.kind, self._keeper(space)
            found[face] += 1
            lines.setdefault(face, self._keeping(space))
        return tuple(Empty(*face, n, lines[face]) for face, n in sorted(found.items()))

    def _keeping(self, space: Space) -> Raw:
        """Where the kernel shows what keeps a namespace."""
        link = f"{space.kind}:[{space.key.inode if self.ids else '…'}]"
        for holder in space.holders:
            pid = holder.pid if self.ids else "PID"
            if holder.how == "mount":
                place = holder.path if self.ids else "…"
                return Raw("/proc/PID/mountinfo", visible(f"{link} {place} - nsfs nsfs"))
            if holder.how in ("descriptor", "socket"):
                number = holder.number if self.ids else "N"
                shown = link if holder.how == "descriptor" else "socket:[…]"
                return Raw(f"/proc/{pid}/fd/{number}", shown)
            if holder.how == "thread":
                thread = holder.number if self.ids else "TID"
                return Raw(f"/proc/{pid}/task/{thread}/ns/{space.kind}", link)
            if holder.how == "for children":
                return Raw(f"/proc/{pid}/ns/{space.kind}_for_children", link)
        return Raw("ioctl_nsfs(2)", link)

    def _keeper(self, space: Space) -> str:
        for holder in space.holders:
            if holder.how == "mount":
                return f"by a mount at {holder.path}" if self.ids else "by a mount"
            if holder.how in ("descriptor", "socket", "thread", "for children"):
                process = self.seen.processes.get(holder.pid)
                name = visible(process.name) if process is not None else "a process"
                return {
                    "descriptor": f"by a descriptor of {name}",
                    "socket": f"by a socket of {name}",
                    "thread": f"by a thread of {name}",
                    "for children": f"for the children of {name}",
                }[holder.how]
        return "by one inside it" if space.holders else "by something unseen"

    def _together(self, nests: Iterable[Nest]) -> tuple[Nest, ...]:
        if self.separate:
            return tuple(nests)
        found: dict[object, Nest] = {}
        for nest in nests:
            key = _shape(nest)
            known = found.get(key)
            found[key] = nest if known is None else _sum(known, nest)
        return tuple(found.values())

    def _named(self, nests: Iterable[Nest]) -> tuple[Nest, ...]:
        """Numbers in the order in which they are drawn."""
        named = []
        for nest in nests:
            name = nest.name
            if nest.initial and not self.ids:
                name = "user[host]"
            elif not name:
                self.numbers["user"] += 1
                name = f"user[{self.numbers['user']}]"
            elif name == "user[?]":
                # One for each reason: they are different things, and are called differently.
                self.numbers[name] += 1
                if self.numbers[name] > 1:
                    name = f"user[?{self.numbers[name]}]"
            named.append(nest._replace(name=name, nests=self._named(nest.nests)))
        return tuple(named)


def _whose(owner: Owner | None, separate: bool) -> str:
    if owner is None:
        return ""
    words = f"{owner.engine} monitor" if owner.monitor else owner.engine
    if separate and owner.name:
        words += f" {owner.name}"
    return visible(words)


def _shape(nest: Nest) -> tuple[object, ...]:
    """What two nests have in common that are drawn as one."""
    return (
        nest.words,
        nest.initial,
        tuple((g.label, g.apart, g.whose, g.reason, g.times) for g in nest.groups),
        tuple(empty[:3] for empty in nest.empty),
        tuple((*_shape(child), child.times) for child in nest.nests),
    )


def _sum(one: Nest, other: Nest) -> Nest:
    groups = tuple(
        a._replace(pids=a.pids + b.pids) for a, b in zip(one.groups, other.groups, strict=True)
    )
    nests = tuple(
        _sum(a, b)._replace(times=a.times) for a, b in zip(one.nests, other.nests, strict=True)
    )
    return one._replace(groups=groups, nests=nests, times=one.times + other.times)


def _id(parent: str | None, nest: Nest) -> str:
    return f"{parent}/{nest.name}" if parent else nest.name


def _title(nest: Nest) -> str:
    return nest.name + (f" ×{nest.times}" if nest.times > 1 else "")


def _rows(
    sheet: Sheet, lines: list[Line], nests: Iterable[Nest], parent: str | None, depth: int
) -> None:
    word = labels.KIND_WORDS["user"]
    for nest in nests:
        name = _id(parent, nest)
        lines.append(Line(depth, (_title(nest), "", nest.words)))
        sheet.rows.append(Row(name, parent, "user", (_title(nest), "", nest.words), "", nest.times))
        sheet.details[name] = Detail(word.meaning, nest.raw, word.man, "lsns -t user --tree")
        for number, group in enumerate(nest.groups):
            cells = (_shown(group), " ".join(group.apart), group.whose or group.reason)
            lines.append(Line(depth + 1, cells))
            sheet.rows.append(Row(f"{name}:{number}", name, "process", cells, "", len(group.pids)))
            sheet.details[f"{name}:{number}"] = _detail(group)
        for number, empty in enumerate(nest.empty):
            label = f"{empty.kind} namespace without a process"
            label += f" ×{empty.times}" if empty.times > 1 else ""
            cells = (label, empty.kind, f"kept {empty.keeper}")
            lines.append(Line(depth + 1, cells))
            key = f"{name}:empty{number}"
            sheet.rows.append(Row(key, name, empty.kind, cells, "", empty.times))
            about = labels.KIND_WORDS[empty.kind]
            sheet.details[key] = Detail(
                f"No process is in it; it is kept {empty.keeper}.", (empty.raw,), about.man, "lsns"
            )
        _rows(sheet, lines, nest.nests, name, depth + 1)


def _shown(group: Group) -> str:
    """Its label, with how many there are; of the machine itself the number changes all the time."""
    return f"{group.label} (×{group.times})" if group.times > 1 else group.label


def _detail(group: Group) -> Detail:
    if group.reason:
        return Detail(f"Could not be read: {group.reason}.", (), "proc(5)", "lsns")
    if not group.apart:
        return Detail("In the machine's own namespaces.", (), "namespaces(7)", "ps -e")
    own = labels.enumerated(list(group.apart))
    return Detail(
        f"They have their own {own} namespace" + ("s." if len(group.apart) > 1 else "."),
        group.raw,
        "namespaces(7)",
        "lsns -p PID",
    )


def _box(
    sheet: Sheet, nest: Nest, name: str, parent: str | None, x: float, y: float
) -> tuple[float, float]:
    """One user namespace with what is in it; its bottom and its right edge."""
    index = len(sheet.nodes)
    word = labels.KIND_WORDS["user"]
    dotted = nest.words.startswith("could not be read")
    box = Node(
        name, parent, "user", "container", tidy(x), tidy(y), 0, 0, icon=word.icon, code="user",
        label=_title(nest), sub=visible(fit(nest.words, 2 * LONGEST, SUB_SIZE)),
        border="dotted" if dotted else "dashed" if nest.initial else "double",
    )  # fmt: skip
    sheet.nodes.append(box)
    right = x + 46 + width(box.label, BOX_SIZE, bold=True) + 12 + width(box.sub, SUB_SIZE)
    at, left = y + _HEADER, x + PAD
    for number, group in enumerate(nest.groups):
        key = f"{name}:{number}"
        sub = group.whose or (f"could not be read: {group.reason}" if group.reason else "")
        drawn = chip(key, _shown(group), sub, name)._replace(
            x=tidy(left), y=tidy(at), border="dotted" if group.reason else "solid"
        )
        sheet.nodes.append(drawn)
        pills = [
            pill(
                f"{key}:{kind}",
                kind,
                labels.KIND_WORDS[kind].icon,
                kind,
                "",
                # Made there, its mounts are copies that it may do less with.
                "double" if kind == "mnt" and box.border == "double" else "solid",
                key,
            )
            for kind in group.apart
        ]
        start = drawn.x + drawn.w + GAP
        bottom = sheet.flow(pills, start, at, max(WIDEST - drawn.w, 200.0))
        right = max(right, start, *(node.x + node.w for node in sheet.nodes[index:]))
        at = max(at + CHIP, bottom) + GAP
    empties = [
        pill(
            f"{name}:empty{number}", empty.kind, labels.KIND_WORDS[empty.kind].icon,
            empty.kind + (f" ×{empty.times}" if empty.times > 1 else ""),
            visible(f"kept {empty.keeper}"), "solid", name,
        )
        for number, empty in enumerate(nest.empty)
    ]  # fmt: skip
    if empties:
        at = sheet.flow(empties, left, at, WIDEST, PILL) + GAP
        right = max(right, *(node.x + node.w for node in sheet.nodes[index + 1 :]))
    for child in nest.nests:
        bottom, edge = _box(sheet, child, _id(name, child), name, left, at)
        at, right = bottom + GAP, max(right, edge)
    at += PAD - GAP
    right += PAD
    sheet.nodes[index] = box._replace(w=tidy(right - x), h=tidy(at - y))
    return at, right


def _unseen(one: Unseen) -> str:
    if not one.pids:
        return f"{one.what}: {one.reason}"
    count = f"{len(one.pids)} process" + ("es" if len(one.pids) > 1 else "")
    return f"{one.what} of {count}: {one.reason}"


def _sentence(seen: System) -> str:
    counts = Counter(space.kind for space in seen.spaces.values() if not space.initial)
    own = [plural(counts[kind], f"{kind} namespace") for kind in KINDS if counts[kind]]
    if not own:
        return "Every process is in the machine's first namespaces."
    return f"Beside the machine's first namespaces there are {labels.enumerated(own)}."
