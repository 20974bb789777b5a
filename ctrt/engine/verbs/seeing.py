"""The verbs that look: graph, caps and their kin."""

from __future__ import annotations

import os

from ctrt.engine.options import CAPS, Option, Table
from ctrt.engine.verbs.base import Text, Verb, json_text
from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.draw import Picture
    from ctrt.engine import Engine
    from ctrt.engine.options import Values
    from ctrt.engine.verbs.base import Report


def _graph(engine: Engine, values: Values, _report: Report) -> Picture | Text:
    from ctrt import draw, observe

    words = list(values.operands)
    view = words.pop(0) if words and words[0] in _VIEWS else "container"
    if len(words) > 1:
        raise CtrtError(f"graph: expected one target, got {' '.join(words)}")
    command = None
    if words:
        pid: int | str = engine.pid_of(words[0])
        title = f"Container {words[0]}" if not words[0].isdecimal() else None
        command = next((s["command"][0] for s in engine.states() if s["name"] == words[0]), None)
    else:
        states = engine.states()
        if not states:
            raise CtrtError("graph: no container is running; name a pid, as in: ctrt graph 1")
        newest = max(states, key=lambda state: int(state["pid"]))
        pid, title = newest["pid"], f"Container {newest['name']}"
        command = newest["command"][0]
    name = os.path.basename(command) if command else None
    snapshot = observe.snapshot(pid, command=name)
    picture: Picture
    if view == "namespaces":
        picture = draw.namespaces(snapshot, title=title, ids=values.ids)
    elif view == "mounts":
        picture = draw.mounts(snapshot, title=title, ids=values.ids, all=values.all)
    else:
        picture = draw.container(snapshot, title=title, ids=values.ids, all=values.all)
    if values.json:
        return json_text(picture.json())
    if values.svg:
        with open(values.svg, "w", encoding="utf-8") as file:
            file.write(picture.svg())
        return Text(f"written to {values.svg}")
    return picture


_VIEWS = ("container", "namespaces", "mounts")


def caps(engine: Engine, values: Values, _report: Report = None) -> Any:
    """The capability sets of a process (this one, a pid) or a container, as a picture."""
    from ctrt import draw, observe

    if len(values.operands) > 1:
        raise CtrtError(f"caps: expected one target, got {' '.join(values.operands)}")
    target = values.operands[0] if values.operands else None
    sets = observe.capabilities(engine.pid_of(target) if target else "self")
    picture = draw.capabilities(sets, all=values.all)
    if values.json:
        return json_text(picture.json())
    return picture


JSON = Option("--json", "as JSON")
VERBS = [
    Verb(
        Table(
            "graph",
            "Draw the namespaces and mounts of a container or process.",
            "[container|namespaces|mounts] [CONTAINER | PID]",
            [
                Option("--ids", "show pids, inodes and host paths"),
                Option("--all", "show every mount, also those of every container"),
                Option("--svg", "write an SVG file", metavar="FILE"),
                JSON,
            ],
        ),
        _graph,
        range(3),
    ),
    Verb(CAPS, caps, range(2)),
]
