"""The process of a configuration: who it is, what it may, and what it runs."""

from __future__ import annotations

from ctrt.errors import CtrtError
from ctrt.linux import capabilities
from ctrt.runtime.plan import INSIDE, OUTSIDE, Step
from ctrt.runtime.planner.namespaces import SPEC, can_set_groups, extents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ctrt.runtime.host import Host

    Call = tuple[Any, ...]
    Config = dict[str, Any]

_HARMLESS = ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_LOG")
_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
_DEFAULT_UMASK = 0o022
_RESOURCE = "CAP_SYS_RESOURCE"


def limits(process: Config, host: Host, notes: list[str], *, entering: bool = False) -> list[Step]:
    """The step that sets what only who starts the container may set: limits and priorities."""
    calls: list[Call] = []
    found = _rlimits(process, host, notes)
    if found:
        calls.append(("rlimits", found))
    if process.get("scheduler"):
        calls.append(_scheduler(process["scheduler"]))
    if process.get("ioPriority"):
        entry = process["ioPriority"]
        from ctrt.linux import tasks

        io_class = tasks.IO_CLASSES[entry["class"]]
        calls.append(("io_priority", io_class, int(entry.get("priority") or 0)))
    if entering:
        final = (process.get("execCPUAffinity") or {}).get("final")
        if final:
            calls.append(("affinity", cpus(final, "process.execCPUAffinity.final")))
    if not calls:
        return []
    return [
        Step(
            "limits and priorities",
            OUTSIDE,
            calls,
            why="set from outside: the process may not have the right to any more",
            source="prlimit(2), sched_setattr(2), ioprio_set(2)",
            needs="CAP_SYS_RESOURCE or CAP_SYS_NICE for more than the caller has itself",
        )
    ]


def _rlimits(process: Config, host: Host, notes: list[str]) -> tuple[tuple[str, int, int], ...]:
    found = []
    for entry in process.get("rlimits") or ():
        name = entry["type"]
        soft, hard = int(entry["soft"]), int(entry["hard"])
        if not host.has(_RESOURCE):
            most = host.hard_limit(name)
            if hard > most:
                notes.append(
                    f"the limit {name} is {_limit(most)} instead of {_limit(hard)}: raising it "
                    f"needs CAP_SYS_RESOURCE, which the caller does not have"
                )
                hard = most
            soft = min(soft, hard)
        found.append((name, soft, hard))
    return tuple(found)


def _limit(value: int) -> str:
    return "unlimited" if value == (1 << 64) - 1 else str(value)


def oom_value(process: Config, host: Host, notes: list[str]) -> int | None:
    """The out-of-memory score that the process can have; None where nothing is said of it."""
    score: int | None = process.get("oomScoreAdj")
    if score is None or host.has(_RESOURCE):
        return score
    least = host.oom_score
    if score < least:
        notes.append(
            f"oomScoreAdj is {least} instead of {score}: lowering it needs "
            f"CAP_SYS_RESOURCE, which the caller does not have"
        )
    return max(score, least)


def oom_score(process: Config, host: Host, notes: list[str]) -> list[Step]:
    """The step that says how soon the kernel takes the container when memory runs out."""
    score = oom_value(process, host, notes)
    if score is None:
        return []
    return [
        Step(
            "out-of-memory score",
            OUTSIDE,
            [("oom_score", score)],
            why="how soon the kernel takes this container when memory runs out",
            source="proc_pid_oom_score_adj(5)",
        )
    ]


def _scheduler(entry: Config) -> Call:
    from ctrt.linux import tasks

    flags = 0
    for name in entry.get("flags") or ():
        flags |= tasks.SCHED_FLAGS[name]
    deadline = tuple(int(entry.get(key) or 0) for key in ("runtime", "deadline", "period"))
    return (
        "scheduler",
        tasks.POLICIES[entry["policy"]],
        flags,
        int(entry.get("nice") or 0),
        int(entry.get("priority") or 0),
        deadline,
    )


def cpus(text: str, place: str) -> tuple[int, ...]:
    """Processors of a list such as 0-3,7: cpuset(7), List format."""
    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        if not part:
            continue
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise CtrtError(f"{place}: {text!r} is not a list of processors such as 0-3,7")
        if len(first) > 6 or len(last) > 6:
            raise CtrtError(f"{place}: {part} names what no machine has")
        found += range(int(first), int(last or first) + 1)
    if not found:
        raise CtrtError(f"{place}: {text!r} names no processor")
    return tuple(found)


def descriptors(process: Config, *, terminal: bool, plain_lines: bool, bind: bool) -> list[Step]:
    """The steps that leave the process with its own three descriptors, or a terminal.

    The terminal is /dev/console, too, with `bind`; with `plain_lines` it writes a line's end as
    the program does, not as carriage return and line feed.
    """
    calls: list[Call] = [("own_descriptors",), ("stdio",), ("session",), ("signals",)]
    uid = (process.get("user") or {}).get("uid") or 0
    if not terminal:
        if uid:
            calls.append(("own_stdio", uid))
        return [
            Step(
                "descriptors",
                INSIDE,
                calls,
                why="the program gets standard input, output and error, and no other descriptor",
                source="clone(2), CLONE_FILES; close_range(2)",
            )
        ]
    size = process.get("consoleSize") or {}
    height, width = int(size.get("height") or 0), int(size.get("width") or 0)
    return [
        Step(
            "descriptors",
            INSIDE,
            calls,
            why="the program gets no descriptor but its terminal",
            source="clone(2), CLONE_FILES; close_range(2)",
        ),
        Step(
            "terminal",
            INSIDE,
            [
                ("console", height, width, bind, plain_lines),
                ("own_stdio", uid),
            ],
            why="a pseudo-terminal of the container's own; its master goes to the caller",
            source="pts(4); " + SPEC + "config.md, process.terminal",
        ),
    ]


def label_steps(process: Config, linux: Config, host: Host) -> tuple[list[Step], list[Step]]:
    """The steps that open and that write the label of a security module, if one is asked for.

    The first of those that open it comes before the clone.
    """
    profile, selinux = process.get("apparmorProfile"), process.get("selinuxLabel")
    if profile and not host.apparmor:
        raise CtrtError(
            f"process.apparmorProfile: {profile!r} cannot be applied: AppArmor is not enabled on "
            "this machine (apparmor: config provided but apparmor not supported)"
        )
    for key, place, text in (
        ("selinuxLabel", "process", selinux),
        ("mountLabel", "linux", linux.get("mountLabel")),
    ):
        if text and not host.selinux:
            raise CtrtError(
                f"{place}.{key}: selinux label is specified in config, but selinux is disabled or "
                "not supported"
            )
    if not profile and not selinux:
        return [], []
    module = "apparmor" if profile else ""
    text = f"exec {profile}" if profile else str(selinux)
    proc = Step(
        "host's /proc",
        OUTSIDE,
        [("open_directory", "/proc", "proc")],
        why="the container's own is not to be trusted with the label",
        source="proc(5)",
    )
    opened = Step(
        "security label",
        INSIDE,
        [("open_label", module)],
        why="opened in the host's /proc while the process has no label yet",
        source="proc_pid_attr(5)",
    )
    written = Step(
        "label of the program",
        INSIDE,
        [("label", text)],
        why="the security module confines the program from its first instruction",
        source="proc_pid_attr(5), " + ("apparmor(7)" if profile else "selinux(8)"),
    )
    return [proc, opened], [written]


def filter_flags(linux: Config) -> int:
    """The flags of the seccomp profile as seccomp(2) takes them."""
    flags = 0
    for name in (linux.get("seccomp") or {}).get("flags") or ():
        from ctrt.linux import tasks  # here: hardly any profile has flags

        flags |= tasks.FILTER_FLAGS[name]
    return flags


def identity(
    process: Config,
    linux: Config,
    host: Host,
    notes: list[str],
    *,
    in_userns: bool,
    seccomp: bytes | None,
    keyring: str | None,
    label: list[Step],
    keep_groups: bool = False,
    status: str = "creating",
) -> tuple[list[Step], list[Step]]:
    """The steps that make the process the user with its rights, and those that confine it last.

    Between the two a created container waits for its start.
    """
    user = process.get("user") or {}
    uid, gid = user.get("uid") or 0, user.get("gid") or 0
    groups: tuple[int, ...] | None = tuple(user.get("additionalGids") or ())
    gid_map = extents(linux.get("gidMappings"), "linux.gidMappings")
    if (in_userns or not host.privileged) and not can_set_groups(host, gid_map):
        if groups:
            notes.append(
                "additionalGids are left out: setgroups(2) is denied where only one group is mapped"
            )
        groups = None
    if keep_groups:
        groups = None
    masks = _masks(process, notes)
    steps = []
    if keyring is not None:
        steps.append(
            Step(
                "keyring",
                INSIDE,
                [("keyring", keyring)],
                why="the caller's session keys are not the container's to use",
                source="session-keyring(7)",
            )
        )
    traits = _traits(linux)
    if traits:
        steps.append(
            Step(
                "traits",
                INSIDE,
                traits,
                why="how the kernel treats the process, kept over the exec",
                source="personality(2), set_mempolicy(2)",
            )
        )
    no_new_privileges = bool(process.get("noNewPrivileges"))
    filters = _filter(linux, seccomp, status)
    # Without no_new_privs only CAP_SYS_ADMIN may load a filter, so it goes before the drop.
    if not no_new_privileges:
        steps += label + filters
    umask = user.get("umask")
    # Of several the last counts, and an empty one is as good as none.
    homes = [entry for entry in process.get("env") or () if entry.startswith("HOME=")]
    home: list[Call] = [] if homes and homes[-1] != "HOME=" else [("home", uid)]
    steps.append(
        Step(
            "capabilities",
            INSIDE,
            [
                ("not_dumpable",),
                *home,
                ("limit_bounding", masks["bounding"]),
                (
                    "capabilities",
                    uid,
                    gid,
                    groups,
                    masks["effective"],
                    masks["permitted"],
                    masks["inheritable"],
                    masks["ambient"],
                ),
                ("umask", _DEFAULT_UMASK if umask is None else umask),
            ],
            why="root of the container keeps what containers need and loses the rest",
            source="capabilities(7)",
            needs="CAP_SETPCAP, CAP_SETUID and CAP_SETGID inside",
        )
    )
    last = []
    if no_new_privileges:
        steps.append(
            Step(
                "no new privileges",
                INSIDE,
                [("no_new_privileges",)],
                why="no set-user-ID program or file capability gives more than there is now",
                source="PR_SET_NO_NEW_PRIVS(2const)",
            )
        )
        last = label + filters
        if len(filters) > 1:
            # The agent is given the word by the process outside, which does not wait for the start.
            steps += last
            last = []
    return steps, last


def asks_agent(linux: Config) -> bool:
    """Whether the seccomp profile names another process, which its rules may ask."""
    return bool((linux.get("seccomp") or {}).get("listenerPath"))


def agent_channel(linux: Config, seccomp: bytes | None) -> list[Step]:
    """The step that makes the way to that process, if there is one."""
    if not seccomp or not asks_agent(linux):
        return []
    from ctrt.runtime import seccomp_notify

    return [seccomp_notify.channel()]


def _filter(linux: Config, seccomp: bytes | None, status: str) -> list[Step]:
    if not seccomp:
        return []
    profile = linux.get("seccomp") or {}
    flags = filter_flags(linux)
    call: Call = ("seccomp", seccomp, flags) if flags else ("seccomp", seccomp)
    if asks_agent(linux):
        from ctrt.runtime import seccomp_notify

        return seccomp_notify.load(
            seccomp,
            flags,
            profile["listenerPath"],
            profile.get("listenerMetadata") or "",
            status,
            needed=seccomp_notify.notifies(profile),
        )
    return [
        Step(
            "seccomp",
            INSIDE,
            [call],
            why="calls that a container has no business with are refused",
            source="seccomp(2)",
            needs="no_new_privs or CAP_SYS_ADMIN",
        )
    ]


def _masks(process: Config, notes: list[str]) -> dict[str, int]:
    sets = process.get("capabilities") or {}
    masks = {}
    unknown: list[str] = []
    for name in _SETS:
        bits = 0
        for word in sets.get(name) or ():
            try:
                bits |= capabilities.mask((word,))
            except ValueError:
                unknown.append(word)
        masks[name] = bits
    for word in dict.fromkeys(unknown):
        notes.append(f"the capability {word} is left out: there is none of that name")
    for word in capabilities.names(masks["ambient"] & ~(masks["inheritable"] & masks["permitted"])):
        notes.append(f"can't raise ambient capability {word}: it is not inheritable and permitted")
    return masks


def _traits(linux: Config) -> list[Call]:
    personality, policy = linux.get("personality"), linux.get("memoryPolicy")
    if not personality and not policy:
        return []
    from ctrt.linux import tasks

    calls: list[Call] = []
    if personality:
        calls.append(("personality", tasks.PERSONALITIES[personality["domain"]]))
    if policy:
        mode = tasks.MEMORY_POLICIES[policy["mode"]]
        for flag in policy.get("flags") or ():
            mode |= tasks.MEMORY_FLAGS[flag]
        nodes = policy.get("nodes")
        calls.append(
            ("memory_policy", mode, cpus(nodes, "linux.memoryPolicy.nodes") if nodes else ())
        )
    return calls


def lets_stand_in(linux: Config) -> bool:
    """Whether the calls that operations/stand_in.py needs do not end the process.

    One that is refused it can do without.
    """
    profile = linux.get("seccomp") or {}
    rules = profile.get("syscalls") or ()
    default = str(profile.get("defaultAction") or "SCMP_ACT_ALLOW")
    for call in ("memfd_create", "execveat", "fcntl"):
        actions = [rule["action"] for rule in rules if call in rule["names"]] or [default]
        if not all(action in _HARMLESS for action in actions):
            return False
    return True


def program(process: Config, linux: Config, *, trace: bool, die: bool) -> Step:
    """The step in which the program takes the place of the prepared process.

    A last member of the call, True, says that it must not be by way of another.
    """
    calls: list[Call] = []
    if die:
        calls.append(("die_with_parent",))
    if trace:
        calls.append(("trace",))
    direct = () if lets_stand_in(linux) else (True,)
    arguments, environment = tuple(process.get("args") or ()), tuple(process.get("env") or ())
    calls.append(("exec", arguments, environment, *direct))
    return Step(
        "exec",
        INSIDE,
        calls,
        why="the program takes the place of the prepared process",
        source="execve(2)",
    )


def waiting(process: Config) -> list[Step]:
    """The steps in which a created container waits for its start.

    One whose configuration has no process waits, too: that is its start's to tell.
    """
    find = Step(
        "program",
        INSIDE,
        [("find_program", tuple(process.get("args") or ()), tuple(process.get("env") or ()))],
        why="a program that is not there is told before the start",
        source=SPEC + "runtime.md, Create",
    )
    wait = Step(
        "wait",
        INSIDE,
        [("await_start",)],
        why="a created container is ready, and its program begins when it is started",
        source=SPEC + "runtime.md, Lifecycle",
    )
    return [find, wait] if process.get("args") else [wait]


def hooks(config: Config, kind: str, where: str, why: str, env: Iterable[str] = ()) -> list[Step]:
    """The step that runs the hooks of a kind; those inside have `env` where they name none."""
    entries = (config.get("hooks") or {}).get(kind)
    if not entries:
        return []
    found = tuple(
        (
            hook["path"],
            tuple(hook.get("args") or (hook["path"],)),
            None if hook.get("env") is None else tuple(hook["env"]),
            hook.get("timeout"),
        )
        for hook in entries
    )
    return [
        Step(
            f"hooks {kind}",
            where,
            [("hooks", kind, found, tuple(env))],
            why=why,
            source=SPEC + "config.md, POSIX-platform Hooks",
        )
    ]
