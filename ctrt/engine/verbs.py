"""Every verb but run, unshare and caps as a function: for the command line and for `%ctrt`.

A verb takes an engine, its parsed words and a `report` for progress, and returns a value whose
`str()` is what a terminal shows; in a notebook the same value shows itself richly.
"""

from __future__ import annotations

import os

from ctrt.engine.options import CAPS, TLS_VERIFY, Option, Table
from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ctrt.draw import Picture
    from ctrt.engine import Engine
    from ctrt.engine.options import Values
    from ctrt.images.pull import Progress

    Report = Callable[[Progress], object] | None


class Listing:
    """Rows under headings, for `ps` and its kin: a table in a terminal and in a notebook."""

    def __init__(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.headings = tuple(headings)
        self.rows = tuple(tuple(row) for row in rows)

    def __str__(self) -> str:
        table = [self.headings, *self.rows]
        widths = [max(len(row[column]) for row in table) for column in range(len(self.headings))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        import html

        def line(cells: Sequence[str], tag: str) -> str:
            return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)

        body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in self.rows)
        return (
            f"<table><thead><tr>{line(self.headings, 'th')}</tr></thead>"
            f"<tbody>{body}</tbody></table>"
        )


class Text:
    """Plain words as the result of a verb."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


class Verb:
    """A verb: its options, and the function that does it."""

    def __init__(
        self, table: Table, function: Callable[[Engine, Values, Report], Any], operands: range
    ) -> None:
        self.table = table
        self._function = function
        self._operands = operands

    def __call__(self, engine: Engine, words: Sequence[str], report: Report = None) -> Any:
        """Parse the words and do it; raises CtrtError."""
        values = self.table.parse(words, interspersed=True)
        if len(values.operands) not in self._operands:
            raise CtrtError(
                f"{self.table.verb}: expected {self.table.operands or 'no operand'}, "
                f"got {' '.join(values.operands) or 'nothing'}"
            )
        return self._function(engine, values, report)


_MANY = range(1, 1 << 20)


def _size(number: int) -> str:
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _familiar(reference: str) -> str:
    from ctrt.oci.reference import parse

    return parse(reference).familiar()


def _pull(engine: Engine, values: Values, report: Report) -> Text:
    plain_http = True if values.tls_verify == "false" else None
    image = engine.image(values.operands[0], when="always", progress=report, plain_http=plain_http)
    return Text(image.reference)


def _images(engine: Engine, _values: Values, _report: Report) -> Listing:
    rows = [
        (image.reference, image.id[7:19], str(len(image.layers)), _size(image.size))
        for image in engine.store.images()
    ]
    return Listing(("IMAGE", "ID", "LAYERS", "SIZE"), rows)


def _rmi(engine: Engine, values: Values, _report: Report) -> Text:
    for name in values.operands:
        if engine.store.find(name) is None:
            raise CtrtError(f"there is no image {name} in the store; see: ctrt images")
    for name in values.operands:
        engine.remove_image(name)
    return Text("\n".join(values.operands))


def _image(engine: Engine, values: Values, _report: Report) -> Text:
    if values.operands[0] != "from-host" or len(values.operands) < 2:
        raise CtrtError("image: expected from-host PROGRAM..., as in: ctrt image from-host sh ls")
    from ctrt.images.hostimage import from_host

    image = from_host(engine.store, values.name, values.operands[1:])
    return Text(image.reference)


def _ps(engine: Engine, _values: Values, _report: Report) -> Listing:
    rows = [
        (state["name"], _familiar(state["image"]), " ".join(state["command"]), str(state["pid"]))
        for state in engine.states()
    ]
    return Listing(("NAME", "IMAGE", "COMMAND", "PID"), rows)


def _stop(engine: Engine, values: Values, _report: Report) -> Text:
    if not values.time.isdecimal():
        raise CtrtError(f"stop: --time {values.time!r} is not a number of seconds")
    pids = {name: engine.pid_of(name) for name in values.operands}
    for name in values.operands:
        engine.stop(name, pids[name], float(values.time))
    return Text("\n".join(values.operands))


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
        import json

        return Text(json.dumps(picture.json(), indent=1))
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
        import json

        return Text(json.dumps(picture.json(), indent=1))
    return picture


def _doctor(engine: Engine, _values: Values, _report: Report) -> Listing:
    from ctrt.engine.doctor import examine

    return Listing(("WHAT", "HERE", "MEANS"), examine(engine))


def _registry(engine: Engine, values: Values, _report: Report) -> Any:
    if values.operands != ["serve"]:
        raise CtrtError("registry: expected serve, as in: ctrt registry serve --port 5000")
    try:
        from ctrt.images.serve import Server
    except ImportError:
        raise CtrtError(
            "registry serve needs tornado; install it with: pip install 'ctrt[jupyter]'"
        ) from None
    if not values.port.isdecimal() or int(values.port) > 65535:
        raise CtrtError(f"registry: --port {values.port!r} is not a port number")
    return Server(engine.store, port=int(values.port))


def _version(_engine: Engine, _values: Values, _report: Report) -> Text:
    from ctrt import __version__

    return Text(f"ctrt {__version__}")


_JSON = Option("--json", "as JSON")
VERBS = {
    verb.table.verb: verb
    for verb in (
        Verb(
            Table("pull", "Fetch an image from its registry.", "IMAGE", [TLS_VERIFY]),
            _pull,
            range(1, 2),
        ),
        Verb(Table("images", "List the images of the store.", "", []), _images, range(1)),
        Verb(Table("rmi", "Remove images from the store.", "IMAGE...", []), _rmi, _MANY),
        Verb(
            Table(
                "image",
                "Make an image of programs of this machine and the libraries that they need.",
                "from-host PROGRAM...",
                [
                    Option(
                        "--name",
                        "the image's name",
                        metavar="IMAGE",
                        default="localhost/host:latest",
                    )
                ],
            ),
            _image,
            _MANY,
        ),
        Verb(Table("ps", "List the running containers.", "", []), _ps, range(1)),
        Verb(
            Table(
                "stop",
                "Stop containers: SIGTERM first, SIGKILL after a time.",
                "CONTAINER...",
                [Option("-t --time", "seconds before SIGKILL", metavar="SECONDS", default="10")],
            ),
            _stop,
            _MANY,
        ),
        Verb(
            Table(
                "graph",
                "Draw the namespaces and mounts of a container or process.",
                "[container|namespaces|mounts] [CONTAINER | PID]",
                [
                    Option("--ids", "show pids, inodes and host paths"),
                    Option("--all", "show every mount, also those of every container"),
                    Option("--svg", "write an SVG file", metavar="FILE"),
                    _JSON,
                ],
            ),
            _graph,
            range(3),
        ),
        Verb(CAPS, caps, range(2)),
        Verb(Table("doctor", "Say what this machine allows.", "", []), _doctor, range(1)),
        Verb(
            Table(
                "registry",
                "Serve the store to this machine by the OCI distribution API.",
                "serve",
                [Option("--port", "port on 127.0.0.1", metavar="PORT", default="5000")],
            ),
            _registry,
            range(1, 2),
        ),
        Verb(Table("version", "Print the version.", "", []), _version, range(1)),
    )
}
"""The verbs by name; run and unshare, which stream, are the caller's own."""
