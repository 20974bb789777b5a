"""What `create`, `exec` and `restore` share: the caller's wishes, terminals, and errors."""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py

from ctrt.errors import CtrtError, ProgramError
from ctrt.linux import ospath
from ctrt.runtime.existing import reason, warn
from ctrt.runtime.records import default_root, write_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ctrt.runtime.executor import StartError
    from ctrt.runtime.host import Host
    from ctrt.runtime.plan import Plan

_ENOENT = 2

on_plan: Callable[[Plan], None] | None = None
"""Who is shown each plan before it is carried out."""


class Options:
    """What a caller of `create` and `run` asks for beside the bundle."""

    __slots__ = (
        "cgroup_manager",
        "config",
        "console",
        "console_socket",
        "detach",
        "directory",
        "no_new_keyring",
        "no_pivot",
        "pid_file",
        "pidfd_socket",
        "plan",
        "preserve_fds",
    )

    def __init__(self) -> None:
        self.cgroup_manager = "cgroupfs"
        self.config: str | None = None
        """The configuration's path, where it is not the bundle's config.json."""
        self.console_socket: str | None = None
        self.detach = True
        """The caller does not wait, so a terminal is somebody else's to look after."""
        self.directory = _here()
        """Where the caller is; a bundle is gone to later."""
        self.console = -1
        """Where the terminal's master comes to, if it is this process's to look after."""
        self.plan: Plan | None = None
        """The plan, once it is made."""
        self.no_new_keyring = False
        self.no_pivot = False
        self.pid_file: str | None = None
        self.pidfd_socket: str | None = None
        self.preserve_fds: tuple[int, ...] = ()
        """The descriptors after standard error that the program gets, too."""


def _here() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def seccomp_filter(config: dict[str, Any]) -> bytes | None:
    """The compiled filter of a configuration's profile; None where it has none.

    Filters are kept where other users cannot write, so that each profile is compiled once.
    """
    profile = (config.get("linux") or {}).get("seccomp")
    if not profile:
        return None
    from ctrt.linux import filters

    try:
        return filters.cached(profile, _filters_directory())
    except filters.SeccompError as error:
        raise CtrtError(str(error)) from None


def _filters_directory() -> str:
    return f"{default_root().removesuffix('-runtime')}/seccomp"


def keep_interpreter(config: dict[str, Any], process: dict[str, Any], options: Options) -> None:
    """Where operations/stand_in.py cannot, keep the interpreter from the container: sealed.py."""
    if not os.access("/proc/self/exe", os.W_OK):
        return
    labelled = process.get("apparmorProfile") or process.get("selinuxLabel")
    from ctrt.runtime.planner.process import lets_stand_in

    if not labelled and lets_stand_in(config.get("linux") or {}):
        from ctrt.runtime.operations import stand_in

        if stand_in.machine():
            return
    from ctrt.runtime import sealed

    try:
        sealed.again(options.directory, options.preserve_fds)
    except OSError as error:
        warn(f"the container's program could write to the runtime's interpreter: {reason(error)}")


def announce_descriptors(process: dict[str, Any]) -> None:
    """Tell the container of the descriptors that sd_listen_fds(3) told the caller of."""
    listen = ospath.variable("LISTEN_FDS")
    if listen.isdecimal() and int(listen) > 0:
        process["env"] = [
            *(process.get("env") or ()),
            f"LISTEN_FDS={listen}",
            "LISTEN_PID=1",
        ]


def handed_over(count: int) -> tuple[int, ...]:
    """The open ones of `count` descriptors after standard error, and of those of LISTEN_FDS.

    It is asked before this process has any of its own there. Callers leave gaps, and ask for more
    than they have: runc alone refuses that.
    """
    listen = ospath.variable("LISTEN_FDS")
    if listen.isdecimal():
        count += int(listen)
    if count <= 0:
        return ()
    numbers = map(int, os.listdir("/proc/self/fd"))
    found = []
    for number in sorted(numbers):
        if 3 <= number < 3 + count:
            try:
                os.fstat(number)
            except OSError:
                continue  # that was the list itself
            found.append(number)
    return tuple(found)


def has_mounts(config: dict[str, Any]) -> bool:
    """Whether a container has a mount namespace of its own."""
    spaces = (config.get("linux") or {}).get("namespaces") or ()
    return any(entry["type"] == "mount" for entry in spaces)


def tell_notes(plan: Plan, host: Host, more: Iterable[str] = ()) -> None:
    """Warn of what is left out; what the configuration did not ask for is nothing to warn of."""
    for note in dict.fromkeys((*plan.notes, *more)):
        if note not in host.reasons.values():
            warn(note)


def keyring_of(identifier: str) -> str:
    """The name of the session keyring that a container's processes share, as with runc."""
    return f"_ses.{identifier}"


def check_terminal(terminal: bool, options: Options) -> None:
    """Refuse a terminal that nobody would have, and a socket that no terminal would come over."""
    if terminal and options.detach and not options.console_socket:
        raise CtrtError(
            "cannot allocate tty if runc will detach without setting console socket: "
            "use --console-socket",
            status=1,
        )
    if options.console_socket and not (terminal and options.detach):
        raise CtrtError(
            "cannot use console socket if runc will not detach or allocate tty", status=1
        )


def plain_lines(options: Options) -> bool:
    """Whether what comes from a terminal of ours goes to a file or a pipe, as the program wrote it.

    A terminal there ends its lines as the container's asks; who has a socket decides for itself.
    """
    return not options.console_socket and not os.isatty(1)


def console_channel(options: Options) -> int:
    """Where the terminal's master is sent to: the caller's socket, or one end of our own pair."""
    from ctrt.runtime import console

    if options.console_socket:
        return connect(options.console_socket)
    options.console, theirs = console.pair()
    return theirs


def connect(path: str) -> int:
    """A connection to the Unix socket of a caller. Raises CtrtError."""
    from ctrt.runtime import console

    try:
        return console.connect(path)
    except OSError as error:
        raise CtrtError(
            f"cannot connect to the socket {path}: {error.strerror}", status=1
        ) from None


def start_error(plan: Plan | None, error: StartError) -> CtrtError:
    """A failed step as the sentence for the caller, who looks for certain words in it."""
    assert plan is not None
    failed: tuple[Any, ...] = ("",)
    if 0 <= error.step < len(plan.steps) and error.call < len(plan.steps[error.step].calls):
        failed = plan.steps[error.step].calls[error.call]
    operation = failed[0]
    nameless = operation == "exec" and not failed[1]
    if nameless or operation in ("find_program", "hooks"):
        return CtrtError(f"unable to start container process: {error.words}", status=1)
    if operation == "exec":
        name = failed[1][0]
        looked = any(call[0] == "find_program" for step in plan.steps for call in step.calls)
        if error.errno == _ENOENT and "/" not in name and not looked:
            words = f'exec: "{name}": executable file not found in $PATH: No such file or directory'
            return CtrtError(f"unable to start container process: {words}", status=1)
        # The program was found: it is its interpreter that is missing, if anything is.
        return ProgramError(f"exec {name}: {os.strerror(error.errno).lower()}", status=1)
    from ctrt.runtime import failure

    told = failure.step_error(plan, error.step, error.call, error.errno, error.words)
    return CtrtError(f"unable to start container process: {told}", status=1)


def write_pid(path: str, pid: int) -> None:
    """Write a pid file at an absolute path, which is there whole or not at all."""
    try:
        write_whole(path, str(pid).encode(), 0o644)
    except OSError as error:
        raise CtrtError(
            f"the pid file {path} cannot be written: {error.strerror}", status=1
        ) from None
