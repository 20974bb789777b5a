"""Operations on namespaces: the clone, id maps, joining, and what a namespace holds."""

from __future__ import annotations

import marshal
import posix as os  # `os` itself takes long to import: linux/ospath.py
import select

from ctrt.linux import calls as k
from ctrt.linux import ospath
from ctrt.runtime.operations.context import EINVAL, ENOENT, EPERM, Context
from ctrt.runtime.operations.host import write

_NAMES = {
    "user": "user",
    "mount": "mnt",
    "pid": "pid",
    "network": "net",
    "uts": "uts",
    "ipc": "ipc",
    "cgroup": "cgroup",
    "time": "time",
}
"""Kinds as the OCI specification names them, and their links in /proc/PID/ns."""


# --- outside ---------------------------------------------------------------------------------


def open_namespace(context: Context, kind: str, path: str, name: str) -> None:
    """Open a namespace to be joined, which must be one of that kind."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if k.namespace_type(descriptor) != k.NAMESPACE_FLAGS[kind]:
            raise OSError(EINVAL, f"it is a namespace of another kind than {kind}", path)
        link = f"/proc/self/ns/{_NAMES[kind]}"
        if kind == "user" and os.stat(link).st_ino == os.fstat(descriptor).st_ino:
            os.close(descriptor)  # joining one's own is refused, and needless: setns(2)
            return
    except k.KernelError:
        os.close(descriptor)
        raise OSError(EINVAL, "it is not a namespace", path) from None
    except BaseException:
        os.close(descriptor)
        raise
    context.fds[name] = descriptor


def open_process(context: Context, pid: int, start_time: int, name: str) -> None:
    """Open a process under a name; it must be the one that began at `start_time`, if not 0."""
    descriptor = k.pidfd_open(pid)
    context.fds[name] = descriptor
    if start_time:
        stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fields = os.read(stat, 4096).rpartition(b")")[2].split()
        finally:
            os.close(stat)
        if int(fields[19]) != start_time or fields[0] in (b"Z", b"X"):
            raise ProcessLookupError(3, "the process has ended", "")


def clone(
    context: Context,
    flags: int,
    cgroup: str | None,
    joins: tuple[tuple[str, int], ...] = (),
    oom_score: int | None = None,
) -> int:
    """Make the first process: its pid, or 0 in it.

    `joins` are (descriptor, kind) of namespaces that are joined on the way; a kind of 0 stands
    for a pidfd: all namespaces in which that process is not with us. Joining a pid
    namespace is for children only, and joining a user namespace cannot be taken back, so that
    is done by a process in between, whose child becomes ours (CLONE_PARENT). That one sets its
    out-of-memory score to `oom_score` first, and its child inherits it. A process whose user
    namespace is ours is joined without one, where no namespace is new: those are made of what was
    joined.
    """
    into = context.fds[cgroup] if cgroup else -1
    if not joins:
        context.pid, context.pidfd = k.clone3(flags | k.CLONE_FILES, into)
        return context.pid
    if not flags and [kind for _, kind in joins] == [0]:
        target = context.fds[joins[0][0]]
        kinds = different(target)
        if not kinds & k.CLONE_NEWUSER:
            made = _clone_beside(context, into, (target, kinds), oom_score)
            if made >= 0:
                return made
        joins = ((joins[0][0], kinds),)
    answer, tell = os.pipe()
    # It is born in the cgroup already, and its child inherits that: from within the container's
    # cgroup namespace nothing may be moved across its border where cgroup v2 is mounted with
    # nsdelegate, as systemd does; clone3 then says ENOENT.
    between, pidfd = k.clone3(k.CLONE_FILES, into)
    if between == 0:
        message: tuple[int, int, int, str]
        try:
            if oom_score is not None:
                write(context, "/proc/self/oom_score_adj", str(oom_score))
            if not flags & k.CLONE_NEWUSER:
                # Who is in those namespaces already must not look into this process.
                k.prctl(k.PR_SET_DUMPABLE, 0)
            _join(context, joins)
            pid, child = k.clone3(flags | k.CLONE_FILES | k.CLONE_PARENT)
            if pid == 0:
                return 0
            message = (pid, child, 0, "")
        except OSError as error:
            message = (-1, -1, error.errno or 0, _words(error))
        except BaseException as error:
            message = (-1, -1, 0, f"{type(error).__name__}: {error}")
        os.write(tell, marshal.dumps(message))
        os._exit(0)  # noqa: SLF001  # as public as in os
    _, status = os.waitpid(between, 0)
    os.close(pidfd)
    os.close(tell)
    data = os.read(answer, 65536) if status == 0 else b""
    os.close(answer)
    if not data:
        raise OSError(ENOENT, "the process that joins namespaces was killed", "")
    context.pid, context.pidfd, number, words = marshal.loads(data)
    if context.pid < 0:
        context.pid = 0
        raise OSError(number, words, "")
    return context.pid


def _clone_beside(
    context: Context, into: int, target: tuple[int, int], oom_score: int | None
) -> int:
    """Make the first process beside that of a pidfd with other namespaces, but the user's.

    Then no process in between is needed: which pid namespace the next child is born in can be set
    and set back (setns(2)), and the child joins the rest. -1 where it could not be set back: root
    of a user namespace has no right to the pid namespace that it came with.
    """
    pidfd_there, kinds = target
    pids, joined = kinds & k.CLONE_NEWPID, False
    own = os.open("/proc/self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
    if pids and not _may_join(own, pids):
        os.close(own)
        return -1
    answer, tell = os.pipe()
    pid = pidfd = -1
    dumpable = k.prctl(k.PR_GET_DUMPABLE) == 1
    try:
        # Who is in those namespaces already must not look into the child from its birth on.
        k.prctl(k.PR_SET_DUMPABLE, 0)
        if pids:
            k.setns(pidfd_there, pids)
            joined = True
        pid, pidfd = k.clone3(k.CLONE_FILES, into)
        context.pid, context.pidfd = pid, pidfd
    finally:
        if pid != 0:
            if joined:
                k.setns(own, pids)
            if dumpable:
                k.prctl(k.PR_SET_DUMPABLE, 1)
            os.close(own)
    if pid == 0:
        failed = (0, "")
        try:
            if oom_score is not None:
                write(context, "/proc/self/oom_score_adj", str(oom_score))
            if kinds & ~k.CLONE_NEWPID:
                k.setns(pidfd_there, kinds & ~k.CLONE_NEWPID)
        except OSError as error:
            failed = (error.errno or EINVAL, _words(error))
        except BaseException as error:
            failed = (EINVAL, f"{type(error).__name__}: {error}")
        os.write(tell, marshal.dumps(failed))
        if failed[0]:
            os._exit(125)  # noqa: SLF001  # as public as in os
        return 0
    poll = select.poll()
    poll.register(answer, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    number, words = ENOENT, "the process that joins namespaces was killed"
    if answer in dict(poll.poll()):
        number, words = marshal.loads(os.read(answer, 65536))
    os.close(answer)
    os.close(tell)
    if number:
        os.waitpid(pid, 0)
        os.close(pidfd)
        context.pid = 0
        raise OSError(number, words, "")
    return pid


def _words(error: OSError) -> str:
    if isinstance(error, k.KernelError):
        return str(error)
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)


def _join(context: Context, joins: tuple[tuple[str, int], ...]) -> None:
    """Join namespaces: before the user namespace what may be joined before, then it and the rest.

    A namespace may belong to the old user namespace or to the new one, and only who has
    CAP_SYS_ADMIN in that may join it.
    """
    waiting = []
    user = []
    for name, flag in joins:
        descriptor = context.fds.get(name, -1)
        if descriptor < 0:
            continue  # it was our own
        if flag == 0:
            k.setns(descriptor, different(descriptor))
        elif flag == k.CLONE_NEWUSER:
            user.append(descriptor)
        else:
            waiting.append((name, descriptor, flag))
    if user:
        later = []
        for name, descriptor, flag in waiting:
            # The mount namespace comes last: /proc is still needed.
            if flag == k.CLONE_NEWNS or not _may_join(descriptor, flag):
                later.append((name, descriptor, flag))
        waiting = later
        k.setns(user[0], k.CLONE_NEWUSER)
    for _, descriptor, flag in sorted(waiting, key=lambda entry: entry[2] == k.CLONE_NEWNS):
        k.setns(descriptor, flag)


def _may_join(descriptor: int, flag: int) -> bool:
    try:
        k.setns(descriptor, flag)
    except OSError as error:
        if error.errno != EPERM:
            raise
        return False
    return True


def different(pidfd: int) -> int:
    """The kinds of namespaces, as clone flags, in which a process is elsewhere than we are."""
    info = os.open(f"/proc/self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        pid = os.read(info, 4096).partition(b"Pid:")[2].split()[0].decode()
    finally:
        os.close(info)
    if pid == "-1":
        raise ProcessLookupError(3, "the process has ended", "")
    flags = 0
    for kind, link in _NAMES.items():
        try:
            theirs = os.readlink(f"/proc/{pid}/ns/{link}")
        except FileNotFoundError:
            continue
        if theirs != os.readlink(f"/proc/self/ns/{link}"):
            flags |= k.NAMESPACE_FLAGS[kind]
    return flags


def map_ids(
    context: Context, kind: str, extents: tuple[tuple[int, int, int], ...], helper: str | None
) -> None:
    """Write an id map of the child's user namespace: user_namespaces(7), newuidmap(1)."""
    write_map(context, context.pid, kind, extents, helper)


def write_map(
    context: Context,
    pid: int,
    kind: str,
    extents: tuple[tuple[int, int, int], ...],
    helper: str | None = None,
) -> None:
    """Write an id map of a process's user namespace."""
    if helper is None:
        text = "".join(f"{inside} {outside} {count}\n" for inside, outside, count in extents)
        write(context, f"/proc/{pid}/{kind}_map", text)
        return
    arguments = [str(number) for extent in extents for number in extent]
    pid = os.posix_spawn(helper, [helper, str(pid), *arguments], {})
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise PermissionError(1, f"{ospath.last(helper)} refused the range; see /etc/sub{kind}", "")


def deny_setgroups(context: Context) -> None:
    """Without setgroups(2) an unprivileged process may write a gid map: user_namespaces(7)."""
    write(context, f"/proc/{context.pid}/setgroups", "deny")


# --- inside ----------------------------------------------------------------------------------


def join(context: Context, joins: tuple[tuple[str, int], ...]) -> None:
    """Join namespaces: (descriptor, kind) of each."""
    _join(context, joins)


def unshare(context: Context, flags: int) -> None:
    """Leave shared namespaces for new ones."""
    k.unshare(flags)


def time_offsets(context: Context, offsets: tuple[tuple[str, int, int], ...]) -> None:
    """Set the clocks of the time namespace that unshare(2) made, and enter it.

    They can be set only while no process is in it: time_namespaces(7).
    """
    text = "".join(f"{clock} {seconds} {nanoseconds}\n" for clock, seconds, nanoseconds in offsets)
    if text:
        write(context, "/proc/self/timens_offsets", text)
    descriptor = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
    try:
        k.setns(descriptor, k.CLONE_NEWTIME)
    finally:
        os.close(descriptor)


def hostname(context: Context, name: str) -> None:
    """Set the host name of the UTS namespace."""
    k.sethostname(name)


def domainname(context: Context, name: str) -> None:
    """Set the NIS domain name of the UTS namespace."""
    k.setdomainname(name)


def loopback_up(context: Context) -> None:
    """Set lo up in the network namespace."""
    k.loopback_up()


def sysctl(context: Context, parameters: tuple[tuple[str, str], ...]) -> None:
    """Set kernel parameters of this process's own namespaces.

    They are written through the host's /proc, which must be procfs: the container's own could
    be anything that a configuration mounts there.
    """
    proc = os.open("/proc/sys", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if k.file_system_of(proc) != k.PROC_SUPER_MAGIC:
            raise OSError(EINVAL, "/proc is not procfs", "/proc/sys")
        for key, value in parameters:
            rules = k.RESOLVE_BENEATH | k.RESOLVE_NO_SYMLINKS
            try:
                descriptor = k.openat2(proc, key, os.O_WRONLY, rules)
            except OSError as error:
                raise OSError(
                    error.errno, os.strerror(error.errno or 0), f"/proc/sys/{key}"
                ) from None
            try:
                os.write(descriptor, value.encode())
            except OSError as error:
                error.filename = f"/proc/sys/{key}"
                raise
            finally:
                os.close(descriptor)
    finally:
        os.close(proc)
