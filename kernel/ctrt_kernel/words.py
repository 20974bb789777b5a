"""The options of the magics: those of the command line, and a few that only a cell has.

Parsing, `?` help, completion and the hint at a mistyped option all come from these tables.
"""

from __future__ import annotations

import shlex
from keyword import iskeyword
from typing import TYPE_CHECKING

from ctrt.engine import rights
from ctrt.engine.options import CAPS, EXEC, RUN, UNSHARE, Option, Table
from ctrt.engine.verbs import VERBS
from ctrt.errors import CtrtError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctrt.engine.options import Values

_SHOWING = (
    Option("--graph", "draw what the kernel made of it, before it runs"),
    Option("--out", "put standard output into a variable instead", metavar="VAR"),
    Option("--err", "put standard error into a variable instead", metavar="VAR"),
    Option("--json", "read standard output as JSON, into a variable", metavar="VAR"),
    Option(
        "--bg",
        "run in the background; the cell's value, and VAR, is a handle",
        metavar="VAR",
        kind="optional",
    ),
    Option("--display", "let the program show HTML, SVG, PNG, JSON by ctrt-display; trust it"),
    Option("--no-raise-error", "a status other than 0 raises no exception"),
    Option("--help", "show this help"),
)
_ASKING = (
    Option("-i --interactive", "ask for input in the notebook when the program waits for it"),
    Option("-t --tty", "give it a terminal, and ask for input when it waits for it"),
)
_KEEPING = (
    Option("--as", "keep what is made, for cells with --in NAME", metavar="NAME"),
    Option("--in", "run in what runs already, a container or what was kept", metavar="NAME"),
)
_INPUT = (
    *_KEEPING,
    *_ASKING,
    Option(
        "--put",
        "a variable (text, bytes, or what JSON can hold) as a file",
        metavar="VAR=/PATH",
        kind="list",
    ),
)


def _with(options: Sequence[Option], *more: Option) -> tuple[Option, ...]:
    """Options of the command line and of cells; what a cell does in its own way is the cell's."""
    own = {name for option in more for name in option.names}
    return (*(option for option in options if not own & set(option.names)), *more)


_CELLS_OWN = (
    "--env", "--workdir", "--user", "--plan", "--svg", "--pull", "--tls-verify", "--rm", "--tty",
)  # fmt: skip
OF_A_NEW_CONTAINER = (
    *(o.names[-1] for o in RUN.options if o.names[-1] not in (*_CELLS_OWN, "--interactive")),
    "--as",
)
"""Options that mean nothing for a container that is there already."""

CONTAINER = Table(
    "container",
    "Run the cell in a new container: as a script of the image's /bin/sh, or of the interpreter\n"
    "that a first line #! names; with COMMAND, as its standard input. Options are podman run's\n"
    "where it has them.",
    RUN.operands,
    _with(RUN.options, *_INPUT, *_SHOWING),
    prefix="%%",
)
IN_NAMESPACES = Table(
    "unshare",
    "Run a program in new namespaces, with the cell as its standard input (a shell if no\n"
    "program is named). Options are those of unshare(1) of util-linux.",
    UNSHARE.operands,
    _with(UNSHARE.options, *_KEEPING, *_SHOWING[:-1], Option("-h --help", "show this help")),
    prefix="%%",
)
_build = VERBS["build"].table
IMAGE = Table(
    "image",
    "Build an image of the cell, which is a Containerfile, and draw its layers. Options are those\n"
    "of ctrt build.",
    "IMAGE",
    _with(
        [option for option in _build.options if option.names[-1] not in ("--tag", "--file")],
        Option("--context", "what COPY copies from (the notebook's folder)", metavar="DIR"),
        Option(
            "--progress",
            "auto: gone when all went well; plain: every step and all output stays",
            metavar="HOW",
            default="auto",
            choices=("auto", "plain"),
        ),
        Option("--help", "show this help"),
    ),
    prefix="%%",
)
LIVE = Option("--live", "a widget that follows it until it ends")
VERB_TABLES = {
    name: Table(
        verb.table.verb,
        verb.table.summary,
        verb.table.operands,
        (*verb.table.options, *((LIVE,) if name == "graph" else ())),
        prefix="%ctrt ",
    )
    for name, verb in VERBS.items()
}
VERB_TABLES["exec"] = Table(
    EXEC.verb,
    EXEC.summary,
    EXEC.operands,
    _with(EXEC.options, *_ASKING, *_SHOWING),
    prefix="%ctrt ",
)
"""The verbs of `%ctrt`, with what they have only in a notebook."""
ALL_VERBS = {"run": CONTAINER, "unshare": IN_NAMESPACES, **VERB_TABLES}
"""With those that are magics of their own."""

CELL_VERBS = {"run": "container", "unshare": "unshare"}
"""The verbs of `%ctrt` that are magics of their own, by how these are called."""

WITH_RIGHTS = Table(
    "caps",
    "Run the cell with chosen capability sets: as a script of /bin/sh, or of the interpreter that\n"
    "a first line #! names; with PROGRAM, as its standard input. The sets are those before the\n"
    "execve: --graph draws what comes of them. The line %caps shows the sets of a process.",
    "[PROGRAM [ARG...]]",
    _with(
        rights.OPTIONS,
        Option("--plan", "print the steps of the start instead of starting"),
        *(
            Option("--graph", "draw the sets before and after execve, and the rules between them")
            if option.names[-1] == "--graph"
            else option
            for option in _SHOWING
        ),
    ),
    prefix="%%",
)
CAPABILITIES = Table(
    CAPS.verb,
    f"{CAPS.summary}\nA cell %%caps runs with chosen sets; see %%caps --help.",
    CAPS.operands,
    CAPS.options,
    prefix="%",
)


def split(magic: str, line: str) -> list[str]:
    """A magic's line as words, quoted as in a shell. Raises CtrtError."""
    encoded(magic, line)
    try:
        return shlex.split(line)
    except ValueError as error:
        raise CtrtError(f"{magic}: the line {line!r} has no end: {error}") from None


def encoded(what: str, text: str) -> bytes:
    """Text as a program gets it. Raises CtrtError if it holds half of a surrogate pair."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise CtrtError(
            f"{what}: character {error.start + 1} is half of a surrogate pair, which is no text"
        ) from None


def parse(table: Table, line: str) -> Values:
    """Parse the line of a cell magic, and check what only cells have. Raises CtrtError."""
    values = table.parse(split(table.verb, line))
    for option in ("out", "err", "json", "bg"):
        name = getattr(values, option)
        if isinstance(name, str) and (not name.isidentifier() or iskeyword(name)):
            raise CtrtError(f"{table.verb}: --{option} {name!r} is not the name of a variable")
    if getattr(values, "svg", None) and not values.plan:
        raise CtrtError(f"{table.verb}: --svg goes with --plan: it draws the steps of the start")
    if values.out and values.json:
        raise CtrtError(f"{table.verb}: --out and --json both want standard output; name one")
    if values.bg:
        why = "the cell ends before the program; ask its handle"
        forbid(table, values, "--bg", ("--out", "--err", "--json"), why)
    return values


def forbid(table: Table, values: Values, option: str, others: Sequence[str], why: str) -> None:
    """Raise CtrtError if one of the others was given together with an option."""
    defaults = {name: option.default for option in table.options for name in option.names}
    for other in others:
        if getattr(values, other.lstrip("-").replace("-", "_"), None) != defaults.get(other):
            raise CtrtError(f"{table.verb}: {other} cannot go with {option}: {why}")
