"""The verbs about containers and the machine they run on."""

from __future__ import annotations

from ctrt.engine.options import Option, Table
from ctrt.engine.verbs.base import MANY, NONE, Listing, Text, Verb
from ctrt.errors import CtrtError
from ctrt.words import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.engine import Engine
    from ctrt.engine.options import Values
    from ctrt.engine.verbs.base import Report


def _familiar(reference: str) -> str:
    from ctrt.oci.reference import parse

    return parse(reference).familiar() if reference else ""


def _ps(engine: Engine, values: Values, _report: Report) -> Listing:
    states = engine.states()
    rows = [(*_about(state), str(state["pid"])) for state in states]
    if not values.all:
        return Listing(("NAME", "IMAGE", "COMMAND", "PID"), rows)
    from ctrt.engine import detached

    listed = [(*row, "running") for row in rows]
    running = {state["name"] for state in states}
    for record in detached.records(engine.root):
        if record.name not in running:
            status = record.status
            ended = "ended" if status is None else f"ended with {status}"
            listed.append((*_about(record.state()), "", ended))
    return Listing(("NAME", "IMAGE", "COMMAND", "PID", "STATUS"), listed)


def _about(state: dict[str, Any]) -> tuple[str, str, str]:
    return state["name"], _familiar(state["image"]), command_of(state)


def command_of(state: dict[str, Any], width: int = 60) -> str:
    """What a container or sandbox runs, in words; of one that waits what it waits for."""
    if state.get("waits"):
        return "kept for cells" if state["image"] else "kept for cells, by unshare"
    return one_line(state["command"], width)


def _stop(engine: Engine, values: Values, _report: Report) -> Text:
    if not values.time.isdecimal():
        raise CtrtError(f"stop: --time {values.time!r} is not a number of seconds")
    pids = {name: engine.pid_of(name) for name in values.operands}
    for name in values.operands:
        engine.stop(name, pids[name], float(values.time))
    return Text("\n".join(values.operands))


def _doctor(engine: Engine, _values: Values, _report: Report) -> Listing:
    from ctrt.engine.doctor import examine

    return Listing(("WHAT", "HERE", "MEANS"), examine(engine))


def _version(_engine: Engine, _values: Values, _report: Report) -> Text:
    from ctrt import __version__

    return Text(f"ctrt {__version__}")


VERBS = [
    Verb(
        Table(
            "ps",
            "List the running containers.",
            "",
            [Option("-a --all", "also detached ones that have ended")],
        ),
        _ps,
        NONE,
    ),
    Verb(
        Table(
            "stop",
            "Stop containers: the image's STOPSIGNAL (SIGTERM) first, SIGKILL after a time.",
            "CONTAINER...",
            [Option("-t --time", "seconds before SIGKILL", metavar="SECONDS", default="10")],
        ),
        _stop,
        MANY,
    ),
    Verb(Table("doctor", "Say what this machine allows.", "", []), _doctor, NONE),
    Verb(Table("version", "Print the version.", "", []), _version, NONE),
]
