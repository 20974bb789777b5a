"""The words of the command: flags of every verb as tables, and the parser that reads them.

A parser of our own, because importing argparse costs as much as the interpreter itself. Flags are
taken as `--flag VALUE`, `--flag=VALUE`, `-f VALUE`, `-fVALUE`; global ones also after the verb. As
with runc, one dash does before a whole name, too: callers write `-no-subreaper` and `-force`.
"""

from __future__ import annotations

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FLAG, TEXT, NUMBER, MANY = "flag", "text", "number", "many"
"""What a flag takes: nothing, words, a number, or words each time that it is given."""

GLOBAL = {
    "root": (TEXT, "DIR", "where containers are known"),
    "log": (TEXT, "FILE", "write errors to this file, too"),
    "log-format": (TEXT, "FORMAT", "text or json"),
    "log-level": (TEXT, "LEVEL", "debug, info, warning or error"),
    "debug": (FLAG, "", "tell more, and show where an internal error came from"),
    "systemd-cgroup": (FLAG, "", "cgroups are systemd's to make; cgroupsPath is SLICE:PREFIX:NAME"),
    "cgroup-manager": (TEXT, "MANAGER", "cgroupfs, systemd or disabled"),
    "rootless": (TEXT, "BOOL", "true, false or auto; found out by itself"),
    "criu": (TEXT, "FILE", "the criu program"),
    "help": (FLAG, "", "show the options"),
    "version": (FLAG, "", "show the version"),
}

_BUNDLE = {"bundle": (TEXT, "DIR", "the bundle; the working directory if not given")}
_START = {
    "pid-file": (TEXT, "FILE", "write the process's pid here"),
    "console-socket": (TEXT, "FILE", "the socket that a terminal's master is sent to"),
    "preserve-fds": (NUMBER, "N", "pass on N descriptors after standard error"),
}
_CREATE = {
    **_BUNDLE,
    "config": (TEXT, "FILE", "the configuration, if not the bundle's config.json"),
    **_START,
    "no-pivot": (FLAG, "", "change the root without pivot_root(2), as on a ramdisk"),
    "no-new-keyring": (FLAG, "", "stay in the caller's session keyring"),
    "no-subreaper": (FLAG, "", "without effect: nothing here is a subreaper"),
    "no-mount-fallback": (FLAG, "", "without effect: no option of a mount is ever left out"),
    "pidfd-socket": (TEXT, "FILE", "the socket that a pidfd of the process is sent to"),
}
_EXEC = {
    **_START,
    "process": (TEXT, "FILE", "a process document (process.json)"),
    "detach": (FLAG, "", "end when the process runs"),
    "tty": (FLAG, "", "give the process a terminal"),
    "user": (TEXT, "UID[:GID]", "who it runs as"),
    "cwd": (TEXT, "DIR", "its working directory"),
    "env": (MANY, "NAME=VALUE", "set a variable"),
    "cap": (MANY, "CAP", "add a capability"),
    "apparmor": (TEXT, "PROFILE", "its AppArmor profile"),
    "process-label": (TEXT, "LABEL", "its SELinux label"),
    "no-new-privs": (FLAG, "", "keep it from gaining privileges"),
    "additional-gids": (MANY, "GID", "add a group"),
    "cgroup": (MANY, "PATH", "run in a cgroup below the container's"),
    "ignore-paused": (FLAG, "", "also in a paused container"),
    "pidfd-socket": (TEXT, "FILE", "the socket that a pidfd of the process is sent to"),
}
_UPDATE = {
    "resources": (TEXT, "FILE", "a document of linux.resources; - is standard input"),
    "blkio-weight": (NUMBER, "N", "weight of block I/O, 10 to 1000"),
    "cpu-period": (NUMBER, "N", "period of cpu-quota, in microseconds"),
    "cpu-quota": (NUMBER, "N", "processor time in each period, in microseconds"),
    "cpu-burst": (NUMBER, "N", "unused quota that may be used later, in microseconds"),
    "cpu-share": (NUMBER, "N", "weight of processor time"),
    "cpu-shares": (NUMBER, "N", "weight of processor time"),
    "cpu-rt-period": (NUMBER, "N", "period of cpu-rt-runtime, in microseconds"),
    "cpu-rt-runtime": (NUMBER, "N", "real-time processor time in each period, in microseconds"),
    "cpuset-cpus": (TEXT, "LIST", "processors that may be used"),
    "cpuset-mems": (TEXT, "LIST", "memory nodes that may be used"),
    "cpu-idle": (NUMBER, "N", "1: only processor time that nobody else wants"),
    "kernel-memory": (TEXT, "BYTES", "without effect since Linux 5.4"),
    "kernel-memory-tcp": (TEXT, "BYTES", "limit of TCP buffers (cgroup v1)"),
    "memory": (TEXT, "BYTES", "limit of memory; -1 is none"),
    "memory-reservation": (TEXT, "BYTES", "memory that it is kept near when memory is short"),
    "memory-swap": (TEXT, "BYTES", "limit of memory and swap together; -1 is none"),
    "pids-limit": (NUMBER, "N", "limit of processes; -1 is none"),
    "l3-cache-schema": (TEXT, "SCHEMA", "Intel RDT: the L3 cache schema"),
    "mem-bw-schema": (TEXT, "SCHEMA", "Intel RDT: the memory bandwidth schema"),
}
_CRIU = {
    **_BUNDLE,
    "image-path": (TEXT, "DIR", "where the image of the processes is"),
    "work-path": (TEXT, "DIR", "where criu works and logs"),
    "tcp-established": (FLAG, "", "with open TCP connections"),
    "ext-unix-sk": (FLAG, "", "with external Unix sockets"),
    "shell-job": (FLAG, "", "with a shell's job control"),
    "file-locks": (FLAG, "", "with file locks"),
    "manage-cgroups-mode": (TEXT, "MODE", "ignore or soft"),
    "lsm-profile": (TEXT, "PROFILE", "another AppArmor or SELinux profile"),
    "empty-ns": (MANY, "network", "its devices and addresses are left to hooks"),
}

# verb: (operands, what it does, its flags)
VERBS: dict[str, tuple[str, str, dict[str, tuple[str, str, str]]]] = {
    "create": ("ID", "make a container that waits to be started", _CREATE),
    "start": ("ID", "let a created container's program begin", {}),
    "state": ("ID", "show a container's state as JSON", {}),
    "kill": ("ID [SIGNAL]", "signal a container's first process", {
        "all": (FLAG, "", "signal all its processes"),
        "regex": (FLAG, "", "ID is a regular expression: all containers that match it"),
    }),
    "delete": ("ID", "take back all that was made for a container", {
        "force": (FLAG, "", "kill it first; no error if there is none"),
        "regex": (FLAG, "", "ID is a regular expression: all containers that match it"),
    }),
    "exec": ("ID [COMMAND [ARG...]]", "run another process in a container", _EXEC),
    "run": ("ID", "create, start and (unless detached) wait and delete", {
        **_CREATE,
        "detach": (FLAG, "", "end when the program runs"),
        "keep": (FLAG, "", "do not delete the container when its program ends"),
    }),
    "list": ("", "list containers", {
        "format": (TEXT, "FORMAT", "table or json"),
        "quiet": (FLAG, "", "ids only"),
    }),
    "ps": ("ID [PS-OPTION...]", "list a container's processes", {
        "format": (TEXT, "FORMAT", "table or json"),
    }),
    "pause": ("ID", "freeze all processes", {}),
    "resume": ("ID", "thaw all processes", {}),
    "update": ("ID", "change limits", _UPDATE),
    "events": ("ID", "show statistics", {
        "interval": (TEXT, "DURATION", "between two of them: 5s if not given"),
        "stats": (FLAG, "", "show them once"),
    }),
    "features": ("", "show what this runtime can do as JSON", {}),
    "spec": ("", "write a config.json to begin with", {
        **_BUNDLE,
        "rootless": (FLAG, "", "for a container of an ordinary user's"),
    }),
    "checkpoint": ("ID", "save a container's processes with criu", {
        **_CRIU,
        "parent-path": (TEXT, "DIR", "where an earlier image is"),
        "tcp-skip-in-flight": (FLAG, "", "without TCP connections that are being made"),
        "link-remap": (FLAG, "", "with open files that have no name any more"),
        "leave-running": (FLAG, "", "go on afterwards"),
        "page-server": (TEXT, "ADDRESS", "send the memory there"),
        "lazy-pages": (FLAG, "", "send the memory when it is asked for"),
        "status-fd": (NUMBER, "N", "tell there when pages can be sent"),
        "pre-dump": (FLAG, "", "save the memory only"),
        "auto-dedup": (FLAG, "", "remove pages that are saved twice"),
    }),
    "restore": ("ID", "make a container from saved processes with criu", {
        **_CRIU,
        **_START,
        "no-subreaper": (FLAG, "", "without effect: nothing here is a subreaper"),
        "detach": (FLAG, "", "end when the processes run"),
        "lsm-mount-context": (TEXT, "CONTEXT", "another SELinux context of mounts"),
        "no-pivot": (FLAG, "", "change the root without pivot_root(2)"),
        "auto-dedup": (FLAG, "", "remove pages that are saved twice"),
        "lazy-pages": (FLAG, "", "get the memory when it is asked for"),
    }),
}  # fmt: skip

_SHORT = {
    "a": "all",
    "b": "bundle",
    "c": "cap",
    "d": "detach",
    "e": "env",
    "f": "format",
    "g": "additional-gids",
    "h": "help",
    "p": "process",
    "q": "quiet",
    "r": "resources",
    "t": "tty",
    "u": "user",
    "v": "version",
}
_SHORT_OF = {"create": {"f": "config"}, "delete": {"f": "force"}, "run": {"f": "config"}}


class Words:
    """A command line that has been read: `words["flag"]`, the verb and its operands."""

    __slots__ = ("operands", "values", "verb")

    def __init__(self) -> None:
        self.verb = ""
        self.operands: list[str] = []
        self.values: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """A flag's value: None (or False, or an empty list) where it was not given."""
        return self.values.get(name)

    def has(self, name: str) -> bool:
        """Whether a flag was given."""
        return name in self.values


def parse(arguments: list[str]) -> Words:
    """Read a command line. Raises CtrtError that names the word which is wrong."""
    words = Words()
    table: dict[str, tuple[str, str, str]] = GLOBAL
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--" and words.verb:
            words.operands += rest
            break
        if word.startswith("-") and len(word) > 1:
            whole = word.startswith("--") and len(word) > 2
            name, equals, value = word[2 if whole else 1 :].partition("=")
            if whole or (len(name) > 1 and name in table):
                _take(words, table, name, value if equals else None, rest, word)
            else:
                _short(words, table, word, rest)
        elif not words.verb:
            if word not in VERBS:
                raise CtrtError(
                    f"No help topic for '{word}': no such command; see ctrt-runtime --help",
                    status=1,
                )
            words.verb = word
            table = {**GLOBAL, **VERBS[word][2]}
        else:
            words.operands.append(word)
            # What comes after the container is a command line of its own.
            if words.verb in ("exec", "ps"):
                words.operands += rest[1:] if rest[:1] == ["--"] else rest
                if words.verb == "ps":
                    _format_after(words)
                break
    return words


def _format_after(words: Words) -> None:
    """`ps ID --format json`: engines write it so, though what follows is for ps(1)."""
    operands = words.operands
    for index, word in enumerate(operands):
        if word.startswith("--format="):
            words.values["format"] = word[9:]
            del operands[index]
            return
        if word in ("--format", "-f") and operands[index + 1 : index + 2] in (["json"], ["table"]):
            words.values["format"] = operands[index + 1]
            del operands[index : index + 2]
            return


def _short(
    words: Words, table: dict[str, tuple[str, str, str]], word: str, rest: list[str]
) -> None:
    """One-letter flags, of which the last may take a value."""
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        name = _SHORT_OF.get(words.verb, {}).get(letter) or _SHORT.get(letter, "")
        if name not in table:
            raise _unknown(words, f"-{letter}")
        if table[name][0] == FLAG:
            words.values[name] = True
        else:
            _take(words, table, name, letters.removeprefix("=") or None, rest, f"-{letter}")
            return


def _take(
    words: Words,
    table: dict[str, tuple[str, str, str]],
    name: str,
    value: str | None,
    rest: list[str],
    word: str,
) -> None:
    if name not in table:
        raise _unknown(words, word.partition("=")[0])
    kind = table[name][0]
    if kind == FLAG:
        if value not in (None, "true", "false", "1", "0"):
            raise CtrtError(f"--{name}: {value!r} is neither true nor false", status=1)
        words.values[name] = value not in ("false", "0")
        return
    if value is None:
        if not rest:
            raise CtrtError(f"--{name} needs a value: {table[name][1]}", status=1)
        value = rest.pop(0)
    if kind == MANY:
        words.values.setdefault(name, []).append(value)
    elif kind == NUMBER:
        try:
            words.values[name] = int(value)
        except ValueError:
            raise CtrtError(f"--{name}: {value!r} is not a number", status=1) from None
    else:
        words.values[name] = value


def _unknown(words: Words, word: str) -> CtrtError:
    verb = f" {words.verb}" if words.verb else ""
    return CtrtError(
        f"{word} is no option of ctrt-runtime{verb}; see ctrt-runtime{verb} --help", status=1
    )


def help_text(verb: str) -> str:
    """The options of a verb, or with "" the verbs and the global options."""
    if not verb:
        lines = [
            "usage: ctrt-runtime [options] VERB [options] ...",
            "",
            "An OCI runtime: containers from bundles, as engines ask for them.",
            "",
            "verbs:",
        ]
        lines += [f"  {name:12}{about}" for name, (_, about, _) in VERBS.items()]
        table = GLOBAL
    else:
        operands, about, table = VERBS[verb]
        lines = [f"usage: ctrt-runtime {verb} [options] {operands}".rstrip(), "", f"{about}."]
    if table:
        shorts = {**{n: s for s, n in _SHORT.items()}, **_SHORT_OF_NAMES.get(verb, {})}
        lines += ["", "options:"]
        for name, (_, value, words) in table.items():
            short = f"-{shorts[name]}, " if name in shorts else "    "
            lines.append(f"  {short}{'--' + name + (' ' + value if value else ''):28}{words}")
    return "\n".join(lines)


_SHORT_OF_NAMES = {
    verb: {name: letter for letter, name in letters.items()} for verb, letters in _SHORT_OF.items()
}
