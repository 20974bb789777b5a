"""The views of a snapshot: namespaces, mounts, and both in one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrt.draw import _spaces, _tree
from ctrt.draw._measure import fit
from ctrt.draw._scene import Column, Picture, Row, Scene
from ctrt.draw._sheet import MARGIN, TITLE_SIZE, Sheet, tidy
from ctrt.draw._text import Block
from ctrt.observe import Snapshot, Unknown
from ctrt.words import visible

if TYPE_CHECKING:
    from ctrt.linux.mountinfo import Mount
    from ctrt.observe import Mounted

_NARROWEST = 900.0
_TOP = 62.0


def namespaces(snapshot: Snapshot, *, title: str | None = None, ids: bool = False) -> Picture:
    """The namespaces of a process: who owns which, and the processes in them.

    `ids` shows the kernel's numbers (inodes, pids outside) instead of stable names.
    """
    title = title or f"Namespaces of {snapshot.command}"
    part = _spaces.Part(snapshot, ids)
    sheet = Sheet()
    wide = max(part.width + 2 * MARGIN, _NARROWEST)
    bottom = part.draw(sheet, MARGIN, _TOP, wide - 2 * MARGIN)
    columns = (Column("name", "Namespace"), Column("what", "What"))
    return _picture(
        "namespaces", title, part.sentence(), sheet, wide, bottom, columns, part.blocks()
    )


def mounts(
    seen: Snapshot | Mounted,
    *,
    title: str | None = None,
    ids: bool = False,
    all: bool = False,  # noqa: A002
    beside: Snapshot | Mounted | None = None,
    names: tuple[str, str] = ("", "the second"),
    locked: frozenset[int] = frozenset(),
) -> Picture:
    """The mount tree of a process or a mount namespace, with over-mounts and peer groups.

    `ids` shows the kernel's numbers and the host's paths; `all` gives every mount a row of
    its own (device nodes, masked and read-only paths are put together otherwise). `beside` is a
    second one whose mounts are drawn below, so that it is seen what reaches it and what does
    not: peer groups have the same number and lane in both. Then `all` shows also the mounts that
    are the same in both. `names` are what the two are called, and `locked` are the ids of those
    mounts, of either, that `observe.locked` tells.
    """
    if beside is not None:
        names = names[0] or "the first", names[1]
        without = (frozenset[int](),) * 2 if all else _same(seen, beside)
        first = _tree.Part(seen, ids, all, called=names[0], without=without[0], locked=locked)
        second = _tree.Part(
            beside, ids, all, called=names[1], without=without[1], numbers=first.groups,
            prefix="2:", locked=locked,
        )  # fmt: skip
        left = len(without[0])
        return _two(first, second, title or f"Mounts of {names[0]} and of {names[1]}", left)
    part = _tree.Part(seen, ids, all, called=names[0], locked=locked)
    title = title or f"Mounts of {seen.command if isinstance(seen, Snapshot) else part.called}"
    sheet = Sheet()
    wide = max(part.width + 2 * MARGIN, _NARROWEST)
    bottom = part.draw(sheet, None, MARGIN, _TOP, wide - 2 * MARGIN)
    columns = tuple(Column(head.lower(), head) for head in _tree.HEADS)
    return _picture("mounts", title, part.sentence(), sheet, wide, bottom, columns, part.blocks())


def _same(
    one: Snapshot | Mounted, other: Snapshot | Mounted
) -> tuple[frozenset[int], frozenset[int]]:
    """The mounts that are alike in both, private, and have none below them that is not."""
    tables = [() if isinstance(s.mounts, Unknown) else s.mounts for s in (one, other)]

    def face(mount: Mount) -> tuple[object, ...]:
        return (mount.target, mount.device, mount.root, mount.options)

    private = [{face(m) for m in table if m.propagation == "private"} for table in tables]
    alike = private[0] & private[1]
    answers = []
    for table in tables:
        kept: set[int] = set()
        above = {mount.id: mount.parent for mount in table}
        for mount in table:
            at: int | None = mount.id if face(mount) not in alike else None
            while at is not None and at not in kept:
                kept.add(at)
                at = above.get(at) if above.get(at) in above else None
        answers.append(frozenset(mount.id for mount in table if mount.id not in kept))
    return answers[0], answers[1]


def _two(first: _tree.Part, second: _tree.Part, title: str, left: int) -> Picture:
    first.lanes, second.lanes = _tree.lanes([first, second])
    sheet = Sheet()
    wide = max(first.width + 2 * MARGIN, second.width + 2 * MARGIN, _NARROWEST)
    # Both have the same columns, so that the lanes stand below one another.
    columns = [
        (index, max(dict(first.columns).get(index, 0.0), dict(second.columns).get(index, 0.0)))
        for index in range(len(_tree.HEADS))
    ]
    first.columns = second.columns = [(index, room) for index, room in columns if room]
    wide = max(wide, first.width + 2 * MARGIN, second.width + 2 * MARGIN)
    bottom = first.draw(sheet, None, MARGIN, _TOP, wide - 2 * MARGIN)
    between = len(sheet.nodes)
    bottom = second.draw(sheet, None, MARGIN, bottom + 28, wide - 2 * MARGIN)
    _tree.joined(sheet.nodes[:between], sheet.nodes[between:], sheet)
    blocks = first.blocks() + second.blocks()
    if left:
        note = f"{left} mounts are the same in both, and private; they are not shown."
        if left == 1:
            note = "1 mount is the same in both, and private; it is not shown."
        bottom += 14
        wide = max(wide, sheet.text("note:same", MARGIN, bottom, note).w + 2 * MARGIN)
        bottom += 22
        blocks = (*blocks[:-1], blocks[-1]._replace(notes=(note,)))
    heads = tuple(Column(head.lower(), head) for head in _tree.HEADS)
    words = f"{first.sentence()} The second: {second.sentence()}"
    return _picture("mounts", title, words, sheet, wide, bottom, heads, blocks)


def container(
    snapshot: Snapshot,
    *,
    title: str | None = None,
    ids: bool = False,
    all: bool = False,  # noqa: A002
) -> Picture:
    """A container: its namespaces, and below them its mount tree if that is its own."""
    if title is None:
        title = f"{'Container' if snapshot.differing else 'Process'} {snapshot.command}"
    spaces = _spaces.Part(snapshot, ids)
    if "mnt" not in snapshot.differing:
        picture = namespaces(snapshot, title=title, ids=ids)
        return Picture(picture.scene._replace(view="container"), picture._blocks)  # noqa: SLF001
    part = _tree.Part(snapshot, ids, all)
    sheet = Sheet()
    wide = max(part.width + 2 * MARGIN, spaces.width + 2 * MARGIN, _NARROWEST)
    bottom = spaces.draw(sheet, MARGIN, _TOP, wide - 2 * MARGIN)
    bottom = part.draw(sheet, "mnt:1", MARGIN, bottom + 28, wide - 2 * MARGIN)
    columns = (
        Column("name", "Name"),
        Column("type", "Type"),
        Column("what", "What"),
        Column("flags", "Flags"),
        Column("propagation", "Propagation"),
    )
    sheet.rows = [
        row
        if row.kind == "mount"
        else row._replace(cells=(row.cells[0], row.kind, row.cells[1], "", ""))
        for row in sheet.rows
    ]
    description = f"{spaces.sentence()} {part.sentence()}"
    blocks = spaces.blocks() + part.blocks()
    return _picture("container", title, description, sheet, wide, bottom, columns, blocks)


def _ordered(rows: list[Row]) -> tuple[Row, ...]:
    """The rows as a tree-table shows them: whatever belongs to a row comes right below it."""
    known = {row.id for row in rows}
    below: dict[str | None, list[Row]] = {}
    for row in rows:
        below.setdefault(row.parent if row.parent in known else None, []).append(row)
    ordered: list[Row] = []
    waiting = below.get(None, [])[::-1]
    while waiting:
        row = waiting.pop()
        ordered.append(row)
        waiting += below.get(row.id, [])[::-1]
    return tuple(ordered)


def _picture(
    view: str,
    title: str,
    description: str,
    sheet: Sheet,
    wide: float,
    bottom: float,
    columns: tuple[Column, ...],
    blocks: tuple[Block, ...],
) -> Picture:
    """Title above, everything else as laid out."""
    title, description = visible(title), visible(description)
    shown = fit(title, wide - 2 * MARGIN, TITLE_SIZE, bold=True)
    heading = Sheet()
    heading.text("title", MARGIN, 18, shown, "title")
    bottom = sheet.legend(bottom, wide)
    scene = Scene(
        view,
        title,
        description,
        tidy(wide),
        tidy(bottom + MARGIN),
        columns,
        _ordered(sheet.rows),
        (*heading.nodes, *sheet.nodes),
        tuple(sheet.edges),
        sheet.details,
    )
    return Picture(scene, (Block(title=title), *blocks))
