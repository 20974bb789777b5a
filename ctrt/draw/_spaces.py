"""Namespaces as boxes within boxes: who owns what, and which processes live there."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctrt.draw import _labels as labels
from ctrt.draw._inner import held
from ctrt.draw._labels import KIND_WORDS
from ctrt.draw._measure import fit, width
from ctrt.draw._scene import Detail, Node, Raw, Row
from ctrt.draw._sheet import (
    BOX_SIZE,
    CHIP,
    GAP,
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
    from ctrt.observe import Fellow, Snapshot

_HEAD = 44.0
_TAB = 30.0
_PILLS = ("mnt", "net", "uts", "ipc", "cgroup", "time")
_MOST_CHIPS = 24


class Group(NamedTuple):
    """Processes that look the same: one chip, one row."""

    name: str
    sub: str
    number: int
    home: str
    fellows: tuple[Fellow, ...]


class Part:
    """The namespaces of a snapshot, ready to be laid out and written."""

    def __init__(self, snapshot: Snapshot, ids: bool) -> None:
        self.snapshot = snapshot
        self.ids = ids
        self.apart = snapshot.differing
        self.users = snapshot.users
        self.depth = max(len(self.users) - 1, 0)
        self.pid_depth = max(len(snapshot.pids) - 1, 1)
        self.unknown = _unknown(snapshot)
        self.groups = self._groups()
        self.lines: list[Line] = []

    # Where things belong

    def _owner(self, kind: str) -> int:
        """The place in `users` of the owner; what belongs to somebody above stands outermost."""
        found = self.snapshot.namespaces[kind]
        if isinstance(found, Unknown):
            return self.depth
        return self._user_index(found.owner)

    def _user_index(self, key: object) -> int:
        for index, user in enumerate(self.users):
            if user.key == key:
                return index
        return 0

    def _groups(self) -> list[Group]:
        """The target, then the others: those with the same name, place and pid words together."""
        found: dict[tuple[str, str, str], list[Fellow]] = {}
        target = self.snapshot.processes[0]
        for fellow in self.snapshot.processes[1:]:
            shares = labels.shares_words(fellow.shares, self.apart)
            found.setdefault((visible(fellow.name), shares, self._home(fellow)), []).append(fellow)
        groups = [
            Group(visible(target.name), self._pids([target]), 1, self._home(target), (target,))
        ]
        for (name, shares, home), fellows in found.items():
            pids = self._pids(fellows)
            sub = ", ".join(words for words in (pids, shares) if words)
            groups.append(Group(name, sub, len(fellows), home, tuple(fellows)))
        return groups

    def _home(self, fellow: Fellow) -> str:
        """The box that a process stands in."""
        if "pid" in fellow.shares:
            return f"pid:{self.pid_depth}"
        if not self.users or "user" in fellow.shares:
            return f"user:{self.depth or 'host'}"
        return "user:host"

    def _pids(self, fellows: list[Fellow]) -> str:
        inside = "pid" in self.apart and "pid" in fellows[0].shares
        if len(fellows) == 1:
            return labels.pid_words(fellows[0], inside, self.ids)
        if len(fellows) > 4 or not (inside or self.ids):
            return ""
        numbers = [str(f.ns_pids[-1] if inside else f.pid) for f in fellows]
        words = f"pids {labels.enumerated(numbers)}" + (" inside" if inside else "")
        if inside and self.ids:
            words += f", {labels.enumerated([str(f.pid) for f in fellows])} outside"
        return words

    # Drawing

    @property
    def width(self) -> float:
        """The width that the innermost box needs for the longest names."""
        return WIDEST + 2 * PAD * (self.depth + 2)

    def draw(self, sheet: Sheet, x: float, y: float, room: float) -> float:
        """Add everything at a place, `room` wide; the bottom of it."""
        return self._user(sheet, 0, None, x, y, room)

    def _user(
        self, sheet: Sheet, index: int, parent: str | None, x: float, y: float, room: float
    ) -> float:
        name = f"user:{index or 'host'}"
        label, sub, border = self._user_words(index)
        place = len(sheet.nodes)
        sub = fit(sub, room - 80 - width(label, BOX_SIZE, bold=True), SUB_SIZE)
        sheet.nodes.append(
            Node(
                name, parent, "user", "container", tidy(x), tidy(y), tidy(room), 0,
                icon=KIND_WORDS["user"].icon, code="user", label=label, sub=sub, border=border,
            )
        )  # fmt: skip
        self._row(sheet, Row(name, parent, "user", (label, sub)), index)
        sheet.details[name] = self._user_detail(index)
        inner, bottom = room - 2 * PAD, y + _HEAD
        depth = index + 1

        pills = []
        for kind in _PILLS:
            if kind in self.apart and self._owner(kind) == index:
                pills.append(self._pill(sheet, kind, name, depth))
        outer_pids = self.snapshot.pids[1:-1]
        for level, space in enumerate(reversed(outer_pids), 1):
            if self._user_index(space.owner) == index:
                pills.append(self._outer_pid(sheet, level, name, depth))
        if pills:
            bottom = sheet.flow(pills, x + PAD, bottom, inner) + PAD

        if "pid" in self.apart and self._owner("pid") == index:
            bottom = self._pid_box(sheet, name, depth, x + PAD, bottom, inner) + PAD
        chips = self._chips(sheet, name, depth)
        if chips:
            bottom = sheet.flow(chips, x + PAD, bottom, inner, CHIP) + PAD
        if index < self.depth:
            bottom = self._user(sheet, index + 1, name, x + PAD, bottom, inner) + PAD
        if index == self.depth and self.unknown:
            bottom = self._unreadable(sheet, name, x + PAD, bottom, inner)
        if index == 0:
            bottom = self._shared(sheet, name, x + PAD, bottom, inner)
        sheet.nodes[place] = sheet.nodes[place]._replace(h=tidy(bottom - y))
        return bottom

    def _user_words(self, index: int) -> tuple[str, str, str]:
        if not self.users:
            space = self.snapshot.namespaces["user"]
            if isinstance(space, Unknown):
                return "user[?]", "", "dotted"
            label = labels.name(self.snapshot, "user", self.ids)
            return label, "", "dashed" if space.initial else "solid"
        user = self.users[index]
        label = labels.user_name(user, index, self.ids)
        if index == 0:
            return label, "", "dashed" if user.initial else "solid"
        return label, labels.id_maps(user), "double"

    def _pill(self, sheet: Sheet, kind: str, parent: str, depth: int) -> Node:
        words = KIND_WORDS[kind]
        label = labels.name(self.snapshot, kind, self.ids)
        name = f"{kind}:1"
        short, long = words.short, words.long
        if kind == "mnt" and not isinstance(self.snapshot.mounts, Unknown):
            count = plural(len(self.snapshot.mounts), "mount")
            short, long = count, f"{long}: {len(self.snapshot.mounts)}"
        if kind == "cgroup" and self.ids:
            long = f"{long}: {self._cgroup()}"
        inner = held(self.snapshot, kind, self.ids)
        short = inner.short or short
        long = f"its own {words.short}: {inner.long}" if inner.long else long
        self._row(sheet, Row(name, parent, kind, (label, long)), depth)
        sheet.details[name] = self._detail(kind, label)
        border = "double" if kind == "mnt" and self._owner(kind) else "solid"
        return pill(name, kind, words.icon, label, short, border, parent)

    def _cgroup(self) -> str:
        """The cgroup as seen from outside: the v2 one where there is one that tells something."""
        cgroups = self.snapshot.cgroups
        if isinstance(cgroups, Unknown):
            return f"could not be read ({cgroups.reason})"
        paths = [cgroup.path for cgroup in cgroups if cgroup.path != "/"]
        return paths[-1] if paths else "/"

    def _outer_pid(self, sheet: Sheet, level: int, parent: str, depth: int) -> Node:
        name = f"pid:{level}"
        space = self.snapshot.pids[-1 - level]
        label = labels.pid_name(space.key, level, self.ids)
        below = labels.pid_name(self.snapshot.pids[-2 - level].key, level + 1, self.ids)
        self._row(sheet, Row(name, parent, "pid", (label, f"parent of {below}")), depth)
        sheet.details[name] = self._detail("pid", label)
        return pill(
            name, "pid", KIND_WORDS["pid"].icon, label, f"parent of {below}", "solid", parent
        )

    def _pid_box(
        self, sheet: Sheet, parent: str, depth: int, x: float, y: float, room: float
    ) -> float:
        name = f"pid:{self.pid_depth}"
        label = labels.name(self.snapshot, "pid", self.ids)
        sub = ""
        if self.pid_depth > 1:
            above = self.snapshot.pids[1]
            sub = "child of " + labels.pid_name(above.key, self.pid_depth - 1, self.ids)
        place = len(sheet.nodes)
        sheet.nodes.append(
            Node(
                name, parent, "pid", "tabbed", tidy(x), tidy(y), tidy(room), 0,
                icon=KIND_WORDS["pid"].icon, code="pid", label=label,
                sub=sub or KIND_WORDS["pid"].short,
            )
        )  # fmt: skip
        self._row(sheet, Row(name, parent, "pid", (label, sub or KIND_WORDS["pid"].long)), depth)
        sheet.details[name] = self._detail("pid", label)
        chips = self._chips(sheet, name, depth + 1)
        bottom = sheet.flow(chips, x + PAD, y + _TAB + GAP + 4, room - 2 * PAD, CHIP) + PAD
        sheet.nodes[place] = sheet.nodes[place]._replace(h=tidy(bottom - y))
        return bottom

    def _chips(self, sheet: Sheet, home: str, depth: int) -> list[Node]:
        chips = []
        here = [
            (number, group) for number, group in enumerate(self.groups, 1) if group.home == home
        ]
        for number, group in here[:_MOST_CHIPS]:
            name = f"process:{number}"
            label = group.name if group.number == 1 else f"{group.name} ×{group.number}"
            self._row(
                sheet, Row(name, home, "process", (label, group.sub), "", group.number), depth
            )
            sheet.details[name] = self._process_detail(group)
            chips.append(chip(name, label, group.sub, home))
        if len(here) > _MOST_CHIPS:
            count = sum(group.number for _, group in here[_MOST_CHIPS:])
            label = f"{count} more"
            name = f"process:{home}:more"
            self._row(sheet, Row(name, home, "process", (label, ""), "", count), depth)
            sheet.details[name] = Detail("Further processes in these namespaces.", (), "", "ps -e")
            chips.append(chip(name, label, "", home))
        return chips

    def _unreadable(self, sheet: Sheet, parent: str, x: float, y: float, room: float) -> float:
        for place, (reason, kinds) in enumerate(self.unknown.items(), 1):
            name = f"unknown:{place}"
            words = f"could not be read: {reason}"
            cells = (labels.enumerated(kinds), words)
            sheet.rows.append(Row(name, parent, "note", cells, "", len(kinds)))
            detail = Detail(
                f"{words[:1].upper()}{words[1:]}.",
                tuple(Raw(f"/proc/{self._proc}/ns/{kind}", reason) for kind in kinds),
                "ptrace(2)",
                f"ls -l /proc/{self._proc}/ns",
            )
            sheet.details[name] = detail
            pills = []
            for kind in kinds:
                own = f"{kind}:unknown"
                icon = KIND_WORDS[kind].icon
                pills.append(pill(own, kind, icon, kind, "", "dotted", parent))
                sheet.details[own] = detail
            wide, high = width(words, SUB_SIZE), tidy(SUB_SIZE * 1.5)
            sheet.nodes.append(
                Node(name, parent, "note", "text", tidy(x), tidy(y), tidy(wide), high, label=words)
            )
            y = sheet.flow(pills, x, y + high + 8, room) + PAD
        return y

    def _shared(self, sheet: Sheet, parent: str, x: float, y: float, room: float) -> float:
        kinds = [kind for kind in self.snapshot.shared if kind != "user"]
        if not kinds:
            return y
        words = f"shared with the host: {', '.join(kinds)}"
        sheet.rows.append(Row("shared", parent, "note", (words, ""), "", len(kinds)))
        sheet.details["shared"] = Detail(
            "These namespaces are the host's own: nothing in them is set apart.",
            tuple(Raw(f"/proc/{self._proc}/ns/{kind}", f"{kind}:[host]") for kind in kinds),
            "namespaces(7)",
            f"lsns -p {self._proc}",
        )
        pills = []
        for kind in kinds:
            space = self.snapshot.namespaces[kind]
            border = "dashed" if not isinstance(space, Unknown) and space.initial else "solid"
            label = kind if not self.ids else labels.name(self.snapshot, kind, True)
            own = f"{kind}:host"
            pills.append(pill(own, kind, KIND_WORDS[kind].icon, label, "", border, parent))
            sheet.details[own] = self._detail(kind, f"{kind}[host]")
        return _titled(sheet, "shared", parent, "shared with the host", pills, x, y, room) + PAD

    # Words

    @property
    def _proc(self) -> str:
        return str(self.snapshot.pid) if self.ids else "PID"

    def _row(self, sheet: Sheet, row: Row, depth: int) -> None:
        sheet.rows.append(row)
        self.lines.append(Line(depth, row.cells))

    def _detail(self, kind: str, label: str) -> Detail:
        words = KIND_WORDS[kind]
        line = label.replace("[", ":[", 1)
        inner = held(self.snapshot, kind, self.ids)
        return Detail(
            words.meaning,
            (Raw(f"/proc/{self._proc}/ns/{kind}", line), *inner.raw),
            words.man,
            inner.command or f"lsns -t {kind} -p {self._proc}",
        )

    def _user_detail(self, index: int) -> Detail:
        words = KIND_WORDS["user"]
        raw = []
        if self.users:
            user = self.users[index]
            for file, found in (("uid_map", user.uid_map), ("gid_map", user.gid_map)):
                path = f"/proc/{self._proc}/{file}"
                if isinstance(found, Unknown):
                    raw.append(Raw(path, f"could not be read: {found.reason}"))
                else:
                    raw += [Raw(path, f"{r.inside} {r.outside} {r.length}") for r in found]
        label = self._user_words(index)[0]
        raw.append(Raw(f"/proc/{self._proc}/ns/user", label.replace("[", ":[", 1)))
        return Detail(words.meaning, tuple(raw), words.man, f"lsns -t user -p {self._proc}")

    def _process_detail(self, group: Group) -> Detail:
        raw = []
        for fellow in group.fellows[:4]:
            path = f"/proc/{fellow.pid if self.ids else 'PID'}/status"
            raw.append(Raw(path, f"Name: {fellow.name}"))
            if self.ids:
                raw.append(Raw(path, "NSpid: " + " ".join(map(str, fellow.ns_pids))))
            elif "pid" in fellow.shares:
                raw.append(Raw(path, f"NSpid: … {fellow.ns_pids[-1]}"))
        return Detail(
            "A process, in the innermost box that it is a member of.",
            tuple(raw),
            "proc_pid_status(5)",
            f"cat /proc/{self._proc}/status",
        )

    def blocks(self) -> tuple[Block, ...]:
        """The same in characters; to be asked for after `draw`."""
        notes = []
        for reason, kinds in self.unknown.items():
            notes.append(f"could not be read: {', '.join(kinds)} ({reason})")
        shared = [kind for kind in KINDS if kind in self.snapshot.shared]
        if len(shared) == len(KINDS):
            notes.append("all namespaces are the host's")
        elif shared:
            notes.append(f"shared with the host: {', '.join(shared)}")
        return (Block(lines=tuple(self.lines), notes=tuple(notes)),)

    def sentence(self) -> str:
        """The same for those who cannot see it."""
        target = self.snapshot.processes[0]
        words = f"The process {target.name}"
        if "pid" in self.apart:
            words += (
                f" is process {target.ns_pids[-1]} of {labels.name(self.snapshot, 'pid', False)}"
            )
        if self.apart:
            words += " and" if "pid" in self.apart else ""
            words += f" has its own {labels.enumerated(self.apart)}"
            words += " namespace" if len(self.apart) == 1 else " namespaces"
        shared = self.snapshot.shared
        if shared:
            words += " and shares" if self.apart else " shares"
            words += f" {labels.enumerated(shared)} with the host"
        words += "."
        others = len(self.snapshot.processes) - 1
        if others:
            words += f" {others} other" + (" process is" if others == 1 else " processes are")
            words += " in at least one of them."
        for reason, kinds in self.unknown.items():
            words += f" Could not be read: {labels.enumerated(kinds)} ({reason})."
        return words


def _titled(
    sheet: Sheet, name: str, parent: str, words: str, pills: list[Node], x: float, y: float,
    room: float,
) -> float:  # fmt: skip
    """Pills with quiet words before them; the bottom of them."""
    wide, high = width(words, SUB_SIZE), SUB_SIZE * 1.5
    sheet.nodes.append(
        Node(
            name, parent, "note", "text", tidy(x), tidy(y + (PILL - high) / 2), tidy(wide),
            tidy(high), label=words,
        )
    )  # fmt: skip
    return sheet.flow(pills, x + wide + 14, y, room - wide - 14)


def _unknown(snapshot: Snapshot) -> dict[str, list[str]]:
    """The kinds that could not be read, by the reason why."""
    found: dict[str, list[str]] = {}
    for kind, space in snapshot.namespaces.items():
        if isinstance(space, Unknown):
            found.setdefault(space.reason, []).append(kind)
    return found
