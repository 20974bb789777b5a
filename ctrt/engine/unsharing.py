"""From the options of unshare(1) to the plan of a program in new namespaces."""

from __future__ import annotations

import os

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ctrt.engine.options import Values
    from ctrt.runtime.host import Host
    from ctrt.runtime.plan import Plan, Step

    Extents = tuple[tuple[int, int, int], ...]

_KINDS = (
    ("user", "user"),
    ("mount", "mount"),
    ("pid", "pid"),
    ("network", "net"),
    ("uts", "uts"),
    ("ipc", "ipc"),
    ("cgroup", "cgroup"),
    ("time", "time"),
)
_LARGEST_ID = 2**32 - 2


def plan(
    options: Values,
    host: Host,
    arguments: list[str],
    *,
    trace: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Plan:
    """The plan that the options ask for. Raises CtrtError where they contradict each other."""
    from ctrt.runtime import planner

    kinds = [kind for kind, key in _KINDS if getattr(options, key)]
    uids = _one("user", options, host.uid), _block("user", options, host)
    gids = _one("group", options, host.gid), _block("group", options, host)
    uid_map, gid_map = _extents(host.uid, *uids), _extents(host.gid, *gids)
    if (uid_map or gid_map) and "user" not in kinds:
        kinds.insert(0, "user")
    mount_proc = _proc(options)
    if mount_proc and "mount" not in kinds:
        kinds.append("mount")
    clocks = _clocks(options)
    if clocks and "time" not in kinds:
        raise CtrtError("unshare: --monotonic and --boottime set a new clock; add --time")
    if options.setgroups and "user" not in kinds:
        raise CtrtError("unshare: --setgroups is a property of a user namespace; add --user")
    if options.setgroups == "allow" and gids[0] is not None and gids[1] is None:
        raise CtrtError(
            "unshare: --setgroups=allow cannot go with the map of one group, which is allowed "
            "only where setgroups(2) is not: user_namespaces(7)"
        )
    fork = bool(options.fork or options.kill_child)
    kept = _kept(options)
    if not fork and any(kind == "pid" for kind, _ in kept):
        raise CtrtError(
            "unshare: --pid=FILE needs --fork: the namespace lives by its first process"
        )
    return planner.unshare(
        tuple(kinds),
        tuple(arguments),
        tuple(f"{key}={value}" for key, value in (environment or os.environ).items()),
        host,
        fork=fork,
        uid_map=uid_map,
        gid_map=gid_map,
        # Without its own id in the map the program is nobody inside, as with unshare(1).
        becomes_mapped=uids[0] is not None and gids[0] is not None,
        deny_setgroups=options.setgroups == "deny" or (gids[0] is not None and gids[1] is None),
        propagation=options.propagation,
        root=options.root and os.path.abspath(options.root),
        mount_proc=mount_proc,
        directory=options.wd or ("/" if options.root else os.getcwd()),
        user=-1 if options.setuid is None else _id("--setuid", "user", options.setuid),
        group=-1 if options.setgid is None else _id("--setgid", "group", options.setgid),
        keeps_capabilities=options.keep_caps and "user" in kinds,
        clocks=clocks,
        kept=kept,
        death_signal=_signal(options.kill_child),
        trace=trace,
    )


_NOT_WITHIN = (
    "user", "pid", "time", "map_user", "map_group", "map_users", "map_groups", "map_root_user",
    "map_current_user", "map_auto", "setgroups", "keep_caps", "root", "monotonic", "boottime",
    "kill_child",
)  # fmt: skip


def within(options: Values) -> tuple[tuple[str, ...], Sequence[Step]]:
    """What the options make of the namespaces that a process joins: new kinds, and their steps.

    Raises CtrtError for what only a process that is inside already can make.
    """
    from ctrt.runtime import planner

    for key in _NOT_WITHIN:
        if getattr(options, key):
            raise CtrtError(
                f"unshare: --{key.replace('_', '-')} cannot go with --in: what goes with it is "
                "--mount, --uts, --ipc, --net and --cgroup; run unshare in the cell for others"
            )
    if _kept(options):
        raise CtrtError("unshare: files that keep namespaces cannot go with --in")
    mount_proc = _proc(options)
    kinds = tuple(
        kind for kind, key in _KINDS if getattr(options, key) or (kind == "mount" and mount_proc)
    )
    steps = planner.propagated(options.propagation) if "mount" in kinds else []
    if mount_proc:
        steps.append(planner.proc_mounted(mount_proc))
    return kinds, steps


def check_kept(options: Values) -> None:
    """Raise CtrtError for a sandbox that nobody could come back to."""
    if not options.fork and not options.kill_child:
        for key, name in (("pid", "a pid"), ("time", "a time")):
            if getattr(options, key):
                raise CtrtError(
                    f"unshare: --as with --{key} needs --fork: without it only children are in "
                    f"{name} namespace of their own"
                )
    maps = ("user", "users", "root_user", "current_user", "auto")
    if options.user and not any(getattr(options, f"map_{key}") for key in maps):
        raise CtrtError(
            "unshare: --as with --user needs a map of users, as in --map-root-user: without one "
            "nobody can come in"
        )


def _proc(options: Values) -> str | None:
    """Where proc is to be mounted."""
    return "/proc" if options.mount_proc is True else options.mount_proc


def _one(kind: str, options: Values, own: int) -> int | None:
    """What the caller's own id is called inside; None if it is not mapped by itself."""
    given = getattr(options, f"map_{kind}")
    if given is not None:
        return _id(f"--map-{kind}", kind, given)
    if options.map_root_user:
        return 0
    return own if options.map_current_user else None


def _block(kind: str, options: Values, host: Host) -> tuple[int, int, int] | None:
    """The block of ids to map: (inside, outside, count)."""
    option = f"--map-{kind}s"
    given = getattr(options, f"map_{kind}s") or ("auto" if options.map_auto else None)
    if given is None:
        return None
    ranges = host.uid_ranges if kind == "user" else host.gid_ranges
    if not host.capable and not host.maps_subordinate_ids:
        shown = option if getattr(options, f"map_{kind}s") else "--map-auto"
        raise CtrtError(f"unshare: {shown} cannot be met: {host.reasons['ids']}")
    if given == "auto":
        start, count = ranges[0]
        return 0, start, count
    # Up to util-linux 2.38 OUTER,INNER,COUNT; from 2.39 on INNER:OUTER:COUNT.
    numbers = given.split(":" if ":" in given else ",")
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise CtrtError(
            f"unshare: {option} {given!r} is neither OUTER,INNER,COUNT nor INNER:OUTER:COUNT, nor "
            "auto"
        )
    first, second, count = map(int, numbers)
    inside, outside = (first, second) if ":" in given else (second, first)
    if count < 1 or max(inside, outside) + count - 1 > _LARGEST_ID:
        raise CtrtError(
            f"unshare: {option} {given!r} is no range of ids, which end at {_LARGEST_ID}"
        )
    return inside, outside, count


def _extents(own: int, one: int | None, block: tuple[int, int, int] | None) -> Extents:
    """The map of one id and of a block, which leaves room for the one."""
    single = () if one is None else ((one, own, 1),)
    if block is None:
        return single
    inside, outside, count = block
    if one is None:
        return (block,)
    # Both sides without the id that is spoken for; what is left is joined in its order.
    insides = _without(inside, count, one)
    outsides = _without(outside, count, own)
    found = []
    while insides and outsides:
        (here, here_count), (there, there_count) = insides.pop(0), outsides.pop(0)
        size = min(here_count, there_count)
        found.append((here, there, size))
        if here_count > size:
            insides.insert(0, (here + size, here_count - size))
        if there_count > size:
            outsides.insert(0, (there + size, there_count - size))
    return (*single, *found)


def _without(start: int, count: int, taken: int) -> list[tuple[int, int]]:
    """A range of ids, as (start, count), with one taken out of it."""
    if not start <= taken < start + count:
        return [(start, count)]
    parts = [(start, taken - start), (taken + 1, start + count - taken - 1)]
    return [part for part in parts if part[1]]


def _id(option: str, kind: str, text: str) -> int:
    """A user's or group's id, by number or name."""
    if text.isdecimal() and int(text) <= _LARGEST_ID:
        return int(text)
    import grp
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid if kind == "user" else grp.getgrnam(text).gr_gid
    except KeyError:
        raise CtrtError(f"unshare: {option} {text!r}: there is no such {kind} here") from None


def _clocks(options: Values) -> tuple[tuple[str, int, int], ...]:
    """The offsets of clocks, as (clock, seconds, nanoseconds)."""
    found = []
    for name in ("monotonic", "boottime"):
        text = getattr(options, name)
        if text is None:
            continue
        try:
            found.append((name, int(text), 0))
        except ValueError:
            raise CtrtError(f"unshare: --{name} {text!r} is no number of seconds") from None
    return tuple(found)


def _kept(options: Values) -> tuple[tuple[str, str], ...]:
    """The namespaces that files keep, as (kind, path)."""
    found = []
    for kind, key in _KINDS:
        path: Any = getattr(options, key)
        if not isinstance(path, str):
            continue
        path = os.path.abspath(path)
        if not os.path.exists(path):
            raise CtrtError(
                f"unshare: --{key}={path}: there is no such file to mount the namespace on; make "
                f"one with: touch {path}"
            )
        found.append((kind, path))
    return tuple(found)


def _signal(given: str | bool | None) -> int:
    """The number of --kill-child's signal."""
    from ctrt.linux import signals

    number = signals.number(given if isinstance(given, str) else "KILL")
    if number is None:
        raise CtrtError(f"unshare: --kill-child={given}: there is no such signal")
    return number
