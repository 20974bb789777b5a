"""The options of the magics: those of the command line, and a few that only a cell has.

Parsing, `?` help, completion and the hint at a mistyped option all come from these tables.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from ctrt.engine.options import CAPS, RUN, UNSHARE, Option, Table
from ctrt.errors import CtrtError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctrt.engine.options import Values

_CELL = (
    Option("--graph", "draw what the kernel made of it, before it runs"),
    Option("--out", "put standard output into a variable instead", metavar="VAR"),
    Option("--err", "put standard error into a variable instead", metavar="VAR"),
    Option("--no-raise-error", "a status other than 0 raises no exception"),
    Option("--help", "show this help"),
)

CONTAINER = Table(
    "container",
    "Run the cell in a new container: as a script of the image's /bin/sh, or, with COMMAND,\n"
    "as its standard input. Options are podman run's where it has them.",
    RUN.operands,
    (*RUN.options, *_CELL),
    prefix="%%",
)
IN_NAMESPACES = Table(
    "unshare",
    "Run a program in new namespaces, with the cell as its standard input (a shell if no\n"
    "program is named). Options are those of unshare(1) of util-linux.",
    UNSHARE.operands,
    (*UNSHARE.options, *_CELL),
    prefix="%%",
)
CAPABILITIES = Table(CAPS.verb, CAPS.summary, CAPS.operands, CAPS.options, prefix="%")


def split(magic: str, line: str) -> list[str]:
    """A magic's line as words, quoted as in a shell. Raises CtrtError."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise CtrtError(f"{magic}: the line {line!r} has no end: {error}") from None


def parse(table: Table, line: str) -> Values:
    """Parse the line of a cell magic, and check what only cells have. Raises CtrtError."""
    values = table.parse(split(table.verb, line))
    for option, name in (("--out", values.out), ("--err", values.err)):
        if name is not None and not name.isidentifier():
            raise CtrtError(f"{table.verb}: {option} {name!r} is not the name of a variable")
    return values


def forbid(table: Table, values: Values, option: str, others: Sequence[str], why: str) -> None:
    """Raise CtrtError if one of the others was given together with an option."""
    for other in others:
        if getattr(values, other.lstrip("-").replace("-", "_")):
            raise CtrtError(f"{table.verb}: {other} cannot go with {option}: {why}")
