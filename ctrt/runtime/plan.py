"""A plan: the start of a container as a value.

A plan is a list of steps. A step has a name, the calls it makes, where it runs, one sentence
of why with its source, what it needs and how it is undone. A call is a tuple whose first
member names an operation of the executor and whose others are strings, numbers, bytes,
None or tuples of these: so a plan can be printed, compared, stored and sent to another process.
"""

from __future__ import annotations

from ctrt.linux import calls as k
from ctrt.linux import ospath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Call = tuple[Any, ...]

OUTSIDE = "outside"
INSIDE = "inside"


class Step:
    """One step of a start.

    `where` is "outside" (in the process that starts the container) or "inside" (in the
    container's first process); `undo` are the calls that take it back after a crash or at
    the end; `needs` is what the step cannot do without, in words.
    """

    __slots__ = ("calls", "name", "needs", "source", "undo", "where", "why")

    def __init__(
        self,
        name: str,
        where: str,
        calls: tuple[Call, ...] | list[Call],
        *,
        why: str,
        source: str,
        needs: str = "",
        undo: tuple[Call, ...] = (),
    ) -> None:
        self.name = name
        self.where = where
        self.calls = tuple(calls)
        self.why = why
        self.source = source
        self.needs = needs
        self.undo = undo

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and all(
            getattr(self, slot) == getattr(other, slot) for slot in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]

    def lines(self, number: str) -> list[str]:
        """The step for a person, with its number: its name, reason, source, needs and calls."""
        indent = " " * (len(number) + 1)
        found = [f"{number} {self.name}  ({self.where})", f"{indent}{self.why} [{self.source}]"]
        if self.needs:
            found.append(f"{indent}needs: {self.needs}")
        return found + [f"{indent}  {describe(call)}" for call in self.calls]

    def __repr__(self) -> str:
        return f"Step({self.name!r}, {self.where!r}, {len(self.calls)} calls)"


THIS_MACHINE = "this machine"


class Plan:
    """The steps of one start, in order."""

    __slots__ = ("notes", "steps", "subject")

    def __init__(
        self, steps: list[Step], notes: tuple[str, ...] = (), subject: str = THIS_MACHINE
    ) -> None:
        self.steps = steps
        self.subject = subject
        """Whose files the program is looked for in, in words: an image, or this machine."""
        self.notes = notes
        """What the plan leaves out on this host, and why: a sentence each."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and (self.steps, self.notes) == (other.steps, other.notes)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Plan({len(self.steps)} steps)"

    def step(self, name: str) -> Step:
        """The step of that name; KeyError if the plan has none."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def wire(self) -> tuple[tuple[str, str, tuple[Call, ...]], ...]:
        """What the executor needs of it: (name, where, calls) of each step."""
        return tuple((step.name, step.where, step.calls) for step in self.steps)

    def undo(self) -> tuple[Call, ...]:
        """The calls that take back the whole plan, last step first."""
        return tuple(call for step in reversed(self.steps) for call in step.undo)

    def text(self) -> str:
        """The plan for a person: each step with its calls, reason and source."""
        lines = []
        width = len(str(len(self.steps)))
        for number, step in enumerate(self.steps, 1):
            lines += step.lines(f"{number:>{width}}.")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


_CLONE_FLAGS = {
    k.CLONE_NEWUSER: "CLONE_NEWUSER",
    k.CLONE_NEWPID: "CLONE_NEWPID",
    k.CLONE_NEWNS: "CLONE_NEWNS",
    k.CLONE_NEWUTS: "CLONE_NEWUTS",
    k.CLONE_NEWIPC: "CLONE_NEWIPC",
    k.CLONE_NEWCGROUP: "CLONE_NEWCGROUP",
    k.CLONE_NEWNET: "CLONE_NEWNET",
    k.CLONE_NEWTIME: "CLONE_NEWTIME",
    k.CLONE_FILES: "CLONE_FILES",
}
_ATTRIBUTES = {
    k.MOUNT_ATTR__ATIME: "_atime",  # all of how access times are kept, as one
    k.MOUNT_ATTR_RDONLY: "ro",
    k.MOUNT_ATTR_NOSUID: "nosuid",
    k.MOUNT_ATTR_NODEV: "nodev",
    k.MOUNT_ATTR_NOEXEC: "noexec",
    k.MOUNT_ATTR_NOATIME: "noatime",
    k.MOUNT_ATTR_STRICTATIME: "strictatime",
    k.MOUNT_ATTR_NODIRATIME: "nodiratime",
    k.MOUNT_ATTR_NOSYMFOLLOW: "nosymfollow",
}
_PROPAGATION = {
    k.MS_REC: "MS_REC",
    k.MS_PRIVATE: "MS_PRIVATE",
    k.MS_SLAVE: "MS_SLAVE",
    k.MS_SHARED: "MS_SHARED",
    k.MS_UNBINDABLE: "MS_UNBINDABLE",
}


_SECUREBITS = {
    1 << bit: f"SECBIT_{name}"
    for bit, name in enumerate(
        "NOROOT NOROOT_LOCKED NO_SETUID_FIXUP NO_SETUID_FIXUP_LOCKED KEEP_CAPS KEEP_CAPS_LOCKED"
        " NO_CAP_AMBIENT_RAISE NO_CAP_AMBIENT_RAISE_LOCKED".split()
    )
}
"""Source: linux/securebits.h, capabilities(7)."""
_PLAIN = {
    "await_start": "wait for the start",
    "change_root": 'fchdir(root); chroot(".")',
    "deny_setgroups": 'write("/proc/PID/setgroups", "deny")',
    "loopback_up": 'ioctl(SIOCSIFFLAGS, "lo", IFF_UP)',
    "no_new_privileges": "prctl(PR_SET_NO_NEW_PRIVS, 1)",
    "move_root": 'mount(".", "/", "", MS_MOVE, ""); chroot(".")',
    "not_dumpable": "prctl(PR_SET_DUMPABLE, 0)",
    "own_descriptors": "unshare(CLONE_FILES)",
    "pivot": 'pivot_root(".", "."); mount("", ".", "", MS_REC|MS_SLAVE, ""); '
    'umount2(".", MNT_DETACH)',
    "read_only_root": "mount_setattr(root, MOUNT_ATTR_RDONLY)",
    "session": "setsid()",
    "signals": "rt_sigaction(each that is not SIG_DFL, SIG_DFL); sigprocmask(SIG_SETMASK, [])",
    "stdio": "dup2() of three descriptors; close_range(3, ~0, CLOSE_RANGE_CLOEXEC)",
    "trace": "ptrace(PTRACE_TRACEME)",
}


def _flags(value: int, names: dict[int, str]) -> str:
    """The names of the bits that are set; what has no name as a number."""
    found = []
    for bits, name in names.items():
        if value & bits == bits:
            found.append(name)
            value &= ~bits
    return "|".join([*found, *([hex(value)] if value else ())]) or "0"


def _quoted(text: object) -> str:
    return '"' + str(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def describe(call: Call) -> str:
    """A call as strace(1) would show what it does."""
    name, *a = call
    if name == "clone":
        into = "|CLONE_INTO_CGROUP" if a[1] else ""
        if len(a) > 2:
            names = ", ".join(name for name, _ in a[2])
            score = (
                f'write("/proc/self/oom_score_adj", "{a[3]}"); '
                if a[3:] and a[3] is not None
                else ""
            )
            return f"{score}setns({names}); clone3({_flags(a[0], _CLONE_FLAGS)}|CLONE_PARENT{into})"
        return f"clone3({_flags(a[0], _CLONE_FLAGS)}{into})"
    if name == "join":
        return "; ".join(f"setns({fd}, {_flags(flag, _CLONE_FLAGS)})" for fd, flag in a[0])
    if name == "unshare":
        return f"unshare({_flags(a[0], _CLONE_FLAGS)})"
    if name == "map_ids":
        extents = ", ".join(f"{inside} {outside} {count}" for inside, outside, count in a[1])
        by = f"{ospath.last(a[2])}: " if a[2] else ""
        return f'{by}write("/proc/PID/{a[0]}_map", "{extents}")'
    if name == "propagation":
        return f'mount("", {_quoted(a[0])}, "", {_flags(a[1], _PROPAGATION)}, "")'
    if name == "file_system":
        options = ",".join(key if value == "" else f"{key}={value}" for key, value in a[1])
        shown = f"{_quoted(a[0])}, {_quoted(options)}, {_flags(a[2], _ATTRIBUTES)}"
        instead = f" or open_tree({_quoted(a[5])})" if len(a) > 5 and a[5] else ""
        return f"fsmount({shown}){instead} -> {a[3]}"
    if name == "bind":
        recursive = "|AT_RECURSIVE" if a[1] else ""
        link = "|AT_SYMLINK_NOFOLLOW" if a[3:] else ""
        return f"open_tree({_quoted(a[0])}, OPEN_TREE_CLONE{recursive}{link}) -> {a[2]}"
    if name == "open_source":
        return f"open_tree({_quoted(a[0])}, {'AT_SYMLINK_NOFOLLOW' if a[2:] else 0}) -> {a[1]}"
    if name == "open_inside":
        link = "|O_NOFOLLOW" if a[2:] else ""
        return f"openat2({_quoted(a[0])}, O_PATH{link}, RESOLVE_IN_ROOT) -> {a[1]}"
    if name == "bind_inside":
        link = "|O_NOFOLLOW" if a[4:] else ""
        opened = f"openat2({_quoted(a[0])}, {_quoted(a[1])}, O_PATH{link}, RESOLVE_IN_ROOT)"
        copied = describe(("copy_tree", a[3], a[2]))
        return f"setns(PID, CLONE_NEWNS); {opened} -> {a[3]}; {copied}"
    if name == "copy_tree":
        recursive = "|AT_RECURSIVE" if a[1] else ""
        return f"open_tree({a[0]}, OPEN_TREE_CLONE|AT_EMPTY_PATH{recursive})"
    if name == "sources_as_caller":
        return "setns(PID, CLONE_NEWNS); " + "; ".join(
            describe(("open_source", *source)) for source in a[0]
        )
    if name == "cgroup_scope":
        return f"StartTransientUnit({_quoted(a[0])})"
    if name == "bind_cgroup":
        names = ",".join(value or key for key, value in a[1])
        return f"open_tree({_quoted(f'our cgroup of {names or a[0]}')}, OPEN_TREE_CLONE) -> {a[3]}"
    if name in ("attributes", "attributes_below"):
        cleared = _flags(a[2], _ATTRIBUTES) if a[2] else "0"
        recursive = ", AT_RECURSIVE" if a[3] else ""
        where = a[0] if name == "attributes" else _quoted(a[0])
        return (
            f"mount_setattr({where}, set {_flags(a[1], _ATTRIBUTES)}, clear {cleared}{recursive})"
        )
    if name == "idmap":
        recursive = ", AT_RECURSIVE" if a[2] else ""
        return f"mount_setattr({a[0]}, MOUNT_ATTR_IDMAP of {a[1]}{recursive})"
    if name == "bind_link":
        return f"readlink({_quoted(a[0])}) or {describe(('bind', *a[:3]))}"
    if name == "slave":
        return f"mount_setattr({a[0]}, MS_SLAVE, AT_RECURSIVE)"
    if name == "home":
        return f'home directory of {a[0]} in "/etc/passwd"'
    if name in ("attach", "attach_link"):
        types = [
            f"; mount_setattr({a[0]}, {_flags(flag, _PROPAGATION)}{', AT_RECURSIVE' * recursive})"
            for flag, recursive in (a[2] if len(a) > 2 else ())
        ]
        link = f"symlinkat({a[0]}, {_quoted(a[1])}) or " if name == "attach_link" else ""
        return f"{link}move_mount({a[0]}, {_quoted(a[1])}){''.join(types)}"
    if name == "node_outside":
        return f"mknod({_mode(a[1])}, {a[2][0]}:{a[2][1]}) -> {a[4]}"
    if name == "node":
        return f"mknod({_quoted(a[0])}, {_mode(a[1])}, {a[2][0]}:{a[2][1]})"
    if name == "umask":
        return f"umask({a[0]:#05o})"
    if name == "sysctl":
        return "; ".join(f"write({_quoted('/proc/sys/' + key)}, {_quoted(v)})" for key, v in a[0])
    if name == "become":
        return _become(*a)
    if name in ("hostname", "domainname"):
        return f"set{name}({_quoted(a[0])})"
    if name == "time_offsets":
        offsets = ", ".join(f"{clock} {seconds} {rest}" for clock, seconds, rest in a[0])
        written = f'write("/proc/self/timens_offsets", "{offsets}"); ' if offsets else ""
        return f"{written}setns(time_for_children, CLONE_NEWTIME)"
    if name == "keyring":
        return f"keyctl(KEYCTL_JOIN_SESSION_KEYRING, {_quoted(a[0])})"
    if name == "oom_score":
        return f'write("/proc/PID/oom_score_adj", "{a[0]}")'
    if name in _TRAITS:
        return _describe_trait(name, a)
    if name == "hooks":
        return f"{a[0]}: {'; '.join(hook[0] for hook in a[1])}"
    if name == "find_program":
        return f"find {a[0][0]}"
    if name == "open_id_maps":
        if not a[0] and not a[1]:
            return f'open("/proc/PID/ns/user") -> {a[2]}'
        extents = ", ".join(f"{inside} {outside} {count}" for inside, outside, count in a[0])
        return f"clone3(CLONE_NEWUSER); uid_map {extents} -> {a[2]}"
    if name == "limit_bounding":
        return f"prctl(PR_CAPBSET_DROP, all but {a[0]:#x})"
    if name in _PLAIN:
        return _PLAIN[name]
    if name == "die_with_parent":
        from ctrt.linux import signals

        return f"prctl(PR_SET_PDEATHSIG, {signals.name(a[0] if a else 9)})"
    if name == "keep_namespace":
        return f'mount({_quoted(f"/proc/PID/ns/{a[0]}")}, {_quoted(a[1])}, "", MS_BIND)'
    if name in ("mask", "read_only"):
        return f"{name.replace('_', '-')} {' '.join(a[0])}"
    if name == "symlinks":
        return "; ".join(f"symlink({_quoted(t)}, {_quoted(f'{a[0]}/{n}')})" for n, t in a[1])
    if name == "mkdir":
        return f"mkdir({_quoted(a[0])}, {a[1]:#o})"
    if name == "write":
        return f"write({_quoted(a[0])})"
    if name == "cgroup_make":
        return f"mkdir({_quoted(a[0])})" + "".join(f" +{name}" for name in (a[3:] or ((),))[0])
    if name == "cgroup_write":
        return f"write({_quoted(a[0])}, {_quoted(a[1])})"
    if name == "cgroup_attach":
        return "; ".join(f'write("{path}/cgroup.procs", PID)' for path in a[0])
    if name == "overlay":
        return f'fsmount("overlay", {len(a[0])} lower layers, upper{", idmapped" if a[3] else ""})'
    if name == "exec":
        return f"execve({', '.join(_quoted(argument) for argument in a[0])})"
    if name == "capabilities":
        return f"capset(effective={a[3]:#x}, permitted={a[4]:#x}, inheritable={a[5]:#x})"
    if name == "rights":
        words = ("bounding", "permitted", "inheritable", "ambient")
        sets = ", ".join(f"{word}={bits:#x}" for word, bits in zip(words, a[3], strict=True))
        bits = f"; prctl(PR_SET_SECUREBITS, {_flags(a[4], _SECUREBITS)})" if a[4] else ""
        return f"{_become(*a[:3])}; capset({sets}){bits}"
    arguments = ", ".join(
        _quoted(value)
        if isinstance(value, str)
        else f"{len(value)} bytes"
        if isinstance(value, bytes)
        else str(value)
        for value in a
    )
    return f"{name}({arguments})"


def _mode(mode: int) -> str:
    """The type and the permissions of a file."""
    import stat

    kinds = {stat.S_IFCHR: "S_IFCHR|", stat.S_IFBLK: "S_IFBLK|", stat.S_IFIFO: "S_IFIFO|"}
    kind = kinds.get(stat.S_IFMT(mode), "")
    return f"{kind}{stat.S_IMODE(mode) if kind else mode:#o}"


def _become(uid: int, gid: int, groups: tuple[int, ...] | None) -> str:
    first = "" if groups is None else f"setgroups({list(groups)}); "
    return f"{first}setresgid({gid}, {gid}, {gid}); setresuid({uid}, {uid}, {uid})"


_TRAITS = (
    "affinity", "io_priority", "memory_policy", "personality", "rlimits", "scheduler", "seccomp",
)  # fmt: skip


def _describe_trait(name: str, a: list[Any]) -> str:
    """A call that says how the kernel treats a process."""
    from ctrt.linux import tasks

    def named(words: dict[str, int], number: int) -> str:
        return next((word for word, value in words.items() if value == number), str(number))

    def flags(words: dict[str, int], value: int) -> str:
        return _flags(value, {bit: word for word, bit in words.items()})

    if name == "affinity":
        return f"sched_setaffinity(PID, {list(a[0])})"
    if name == "io_priority":
        return f"ioprio_set(PID, {named(tasks.IO_CLASSES, a[0])}, level {a[1]})"
    if name == "personality":
        return f"personality(PER_{named(tasks.PERSONALITIES, a[0])})"
    if name == "rlimits":
        infinity = {"RLIM_INFINITY": tasks.RLIM_INFINITY}
        return "; ".join(
            f"prlimit(PID, {limit}, {named(infinity, soft)}, {named(infinity, hard)})"
            for limit, soft, hard in a[0]
        )
    if name == "seccomp":
        shown = f", {flags(tasks.FILTER_FLAGS, a[1])}" if len(a) > 1 and a[1] else ""
        return f"seccomp(SECCOMP_SET_MODE_FILTER, {len(a[0]) // 8} instructions{shown})"
    if name == "memory_policy":
        known = sum(tasks.MEMORY_FLAGS.values())
        mode = named(tasks.MEMORY_POLICIES, a[0] & ~known)
        shown = f"|{flags(tasks.MEMORY_FLAGS, a[0] & known)}" if a[0] & known else ""
        return f"set_mempolicy({mode}{shown}, {list(a[1])})"
    words = [named(tasks.POLICIES, a[0]), flags(tasks.SCHED_FLAGS, a[1])]
    words += [f"nice {a[2]}", f"priority {a[3]}"]
    if any(a[4]):
        words.append("runtime, deadline and period {} {} {} ns".format(*a[4]))
    return f"sched_setattr(PID, {', '.join(words)})"
