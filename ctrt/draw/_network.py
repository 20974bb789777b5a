"""Networks: a box for each network namespace, its links in it, a line where two links are one pair.

The host, or who is joined to most others, stands on the left, the others on the right. Of the
host only what leads to the others is drawn, unless `all` asks for the rest: its own
addresses are nobody's business in a lecture.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from ctrt.draw import _labels as labels
from ctrt.draw._measure import width
from ctrt.draw._scene import Column, Detail, Edge, Node, Picture, Raw, Row, Scene
from ctrt.draw._sheet import BOX_SIZE, CHIP, MARGIN, PAD, SUB_SIZE, Sheet, chip, tidy
from ctrt.draw._text import Block, Line
from ctrt.observe import Unknown
from ctrt.words import plural, visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctrt.linux.namespaces import Key
    from ctrt.observe import Link, Listener, Network, Published

_HEADER = 46.0
_BETWEEN = 10.0
_INDENT = 22.0
_WORDS = 19.0
_APART = 24.0
_LANE = 9.0
_HASH = re.compile(r"(?<=veth)[0-9a-f]{4,}$")
_MOST = 24
_LINE = 76
_HEADS = ("NAMESPACE", "KIND", "ADDRESSES", "JOINED TO")


class Side(NamedTuple):
    """A network namespace to draw: what it is called, who is in it, and what it has.

    `known` is None where it could not be asked, with the reason in `words`. `programs` are the
    names of the processes that hold its listening sockets, by pid, and `published` are those of
    its ports that lead elsewhere.
    """

    key: Key
    name: str
    words: str
    initial: bool
    known: Network | None
    programs: Mapping[int, str] = MappingProxyType({})
    published: tuple[Published, ...] = ()


class Port(NamedTuple):
    """A link to draw; `depth` is 1 for the ports of a bridge, 2 for those of a bond in one."""

    id: str
    side: Side
    link: Link
    depth: int


def network(
    sides: Sequence[Side],
    *,
    title: str = "Networks",
    ids: bool = False,
    all: bool = False,  # noqa: A002
) -> Picture:
    """Draw network namespaces, the machine's first.

    `ids` shows whole names and hardware addresses; `all` every link of every namespace. Those
    with nothing but lo are counted only, unless it is the one that was asked for.
    """
    title = visible(title)
    quiet = [
        side
        for side in sides
        if not side.initial and side.known is not None and side.known.quiet and len(sides) > 1
    ]
    shown = [side for side in sides if all or side not in quiet]
    left = max(len(shown) - _MOST, 0)
    shown = shown[:_MOST]
    keys = {side.key for side in shown}
    ports = {side.key: _ports(side, keys, all) for side in shown}
    ends = {(side.key, p.link.number): p for side in shown for p in ports[side.key]}
    notes = []
    if quiet and not all:
        count = plural(len(quiet), "network namespace")
        have = "has" if len(quiet) == 1 else "have"
        notes.append(f"{count} {have} nothing but lo.")
    if left:
        notes.append(f"{plural(left, 'further network namespace')} not shown.")
    sheet, heading = Sheet(), Sheet()
    heading.text("title", MARGIN, 18, title, "title")
    called = {side.key: side.name for side in shown}
    told = {side.key: _told(side, called, ids, all) for side in shown}
    wide, bottom = _draw(sheet, shown, ports, ends, ids, told)
    for number, note in enumerate(notes, 1):
        wide = max(wide, MARGIN + sheet.text(f"note:{number}", MARGIN, bottom + 10, note).w)
        bottom += 28
    wide = max(wide, MARGIN + heading.nodes[0].w, 460.0) + MARGIN
    bottom = sheet.legend(bottom, wide)
    lines = []
    for side in shown:
        lines.append(Line(0, (side.name, "", "", side.words)))
        sheet.rows.append(Row(side.name, None, "net", (side.name, "", "", side.words)))
        sheet.details[side.name] = _ABOUT
        for port in ports[side.key]:
            cells = _cells(port, ends, ids)
            lines.append(Line(1 + port.depth, cells))
            sheet.rows.append(Row(port.id, side.name, "net", cells))
            sheet.details[port.id] = _detail(port, ends, ids)
        for words in told[side.key]:
            lines.append(Line(1, (words,)))
    columns = ("name", "kind", "addresses", "joined")
    heads = ("Namespace", "Kind", "Addresses", "Joined to")
    scene = Scene(
        "network",
        title,
        _sentence(shown, ends, notes),
        tidy(wide),
        tidy(bottom + MARGIN),
        tuple(Column(key, head) for key, head in zip(columns, heads, strict=True)),
        tuple(sheet.rows),
        (*heading.nodes, *sheet.nodes),
        tuple(sheet.edges),
        sheet.details,
    )
    return Picture(scene, (Block(title), Block("", _HEADS, tuple(lines), tuple(notes))))


def _ports(side: Side, keys: set[Key], everything: bool) -> list[Port]:
    """The links of a namespace, the ports of a bridge below it."""
    if side.known is None:
        return []
    links = side.known.links
    if side.initial and not everything:
        joined = {
            link.number
            for link in links
            if link.peer is not None and link.peer[0] in keys and link.peer[0] != side.key
        }
        masters = {link.master for link in links if link.number in joined}
        links = tuple(link for link in links if link.number in joined | masters)
    numbers = {link.number for link in links if link.number}
    below: dict[int, list[Link]] = {}
    for link in links:
        below.setdefault(link.master if link.master in numbers else 0, []).append(link)
    found = []
    waiting = [(link, 0) for link in reversed(below.get(0, ()))]
    while waiting:
        link, depth = waiting.pop()
        found.append(Port("", side, link, depth))
        if link.number:
            waiting += [(port, depth + 1) for port in reversed(below.get(link.number, ()))]
    # By place, not by the kernel's number, which differs from run to run.
    return [port._replace(id=f"{side.name}/{number}") for number, port in enumerate(found, 1)]


def _name(link: Link, ids: bool) -> str:
    return visible(link.name if ids else _HASH.sub("…", link.name))


def _other(port: Port, ends: dict[tuple[Key, int], Port]) -> Port | None:
    """The port at the other end of a veth pair, if it is in the picture."""
    peer = port.link.peer
    if peer is None or isinstance(peer[0], Unknown):
        return None
    return ends.get((peer[0], peer[1]))


def _joined(ends: dict[tuple[Key, int], Port]) -> list[tuple[Port, Port, bool]]:
    """What a line is drawn between: veth pairs (True), and links upon one of another namespace."""
    found = []
    for port in ends.values():
        other = _other(port, ends)
        if other is None:
            continue
        mutual = _other(other, ends) == port
        if port.id < other.id if mutual else port.side.key != other.side.key:
            found.append((port, other, mutual))
    return found


def _kind(link: Link, upon: str = "") -> str:
    word = link.kind or ("loopback" if link.name == "lo" else "device")
    word += f" on {upon}" if upon else ""
    return word if link.up else f"{word}, down"


def _addresses(link: Link, ids: bool) -> str:
    # A link-local address is made of the hardware's, which is new each time.
    told = [
        f"{one.address}/{one.prefix}"
        for one in link.addresses
        if ids or not one.address.startswith("fe80:")
    ]
    if ids and link.hardware and link.name != "lo":
        told.append(link.hardware)
    return " ".join(told)


def _cells(port: Port, ends: dict[tuple[Key, int], Port], ids: bool) -> tuple[str, str, str, str]:
    other = _other(port, ends)
    peer = port.link.peer
    joined = ""
    if other is not None:
        joined = f"{_name(other.link, ids)} in {other.side.name}"
    elif peer is not None and isinstance(peer[0], Unknown):
        joined = f"unknown: {peer[0].reason}"
    return _name(port.link, ids), _kind(port.link), _addresses(port.link, ids), visible(joined)


def _told(side: Side, called: Mapping[Key, str], ids: bool, everything: bool) -> list[str]:
    """Published ports, routes and listening sockets in words."""
    known = side.known
    if known is None:
        return []
    published = [_published(one, called, ids) for one in side.published]
    if side.initial and not everything:
        return published
    names = {link.number: _name(link, ids) for link in known.links}
    told = published
    for route in known.routes:
        if not ids and route.destination.startswith("fe80:"):
            continue
        words = f"route {route.destination}"
        words += f" via {route.gateway}" if route.gateway else ""
        words += f" by {names[route.link]}" if route.link in names else ""
        told.append(words + (f" ({route.type})" if route.type != "unicast" else ""))
    led = {one.listener for one in side.published}
    waiting = [one for one in known.listeners if one not in led]
    ports = [_socket(one, side.programs, ids) for one in sorted(waiting, key=_by_port)]
    told += [f"listens on {words}" for words in _in_lines(list(dict.fromkeys(ports)))]
    if known.unix:
        told.append(f"listens on {plural(known.unix, 'Unix socket')}")
    if isinstance(known.tables, Unknown):
        told.append(f"rules of nftables could not be read: {known.tables.reason}")
    else:
        told += [
            f"rules in {one.family} {one.name}: {one.rules}, in {plural(one.chains, 'chain')}"
            for one in known.tables
        ]
    if known.missing:
        told.append(f"not all could be asked: {known.missing}")
    return told


def _in_lines(words: Sequence[str]) -> list[str]:
    """Words with commas between, in lines that make no box wider than its links do."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(word) < _LINE:
            lines[-1] += f", {word}"
        else:
            lines.append(word)
    return lines


def _by_port(one: Listener) -> tuple[str, int, str]:
    return one.protocol, one.port, one.address


def _socket(one: Listener, programs: Mapping[int, str], ids: bool) -> str:
    everywhere = one.address in ("0.0.0.0", "::")  # noqa: S104, RUF100
    words = f"{one.protocol} {one.port}" + ("" if everywhere else f" of {one.address}")
    if one.pid not in programs:
        return words
    program = visible(programs[one.pid])
    return f"{words} ({program}, {one.pid})" if ids else f"{words} ({program})"


def _published(one: Published, called: Mapping[Key, str], ids: bool) -> str:
    words = f"publishes {_socket(one.listener, {one.listener.pid: one.program}, ids)}"
    if one.to is not None:
        words += f" to {called.get(one.to, 'a namespace that is not shown')}"
    return words + (f", port {one.port}" if one.port else "")


def _draw(
    sheet: Sheet,
    shown: list[Side],
    ports: dict[Key, list[Port]],
    ends: dict[tuple[Key, int], Port],
    ids: bool,
    told: Mapping[Key, list[str]],
) -> tuple[float, float]:
    """The boxes in two columns, then the lines between them; width and bottom."""
    joined = _joined(ends)
    columns = _columns(shown, joined)
    column_of = {side.key: number for number, column in enumerate(columns) for side in column}
    places: dict[str, Node] = {}
    x, bottom = MARGIN, 62.0
    rights = []
    for column in columns:
        y, wide = 62.0, 0.0
        boxes = []
        for side in column:
            box, bottom_here, right = _box(
                sheet, side, ports[side.key], x, y, places, ends, ids, told[side.key]
            )
            boxes.append(box)
            wide = max(wide, right - x)
            y = bottom_here + _APART
        for index in boxes:
            sheet.nodes[index] = sheet.nodes[index]._replace(w=tidy(wide))
        rights.append(x + wide)
        x += wide + 60 + len(joined) * _LANE
        bottom = max(bottom, y - _APART)
    right = rights[-1]
    lines = []
    for port, other, mutual in joined:
        a, b = places[port.id], places[other.id]
        if (a.x, a.y) > (b.x, b.y):
            a, b = b, a
        across = column_of[port.side.key] != column_of[other.side.key]
        at = min(column_of[port.side.key], column_of[other.side.key])
        # In this order of their upright parts the lines of one bridge cross nowhere.
        order = (-a.y if b.y > a.y else a.y) if across else b.y - a.y
        lines.append((at, not across, b.y < a.y, order, a, b, mutual))
    for lane, (at, loop, _, _, a, b, mutual) in enumerate(
        sorted(lines, key=lambda line: line[:4]), 1
    ):
        middle = rights[at] + (14 if loop else 24) + lane * _LANE
        right = max(right, middle)
        points: tuple[tuple[float, float], ...] = (
            (a.x + a.w, a.y + CHIP / 2), (middle, a.y + CHIP / 2),
            (middle, b.y + CHIP / 2), (b.x + b.w if loop else b.x, b.y + CHIP / 2),
        )  # fmt: skip
        if a.y == b.y and not loop:
            points = (points[0], points[-1])
        kind = "veth" if mutual else "link"
        path = tuple((tidy(x), tidy(y)) for x, y in points)
        sheet.edges.append(Edge(a.id, b.id, kind, path, dash=not mutual))
    return right, bottom


def _columns(shown: list[Side], joined: list[tuple[Port, Port, bool]]) -> list[list[Side]]:
    """On the left the host, and who is joined to most others where the host is not; the rest."""
    peers: dict[Key, set[Key]] = {side.key: set() for side in shown}
    for port, other, _ in joined:
        if port.side.key != other.side.key:
            peers[port.side.key].add(other.side.key)
            peers[other.side.key].add(port.side.key)
    left = [side for side in shown if side.initial]
    if not any(peers[side.key] for side in left):
        hub = max(shown, key=lambda side: len(peers[side.key]))
        if peers[hub.key] or not left:
            left = [*left, hub]
    rest = [side for side in shown if side not in left]
    return [column for column in (left, rest) if column]


def _box(
    sheet: Sheet, side: Side, ports: list[Port], x: float, y: float, places: dict[str, Node],
    ends: dict[tuple[Key, int], Port], ids: bool, told: list[str],
) -> tuple[int, float, float]:  # fmt: skip
    """One namespace with what is in it: the index of its box, its bottom, its right edge."""
    index = len(sheet.nodes)
    border = "dotted" if side.known is None else "dashed" if side.initial else "solid"
    box = Node(
        side.name, None, "net", "container", tidy(x), tidy(y), 0, 0, icon=_NET.icon, code="net",
        label=side.name, sub=visible(side.words), border=border,
    )  # fmt: skip
    sheet.nodes.append(box)
    right = x + 46 + width(box.label, BOX_SIZE, bold=True) + 12 + width(box.sub, SUB_SIZE)
    at = y + _HEADER
    for port in ports:
        lower = "" if port.link.kind == "veth" else _cells(port, ends, ids)[3]
        lower = lower.removesuffix(f" in {side.name}")
        said = (_kind(port.link, lower), _addresses(port.link, ids))
        words = " ".join(filter(None, said))
        drawn = chip(port.id, _name(port.link, ids), words, side.name)._replace(
            kind="net", x=tidy(x + PAD + port.depth * _INDENT), y=tidy(at)
        )
        sheet.nodes.append(drawn)
        places[port.id] = drawn
        right = max(right, drawn.x + drawn.w)
        at += CHIP + _BETWEEN
    if side.initial and not ports and not told:
        told = ["nothing of it leads to the others"]
    for number, words in enumerate(told):
        made = sheet.text(f"{side.name}:told{number}", tidy(x + PAD), tidy(at), visible(words))
        right = max(right, made.x + made.w)
        at += _WORDS
    at += PAD - (0 if told else _BETWEEN)
    sheet.nodes[index] = box._replace(h=tidy(at - y))
    return index, at, right + PAD


_NET = labels.KIND_WORDS["net"]
_ABOUT = Detail(
    _NET.meaning, (), _NET.man, "ip -d link; ip addr; ip route; ss -lntu; nft list ruleset"
)


def _detail(port: Port, ends: dict[tuple[Key, int], Port], ids: bool) -> Detail:
    link = port.link
    meaning = {
        "veth": "One end of a pair: what goes in here comes out at the other end.",
        "bridge": "A switch made by the kernel; its ports are drawn below it.",
        "loopback": "The namespace talking to itself.",
        "macvlan": "A second hardware address on another link.",
        "tun": "A program behind a descriptor takes the place of a wire.",
    }.get(_kind(link).partition(",")[0], "A network interface.")
    other = _other(port, ends)
    if other is not None and _other(other, ends) != port:
        meaning += f" It works upon {_name(other.link, ids)} of {other.side.name}."
    elif other is not None:
        meaning += f" The other end is {_name(other.link, ids)} in {other.side.name}."
    words = f"{_name(link, ids)}: mtu {link.mtu} {'UP' if link.up else 'DOWN'}"
    raw = (Raw("ip -d link", " ".join((words, link.kind, _addresses(link, ids))).strip()),)
    return Detail(meaning, raw, {"veth": "veth(4)"}.get(link.kind, "netdevice(7)"), "ip -d link")


def _sentence(shown: list[Side], ends: dict[tuple[Key, int], Port], notes: list[str]) -> str:
    pairs = sum(mutual for _, _, mutual in _joined(ends))
    spaces = plural(len(shown), "network namespace")
    words = f"{spaces}, {plural(pairs, 'veth pair')} between them."
    return " ".join([words, *notes])
