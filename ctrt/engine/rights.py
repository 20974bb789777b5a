"""A program of the host's with capability sets that somebody chose: `%%caps`.

Root chooses among what it holds. An ordinary user holds nothing, but is given every capability
in a user namespace of their own, and chooses among those. What is chosen are the sets *before*
execve(2); what the program then has follows from the rules of capabilities(7).
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, NamedTuple

from ctrt.engine.config import capability_names
from ctrt.engine.options import Option
from ctrt.errors import CtrtError
from ctrt.linux import capabilities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctrt.draw import Picture
    from ctrt.engine import Engine
    from ctrt.engine.container import Container
    from ctrt.engine.options import Values
    from ctrt.engine.prepared import Prepared
    from ctrt.observe.rules import Credentials

    Extents = tuple[tuple[int, int, int], ...]

OPTIONS = (
    Option("--drop", "take a capability, or ALL, from every set", metavar="CAP", kind="list"),
    Option("--add", "have a capability, or ALL, after --drop", metavar="CAP", kind="list"),
    Option("--bounding", "the bounding set is these, and no others", metavar="CAP", kind="list"),
    Option("--inheritable", "the inheritable set is these", metavar="CAP", kind="list"),
    Option(
        "--ambient",
        "the ambient set is these; they are inheritable, too",
        metavar="CAP",
        kind="list",
    ),
    Option("--securebits", "noroot, no-setuid-fixup, ...", metavar="BIT", kind="list"),
    Option("--no-new-privs", "no execve gives more than there is before it"),
    Option("-u --user", "the user, by name or number", metavar="USER[:GROUP]"),
    Option("--user-namespace", "in a new user namespace, as it always is for ordinary users"),
)


class Rights(NamedTuple):
    """What a program is started with, and the maps of its user namespace (() without one)."""

    before: Credentials
    uid_map: Extents
    gid_map: Extents


def chosen(engine: Engine, values: Values) -> Rights:
    """The ids and sets that the options ask for. Raises CtrtError for what cannot be had."""
    from ctrt.observe.rules import Credentials

    host = engine.host
    uid_map: Extents = ()
    gid_map: Extents = ()
    if values.user_namespace or not host.privileged:
        uid_map, gid_map = host.id_maps()
        held = bounding = (1 << capabilities.last() + 1) - 1
    else:
        from ctrt.observe import capabilities as observed

        mine = observed("self")
        held, bounding = mine.permitted, mine.bounding
    uid, gid = _user(values.user, uid_map, gid_map)
    dropped, added = _mask(values.drop, "--drop"), _mask(values.add, "--add")
    _must_hold("--add", values.add, added, held)
    permitted = held & ~dropped | added & held
    bounding = bounding & ~dropped | added & bounding
    ambient = _mask(values.ambient, "--ambient")
    _must_hold("--ambient", values.ambient, ambient, permitted)
    inheritable = _mask(values.inheritable, "--inheritable") | ambient
    _must_hold("--inheritable", values.inheritable, inheritable & ~ambient, held)
    if values.bounding:
        bounding &= _mask(values.bounding, "--bounding")
    return Rights(
        Credentials(
            uid, uid, uid, gid, gid, gid, inheritable, permitted, permitted, bounding, ambient,
            _securebits(values.securebits), values.no_new_privs,
        ),
        uid_map,
        gid_map,
    )  # fmt: skip


def prepare(
    engine: Engine,
    rights: Rights,
    arguments: Sequence[str],
    *,
    trace: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Prepared:
    """Think out the start of a program with these rights, in our environment if none is given."""
    from ctrt.engine.prepared import Prepared
    from ctrt.runtime import planner

    plan = planner.with_rights(
        tuple(arguments),
        tuple(f"{key}={value}" for key, value in (environment or os.environ).items()),
        engine.host,
        uid=rights.before.uid,
        gid=rights.before.gid,
        sets=(
            rights.before.bounding,
            rights.before.permitted,
            rights.before.inheritable,
            rights.before.ambient,
        ),
        securebits=rights.before.securebits,
        no_new_privileges=rights.before.no_new_privs,
        uid_map=rights.uid_map,
        gid_map=rights.gid_map,
        directory=os.getcwd(),
        trace=trace,
    )
    return Prepared(plan, f"{arguments[0]} with chosen capabilities")


def picture(rights: Rights, program: str, container: Container) -> Picture:
    """The sets before and after the execve of a program that waits at its first instruction."""
    from ctrt import draw, observe
    from ctrt.observe import rules

    system = observe.scan()
    path = shutil.which(program) or program
    outcome = rules.execve(
        rights.before,
        observe.executable(system, container.pid, path),
        roots=observe.roots(system, container.pid),
    )
    name = os.path.basename(path)
    reach = observe.reach(system, container.pid)
    return draw.chain(
        name,
        rights.before,
        outcome,
        # What else runs on this machine is no matter of the cell's.
        [entry for entry in reach if entry.relation != "below"],
        program=path,
        title=f"Capabilities of {name}",
    )


def _mask(words: list[str], option: str) -> int:
    return capabilities.mask(capability_names(words, option))


def _must_hold(option: str, words: list[str], wanted: int, held: int) -> None:
    """Raise CtrtError for a capability that is asked for by name and cannot be given."""
    lacking = capabilities.names(wanted & ~held)
    if lacking and "ALL" not in (word.upper() for word in words):
        raise CtrtError(f"{option}: {lacking[0]} cannot be had, for it is not permitted before")


def _securebits(words: list[str]) -> int:
    from ctrt.observe.rules import SECUREBITS

    by_name = {name: bit for bit, name in SECUREBITS.items()}
    bits = 0
    for word in (part for text in words for part in text.split(",")):
        name = word.lower().replace("_", "-")
        if name not in by_name:
            raise CtrtError(f"--securebits: there is no {word!r}; there are {', '.join(by_name)}")
        bits |= by_name[name]
    return bits


def _user(text: str | None, uid_map: Extents, gid_map: Extents) -> tuple[int, int]:
    """The ids that --user names, which must be there to be had."""
    if text is None:
        return 0, 0
    import grp
    import pwd

    name, _, group = text.partition(":")
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
        uid, gid = entry.pw_uid, entry.pw_gid
    except KeyError:
        if not name.isdecimal():
            raise CtrtError(f"--user {text!r}: there is no user {name!r} here") from None
        uid = gid = int(name)
    if group:
        try:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise CtrtError(f"--user {text!r}: there is no group {group!r} here") from None
    for kind, number, extents in (("user", uid, uid_map), ("group", gid, gid_map)):
        if extents and not any(first <= number < first + size for first, _, size in extents):
            raise CtrtError(
                f"--user {text!r}: the {kind} id {number} is not mapped into the user namespace"
            )
    return uid, gid
