"""Plans of programs of the host's in new namespaces: unshare(1), and what cleans up."""

from __future__ import annotations

from ctrt.linux import calls as k
from ctrt.linux import capabilities
from ctrt.runtime.plan import INSIDE, OUTSIDE, THIS_MACHINE, Plan, Step
from ctrt.runtime.planner.namespaces import (
    can_set_groups,
    clocks_set,
    clone_needs,
    flags_of,
    id_maps,
    made,
    maps_many,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.runtime.host import Host

    Extents = tuple[tuple[int, int, int], ...]

_SIGKILL = 9
_NO_SUID_DEV_EXEC = k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC


def unshare(
    kinds: tuple[str, ...],
    arguments: tuple[str, ...],
    environment: tuple[str, ...],
    host: Host,
    *,
    fork: bool = False,
    uid_map: Extents = (),
    gid_map: Extents = (),
    becomes_mapped: bool = True,
    deny_setgroups: bool = False,
    propagation: str = "private",
    root: str | None = None,
    mount_proc: str | None = None,
    directory: str | None = None,
    user: int = -1,
    group: int = -1,
    keeps_capabilities: bool = False,
    clocks: tuple[tuple[str, int, int], ...] = (),
    kept: tuple[tuple[str, str], ...] = (),
    death_signal: int = _SIGKILL,
    die_with_parent: bool = True,
    trace: bool = False,
) -> Plan:
    """The plan of unshare(1): a program in new namespaces, on the host's files.

    `kinds` are namespace types as the OCI specification names them. Without `fork` the program
    itself stays in the old pid and time namespaces, and its children are in the new ones: that
    is what unshare(2) does. `uid_map` and `gid_map` are tuples of (inside, outside, count), and
    with `becomes_mapped` the program is the first id of each. `user` and `group` are who it becomes
    at last (-1: who it is), `clocks` are (clock, seconds, nanoseconds) of a new time
    namespace, and `kept` (kind, path) of namespaces that are bound to files.
    """
    # Clocks can be set only before a process is in the time namespace.
    late = ("time",) if clocks else ()
    kinds = tuple(kind for kind in kinds if kind not in late)
    flags = flags_of(kinds)
    steps = []
    if fork or not flags & (k.CLONE_NEWPID | k.CLONE_NEWTIME):
        steps.append(made(kinds, None))
    else:
        steps.append(
            Step(
                "clone",
                OUTSIDE,
                [("clone", 0, None)],
                why="a child does the rest, so that the caller's namespaces stay as they are",
                source="clone(2)",
            )
        )
        steps.append(
            Step(
                "unshare",
                INSIDE,
                [("unshare", flags)],
                why="without --fork only the children of the program enter the new pid namespace",
                source="unshare(2)",
                needs=clone_needs(kinds),
            )
        )
    if uid_map or gid_map or deny_setgroups:
        steps.append(id_maps(uid_map, gid_map, host, deny_setgroups=deny_setgroups))
    if clocks:
        steps.append(clocks_set(clocks))
    if uid_map and gid_map and becomes_mapped:
        # Credentials are taken anew, so that the ids inside are the mapped ones from the start.
        groups: tuple[int, ...] | None = () if maps_many(gid_map) and can_set_groups(host) else None
        steps.append(
            Step(
                "become the mapped user",
                INSIDE,
                [("become", uid_map[0][0], gid_map[0][0], groups)],
                why="the program starts as the first id of the map",
                source="user_namespaces(7)",
            )
        )
    if "mount" in kinds:
        steps += propagated(propagation)
    for kind, path in kept:
        steps.append(
            Step(
                f"keep {kind}",
                OUTSIDE,
                [("keep_namespace", kind, path)],
                why="a mount of the namespace's file keeps it when its last process has gone",
                source="unshare(1); namespaces(7)",
                needs="CAP_SYS_ADMIN here, and a file on a mount that is not shared",
            )
        )
    if root is not None:
        steps.append(
            Step(
                "root",
                INSIDE,
                [("open_directory", root, "root"), ("change_root",)],
                why="--root",
                source="unshare(1), chroot(2)",
                needs="CAP_SYS_CHROOT",
            )
        )
    if mount_proc is not None:
        steps.append(proc_mounted(mount_proc))
    if directory is not None:
        steps.append(
            Step("directory", INSIDE, [("chdir", directory)], why="--wd", source="unshare(1)")
        )
    if user >= 0 or group >= 0 or keeps_capabilities:
        everything = (1 << len(capabilities.NAMES)) - 1
        steps.append(
            Step(
                "ids",
                INSIDE,
                [
                    ("capabilities", user, group, () if group >= 0 else None, *[everything] * 4)
                    if keeps_capabilities
                    else ("become", user, group, () if group >= 0 else None)
                ],
                why="who the program is inside"
                + (", with ambient capabilities, which execve keeps" if keeps_capabilities else ""),
                source="unshare(1), " + ("capabilities(7)" if keeps_capabilities else "setuid(2)"),
                needs="mapped ids, and for a group a user namespace with setgroups(2)",
            )
        )
    calls: list[tuple[Any, ...]] = [("own_descriptors",), ("stdio",), ("session",), ("signals",)]
    if die_with_parent:
        calls.append(("die_with_parent", *(() if death_signal == _SIGKILL else (death_signal,))))
    if trace:
        calls.append(("trace",))
    calls += [("umask", 0o022), ("exec", arguments, environment)]
    steps.append(
        Step(
            "exec",
            INSIDE,
            calls,
            why="the program takes the place of the prepared process",
            source="execve(2)",
        )
    )
    return Plan(steps, subject=root or THIS_MACHINE)


def propagated(propagation: str) -> list[Step]:
    """The step that sets the propagation of all mounts of a new mount namespace."""
    if propagation == "unchanged":
        return []
    flag = {"private": k.MS_PRIVATE, "slave": k.MS_SLAVE, "shared": k.MS_SHARED}[propagation]
    return [
        Step(
            "propagation",
            INSIDE,
            [("propagation", "/", k.MS_REC | flag)],
            why=f"every mount becomes {propagation}, as unshare(1) does it",
            source="mount_namespaces(7)",
        )
    ]


def proc_mounted(where: str) -> Step:
    """The step that mounts a proc file system."""
    return Step(
        f"mount {where}",
        INSIDE,
        [("file_system", "proc", (), _NO_SUID_DEV_EXEC, "mount"), ("attach", "mount", where)],
        why="/proc shows the processes of the pid namespace that it was mounted in",
        source="pid_namespaces(7)",
        needs="a pid namespace of one's own, and no masked path below the old /proc",
    )


def noted(plan: Plan, directory: str) -> Plan:
    """The plan of what others find by its name: it is written down in a directory of its own."""
    step = Step(
        "name",
        OUTSIDE,
        [],
        why="what is known of it is written down and locked, so that it is found by its name",
        source="flock(2)",
        undo=(("remove_tree", directory, None),),
    )
    return Plan([step, *plan.steps], plan.notes, plan.subject)


def with_rights(
    arguments: tuple[str, ...],
    environment: tuple[str, ...],
    host: Host,
    *,
    uid: int,
    gid: int,
    sets: tuple[int, int, int, int],
    securebits: int = 0,
    no_new_privileges: bool = False,
    uid_map: Extents = (),
    gid_map: Extents = (),
    directory: str = "/",
    trace: bool = False,
) -> Plan:
    """The plan of a program of the host's with chosen capability sets.

    `sets` are (bounding, permitted, inheritable, ambient), as bit masks; the effective set is
    the permitted one. With `uid_map` and `gid_map` it runs in a new user namespace.
    """
    steps = []
    groups: tuple[int, ...] | None = ()
    if uid_map:
        steps.append(made(("user",), None))
        steps.append(id_maps(uid_map, gid_map, host, deny_setgroups=not maps_many(gid_map)))
        if not (maps_many(gid_map) and can_set_groups(host)):
            groups = None
    else:
        steps.append(
            Step(
                "clone",
                OUTSIDE,
                [("clone", 0, None)],
                why="a child gives its rights away; the caller keeps its own",
                source="clone(2)",
            )
        )
    steps.append(
        Step(
            "directory",
            INSIDE,
            [("chdir", directory)],
            why="the caller's, entered while the process still may",
            source="chdir(2)",
        )
    )
    if uid_map:
        steps.append(
            Step(
                "become the mapped user",
                INSIDE,
                [("become", uid_map[0][0], gid_map[0][0], groups)],
                why="the first id of the map, which has every capability in the user namespace",
                source="user_namespaces(7)",
            )
        )
    steps.append(
        Step(
            "descriptors",
            INSIDE,
            [("own_descriptors",), ("stdio",), ("session",), ("signals",)],
            why="the program gets standard input, output and error, and no other descriptor",
            source="clone(2), CLONE_FILES; close_range(2)",
        )
    )
    calls: list[tuple[Any, ...]] = [("rights", uid, gid, groups, sets, securebits)]
    if no_new_privileges:
        calls.append(("no_new_privileges",))
    steps.append(
        Step(
            "capabilities",
            INSIDE,
            calls,
            why="the sets that were chosen; what the program gets of them is decided by execve",
            source="capabilities(7)",
            needs="CAP_SETPCAP, and for another user CAP_SETUID and CAP_SETGID",
        )
    )
    calls = [("die_with_parent",)]
    if trace:
        calls.append(("trace",))
    calls += [("umask", 0o022), ("exec", arguments, environment)]
    steps.append(
        Step(
            "exec",
            INSIDE,
            calls,
            why="P'(permitted) and P'(effective) follow from the sets and from the file",
            source="capabilities(7), Transformation of capabilities during execve()",
        )
    )
    return Plan(steps)


def removal_plan(path: str, uid_map: Extents, gid_map: Extents, host: Host) -> Plan:
    """The plan that empties a directory of files that belong to subordinate ids."""
    program = ("/bin/sh", "-c", 'cd "$1" && rm -rf upper work', "sh", path)
    return in_user_namespace(program, ("PATH=/usr/bin:/bin",), uid_map, gid_map, host)


def in_user_namespace(
    arguments: tuple[str, ...],
    environment: tuple[str, ...],
    uid_map: Extents,
    gid_map: Extents,
    host: Host,
) -> Plan:
    """The plan of a program of the host's that runs as root of a user namespace."""
    return unshare(
        ("user",), arguments, environment, host, fork=True, uid_map=uid_map, gid_map=gid_map
    )
