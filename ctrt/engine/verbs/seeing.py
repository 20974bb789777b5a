"""The verbs that look: graph, caps and their kin."""

from __future__ import annotations

import os
from typing import NamedTuple

from ctrt.engine.options import CAPS, Option, Table
from ctrt.engine.verbs.base import Text, Verb, json_text, shown
from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ctrt.draw import Picture
    from ctrt.engine import Engine, Prepared
    from ctrt.engine.options import Values
    from ctrt.engine.verbs.base import Report
    from ctrt.observe import Owner, Snapshot, System

    View = Callable[[Engine, list[str], Values], Picture]


def _graph(engine: Engine, values: Values, _report: Report) -> Picture | Text:
    words = list(values.operands)
    if words[:1] == ["image"]:
        from ctrt.engine.verbs.images import layers

        values.operands = words[1:]
        return layers(engine, values)
    view = words.pop(0) if words and words[0] in _VIEWS else "container"
    show, most = _VIEWS[view]
    if most and len(words) > most:
        expected = "one target" if most == 1 else "two operands at most"
        raise CtrtError(f"graph {view}: expected {expected}, got {' '.join(words)}")
    return shown(show(engine, words, values), values)


class Target(NamedTuple):
    """What a person wants to see: a process, and what it is called in a title.

    `system` is the scan that found it, where one was needed for that.
    """

    pid: int
    title: str | None
    command: str | None = None
    system: System | None = None


def target_of(engine: Engine, word: str | None) -> Target:
    """The process that a word names; without a word that of the newest container.

    A word is a pid, "host" for this process, the name of one of our containers, ENGINE:NAME for
    another engine's (podman:web, docker:web, pod:NAMESPACE/NAME, ...), or a namespace's path.
    """
    if word is None:
        states = engine.states()
        if not states:
            raise CtrtError("graph: no container is running; name a pid, as in: ctrt graph 1")
        word = max(states, key=lambda state: int(state["pid"]))["name"]
    if word == "host":
        return Target(os.getpid(), "the host")
    if word.startswith("/"):
        return _namespace(word)
    kind, colon, name = word.partition(":")
    if colon:
        return _of_engine(engine, kind, name)
    pid = engine.pid_of(word)
    if word.isdecimal():
        return Target(pid, None)
    command = next((s["command"][0] for s in engine.states() if s["name"] == word), None)
    return Target(pid, f"Container {word}", os.path.basename(command) if command else None)


def _of_engine(engine: Engine, kind: str, name: str) -> Target:
    from ctrt import observe

    system = observe.scan()
    found: dict[str, int] = {}
    for pid, owner in sorted(observe.owners(system, stores=(engine.root,)).items()):
        if owner.monitor:
            continue
        names = {owner.id, owner.id[:12], owner.name}
        if owner.engine == kind:
            found.setdefault(owner.name or owner.id[:12], pid)
        elif kind == "pod" and owner.pod is not None:
            names = {owner.pod.uid, owner.pod.name, f"{owner.pod.namespace}/{owner.pod.name}"}
            found.setdefault(owner.pod.name or owner.pod.uid, pid)
        else:
            continue
        if name in names:
            return Target(pid, f"{kind} {name}", None, system)
    there = f"there are {', '.join(found)}" if found else "none of its kind is running"
    raise CtrtError(f"there is no running container {kind}:{name}; {there}")


def _namespace(path: str) -> Target:
    from ctrt import observe

    try:
        there = os.stat(path)
    except OSError as error:
        raise CtrtError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    system = observe.scan()
    for key, space in system.spaces.items():
        if (there.st_dev, there.st_ino) == key:
            if not space.processes:
                raise CtrtError(f"no process is in the {space.kind} namespace at {path}")
            title = f"The {space.kind} namespace at {path}"
            return Target(space.processes[0], title, None, system)
    raise CtrtError(f"{path} is no namespace; name a file such as /proc/1/ns/net")


def _seen(target: Target) -> System:
    """The whole system, with the target still in it."""
    from ctrt import observe

    system = target.system or observe.scan()
    if target.pid not in system.processes:
        raise CtrtError(f"process {target.pid} ended while it was being looked at")
    return system


def compare(engine: Engine, first: str, second: str, *, ids: bool = False) -> Picture:
    """What differs between two processes that `target_of` finds."""
    from ctrt import draw, observe

    (one, before), (other, after) = _looked_at(engine, first), _looked_at(engine, second)
    return draw.difference(observe.difference(one, other), before, after, ids=ids)


def _looked_at(engine: Engine, word: str) -> tuple[Snapshot, str]:
    """A snapshot of a target, and what it is called in a sentence."""
    from ctrt import observe

    target = target_of(engine, word)
    name = (target.title or f"process {word}").removeprefix("Container ")
    return observe.snapshot(target.pid, command=target.command, others=False), name


def _two_trees(engine: Engine, first: str, second: str, values: Values) -> Picture:
    """The mounts of two targets, one below the other."""
    from ctrt import draw

    (one, before), (other, after) = _looked_at(engine, first), _looked_at(engine, second)
    return draw.mounts(one, ids=values.ids, all=values.all, beside=other, names=(before, after))


def _first(words: list[str]) -> str | None:
    return words[0] if words else None


def _of_snapshot(view: str) -> View:
    def show(engine: Engine, words: list[str], values: Values) -> Picture:
        from ctrt import draw, observe

        if len(words) == 2:
            return _two_trees(engine, words[0], words[1], values)
        target = target_of(engine, _first(words))
        # Who shares its namespaces is not asked where the picture does not show it.
        others = view in ("container", "namespaces")
        snapshot = observe.snapshot(target.pid, command=target.command, others=others)
        options: dict[str, Any] = {"title": target.title, "ids": values.ids}
        if view in ("container", "mounts"):
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
    title = f"cgroups of {target.title or target.command or f'process {words[0]}'}"
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
    title = f"Capabilities of {target.title or name}"
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
    options.plan = True
    image, *command = options.operands
    prepared = engine.prepare(image, command, options)
    title = f"The start of {image}"
    return plan_picture(engine, prepared, title=title, ids=values.ids, everything=values.all)


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
    return draw.steps(prepared.plan, title=title, root=engine.root, ids=ids, all=everything)


def _stack(engine: Engine, words: list[str], values: Values) -> Picture:
    from ctrt import draw, observe

    target = target_of(engine, _first(words))
    system = _seen(target)
    stations = observe.stack(system, target.pid, observe.owners(system, stores=(engine.root,)))
    return draw.stack(stations, title=target.title, ids=values.ids)


def _network(engine: Engine, words: list[str], values: Values) -> Picture:
    from ctrt import draw, observe

    target = target_of(engine, words[0]) if words else None
    system = observe.scan() if target is None else _seen(target)
    owners = observe.owners(system, stores=(engine.root,))
    own = None if target is None else system.processes[target.pid].namespace("net")
    if isinstance(own, observe.Unknown):
        raise CtrtError(f"the network of process {words[0]} cannot be told: {own.reason}")
    known = observe.networks(system, of=own)
    sides = []
    number = 0
    asked = [space for space in system.of_kind("net") if space.key in known]
    # Those with nothing but lo come last, so that they take no numbers from the others.
    for space in sorted(asked, key=lambda s: not s.initial and _lonely(known[s.key])):
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
            sides.append(draw.Side(space.key, name, whose, space.initial, found))
    title = "Networks" if target is None else f"Network of {target.title or f'process {words[0]}'}"
    return draw.network(sides, title=title, ids=values.ids, all=values.all)


def _lonely(network: Any) -> bool:
    return len(getattr(network, "links", ())) == 1


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
    "mounts": (_of_snapshot("mounts"), 2),
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
                Option("--svg", "write an SVG file", metavar="FILE"),
                JSON,
            ],
        ),
        _graph,
        range(1 << 20),
    ),
    Verb(CAPS, caps, range(2)),
]
