"""A mount tree as rows, with what is alike put together and peer groups in lanes beside it."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ctrt.draw import _labels as labels
from ctrt.draw._labels import HASH
from ctrt.draw._measure import fit, width
from ctrt.draw._scene import Cell, Detail, Edge, Node, Raw, Row
from ctrt.draw._sheet import HEAD_SIZE, ROW_SIZE, Sheet, cell, tidy
from ctrt.draw._text import Block, Line
from ctrt.observe import Snapshot, Unknown, tree
from ctrt.words import plural, visible

if TYPE_CHECKING:
    from ctrt.linux.mountinfo import Mount
    from ctrt.observe import Mounted

HEADS = ("Target", "Type", "Source", "Flags", "Propagation")
# Widths beyond which a column's text loses its middle: target, type, source, flags, propagation.
_ROOM = (310.0, 110.0, 210.0, 240.0, 190.0)
_COMFORTABLE = 740.0
_GAP = 22.0
_STEP = 20.0
_LINE = 26.0
_LANE = 30.0
_HEX_WIDTH, _HEX_HEIGHT = 22.0, 18.0
_MOST_LANES = 10
_MOST_ROWS = 60
_MANY = 8
_LIMIT = 200
_MOST_NAMES = 20
_SHOWN_FLAGS = ("nosuid", "nodev", "noexec", "nosymfollow", "idmapped")
# File systems whose roots are names within the kernel, not paths of the host's disks.
_KERNEL_ROOTS = frozenset(("proc", "sysfs", "devtmpfs"))
_IDENTIFIER = re.compile(r"[0-9a-f]{12}|[0-9]{4}")


class Entry(NamedTuple):
    """One row: a mount, or several alike ones that `members` lists."""

    id: str
    parent: str | None
    depth: int
    target: str
    fstype: str
    source: str
    flags: str
    propagation: str
    covered: bool
    members: tuple[Mount, ...]


class Part:
    """The mounts of a snapshot, ready to be laid out and written."""

    def __init__(
        self,
        snapshot: Snapshot | Mounted,
        ids: bool,
        everything: bool,
        *,
        numbers: dict[int, int] | None = None,
        prefix: str = "",
        called: str = "",
        without: frozenset[int] = frozenset(),
        locked: frozenset[int] = frozenset(),
    ) -> None:
        """`numbers` and `prefix` are for a second tree in a picture: its groups go on counting.

        `called` is whose the mounts are (to be told where no process's they are), `without` those
        that are not to be drawn, and `locked` those that cannot be unmounted alone.
        """
        if not called and isinstance(snapshot, Snapshot):
            called = labels.name(snapshot, "mnt", ids)
        self.called = called
        self.locked = locked
        self.place, self.command = "statmount(2)", "nsenter --mount=PATH findmnt"
        if isinstance(snapshot, Snapshot):
            proc = snapshot.pid if ids else "PID"
            self.place, self.command = f"/proc/{proc}/mountinfo", f"findmnt -N {proc}"
        self.snapshot = snapshot
        self.prefix = prefix
        self.ids = ids
        self.everything = everything
        self.mounts: tuple[Mount, ...] = ()
        self.unknown = ""
        if isinstance(snapshot.mounts, Unknown):
            self.unknown = snapshot.mounts.reason
        else:
            self.mounts = snapshot.mounts
        walk = [(mount, depth) for mount, depth in tree(self.mounts) if mount.id not in without]
        # What takes the place of the numbers in a line that is shown.
        self.order = {mount.id: number for number, mount in enumerate(self.mounts, 1)}
        self.targets = {mount.id: mount.target for mount in self.mounts}
        self.devices: dict[str, str] = {}
        for mount in self.mounts:
            self.devices.setdefault(mount.device, f"0:{len(self.devices) + 1}")
        self.groups = {} if numbers is None else numbers
        self._number_groups([mount for mount, _ in walk])
        self.entries = self._entries(walk)
        self.lanes = lanes([self])[0]
        # The columns of the drawing that have anything in them, with their widths.
        self.columns = self._columns()

    # What the rows say

    def _number_groups(self, walk: list[Mount]) -> None:
        """Peer groups by their first appearance; with ids, the kernel's numbers."""
        for mount in walk:
            for group in (mount.shared, mount.master, mount.propagate_from):
                if group:
                    self.groups.setdefault(group, group if self.ids else len(self.groups) + 1)
        self.places = {group: place for place, group in enumerate(self.groups, 1)}

    def _entries(self, walk: list[tuple[Mount, int]]) -> list[Entry]:
        parents = {mount.parent for mount, _ in walk}
        alike: dict[tuple[object, ...], list[Mount]] = {}
        if not self.everything:
            for mount, _ in walk:
                if mount.id not in parents and mount.id not in self.snapshot.covered:
                    what = _class(mount)
                    if what:
                        key = (mount.parent, what, mount.propagation, mount.id in self.locked)
                        alike.setdefault(key, []).append(mount)
            small = len(walk) - sum(len(found) - 1 for found in alike.values()) <= _MOST_ROWS
            taken = {mount.id for found in alike.values() for mount in found}
            more: dict[tuple[object, ...], list[Mount]] = {}
            for mount, _ in walk:
                if (
                    mount.id not in parents
                    and mount.id not in self.snapshot.covered
                    and mount.id not in taken
                ):
                    face = (mount.parent, mount.fstype, mount.propagation, self._flags(mount))
                    more.setdefault(face, []).append(mount)
            alike.update((key, f) for key, f in more.items() if not small or len(f) >= _MANY)
        together = {
            mount.id: found for found in alike.values() if len(found) > 1 for mount in found
        }
        entries: list[Entry] = []
        names: dict[int, str] = {}
        for mount, depth in walk:
            found = together.get(mount.id)
            if found is None:
                names[mount.id] = f"{self.prefix}mount:{len(entries) + 1}"
                entries.append(
                    Entry(
                        names[mount.id], names.get(mount.parent), depth, mount.target,
                        mount.fstype, self._source(mount), self._flags(mount),
                        self._propagation(mount), mount.id in self.snapshot.covered, (mount,),
                    )
                )  # fmt: skip
            elif found[0] is mount:
                entries.append(
                    self._together(f"{self.prefix}mount:{len(entries) + 1}", names, depth, found)
                )
        if len(entries) > _LIMIT and not self.everything:
            left = entries[_LIMIT:]
            entries = entries[:_LIMIT]
            members = tuple(mount for entry in left for mount in entry.members)
            entries.append(
                Entry(
                    f"{self.prefix}mount:more", None, 0, f"{len(members)} more mounts", "", "",
                    "", "", False, members,
                )
            )  # fmt: skip
        return entries

    def _together(self, name: str, names: dict[int, str], depth: int, found: list[Mount]) -> Entry:
        what = _class(found[0])
        word = {
            "masked": "masked path",
            "read-only": "read-only path",
            "device": "device node",
            "cgroup": "cgroup v1 mount",
        }.get(what, f"{found[0].fstype} mount")
        above = self.targets.get(found[0].parent, "/")
        below = [mount.target.removeprefix(above).lstrip("/") for mount in found[:_MOST_NAMES]]
        if not self.ids:
            below = list(dict.fromkeys(HASH.sub("…", name) for name in below))
        listed = ", ".join(below) + (", …" if len(found) > _MOST_NAMES else "")
        flags = self._flags(found[0])
        if what in ("masked", "device", "read-only"):
            flags = "locked" if found[0].id in self.locked else ""
        # Numbers of groups would differ within the row, so only the kind of propagation is told.
        propagation = found[0].propagation
        return Entry(
            name, names.get(found[0].parent), depth, plural(len(found), word), "", listed,
            flags, "" if propagation == "private" else propagation, False, tuple(found),
        )  # fmt: skip

    def _source(self, mount: Mount) -> str:
        """What is mounted, without paths of the host unless `ids` asks for them."""
        layers = _layers(mount) if mount.root == "/" else 0
        if layers:
            return f"overlay of {plural(layers, 'layer')}"
        if self.ids:
            return mount.source + (f"[{mount.root}]" if mount.root != "/" else "")
        if mount.root != "/":
            if _class(mount) == "masked":
                return "masked"
            if mount.fstype in _KERNEL_ROOTS:
                return f"bind of {mount.root}"
            return "" if mount.fstype in ("cgroup", "cgroup2") else "bind"
        if _class(mount) == "masked":
            return "masked"
        source = mount.source
        if source.startswith("/dev/"):
            return "disk"
        if source in (mount.fstype, "none", "") or source.startswith("/"):
            return ""
        if ":" in source or _IDENTIFIER.search(source):
            return "elsewhere" if ":" in source else ""
        return source

    def _flags(self, mount: Mount) -> str:
        flags = ["ro"] if mount.read_only else []
        flags += [flag for flag in _SHOWN_FLAGS if flag in mount.options]
        if mount.id in self.locked:
            flags.append("locked")
        return " ".join(flags)

    def _propagation(self, mount: Mount) -> str:
        """The optional fields in the kernel's words, and what they mean for the host."""
        words = []
        if mount.shared:
            also = " ⇄ host" if mount.shared in self.snapshot.host_groups else ""
            words.append(f"shared:{self.groups[mount.shared]}{also}")
        if mount.master:
            also = " ← host" if mount.master in self.snapshot.host_groups else ""
            words.append(f"master:{self.groups[mount.master]}{also}")
        if mount.propagate_from:
            words.append(f"propagate_from:{self.groups[mount.propagate_from]}")
        if mount.unbindable:
            words.append("unbindable")
        return " ".join(words)

    def _cells(self, entry: Entry) -> tuple[str, ...]:
        source = entry.source
        if entry.covered:
            source = f"{source}, covered".removeprefix(", ")
        words = (entry.target, entry.fstype, source, entry.flags, entry.propagation)
        return tuple(visible(word) for word in words)

    # Where things go

    def touched(self) -> dict[int, list[tuple[int, str]]]:
        """The rows that each peer group touches, and how: {group: [(row, how)]}."""
        touched: dict[int, list[tuple[int, str]]] = {}
        for row, entry in enumerate(self.entries):
            if len(entry.members) > 1:
                continue
            mount = entry.members[0]
            for group, how in (
                (mount.shared, "peer"),
                (mount.master, "slave"),
                (mount.propagate_from, "from"),
            ):
                if group:
                    touched.setdefault(group, []).append((row, how))
        return touched

    def _columns(self) -> list[tuple[int, float]]:
        """The columns that have anything in them, with their widths and a gap."""
        wanted = []
        for index in range(len(HEADS)):
            widest = max(
                (
                    width(self._cells(entry)[index], ROW_SIZE, mono=True)
                    + (entry.depth * _STEP if index == 0 else 0)
                    for entry in self.entries
                    if self._cells(entry)[index]
                ),
                default=0.0,
            )
            if widest:
                wanted.append((index, max(widest, width(HEADS[index], HEAD_SIZE))))
        # What the narrowest picture leaves over goes to the columns that lack it.
        spare = _COMFORTABLE - sum(min(wide, _ROOM[index]) + _GAP for index, wide in wanted)
        columns = []
        for index, wide in wanted:
            room = max(_ROOM[index], width(HEADS[index], HEAD_SIZE))
            more = max(min(wide - room, spare), 0.0)
            spare -= more
            columns.append((index, min(wide, room + more) + _GAP))
        return columns

    @property
    def width(self) -> float:
        """The width that the rows and lanes need."""
        lanes = 1 + max((lane for _, lane, _ in self.lanes), default=-1)
        return sum(wide for _, wide in self.columns) + lanes * _LANE + (14 if lanes else 0)

    def heading(self) -> str:
        """What is drawn, in one line."""
        if self.unknown:
            return f"Mounts: could not be read ({self.unknown})"
        words = f"Mounts of {self.called}: {len(self.mounts)}"
        if self.mounts and all(mount.propagation == "private" for mount in self.mounts):
            words += ", all private"
        return words

    def draw(self, sheet: Sheet, parent: str | None, x: float, y: float, room: float) -> float:
        """Add everything at a place; the bottom of it."""
        sheet.text(f"{self.prefix}mounts:heading", x, y, self.heading(), "heading")
        y += 30
        if not self.entries:
            return y
        places: dict[int, float] = {}
        left = x
        for index, wide in self.columns:
            places[index] = left
            sheet.text(f"{self.prefix}mounts:head:{index}", left, y, HEADS[index], "head")
            left += wide
        lanes_from = left + 14
        y += 22
        tops = [y + _LINE * row for row in range(len(self.entries))]
        rooms = {index: wide - _GAP for index, wide in self.columns}
        marks = self._hexagons(lanes_from, tops)
        where: dict[str, int] = {}
        targets = {entry.id: entry.target for entry in self.entries}
        ends: dict[str, float] = {}  # how far down the branch from a parent is drawn
        for row, entry in enumerate(self.entries):
            where[entry.id] = row
            indent = entry.depth * _STEP
            cells = self._cells(entry)
            together = len(entry.members) > 1
            sheet.nodes.append(
                Node(
                    entry.id, entry.parent or parent, "mount", "row", tidy(x + indent),
                    tidy(tops[row]), tidy(room - indent), _LINE,
                    code="together" if together else "mount",
                    label=self._label(entry, cells[0], rooms[0] - indent, targets),
                    sub=" ".join(filter(None, cells[1:])), strike=entry.covered,
                    cells=self._placed(cells, places, x + sum(wide for _, wide in self.columns)),
                )
            )  # fmt: skip
            sheet.rows.append(
                Row(entry.id, entry.parent or parent, "mount", cells, "", len(entry.members))
            )
            sheet.details[entry.id] = self._detail(entry)
            if entry.parent:
                trunk = tidy(x + (entry.depth - 1) * _STEP + 6.5)
                middle = tidy(tops[row] + _LINE / 2 + 0.5)
                start = ends.get(entry.parent, tidy(tops[where[entry.parent]] + _LINE - 1))
                points = ((trunk, start), (trunk, middle), (tidy(trunk + 9), middle))
                sheet.edges.append(Edge(entry.parent, entry.id, "tree", points))
                ends[entry.parent] = middle
        sheet.nodes += marks
        self._lines(sheet, marks)
        for group, _, rows in self.lanes:
            sheet.details[self.group_id(group)] = self._group_detail(group, rows)
        return tops[-1] + _LINE

    def _placed(
        self, words: tuple[str, ...], places: dict[int, float], end: float
    ) -> tuple[Cell, ...]:
        """The cells of a row behind its first; one runs on where nothing stands behind it."""
        found: list[Cell] = []
        for index, _ in reversed(self.columns):
            if index and words[index]:
                found.append(cell(places[index], words[index], end - _GAP - places[index]))
                end = places[index]
        return tuple(reversed(found))

    def _label(self, entry: Entry, words: str, room: float, targets: dict[str, str]) -> str:
        """The target, as the end of the path where the whole is too wide and stands above."""
        above = targets.get(entry.parent or "", "")
        if above == words:
            above = above.rpartition("/")[0]
        if width(words, ROW_SIZE, mono=True) > room and above and words.startswith(f"{above}/"):
            words = "…" + words[len(above) :]
        return fit(words, room, ROW_SIZE, mono=True)

    def group_id(self, group: int) -> str:
        """The id of a peer group's first hexagon."""
        return f"{self.prefix}group:{self.places[group]}"

    def _hexagons(self, x: float, tops: list[float]) -> list[Node]:
        """A hexagon on each row that a group touches; the first of a group has its plain id."""
        marks = []
        for group, lane, rows in self.lanes:
            name = self.group_id(group)
            for count, (row, how) in enumerate(rows):
                marks.append(
                    Node(
                        name if count == 0 else f"{name}@{self.entries[row].id}",
                        None if count == 0 else name, "group", "hexagon",
                        tidy(x + lane * _LANE), tidy(tops[row] + (_LINE - _HEX_HEIGHT) / 2),
                        _HEX_WIDTH, _HEX_HEIGHT,
                        code=how, label=str(self.groups[group]), lane=lane,
                        border="solid" if how == "peer" else "dashed",
                    )
                )  # fmt: skip
        return marks

    def _lines(self, sheet: Sheet, marks: list[Node]) -> None:
        """The lines between the hexagons of a group: both ways between peers, else downstream."""
        chains: dict[str, list[Node]] = {}
        for mark in marks:
            chains.setdefault(mark.parent or mark.id, []).append(mark)
        for group, _, rows in self.lanes:
            name = self.group_id(group)
            chain = chains[name]
            peers = [index for index, (_, how) in enumerate(rows) if how == "peer"]
            for index, (above, mark) in enumerate(pairwise(chain)):
                middle = tidy(mark.x + mark.w / 2)
                points = ((middle, tidy(above.y + above.h)), (middle, mark.y))
                arrow = "none"
                if index in peers and index + 1 in peers:
                    arrow = "both"
                elif index + 1 in peers or (peers and peers[0] > index):
                    # What receives points to itself, not to the peer below it.
                    arrow, points = "end", points[::-1]
                elif peers:
                    arrow = "end"
                how = "slave" if "slave" in (above.code, mark.code) else mark.code
                dash = "from" in (above.code, mark.code)
                to = self.entries[rows[index + 1][0]].id
                sheet.edges.append(Edge(name, to, how, points, arrow, dash))

    # What is said when asked

    def _detail(self, entry: Entry) -> Detail:
        mount = entry.members[0]
        if len(entry.members) > 1:
            meaning = f"{entry.target[:1].upper()}{entry.target[1:]}: {entry.source}."
        else:
            meaning = f"{mount.fstype} at {mount.target}: {_PROPAGATION[mount.propagation]}"
        if entry.covered:
            meaning += " Another mount covers it, so no path leads to it."
        if mount.id in self.locked:
            meaning += " It came with others from a more privileged namespace, so it is locked:"
            meaning += " it cannot be unmounted, or made writable, alone."
        return Detail(
            visible(meaning),
            tuple(
                Raw(self.place, visible(self._line(mount))) for mount in entry.members[:_MOST_NAMES]
            ),
            "mount_namespaces(7)" if mount.propagation != "private" else "proc_pid_mountinfo(5)",
            f"{self.command} -o TARGET,SOURCE,FSTYPE,OPTIONS,PROPAGATION",
        )

    def _group_detail(self, group: int, rows: list[tuple[int, str]]) -> Detail:
        members = [self.entries[row].target for row, how in rows if how == "peer"]
        slaves = [self.entries[row].target for row, how in rows if how == "slave"]
        words = [f"Peer group {self.groups[group]}."]
        if members:
            words.append(f"Mounts made below {labels.enumerated(members)} appear in all members.")
        if slaves:
            words.append(f"{labels.enumerated(slaves)} receives them, and sends none back.")
        if group in self.snapshot.host_groups:
            words.append("The host's mount namespace is in the group as well.")
        raw = []
        for row, _ in rows:
            mount = self.entries[row].members[0]
            raw.append(Raw(self.place, visible(self._line(mount))))
        return Detail(
            visible(" ".join(words)),
            tuple(raw),
            "mount_namespaces(7)",
            f"{self.command} -o +PROPAGATION",
        )

    def _line(self, mount: Mount) -> str:
        """The line of mountinfo, with its numbers in their order and without the host's paths."""
        if self.ids:
            return mount.line
        root = mount.root
        if root != "/" and mount.fstype not in _KERNEL_ROOTS:
            root = "…"
        source = mount.source
        if source.startswith("/") or ":" in source or _IDENTIFIER.search(source):
            source = "…"
        optional = [
            f"{tag}:{self.groups[group]}"
            for tag, group in (
                ("shared", mount.shared),
                ("master", mount.master),
                ("propagate_from", mount.propagate_from),
            )
            if group
        ]
        if mount.unbindable:
            optional.append("unbindable")
        options = ",".join(_public(option) for option in mount.super_options)
        return " ".join(
            [
                str(self.order[mount.id]),
                str(self.order.get(mount.parent, 0)),
                self.devices[mount.device],
                root,
                mount.target,
                ",".join(mount.options),
                *optional,
                "-",
                mount.fstype,
                source,
                options,
            ]
        )

    def blocks(self, heading: bool = True) -> tuple[Block, ...]:
        """The same in characters."""
        lines = tuple(
            Line(entry.depth, self._cells(entry), entry.covered) for entry in self.entries
        )
        heads = tuple(head.upper() for head in HEADS) if lines else ()
        return (Block(self.heading() if heading else "", heads, lines),)

    def sentence(self) -> str:
        """The same for those who cannot see it."""
        if self.unknown:
            return f"Its mounts could not be read: {self.unknown}."
        words = f"It sees {plural(len(self.mounts), 'mount')}"
        if self.entries:
            words += f"; {self.entries[0].target} is {self.entries[0].fstype}"
        words += "."
        hidden = len(self.snapshot.covered)
        if hidden:
            words += f" {hidden} of them {'is' if hidden == 1 else 'are'} covered by others."
        held = sum(mount.id in self.locked for mount in self.mounts)
        if held:
            words += f" {held} of them {'is' if held == 1 else 'are'} locked."
        return words


Lane = tuple[int, int, list[tuple[int, str]]]


def lanes(parts: list[Part]) -> list[list[Lane]]:
    """Each part's peer groups with their lanes: (group, lane, [(row, how)]).

    The parts stand below one another, and a group has the same lane in all of them.
    """
    found: dict[int, list[int]] = {}
    touched = []
    below = 0
    for part in parts:
        touched.append(part.touched())
        for group, rows in touched[-1].items():
            found.setdefault(group, []).extend(below + row for row, _ in rows)
        below += len(part.entries) + 3
    free: list[int] = []
    placed: dict[int, int] = {}
    for group, places in sorted(found.items(), key=lambda item: item[1][0]):
        lane = next((lane for lane, end in enumerate(free) if end < places[0] - 1), len(free))
        if lane == len(free):
            if lane == _MOST_LANES:
                continue
            free.append(places[-1])
        free[lane] = places[-1]
        placed[group] = lane
    return [
        [(group, placed[group], rows) for group, rows in one.items() if group in placed]
        for one in touched
    ]


def joined(upper: list[Node], lower: list[Node], sheet: Sheet) -> None:
    """Lines between the hexagons that a group has in two trees, one above the other."""
    last = {node.label: node for node in upper if node.shape == "hexagon"}
    top = {node.label: node for node in reversed(lower) if node.shape == "hexagon"}
    for label, above in last.items():
        if label not in top:
            continue
        first = top[label]
        middle = tidy(above.x + above.w / 2)
        points = ((middle, tidy(above.y + above.h)), (middle, first.y))
        if first.code == above.code == "peer":
            arrow = "both"
        elif first.code == "peer":
            arrow, points = "end", points[::-1]
        else:
            arrow = "end" if above.code == "peer" else "none"
        how = "peer" if arrow == "both" else "slave"
        dash = "from" in (above.code, first.code)
        sheet.edges.append(Edge(above.id, first.id, how, points, arrow, dash))


_PROPAGATION = {
    "private": "mounts made below it appear nowhere else.",
    "shared": "mounts made below it appear in all members of its peer group.",
    "slave": "mounts made in its master group appear here, but not the other way round.",
    "shared+slave": "it receives mounts from its master group and passes them on to its peers.",
    "unbindable": "mounts below it appear nowhere else, and it cannot be bind-mounted.",
}


def _class(mount: Mount) -> str:
    """Which of the usual furnishings of a container a mount is, if any."""
    directory, _, base = mount.target.rpartition("/")
    root = mount.root.rpartition("/")[2]
    if mount.fstype in ("devtmpfs", "tmpfs") and mount.root != "/":
        if directory == "/dev" and root == base:
            return "device"
        if root == "null":
            return "masked"
    if (
        mount.fstype == "tmpfs"
        and mount.root == "/"
        and mount.read_only
        and mount.target.startswith(("/proc/", "/sys/"))
        and mount.target != "/sys/fs/cgroup"
    ):
        return "masked"
    if mount.fstype in ("proc", "sysfs") and mount.root != "/" and mount.read_only:
        return "read-only"
    if mount.fstype == "cgroup":
        return "cgroup"
    return ""


def _layers(mount: Mount) -> int:
    """How many lower directories an overlay has; 0 for anything else. Source: overlayfs(5)."""
    if mount.fstype not in ("overlay", "fuse.fuse-overlayfs"):
        return 0
    count = 0
    # The options were separated at commas; a path with a comma continues in the next one.
    for option in mount.super_options:
        key, _, value = option.partition("=")
        if key == "lowerdir":
            count += len([part for part in re.split(r"(?<!\\):", value) if part])
        elif key in ("lowerdir+", "datadir+"):
            count += 1
    return count


def _public(option: str) -> str:
    """An option of a file system without a path of the host."""
    key, equals, value = option.partition("=")
    if equals and ("/" in value or _IDENTIFIER.search(value)):
        return f"{key}=…"
    return option
