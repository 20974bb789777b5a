"""The verbs that look: graph, caps and their kin."""

from __future__ import annotations

import os

from ctrt.engine.options import CAPS, Option, Table
from ctrt.engine.targets import Target, inhabited, space_at, target_of
from ctrt.engine.verbs.base import NONE, Flow, Text, Verb, json_text, shown, write_svg
from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NamedTuple

    from ctrt.draw import Picture
    from ctrt.engine import Engine
    from ctrt.engine.options import Values
    from ctrt.engine.prepared import Prepared, Stop
    from ctrt.engine.verbs.base import Report
    from ctrt.linux.namespaces import Key
    from ctrt.observe import Event, Mounted, Owner, Snapshot, System

    View = Callable[[Engine, list[str], Values], Picture]
else:
    from ctrt.linux.values import NamedTuple

_LONGEST_WATCH = 1e9  # seconds


def _graph(engine: Engine, values: Values, _report: Report) -> Picture | Text:
    words = list(values.operands)
    if words[:1] == ["image"]:
        from ctrt.engine.verbs.images import layers

        values.operands = words[1:]
        return layers(engine, values)
    view = words.pop(0) if words and words[0] in _VIEWS else "container"
    show, most = _VIEWS[view]
    if values.below is not None and view != "mounts":
        raise CtrtError(f"graph {view}: --below goes with mounts alone")
    if most and len(words) > most:
        expected = "one target" if most == 1 else "two operands at most"
        raise CtrtError(f"graph {view}: expected {expected}, got {' '.join(words)}")
    return shown(show(engine, words, values), values)


def _within(title: str) -> str:
    """A title as a part of another one."""
    return (
        title[:1].lower() + title[1:]
        if title.startswith(("Container ", "Sandbox ", "The "))
        else title
    )


def _seen(target: Target) -> System:
    """The whole system, with the target still in it."""
    from ctrt import observe
    from ctrt.linux import processes

    system = target.system or observe.scan()
    if target.pid not in system.processes:
        whose = processes.of_thread(target.pid)
        if whose not in (0, target.pid):
            raise CtrtError(
                f"{target.pid} is a thread of process {whose}; this view is of processes: name "
                f"{whose} (ctrt caps {target.pid} shows the sets of that thread)"
            )
        raise CtrtError(f"process {target.pid} ended while it was being looked at")
    return system


def compare(engine: Engine, first: str, second: str, *, ids: bool = False) -> Picture:
    """What differs between two processes that `target_of` finds.

    With "inside" as the second it is the first one, as it takes itself to be.
    """
    from ctrt import draw, observe

    if second == "inside":
        target = target_of(engine, first)
        changes = observe.inside(_seen(target), target.pid)
        title = f"{target.title or _name(target, ids)}, from outside and from inside"
        return draw.difference(changes, "outside", "inside", title=title, ids=ids)
    (one, before), (other, after) = (
        _looked_at(engine, first, ids), _looked_at(engine, second, ids)
    )  # fmt: skip
    before, after = _apart(before, after)
    return draw.difference(observe.difference(one, other), before, after, ids=ids)


def is_moment(word: str) -> bool:
    """Whether a word names a moment of a recording: FILE or FILE@SECONDS."""
    return any(_is_recording(name) for name in (word, word.rpartition("@")[0]))


def _is_recording(path: str) -> bool:
    """A file that begins as those do: one by the name of a container does not hide it."""
    from ctrt import observe

    return os.path.isfile(path) and observe.is_recording(path)


def compare_moments(words: list[str], *, ids: bool = False) -> Picture:
    """What has changed on the machine: within one recording, or from one moment to another.

    A moment is FILE (the last one recorded), FILE@SECONDS after its first, or "now".
    """
    from ctrt import draw, observe

    if len(words) == 1:
        [file] = words
        events = observe.replay(file).events
        before, after = events[0].system, events[-1].system
        told = f"{file}@0", file
    else:
        before, after = (_moment(word) for word in words)
        told = words[0], words[1]
    return draw.difference(observe.difference(before, after), *told, ids=ids)


def _moment(word: str) -> System:
    from ctrt import observe

    if word == "now":
        return observe.scan()
    if _is_recording(word):
        return observe.replay(word).events[-1].system
    file, _, number = word.rpartition("@")
    if not _is_recording(file):
        raise CtrtError(f"diff: {word} is no moment: expected FILE, FILE@SECONDS or now")
    try:
        after = float(number)
    except ValueError:
        raise CtrtError(f"diff: {word}: {number!r} is not a number of seconds") from None
    line = observe.replay(file)
    return line.at(line.events[0].moment + after)


def _looked_at(engine: Engine, word: str, ids: bool) -> tuple[Snapshot, str]:
    """A snapshot of a target, and what it is called in a sentence."""
    from ctrt import observe

    target = target_of(engine, word)
    seen = observe.snapshot(target.pid, command=target.command, others=False)
    return seen, _name(target, ids)


def _name(target: Target, ids: bool) -> str:
    """What a target is called in a sentence: by its number only where numbers are asked for."""
    from ctrt import observe

    if target.title:
        return target.title.removeprefix("Container ").removeprefix("Sandbox ")
    if ids:
        return f"process {target.pid}"
    return target.command or observe.capabilities(target.pid).name


def _apart(one: str, other: str) -> tuple[str, str]:
    """Two names that can be told apart."""
    return (one, other) if one != other else (f"the first {one}", f"the second {other}")


class _Mounts(NamedTuple):
    """A mount tree, whose it is, and which of its mounts are locked."""

    seen: Snapshot | Mounted
    title: str
    name: str
    locked: frozenset[int]


def _mounts(engine: Engine, words: list[str], values: Values) -> Picture:
    """The mounts of a target, or of two, one below the other."""
    from ctrt import draw, observe

    one, *more = [_mounts_of(engine, word, values) for word in words or (None,)]
    options: dict[str, Any] = {"ids": values.ids, "all": values.all}
    if not more:
        name = "" if isinstance(one.seen, observe.Snapshot) else one.name
        title = f"Mounts of {_within(one.title)}" if one.title else None
        return draw.mounts(one.seen, title=title, names=(name, ""), locked=one.locked, **options)
    [other] = more
    names, locked = _apart(one.name, other.name), one.locked | other.locked
    return draw.mounts(one.seen, beside=other.seen, names=names, locked=locked, **options)


def _mounts_of(engine: Engine, word: str | None, values: Values) -> _Mounts:
    """The mounts of a target; with --below those at a path and below it."""
    from ctrt.observe import Unknown

    found = _whole(engine, word, values.ids)
    path, mounts = values.below, found.seen.mounts
    if path is None or isinstance(mounts, Unknown):
        return found
    if not path.startswith("/"):
        raise CtrtError(f"graph: --below needs a whole path, as in /mnt, not {path!r}")
    path = path.rstrip("/")
    kept = tuple(mount for mount in mounts if f"{mount.target}/".startswith(f"{path}/"))
    if not kept:
        raise CtrtError(f"graph mounts: {found.name} has no mount at {path} or below it")
    covered = found.seen.covered.intersection(mount.id for mount in kept)
    return found._replace(seen=found.seen._replace(mounts=kept, covered=covered))


def _whole(engine: Engine, word: str | None, ids: bool) -> _Mounts:
    from ctrt import observe

    if word is not None and word.startswith("/"):
        space, system = space_at(word)
        if space.kind == "mnt" and not space.processes:
            name = f"the mount namespace at {word}"
            found = observe.mounted(system, space.key)
            return _Mounts(found, name, name, _locked(system, space.key))
        target = inhabited(word, space, system)
    else:
        target = target_of(engine, word)
    snapshot = observe.snapshot(target.pid, command=target.command, others=False)
    locked: frozenset[int] = frozenset()
    own = snapshot.namespaces["mnt"]
    if "mnt" in snapshot.differing and not isinstance(own, observe.Unknown):
        locked = _locked(target.system or observe.scan(details=False), own.key)
    return _Mounts(snapshot, target.title or "", _name(target, ids), locked)


def _locked(system: System, key: Key) -> frozenset[int]:
    """The locked mounts of a namespace; none where it cannot be told, or has gone meanwhile."""
    from ctrt import observe

    found = observe.locked(system, key) if key in system.tables else frozenset[int]()
    return frozenset() if isinstance(found, observe.Unknown) else found


def _first(words: list[str]) -> str | None:
    return words[0] if words else None


_TITLES = {"namespaces": "Namespaces", "ids": "Ids"}


def _of_snapshot(view: str) -> View:
    def show(engine: Engine, words: list[str], values: Values) -> Picture:
        from ctrt import draw, observe

        target = target_of(engine, _first(words))
        # Who shares its namespaces is not asked where the picture does not show it.
        others = view in ("container", "namespaces")
        snapshot = observe.snapshot(target.pid, command=target.command, others=others)
        title = target.title
        if title and view in _TITLES:
            title = f"{_TITLES[view]} of {_within(title)}"
        options: dict[str, Any] = {"title": title, "ids": values.ids}
        if view == "container":
            options["all"] = values.all
        picture: Picture = getattr(draw, view)(snapshot, **options)
        return picture

    return show


def _cgroups(engine: Engine, words: list[str], values: Values) -> Picture:
    from ctrt import draw, observe

    trees = observe.hierarchies()
    if not trees:
        raise CtrtError("no cgroup tree is mounted here")
    if not words:
        forest = [(tree, list(observe.cgroup_tree(tree))) for tree in trees]
        return draw.cgroups(forest, ids=values.ids, all=values.all)
    target = target_of(engine, words[0])
    title = f"cgroups of {_within(target.title or _name(target, values.ids))}"
    forest = [(tree, observe.cgroup_branch(tree, target.pid)) for tree in trees]
    return draw.cgroups(forest, title=title, ids=values.ids, all=values.all, target=target.pid)


def _caps(engine: Engine, words: list[str], values: Values) -> Picture:
    """The sets of a process, what executing a program makes of them, and where they count."""
    from ctrt import draw, observe
    from ctrt.observe import rules

    target = target_of(engine, _first(words))
    system = _seen(target)
    now = observe.credentials(system, target.pid)
    if isinstance(now, observe.Unknown):
        raise CtrtError(f"the capabilities of process {target.pid} cannot be told: {now.reason}")
    path = words[1] if len(words) > 1 else ""
    program = observe.executable(system, target.pid, path) if path else rules.Program()
    outcome = rules.execve(now, program, roots=observe.roots(system, target.pid))
    name = target.command or system.processes[target.pid].name
    title = f"Capabilities of {_within(target.title or name)}"
    reach = observe.reach(system, target.pid)
    return draw.chain(
        name, now, outcome, reach, program=path, title=title, ids=values.ids, all=values.all
    )


def _steps(engine: Engine, words: list[str], values: Values) -> Picture:
    """The plan of a container's start; words are those of `ctrt run`."""
    from ctrt.engine.options import RUN

    options = RUN.parse(words)
    if not options.operands:
        raise CtrtError("graph steps: expected IMAGE [COMMAND...], as in: ctrt graph steps debian")
    options.plan = not getattr(values, "try")
    image, *command = options.operands
    prepared = engine.prepare(image, command, options)
    title = f"The start of {image}"
    if options.plan:
        return plan_picture(engine, prepared, title=title, ids=values.ids, everything=values.all)
    from ctrt import draw

    stop = _tried(engine, prepared)
    return draw.steps(
        prepared.plan, title=title, hide=stop.names, ids=values.ids, changes=stop.changes
    )


def _tried(engine: Engine, prepared: Prepared) -> Stop:
    """The last stop of a start: all is done but the program, and taken back."""
    last = len(prepared.plan.steps) - 1
    stops: list[Stop] = []

    def look(stop: Stop) -> bool:
        stops.append(stop)
        return stop.index < last

    try:
        engine.start(prepared, step=look).close()
    except CtrtError:
        if not stops or stops[-1].index < last:
            raise  # a step failed; at the last one it was called off here
    return stops[-1]


def plan_picture(
    engine: Engine,
    prepared: Prepared,
    *,
    title: str | None = None,
    ids: bool = False,
    everything: bool = False,
) -> Picture:
    """The steps of a start that will not be made."""
    from ctrt import draw

    prepared.release()
    title = title or f"The start of {prepared.what}"
    return draw.steps(
        prepared.plan, title=title, hide={engine.root: "ROOT"}, ids=ids, all=everything
    )


def planned(engine: Engine, prepared: Prepared, values: Values) -> Picture | Text:
    """What --plan shows: the steps in words, and with --svg (in a cell: --graph) as a picture."""
    file = getattr(values, "svg", None)  # %%caps has no such option, a command no --graph
    if not file and not getattr(values, "graph", False):
        return Text(engine.plan_text(prepared))
    picture = plan_picture(engine, prepared)
    return write_svg(picture, file) if file else picture


def _stack(engine: Engine, words: list[str], values: Values) -> Picture:
    from ctrt import draw, observe

    target = target_of(engine, _first(words))
    system = _seen(target)
    stations = observe.stack(system, target.pid, observe.owners(system, stores=(engine.root,)))
    title = f"From the machine's first process to {_within(target.title)}" if target.title else None
    return draw.stack(stations, title=title, ids=values.ids)


def _network(engine: Engine, words: list[str], values: Values) -> Picture:
    from ctrt import draw, observe

    target = target_of(engine, words[0]) if words else None
    system = observe.scan() if target is None else _seen(target)
    owners = observe.owners(system, stores=(engine.root,))
    own = None if target is None else system.processes[target.pid].namespace("net")
    if isinstance(own, observe.Unknown):
        raise CtrtError(f"the network of process {words[0]} cannot be told: {own.reason}")
    known = observe.networks(system, of=own)
    led = observe.published(system, known, owners)
    sides = []
    number = 0
    asked = [space for space in system.of_kind("net") if space.key in known]
    # Those with nothing but lo come last, so that they take no numbers from the others.
    for space in sorted(
        asked, key=lambda s: not s.initial and getattr(known[s.key], "quiet", False)
    ):
        name = "net[host]" if space.initial else f"net[{number + 1}]"
        number += not space.initial
        found = known[space.key]
        whose = _who(system, owners, space.processes) if not space.initial else "the host"
        if isinstance(found, observe.Unknown):
            sides.append(
                draw.Side(
                    space.key, name, f"could not be read: {found.reason}", space.initial, None
                )
            )
        else:
            holders = {one.pid: system.processes[one.pid].name
                       for one in found.listeners if one.pid in system.processes}  # fmt: skip
            here = tuple(one for one in led if one.at == space.key)
            sides.append(draw.Side(space.key, name, whose, space.initial, found, holders, here))
    title = "Networks"
    if target is not None:
        title = f"Network of {_within(target.title or _name(target, values.ids))}"
    return draw.network(sides, title=title, ids=values.ids, all=values.all)


def _who(system: System, owners: dict[int, Owner], pids: tuple[int, ...]) -> str:
    """Whose a namespace is, in a few words."""
    for pid in pids:
        owner = owners.get(pid)
        if owner is not None and not owner.monitor and owner.name:
            return f"{owner.engine} {owner.name}"
    names = list(dict.fromkeys(system.processes[pid].name for pid in pids))
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _namespaces(engine: Engine, words: list[str], values: Values) -> Picture:
    """Of one target, or without one of the whole machine."""
    if words:
        return _of_snapshot("namespaces")(engine, words, values)
    from ctrt import draw, observe

    system = observe.scan()
    return draw.system(
        system, observe.owners(system, stores=(engine.root,)), ids=values.ids, all=values.all
    )


# Each with the number of operands that it takes at most; 0 for any.
_VIEWS: dict[str, tuple[View, int]] = {
    "container": (_of_snapshot("container"), 1),
    "namespaces": (_namespaces, 1),
    "mounts": (_mounts, 2),
    "caps": (_caps, 2),
    "ids": (_of_snapshot("ids"), 1),
    "cgroups": (_cgroups, 1),
    "network": (_network, 1),
    "stack": (_stack, 1),
    "steps": (_steps, 0),
}


def caps(engine: Engine, values: Values, _report: Report = None) -> Any:
    """The capability sets of a process (this one, a pid) or a container, as a picture."""
    from ctrt import draw, observe

    if len(values.operands) > 1:
        raise CtrtError(f"caps: expected one target, got {' '.join(values.operands)}")
    target = values.operands[0] if values.operands else None
    sets = observe.capabilities(target_of(engine, target).pid if target else "self")
    picture = draw.capabilities(sets, all=values.all)
    if values.json:
        return json_text(picture.json())
    return picture


def _watch(_engine: Engine, values: Values, _report: Report) -> Flow:
    """What changes on the machine, as it happens or as it was recorded."""
    from ctrt import observe

    if values.replay is not None:
        if values.record is not None or values.seconds is not None:
            raise CtrtError("watch: --replay shows what was recorded; it goes with --json alone")
        happening: Iterable[Event] = observe.replay(values.replay).events
    else:
        happening = observe.watch(seconds=_seconds(values.seconds))
        if values.record is not None:
            happening = observe.recorded(values.record, happening)
    tell = _event_json if values.json else _event_text
    return Flow(tell(event) for event in happening)


def _seconds(word: str | None) -> float | None:
    if word is None:
        return None
    try:
        seconds = float(word)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < _LONGEST_WATCH:
        raise CtrtError(f"watch: --seconds {word!r} is not a number of seconds")
    return seconds


def _event_text(event: Event) -> str:
    """One line for each change; of the first event, which has none, what there is."""
    from time import localtime, strftime

    from ctrt.observe import Unknown
    from ctrt.words import plural, visible

    system = event.system
    clock = f"{strftime('%H:%M:%S', localtime(event.moment))}.{int(event.moment % 1 * 1000):03}"
    if not event.changes:
        tables = [table for table in system.tables.values() if not isinstance(table, Unknown)]
        counted = (
            f"{len(system.processes)} processes",
            plural(len(system.spaces), "namespace"),
            plural(sum(len(table.mounts) for table in tables), "mount"),
        )
        return f"{clock}    there are {', '.join(counted)}\n"
    lines = []
    for change in event.changes:
        values = " → ".join(filter(None, (change.before, change.after)))
        where = f" in mnt:[{change.key.inode}]" if change.key and change.kind == "mount" else ""
        what = f"{change.kind} {change.what}{where}: {values}"
        lines.append(f"{clock}  {change.sign} {visible(what)}\n")
    return "".join(lines)


def _event_json(event: Event) -> str:
    import json

    changes = [
        {
            **{name: getattr(change, name) for name in change._fields[:-1]},
            "namespace": change.key.inode if change.key else None,
        }
        for change in event.changes
    ]
    return json.dumps({"moment": event.moment, "told": event.told, "changes": changes}) + "\n"


JSON = Option("--json", "as JSON")
VERBS = [
    Verb(
        Table(
            "graph",
            "Draw a container or process: namespaces, mounts, capabilities, ids, cgroups, network, "
            "who started it; or the steps of a start.",
            f"[{'|'.join(view for view in _VIEWS if view != 'steps')}]"
            " [CONTAINER | PID | ENGINE:NAME | PATH] [BESIDE | PROGRAM]"
            " | steps IMAGE [COMMAND...] | image IMAGE [IMAGE]",
            [
                Option("--ids", "show pids, inodes and host paths"),
                Option("--all", "show every mount, also those of every container"),
                Option("--below", "mounts: only those at a path and below it", metavar="PATH"),
                Option(
                    "--try", "steps: do all but start the program, and show what each step changes"
                ),
                Option("--svg", "write an SVG file", metavar="FILE"),
                JSON,
            ],
        ),
        _graph,
        range(1 << 20),
    ),
    Verb(CAPS, caps, range(2)),
    Verb(
        Table(
            "watch",
            "Tell what changes on the machine, as it happens: processes, namespaces, mounts, "
            "capabilities, cgroups.",
            "",
            [
                Option("--seconds", "end after so long, not at an interrupt", metavar="NUMBER"),
                Option("--record", "write everything to a file, too", metavar="FILE"),
                Option("--replay", "tell what such a file has recorded", metavar="FILE"),
                Option("--json", "as JSON, a line for each moment"),
            ],
        ),
        _watch,
        NONE,
    ),
]
