"""Operations on the process: descriptors, identity, limits, filters, and the exec."""

from __future__ import annotations

import _signal
import posix as os  # `os` itself takes long to import: linux/ospath.py
import select

from ctrt.linux import calls as k
from ctrt.linux import capabilities, ospath
from ctrt.runtime.operations.context import (
    EINVAL,
    ENOENT,
    ENOTDIR,
    IN_ROOT,
    OWN,
    REFUSED,
    Context,
)

_SIGKILL = 9
_LARGEST_PASSWD = 1 << 20
_EACCES = 13
_ENOSYS, _EDQUOT = 38, 122


def own_descriptors(context: Context) -> None:
    """Give up the shared descriptor table, and tell the other side."""
    k.unshare(k.CLONE_FILES)
    os.close(context.go[1])
    os.close(context.back[0])
    os.write(context.back[1], OWN)


def stdio(context: Context) -> None:
    """Put the named descriptors on 0, 1 and 2, and mark all but the preserved to close on exec.

    What the caller had open is closed at once: this process may wait for its start, and somebody
    for the end of a pipe.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if context.fds[name] == number:
            os.set_inheritable(number, True)
        else:
            os.dup2(context.fds[name], number, inheritable=True)
    ours = {*context.fds.values(), *context.go, *context.back, context.maker, *context.preserved}
    after = 3
    for number in sorted(ours):
        if number > after:
            k.close_range(after, number - 1, 0)
        after = max(after, number + 1)
    k.close_range(after, 0xFFFFFFFF, 0)
    k.close_range(3, 0xFFFFFFFF, k.CLOSE_RANGE_CLOEXEC)
    for number in context.preserved:
        os.set_inheritable(number, True)


def signals(context: Context) -> None:
    """Default dispositions and an empty mask: what is ignored stays so in an exec (signal(7)).

    Python ignores two; the caller may have ignored any. Python knows which, but for 32 and 33,
    which libc hides: of those it says None.
    """
    for number in range(1, 65):
        if _signal.getsignal(number) != _signal.SIG_DFL:
            k.default_signal(number)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def session(context: Context) -> None:
    """Begin a session of one's own."""
    os.setsid()


def die_with_parent(context: Context, number: int = _SIGKILL) -> None:
    """Ask to be killed, or for another signal, when the parent dies."""
    k.prctl(k.PR_SET_PDEATHSIG, number)
    # A parent that died before this call cannot be told by getppid(2): it is in another pid
    # namespace. But nobody holds the other end of the pipe any more.
    poll = select.poll()
    poll.register(context.back[1], 0)
    if poll.poll(0):
        os._exit(125)  # noqa: SLF001  # as public as in os


def become(context: Context, uid: int, gid: int, groups: tuple[int, ...] | None) -> None:
    """Become a user, with these supplementary groups unless they are None."""
    try:
        if groups is not None:
            os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        if error.errno == EINVAL:
            error.strerror = f"user {uid} or group {gid} is not mapped in the user namespace"
        raise


def own_stdio(context: Context, uid: int) -> None:
    """Give standard input, output and error to the user, except devices that all share."""
    for number in range(3):
        try:
            found = os.fstat(number)
            is_device = found.st_mode & 0o170000 in (0o020000, 0o060000)
            if found.st_uid == uid or (is_device and not os.isatty(number)):
                continue
            # The group stays: a terminal's is that of devpts.
            os.fchown(number, uid, -1)
        except OSError:
            pass  # a read-only file system, an id that is not mapped, a stream of another's


def keyring(context: Context, name: str) -> None:
    """Join a session keyring, so that the caller's keys stay the caller's: keyrings(7).

    The processes of a container share one by its name; who may not join it has one alone.
    """
    for wanted in (name, "") if name else ("",):
        try:
            k.join_session_keyring(wanted)
            return
        except k.KernelError as error:
            # Kernels without keys, callers whose filter refuses the call, and a full quota.
            if not wanted and error.errno not in (_ENOSYS, 1, _EACCES, _EDQUOT):
                raise


def umask(context: Context, mask: int) -> None:
    """Set the mask of new files' modes."""
    os.umask(mask)


def not_dumpable(context: Context) -> None:
    """Until the exec nobody in the container may look into this process: prctl(2)."""
    k.prctl(k.PR_SET_DUMPABLE, 0)


def limit_bounding(context: Context, bounding: int) -> None:
    """Drop all capabilities but these from the bounding set."""
    capabilities.limit_bounding(bounding)


def capability_sets(
    context: Context,
    uid: int,
    gid: int,
    groups: tuple[int, ...] | None,
    effective: int,
    permitted: int,
    inheritable: int,
    ambient: int,
) -> None:
    """Become the user and keep just these sets; what the process lacks is left out."""
    k.prctl(k.PR_SET_KEEPCAPS, 1)
    become(context, uid, gid, groups)
    held = k.capget()[1]
    k.capset(effective & held, permitted & held, inheritable & held)
    capabilities.set_ambient(ambient & permitted & inheritable & held)
    k.prctl(k.PR_SET_KEEPCAPS, 0)


def no_new_privileges(context: Context) -> None:
    """No exec gives more than there is now."""
    k.prctl(k.PR_SET_NO_NEW_PRIVS, 1)


def seccomp(context: Context, program: bytes, flags: int = 0) -> None:
    """Load a compiled filter."""
    k.seccomp_filter(program, flags)


def home(context: Context, uid: int) -> None:
    """Find the user's home directory in the container's /etc/passwd; it is / if that has none."""
    context.home = "/"
    # Not to wait for anybody, should it be a FIFO.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        passwd = k.openat2(context.root(), "/etc/passwd", flags, IN_ROOT)
    except OSError:
        return
    try:
        if os.fstat(passwd).st_mode & 0o170000 != 0o100000:
            return
        for line in os.read(passwd, _LARGEST_PASSWD).split(b"\n"):
            fields = line.split(b":")
            if len(fields) > 5 and fields[2] == b"%d" % uid:
                context.home = ospath.decoded(fields[5]) or "/"
                return
    finally:
        os.close(passwd)


def trace(context: Context) -> None:
    """Stop at the first instruction of the next program."""
    k.ptrace(k.PTRACE_TRACEME)


def execute(
    context: Context,
    arguments: tuple[str, ...],
    environment: tuple[str, ...],
    direct: bool = False,
) -> None:
    """Become the program; a name without a slash is searched in PATH of `environment`.

    `direct` is for the executor, which chooses the way.
    """
    if not arguments:
        raise OSError(EINVAL, "its configuration has no process, and a start needs one")
    variables = dict(entry.split("=", 1) for entry in environment if "=" in entry)
    if context.home:
        variables["HOME"] = context.home
    name = arguments[0]
    told = False
    if context.stand_in:
        told = _by_way_of_stand_in(context, arguments, variables)
    denied: OSError | None = None
    failed: OSError = FileNotFoundError(ENOENT, os.strerror(ENOENT), name)
    for path in candidates(name, variables):
        try:
            os.execve(path, arguments, variables)
        except OSError as error:
            error.filename = path
            if error.errno not in (ENOENT, ENOTDIR):
                denied = denied or error
            elif "/" in name:
                failed = error
    if told:
        number = (denied or failed).errno or 0
        os.write(context.back[1], REFUSED + bytes((number,)))
        os._exit(127)  # noqa: SLF001  # as public as in os
    raise denied or failed


def _by_way_of_stand_in(
    context: Context, arguments: tuple[str, ...], variables: dict[str, str]
) -> bool:
    """Become the first program of that name that can be executed; whether the pipe was told so."""
    from ctrt.runtime.operations import stand_in  # the process outside has done so already

    paths = candidates(arguments[0], variables)
    for path in paths:
        if executable(path) and not ospath.is_directory(path):
            break
    else:
        path = paths[0]
    return stand_in.become(context.stand_in, path, arguments, variables, context.back[1])


def executable(path: str) -> bool:
    """Whether execve(2) may take a file.

    Seccomp profiles older than Linux 5.8 refuse faccessat2(2), which looks at effective rights.
    """
    return os.access(path, os.X_OK, effective_ids=True) or os.access(path, os.X_OK)


def candidates(name: str, variables: dict[str, str]) -> list[str]:
    """The paths that a program's name may stand for."""
    if "/" in name:
        return [name]
    search = variables.get("PATH") or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return [f"{directory or '.'}/{name}" for directory in search.split(":")]
