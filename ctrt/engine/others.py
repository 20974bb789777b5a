"""What another engine started, as far as one must know it to enter it: read from its process.

There is no configuration of ours then. The namespaces, root, directory, environment, rights
and cgroup of a process are in /proc; its seccomp filter cannot be given to another process.
"""

from __future__ import annotations

import os

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.engine import Engine
    from ctrt.engine.container import Found
    from ctrt.engine.targets import Target
    from ctrt.linux.processes import IdRange, Status

_NAMESPACES = ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup", "time")


def found(engine: Engine, word: str) -> Found:
    """A process that is to be entered, by the words of `targets.target_of`.

    Raises CtrtError for one that there is not, that may not be entered, that is paused, or that
    is in no other namespace than the caller.
    """
    from ctrt.engine.targets import target_of
    from ctrt.linux.birth import start_time

    target = target_of(engine, word)
    # From here on the number stands for the process that began then, and for no later one.
    begun = start_time(target.pid)
    try:
        seen = _seen(engine, word, target)
    except PermissionError:
        raise _refused(word, target.pid) from None
    except (FileNotFoundError, ProcessLookupError):
        raise CtrtError(f"{word} cannot be entered: process {target.pid} has ended") from None
    if not begun or start_time(target.pid) != begun:
        raise CtrtError(f"{word} cannot be entered: process {target.pid} has ended")
    seen.start_time = begun
    return seen


def names(engine: Engine) -> list[str]:
    """The containers of other engines that run here, as ENGINE:NAME."""
    from ctrt import observe

    owners = observe.owners(observe.scan(), stores=(engine.root,)).values()
    found = {
        f"{owner.engine}:{owner.name or owner.id[:12]}"
        for owner in owners
        if not owner.monitor and owner.engine != "ctrt"
    }
    return sorted(found)


def _seen(engine: Engine, word: str, target: Target) -> Found:
    from ctrt.engine.container import Found
    from ctrt.linux import processes

    pid = target.pid
    elsewhere = [kind for kind in _NAMESPACES if _link(pid, kind) != _link("self", kind)]
    if not elsewhere:
        raise CtrtError(
            f"{word} cannot be entered: it is in the namespaces that you are in; run the command "
            "as it is"
        )
    if target.system is not None:
        key = target.system.processes[pid].namespace("mnt")
        there = os.stat(f"/proc/{pid}/ns/mnt")
        if key != (there.st_dev, there.st_ino):
            raise ProcessLookupError(3, "another process has its number", "")
    if "user" not in elsewhere and not engine.host.capable:
        raise CtrtError(
            f"{word} cannot be entered: joining its namespaces takes CAP_SYS_ADMIN in the user "
            "namespace that you are in; be root"
        )
    status = processes.status(pid)
    notes: list[str] = []
    if status.seccomp:
        notes.append(
            f"the seccomp filter of {word} is not inherited: the command may make calls that the "
            "container may not"
        )
    root = os.readlink(f"/proc/{pid}/root")
    linux, process = _identity(word, pid, status, private="user" in elsewhere)
    process["env"] = _environment(word, pid, notes)
    if process["user"]["uid"] != _inside(status.uids[1], processes.uid_map(pid)):
        # The planner looks up that of the user that it will be.
        process["env"] = [entry for entry in process["env"] if not entry.startswith("HOME=")]
    process["cwd"] = _below(os.readlink(f"/proc/{pid}/cwd"), root)
    groups = _groups(engine, word, pid, notes)
    return Found(
        word,
        pid,
        {"process": process, "linux": linux},
        groups,
        chroot=root != "/",
        keeps_groups=processes.read_file(f"/proc/{pid}/setgroups").strip() == b"deny",
        notes=tuple(notes),
    )


def _link(pid: int | str, kind: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except FileNotFoundError:
        if os.path.isdir(f"/proc/{pid}/ns"):
            return ""  # a kernel without that kind
        raise


def _refused(word: str, pid: int) -> CtrtError:
    from ctrt.linux import ids, processes

    try:
        owner = ids.user_name(processes.status(pid).uids[0])
    except OSError:
        return CtrtError(f"{word} cannot be entered: process {pid} may not be looked into")
    return CtrtError(
        f"{word} cannot be entered: process {pid} is {owner}'s, and looking into it takes that "
        "user, or root with CAP_SYS_PTRACE"
    )


def _identity(
    word: str, pid: int, status: Status, *, private: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parts of a configuration: `linux`, and of `process` the user and the rights."""
    from ctrt.linux import capabilities, processes

    uids, gids = processes.uid_map(pid), processes.gid_map(pid)
    if not uids or not gids:
        raise CtrtError(f"{word} cannot be entered: its user namespace has no id map yet")
    linux: dict[str, Any] = {"namespaces": []}
    if private:
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = _mappings(uids)
        linux["gidMappings"] = _mappings(gids)
    bounding = capabilities.names(status.bounding)
    process = {
        "user": {"uid": _first(uids), "gid": _first(gids)},
        "capabilities": {
            # What root has after an execve(2): capabilities(7).
            "bounding": bounding,
            "effective": bounding,
            "permitted": bounding,
            "inheritable": capabilities.names(status.inheritable),
            "ambient": capabilities.names(status.ambient),
        },
        "noNewPrivileges": status.no_new_privs,
    }
    return linux, process


def _mappings(ranges: tuple[IdRange, ...]) -> list[dict[str, int]]:
    return [
        {"containerID": entry.inside, "hostID": entry.outside, "size": entry.length}
        for entry in ranges
    ]


def _first(ranges: tuple[IdRange, ...]) -> int:
    """Root, or where root is not mapped the first id that is."""
    return 0 if any(entry.inside == 0 for entry in ranges) else ranges[0].inside


def _inside(number: int, ranges: tuple[IdRange, ...]) -> int | None:
    """What an id of ours is called there."""
    for entry in ranges:
        if 0 <= number - entry.outside < entry.length:
            return entry.inside + number - entry.outside
    return None


def _environment(word: str, pid: int, notes: list[str]) -> list[str]:
    from ctrt.engine.config import DEFAULT_PATH
    from ctrt.linux import processes

    try:
        data = os.fsdecode(processes.read_file(f"/proc/{pid}/environ"))
    except PermissionError:
        notes.append(f"the environment of {word} may not be read, so the command has none of it")
        data = ""
    entries = [entry for entry in data.split("\0") if entry.find("=") > 0]
    if not any(entry.startswith("PATH=") for entry in entries):
        entries.append(f"PATH={DEFAULT_PATH}")
    return entries


def _below(path: str, root: str) -> str:
    """A directory as the process has it; its root where it is nowhere below that."""
    if root != "/":
        if path != root and not path.startswith(f"{root}/"):
            return "/"
        path = path[len(root) :] or "/"
    return "/" if path.endswith(" (deleted)") or not path.startswith("/") else path


def _groups(engine: Engine, word: str, pid: int, notes: list[str]) -> dict[str, Any]:
    """The cgroups of a process that the caller may put another one in, as a `Group` takes them."""
    from ctrt.linux import cgroups, processes

    layout = engine.layout
    own = {group.controllers: group.path for group in processes.cgroups()}
    groups: dict[str, Any] = {"v1": {}}
    refused = False
    for group in processes.cgroups(pid):
        name = group.controllers[0] if group.controllers else ""
        mount = layout.v1.get(name) if group.hierarchy else layout.v2
        here = own.get(group.controllers, "/")
        if mount is None or group.path == here:
            continue
        directory = f"{mount}{group.path}"
        both = os.path.commonpath([group.path, here])
        if "/.." in group.path or not _takes(directory):
            refused = True
        elif group.hierarchy:
            groups["v1"][name] = directory
        elif _takes(f"{mount}{both}".rstrip("/")):  # cgroups(7), Delegation containment rules
            groups["v2"] = directory
        else:
            refused = True
    for directory in (groups.get("v2"), *groups["v1"].values()):
        if directory and cgroups.is_frozen(directory):
            raise CtrtError(
                f"{word} cannot be entered: it is paused, and the command would be, too"
            )
    if refused:
        notes.append(
            f"the command is not in all cgroups of {word}, since you may not put it there: limits "
            "of those do not count for it"
        )
    return groups


def _takes(directory: str) -> bool:
    return os.access(f"{directory}/cgroup.procs", os.W_OK)
