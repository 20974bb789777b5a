"""The options of run, unshare and caps: one table each, for the command line and the magics.

A table is data: parsing, help, completion and the hint at a mistyped option all come from it.
The parser is our own and small, because the start of `ctrt run` pays for what it imports, and
because unshare(1) has options with optional values, which getopt(3) of Python lacks.
"""

from __future__ import annotations

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Option:
    """One option: its spellings, the name of its value, and one line of help.

    `kind` is "flag", "value", "list" (may be repeated) or "optional" (the value may be left
    out, and is then given only by `--name=value`).
    """

    __slots__ = ("choices", "default", "help", "key", "kind", "metavar", "names")

    def __init__(
        self,
        names: str,
        help: str,  # noqa: A002 - the word that every option parser uses
        *,
        metavar: str = "",
        kind: str = "",
        default: Any = None,
        choices: tuple[str, ...] = (),
    ) -> None:
        self.names = tuple(names.split())
        self.key = self.names[-1].lstrip("-").replace("-", "_")
        self.help = help
        self.metavar = metavar
        self.kind = kind or ("value" if metavar else "flag")
        self.default = False if self.kind == "flag" else [] if self.kind == "list" else default
        self.choices = choices

    def usage(self) -> str:
        """Its spellings as help shows them."""
        value = f"={self.metavar}" if self.metavar else ""
        return ", ".join(self.names) + (f"[{value}]" if self.kind == "optional" else value)


class Table:
    """The options of one verb, with what follows them."""

    def __init__(
        self,
        verb: str,
        summary: str,
        operands: str,
        options: Sequence[Option],
        *,
        prefix: str = "ctrt ",
    ) -> None:
        self.verb = verb
        self.prefix = prefix
        self.summary = summary
        self.operands = operands
        self.options = tuple(options)
        self._by_name = {name: option for option in options for name in option.names}

    def parse(self, words: Sequence[str], *, interspersed: bool = False) -> Values:
        """Parse words; options end at the first operand or at `--`.

        With `interspersed` options may also follow operands. Raises CtrtError, which for a
        mistyped option names the nearest one.
        """
        values = Values(self.options)
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                values.operands += rest
                break
            if not word.startswith("-") or word == "-":
                values.operands.append(word)
                if interspersed:
                    continue
                values.operands += rest
                break
            if word.startswith("--"):
                name, equals, value = word.partition("=")
                self._take(values, self._option(name), name, value if equals else None, rest)
            else:
                self._take_short(values, word, rest)
        return values

    def _take_short(self, values: Values, word: str, rest: list[str]) -> None:
        letters = word[1:]
        while letters:
            name, letters = "-" + letters[0], letters[1:]
            option = self._option(name, word)
            if option.kind == "flag" or option.kind == "optional":
                self._take(values, option, name, None, rest)
            else:
                self._take(values, option, name, letters.removeprefix("=") or None, rest)
                return

    def _take(
        self, values: Values, option: Option, name: str, value: str | None, rest: list[str]
    ) -> None:
        if option.kind == "flag":
            if value not in (None, "true", "false"):
                raise CtrtError(f"{self.verb}: {name} takes no value, but got {value!r}")
            setattr(values, option.key, value != "false")
            return
        if value is None:
            if option.kind == "optional":
                setattr(values, option.key, True)
                return
            if not rest:
                raise CtrtError(f"{self.verb}: {name} needs a value ({option.metavar})")
            value = rest.pop(0)
        if option.choices and value not in option.choices:
            raise CtrtError(
                f"{self.verb}: {name} is one of {', '.join(option.choices)}, not {value!r}"
            )
        if option.kind == "list":
            getattr(values, option.key).append(value)
        else:
            setattr(values, option.key, value)

    def _option(self, name: str, word: str = "") -> Option:
        option = self._by_name.get(name)
        if option is not None:
            return option
        import difflib

        near = difflib.get_close_matches(name, list(self._by_name), 1)
        hint = f"; did you mean {near[0]}?" if near else f"; see {self.prefix}{self.verb} --help"
        within = f" (in {word})" if word and word != name else ""
        raise CtrtError(f"{self.verb}: there is no option {name}{within}{hint}")

    def help(self, prefix: str | None = None) -> str:
        """The help text; `prefix` is what stands before the verb where it is typed."""
        prefix = self.prefix if prefix is None else prefix
        usages = [option.usage() for option in self.options]
        width = min(max(map(len, usages), default=0), 30)
        lines = [f"usage: {prefix}{self.verb} [options] {self.operands}".rstrip(), "", self.summary]
        if self.options:
            lines += ["", "options:"]
        for usage, option in zip(usages, self.options, strict=True):
            text = option.help + (f" ({', '.join(option.choices)})" if option.choices else "")
            if len(usage) > width:
                lines += [f"  {usage}", f"  {'':{width}}  {text}"]
            else:
                lines.append(f"  {usage:{width}}  {text}")
        return "\n".join(lines)


def split_root(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take `--root DIR` or `--root=DIR` from the front of a command: (DIR or None, the rest)."""
    rest = list(words)
    root = None
    while rest and (rest[0] == "--root" or rest[0].startswith("--root=")):
        first = rest.pop(0)
        root = first[7:] if first != "--root" else rest.pop(0) if rest else ""
        if not root:
            raise CtrtError("--root needs the directory of a store")
    return root, rest


class Values:
    """What was parsed: an attribute for each option, and the operands."""

    operands: list[str]

    def __init__(self, options: Sequence[Option]) -> None:
        self.operands = []
        for option in options:
            default = option.default
            setattr(self, option.key, list(default) if isinstance(default, list) else default)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

        def __setattr__(self, name: str, value: Any) -> None: ...


TLS_VERIFY = Option(
    "--tls-verify",
    "whether the registry must speak TLS; false allows plain HTTP",
    metavar="BOOL",
    default="true",
    choices=("true", "false"),
)

LIMITS = (
    Option("-m --memory", "at most so much memory, as in 64m", metavar="SIZE"),
    Option("--memory-swap", "memory and swap together (twice --memory); -1: any", metavar="SIZE"),
    Option("--memory-reservation", "memory that is taken last when it is scarce", metavar="SIZE"),
    Option("--cpus", "so many processors' time, as in 1.5", metavar="NUMBER"),
    Option("-c --cpu-shares", "share of a busy processor; 1024 is usual", metavar="SHARES"),
    Option("--cpuset-cpus", "only these processors, as in 0-3,7", metavar="LIST"),
    Option("--pids-limit", "at most so many processes and threads; -1: any", metavar="NUMBER"),
    Option("--blkio-weight", "share of a busy disk, 10 to 1000", metavar="WEIGHT"),
    Option("--device-read-bps", "bytes a second", metavar="PATH:RATE", kind="list"),
    Option("--device-write-bps", "bytes a second", metavar="PATH:RATE", kind="list"),
    Option(
        "--ulimit",
        "a limit of each process, as in nofile=64:128",
        metavar="NAME=SOFT[:HARD]",
        kind="list",
    ),
    Option("--oom-score-adj", "-1000 (last) to 1000 (first) when memory ends", metavar="SCORE"),
    Option("--cgroup-parent", "the cgroup that the container's is made in", metavar="PATH"),
)
"""What a container may use at most; the words are podman's."""

PLAN = (
    Option("--plan", "print the steps of the start instead of starting"),
    Option("--svg", "with --plan: draw the steps into an SVG file", metavar="FILE"),
)

RUN = Table(
    "run",
    "Run a command in a new container. Options are podman run's where it has them.",
    "IMAGE [COMMAND [ARG...]]",
    [
        Option("-e --env", "set an environment variable", metavar="NAME=VALUE", kind="list"),
        Option("-w --workdir", "the directory that the command starts in", metavar="DIR"),
        Option("-u --user", "the user, by name or number", metavar="USER[:GROUP]"),
        Option("-h --hostname", "the container's host name", metavar="NAME"),
        Option("--name", "a name for the container", metavar="NAME"),
        Option("--entrypoint", "instead of the image's entry point", metavar="COMMAND"),
        Option("-v --volume", "bind-mount", metavar="SOURCE:DIR[:OPTIONS]", kind="list"),
        Option("--tmpfs", "mount an empty tmpfs", metavar="DIR[:OPTIONS]", kind="list"),
        Option("--read-only", "make the root file system read-only"),
        Option("--cap-add", "add a capability, or ALL", metavar="CAP", kind="list"),
        Option("--cap-drop", "drop a capability, or ALL", metavar="CAP", kind="list"),
        Option(
            "--security-opt",
            "seccomp=unconfined, seccomp=FILE, no-new-privileges[=false]",
            metavar="OPTION",
            kind="list",
        ),
        Option("--group-add", "a further group of the user", metavar="GROUP", kind="list"),
        Option(
            "--net --network",
            "none: one of its own with only lo; host: this machine's",
            metavar="MODE",
            default="none",
            choices=("none", "host"),
        ),
        Option("--add-host", "a line of /etc/hosts", metavar="NAME:IP", kind="list"),
        Option("--sysctl", "set a kernel parameter", metavar="NAME=VALUE", kind="list"),
        Option("--device", "pass a device in", metavar="HOST[:DIR][:rwm]", kind="list"),
        Option("--shm-size", "the size of /dev/shm (64m)", metavar="SIZE"),
        *LIMITS,
        Option("-i --interactive", "keep standard input open"),
        Option("-t --tty", "give it a terminal"),
        Option("-d --detach", "leave the container running and print its name"),
        Option("--rm", "remove the container when it ends, as ctrt always does"),
        Option(
            "--pull",
            "when to pull the image",
            metavar="WHEN",
            default="missing",
            choices=("missing", "always", "never"),
        ),
        TLS_VERIFY,
        *PLAN,
        Option("--step", "stop before each step of the start, and go on at Enter"),
    ],
)

EXEC = Table(
    "exec",
    "Run another command in a running container, one of another engine's (podman:NAME), or where a "
    "process is (its pid). Options are podman exec's.",
    "CONTAINER COMMAND [ARG...]",
    [
        Option("-e --env", "set an environment variable", metavar="NAME=VALUE", kind="list"),
        Option("-w --workdir", "the directory that the command starts in", metavar="DIR"),
        Option("-u --user", "the user, by name or number", metavar="USER[:GROUP]"),
        Option("-i --interactive", "keep standard input open"),
        Option("-t --tty", "give it a terminal"),
        *PLAN,
    ],
)

UNSHARE = Table(
    "unshare",
    "Run a program in new namespaces. Options are those of unshare(1) of util-linux.",
    "[PROGRAM [ARG...]]",
    [
        *(
            Option(names, f"unshare {what}", metavar="FILE", kind="optional")
            for names, what in (
                ("-m --mount", "the mount namespace"),
                ("-u --uts", "the UTS namespace (host name)"),
                ("-i --ipc", "the System V IPC namespace"),
                ("-n --net", "the network namespace"),
                ("-p --pid", "the pid namespace"),
                ("-U --user", "the user namespace"),
                ("-C --cgroup", "the cgroup namespace"),
                ("-T --time", "the time namespace"),
            )
        ),
        Option("-f --fork", "fork before running the program"),
        Option("--map-user", "map the current user to this one (implies --user)", metavar="USER"),
        Option("--map-group", "map the current group to this one", metavar="GROUP"),
        Option("-r --map-root-user", "map the current user to root (implies --user)"),
        Option("-c --map-current-user", "map the current user to itself (implies --user)"),
        Option("--map-auto", "map the subordinate ids from 0 on (implies --user)"),
        Option(
            "--map-users",
            "map a block of users (implies --user)",
            metavar="OUTER,INNER,COUNT|auto",
        ),
        Option(
            "--map-groups",
            "map a block of groups (implies --user)",
            metavar="OUTER,INNER,COUNT|auto",
        ),
        Option(
            "--kill-child",
            "the signal when ctrt dies; the program never outlives it (implies --fork)",
            metavar="SIGNAL",
            kind="optional",
        ),
        Option(
            "--mount-proc",
            "mount a proc file system first (implies --mount)",
            metavar="DIR",
            kind="optional",
        ),
        Option(
            "--propagation",
            "propagation of the mounts in the new mount namespace",
            metavar="TYPE",
            default="private",
            choices=("private", "slave", "shared", "unchanged"),
        ),
        Option(
            "--setgroups",
            "whether setgroups(2) is allowed in the user namespace",
            metavar="WORD",
            choices=("allow", "deny"),
        ),
        Option("--keep-caps", "keep the capabilities of the user namespace across execve"),
        Option("-R --root", "the directory that is the program's root", metavar="DIR"),
        Option("-w --wd", "the directory that the program starts in", metavar="DIR"),
        Option("-S --setuid", "the user inside", metavar="USER"),
        Option("-G --setgid", "the group inside; others are dropped", metavar="GROUP"),
        Option("--monotonic", "offset of CLOCK_MONOTONIC, with --time", metavar="SECONDS"),
        Option("--boottime", "offset of CLOCK_BOOTTIME, with --time", metavar="SECONDS"),
        *PLAN,
    ],
)

CAPS = Table(
    "caps",
    "Show the five capability sets of a process or a container.",
    "[PID | CONTAINER]",
    [Option("--all", "one row for each capability"), Option("--json", "as JSON")],
)
