"""The one executor of plans.

It runs in a small single-threaded process (the launcher's, or the command's own), because
only such a process can clone safely. Steps that run outside are done here, steps that run
inside are done by the child, in the order of the plan; where the plan changes sides, the two
hand over by a byte on a pair of pipes. Until it gives up CLONE_FILES the child shares the
descriptor table with its parent, so that what one side opens the other can use.

Nothing beyond os, ctypes and a few small C modules is imported: this module's import is part of the
price of every start. What the child needs is imported before it is made: inside, it may have
lost the right to read Python's own files.
"""

from __future__ import annotations

import _signal
import fcntl
import gc
import marshal
import os
import select
import time

from ctrt.linux import calls as k
from ctrt.linux import capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Call = tuple[Any, ...]
    Wire = tuple[tuple[str, str, tuple[Call, ...]], ...]

_O_PATH = os.O_PATH | os.O_CLOEXEC
_IN_ROOT = k.RESOLVE_IN_ROOT | k.RESOLVE_NO_MAGICLINKS
_ENOENT, _EEXIST, _EACCES, _ENOTDIR, _EINVAL = 2, 17, 13, 20, 22
_EBUSY = 16
_SIGKILL = 9
_ABANDONED_SECONDS = 60
_PID_BYTES = 16
# What the child says on its pipe: your turn; my descriptors are my own now; I failed.
_TURN, _OWN, _FAILED = b"t", b"o", b"f"


class StartError(Exception):
    """A step failed: its index, the index of the call in it, the errno and the words."""

    def __init__(self, step: int, call: int, number: int, words: str) -> None:
        super().__init__(words)
        self.step = step
        self.call = call
        self.errno = number
        self.words = words


class Started:
    """A process that a plan made: its pid as seen here, and a pidfd."""

    __slots__ = ("journal", "pid", "pidfd", "stopped")

    def __init__(self, pid: int, pidfd: int, stopped: bool, journal: Journal | None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.journal = journal
        self.stopped = stopped
        """It waits at its first instruction for `release`."""

    def release(self) -> None:
        """Let a stopped program run."""
        if self.stopped:
            self.stopped = False
            k.ptrace(k.PTRACE_DETACH, self.pid)


class Journal:
    """What must be undone, written down before it is done.

    The file "journal" of a container's directory: the pid of its first process in the first
    bytes, then the calls and what there is to know about the container (JSON), marshalled. It
    is locked for as long as somebody looks after the container: one whose lock can be taken is
    what a crash has left behind.
    """

    __slots__ = ("calls", "directory", "lock")

    def __init__(self, directory: str, calls: tuple[Call, ...], lock: int) -> None:
        self.directory = directory
        self.calls = calls
        self.lock = lock

    @classmethod
    def begin(cls, directory: str, calls: tuple[Call, ...], state: str) -> Journal:
        """Make the directory; FileExistsError if there is one of that name."""
        parent, name = os.path.split(directory)
        fresh = f"{parent}/.new-{name}-{os.getpid()}"
        os.makedirs(fresh, mode=0o711)
        lock = os.open(f"{fresh}/journal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.write(lock, b" " * _PID_BYTES + marshal.dumps((calls, state), 2))
        try:
            # From the rename on it is a container, and it is locked already.
            os.rename(fresh, directory)
        except OSError:
            os.close(lock)
            _remove_below(fresh)
            raise FileExistsError(_EEXIST, os.strerror(_EEXIST), directory) from None
        return cls(directory, calls, lock)

    @classmethod
    def left(cls, directory: str) -> Journal | None:
        """The journal that a crash left in a directory; None if there is nothing to clean."""
        path = f"{directory}/journal"
        try:
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino != os.fstat(lock).st_ino:
                raise FileNotFoundError
        except BlockingIOError:
            os.close(lock)
            return None  # somebody looks after it
        except FileNotFoundError:
            # It is just being made or taken away; after a minute nobody does either any more.
            try:
                if time.time() - os.stat(directory).st_mtime < _ABANDONED_SECONDS:
                    return None
            except FileNotFoundError:
                return None
            lock = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        calls: tuple[Call, ...] = (("remove_tree", directory),)
        if not os.path.basename(directory).startswith(".new-"):
            try:
                calls = read_journal(lock)[1]
            except (OSError, ValueError, EOFError, TypeError):
                pass  # it was being taken away: the directory is all there is
        return cls(directory, calls, lock)

    def note_pid(self, pid: int) -> None:
        """Write down who the container's first process is."""
        os.pwrite(self.lock, str(pid).encode(), 0)

    def end(self) -> None:
        """Undo all, last the directory itself; raises the first OSError after all was tried."""
        try:
            undo(self.calls)
        finally:
            os.close(self.lock)


def read_journal(descriptor: int) -> tuple[int, tuple[Call, ...], str]:
    """(pid, calls, state) of an open journal; the pid is 0 before there is one.

    Raises OSError, ValueError, EOFError or TypeError where it is not whole.
    """
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, size, 0)
    calls, state = marshal.loads(data[_PID_BYTES:])
    return int(data[:_PID_BYTES].strip() or b"0"), calls, state


class _Context:
    """What the operations of one start share: named descriptors, the child, the pipes."""

    __slots__ = ("back", "fds", "go", "pid", "pidfd")

    def __init__(self, fds: dict[str, int]) -> None:
        self.fds = fds
        self.pid = 0
        self.pidfd = -1
        self.go: tuple[int, int] = (-1, -1)  # from outside to inside
        self.back: tuple[int, int] = (-1, -1)  # from inside to outside

    def root(self) -> int:
        """The directory that paths inside are resolved below."""
        if "root" not in self.fds:
            self.fds["root"] = os.open("/", _O_PATH)
        return self.fds["root"]


def execute(plan: Wire, fds: dict[str, int], journal: Journal | None = None) -> Started:
    """Carry out a plan; returns when the new program runs (its execve succeeded).

    `fds` are descriptors by name ("stdin", "stdout", "stderr"); they stay the caller's. With a
    "trace" operation in the plan the program is stopped at its first instruction.
    Raises StartError; the child is then dead and waited for, and every descriptor that the
    start opened is closed. What it made on disk and in cgroups is the journal's to undo.
    """
    before = _descriptors()
    # A collection in the child would write to every object, and so copy every page.
    gc.disable()
    context = _Context(dict(fds))
    try:
        context.go = os.pipe()
        context.back = os.pipe()
        _outside(context, plan)
        stopped = any(call[0] == "trace" for _, _, calls in plan for call in calls)
        if stopped:
            _, status = os.waitpid(context.pid, 0)
            if not os.WIFSTOPPED(status):
                context.pid = 0
                raise StartError(-1, -1, 0, "the program ended before its first instruction")
    except BaseException:
        if context.pid > 0:
            k.pidfd_send_signal(context.pidfd, _SIGKILL)
            os.waitpid(context.pid, 0)
        for descriptor in _descriptors() - before:
            _close(descriptor)
        raise
    finally:
        gc.enable()
    # What the child opened while the table was shared is ours to close too.
    for descriptor in _descriptors() - before - {context.pidfd}:
        _close(descriptor)
    return Started(context.pid, context.pidfd, stopped, journal)


def undo(calls: tuple[Call, ...]) -> None:
    """Take back what a plan did; what is not there any more is no error.

    Raises the first OSError of another kind, after all the calls were tried.
    """
    context = _Context({})
    failed: OSError | None = None
    for call in calls:
        try:
            _OPERATIONS[call[0]](context, *call[1:])
        except FileNotFoundError:
            pass
        except OSError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def _outside(context: _Context, plan: Wire) -> None:
    """Do the steps outside, and wait where the child has its turn."""
    side = "outside"
    for index, (_, where, calls) in enumerate(plan):
        if where != side:
            if where == "inside":
                # The child has the descriptors, but not yet the names of the new ones.
                os.write(context.go[1], marshal.dumps(context.fds))
            else:
                _await_child(context)
            side = where
        if where == "inside":
            continue
        for number, call in enumerate(calls):
            try:
                if call[0] == "clone":
                    _, flags, cgroup = call
                    descriptor = context.fds[cgroup] if cgroup else -1
                    context.pid, context.pidfd = k.clone3(flags | k.CLONE_FILES, descriptor)
                    if context.pid == 0:
                        _inside(context, plan[index + 1 :], index + 1)
                else:
                    _OPERATIONS[call[0]](context, *call[1:])
            except OSError as error:
                raise StartError(index, number, error.errno or 0, _words(error)) from None
    _await_child(context)


def _await_child(context: _Context) -> None:
    """Wait for the child to hand over, or to become the new program; raise what it reports.

    Its exec shows as the end of the pipe. While the descriptor table is shared there is no
    such end, so a child that is killed then shows by its pidfd.
    """
    poll = select.poll()
    poll.register(context.back[0], select.POLLIN)
    poll.register(context.pidfd, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if context.back[0] in ready:
            message = os.read(context.back[0], 1)
            if message in (_TURN, b""):
                return
            if message == _OWN:
                _close(context.back[1])
                context.back = (context.back[0], -1)
                poll.unregister(context.pidfd)
            else:
                raise StartError(*marshal.loads(os.read(context.back[0], 65536)))
        elif context.pidfd in ready:
            _, status = os.waitpid(context.pid, 0)
            context.pid = 0
            raise StartError(-1, -1, 0, f"the first process was killed (status {status:#x})")


def _inside(context: _Context, plan: Wire, first: int) -> None:
    """Do the steps inside; never returns. `first` is the index of the plan's first step."""
    index, number = first, 0
    try:
        os.umask(0)
        side = "outside"
        for _, where, calls in plan:
            if where != side:
                if where == "outside":
                    os.write(context.back[1], _TURN)
                else:
                    context.fds.update(marshal.loads(os.read(context.go[0], 65536)))
                side = where
            if where == "inside":
                number = 0
                for call in calls:
                    _OPERATIONS[call[0]](context, *call[1:])
                    number += 1
            index += 1
        raise StartError(index, 0, 0, "the plan ends without an exec")
    except OSError as error:
        failure = (index, number, error.errno or 0, _words(error))
    except BaseException as error:
        failure = (index, number, 0, f"{type(error).__name__}: {error}")
    try:
        os.write(context.back[1], _FAILED + marshal.dumps(failure))
    finally:
        os._exit(125)


def _words(error: OSError) -> str:
    if isinstance(error, k.KernelError):
        return str(error)
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)


def _descriptors() -> set[int]:
    """The open descriptors; the one that lists them is among the names, but closed again."""
    return {int(name) for name in os.listdir("/proc/self/fd") if _is_open(int(name))}


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        pass


# --- paths below the container's root --------------------------------------------------------


def _resolve(context: _Context, path: str) -> int:
    """Open a path below the root, which no link in it can leave: openat2(2)."""
    return k.openat2(context.root(), path, _O_PATH, _IN_ROOT)


def _place(context: _Context, path: str, kind: str) -> int:
    """Open a path below the root, and make it ("directory" or "file") where it is missing."""
    try:
        return _resolve(context, path)
    except OSError as error:
        if error.errno != _ENOENT:
            raise
    parent_path, _, name = path.rstrip("/").rpartition("/")
    parent = _place(context, parent_path or ".", "directory")
    try:
        try:
            if kind == "file":
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                return os.open(name, flags, 0o755, dir_fd=parent)
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            pass
        return os.open(name, _O_PATH | os.O_NOFOLLOW, dir_fd=parent)
    finally:
        os.close(parent)


# --- operations outside ------------------------------------------------------------------------


def _mkdir(context: _Context, path: str, mode: int) -> None:
    os.mkdir(path, mode)


def _chown(context: _Context, path: str, uid: int, gid: int) -> None:
    os.chown(path, uid, gid)


def _make_directory(context: _Context, path: str) -> None:
    os.makedirs(path, mode=0o755, exist_ok=True)


def _remove_cgroup(context: _Context, path: str) -> None:
    """Remove a cgroup; what is still in it is killed. It is busy for a moment after that."""
    for attempt in range(50):
        try:
            os.rmdir(path)
            return
        except OSError as error:
            if error.errno != _EBUSY or attempt == 49:
                raise
        if attempt == 0:
            _kill_cgroup(path)
        time.sleep(0.002 * attempt)


def _kill_cgroup(path: str) -> None:
    """Kill all that is in a cgroup: cgroup.kill, or one by one before Linux 5.14."""
    try:
        descriptor = os.open(f"{path}/cgroup.kill", os.O_WRONLY)
    except FileNotFoundError:
        with open(f"{path}/cgroup.procs") as file:
            for line in file:
                os.kill(int(line), _SIGKILL)
        return
    try:
        os.write(descriptor, b"1")
    finally:
        os.close(descriptor)


def _write(context: _Context, path: str, text: str) -> None:
    # Plain calls: io's text files cost more than the write itself.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _open_directory(context: _Context, path: str, name: str) -> None:
    context.fds[name] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _map_ids(
    context: _Context, kind: str, extents: tuple[tuple[int, int, int], ...], helper: str | None
) -> None:
    """Write an id map of the child's user namespace: user_namespaces(7), newuidmap(1)."""
    if helper is None:
        text = "".join(f"{inside} {outside} {count}\n" for inside, outside, count in extents)
        _write(context, f"/proc/{context.pid}/{kind}_map", text)
        return
    arguments = [str(number) for extent in extents for number in extent]
    pid = os.posix_spawn(helper, [helper, str(context.pid), *arguments], {})
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise PermissionError(
            1, f"{os.path.basename(helper)} refused the range; see /etc/sub{kind}", ""
        )


def _deny_setgroups(context: _Context) -> None:
    _write(context, f"/proc/{context.pid}/setgroups", "deny")


# --- operations on mounts ------------------------------------------------------------------------


def _propagation(context: _Context, path: str, flag: int) -> None:
    k.mount("", path, "", k.MS_REC | flag)


def _configured(fstype: str, options: tuple[tuple[str, str | int], ...], attributes: int) -> int:
    """A detached mount of a new file system; a refusal carries the kernel's own words."""
    descriptor = k.fsopen(fstype)
    try:
        k.fsconfig(descriptor, k.FSCONFIG_SET_STRING, "source", fstype)
        for key, value in options:
            if isinstance(value, int):
                k.fsconfig(descriptor, k.FSCONFIG_SET_FD, key, value)
            elif value:
                k.fsconfig(descriptor, k.FSCONFIG_SET_STRING, key, value)
            else:
                k.fsconfig(descriptor, k.FSCONFIG_SET_FLAG, key)
        k.fsconfig(descriptor, k.FSCONFIG_CMD_CREATE)
        return k.fsmount(descriptor, attributes)
    except k.KernelError as error:
        try:
            said = os.read(descriptor, 4096).decode(errors="replace").strip()[2:]
        except OSError:
            said = ""
        if said:
            error.call += f" of {fstype} ({said})"
        raise
    finally:
        os.close(descriptor)


def _file_system(
    context: _Context,
    fstype: str,
    options: tuple[tuple[str, str], ...],
    attributes: int,
    name: str,
) -> None:
    context.fds[name] = _configured(fstype, options, attributes)


def _overlay(
    context: _Context,
    lowers: tuple[str, ...],
    upper: str,
    options: tuple[tuple[str, str], ...],
    idmapped: bool,
    name: str,
) -> None:
    """Mount layers as one tree; `upper` holds the directories "upper" and "work".

    With `idmapped` every lower layer is seen through the id maps of the child's user namespace,
    so that on disk the files keep the owners that the image gives them. Source: the kernel's
    Documentation/filesystems/overlayfs.rst, mount_setattr(2).
    """
    if not idmapped:
        layers = [("lowerdir+", path) for path in lowers]
        writable = (("upperdir", f"{upper}/upper"), ("workdir", f"{upper}/work"))
        try:
            context.fds[name] = _configured("overlay", (*layers, *writable, *options), 0)
        except k.KernelError as error:
            if error.errno != _EINVAL:
                raise

            # Before Linux 6.7 there is no lowerdir+, and mount(2) takes one page of options.
            def escaped(path: str) -> str:
                return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")

            data = ",".join(
                (
                    "lowerdir=" + ":".join(map(escaped, lowers)),
                    *(f"{key}={escaped(path)}" for key, path in writable),
                    *(key if value == "" else f"{key}={value}" for key, value in options),
                )
            )
            k.mount("overlay", upper, "overlay", 0, data)
            context.fds[name] = k.open_tree(k.AT_FDCWD, upper, k.OPEN_TREE_CLONE)
            # What else is in the directory is still needed: its file "hosts".
            k.umount2(upper, k.MNT_DETACH)
        return
    opened: list[int] = []
    userns = os.open(f"/proc/{context.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    opened.append(userns)
    try:
        parameters: list[tuple[str, str | int]] = []
        for path in lowers:
            tree = k.open_tree(k.AT_FDCWD, path, k.OPEN_TREE_CLONE)
            opened.append(tree)
            k.mount_setattr(
                tree, attr_set=k.MOUNT_ATTR_IDMAP, propagation=k.MS_PRIVATE, userns=userns
            )
            parameters.append(("lowerdir+", tree))
        # The upper layer is not mapped: overlayfs writes there with the ids of the mounter,
        # which the container's map does not have.
        for key, directory in (("upperdir", "upper"), ("workdir", "work")):
            opened.append(os.open(f"{upper}/{directory}", _O_PATH))
            parameters.append((key, opened[-1]))
        context.fds[name] = _configured("overlay", (*parameters, *options), 0)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _bind(
    context: _Context, source: str, recursive: bool, attr_set: int, attr_clr: int, name: str
) -> None:
    tree = k.open_tree(k.AT_FDCWD, source, k.OPEN_TREE_CLONE | (k.AT_RECURSIVE if recursive else 0))
    context.fds[name] = tree
    if attr_set or attr_clr:
        k.mount_setattr(tree, attr_set=attr_set, attr_clr=attr_clr, recursive=recursive)


def _attach(context: _Context, name: str, path: str) -> None:
    mount = context.fds.pop(name)
    try:
        kind = "directory" if os.fstat(mount).st_mode & 0o170000 == 0o040000 else "file"
        target = _place(context, path, kind)
        try:
            k.move_mount(mount, target)
        finally:
            os.close(target)
    finally:
        os.close(mount)


def _attach_root(context: _Context, name: str, directory: str) -> None:
    """Attach the root file system at a directory, and resolve paths below it from here on."""
    root = context.fds.pop(name)
    context.fds["root"] = root
    target = os.open(directory, _O_PATH | os.O_DIRECTORY)
    try:
        k.move_mount(root, target)
    finally:
        os.close(target)


def _make_below(context: _Context, path: str) -> None:
    os.close(_place(context, path, "directory"))


def _write_below(context: _Context, path: str, text: str) -> None:
    """Write to a file below the root that is there already."""
    descriptor = k.openat2(context.root(), path, os.O_WRONLY, _IN_ROOT)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _symlinks(context: _Context, directory: str, links: tuple[tuple[str, str], ...]) -> None:
    """Make symbolic links in a directory: (name, target)."""
    parent = _place(context, directory, "directory")
    try:
        for name, target in links:
            try:
                os.symlink(target, name, dir_fd=parent)
            except FileExistsError:
                pass
    finally:
        os.close(parent)


def _null_device() -> int:
    """A detached copy of the host's /dev/null, which must be that device and nothing else."""
    tree = k.open_tree(k.AT_FDCWD, "/dev/null", k.OPEN_TREE_CLONE)
    if os.fstat(tree).st_rdev != os.makedev(1, 3):
        os.close(tree)
        raise OSError(_EINVAL, "/dev/null of the host is not the null device", "")
    return tree


_MASK_ATTRIBUTES = (
    k.MOUNT_ATTR_RDONLY | k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC
)


def _existing(context: _Context, paths: tuple[str, ...]) -> Iterator[int]:
    """Those of the paths below the root that are there, each open until the next."""
    for path in paths:
        try:
            target = _resolve(context, path)
        except OSError as error:
            if error.errno in (_ENOENT, _ENOTDIR):
                continue
            raise
        try:
            yield target
        finally:
            os.close(target)


def _mask(context: _Context, paths: tuple[str, ...]) -> None:
    """Hide paths: a file behind /dev/null, a directory behind an empty one."""
    empty = -1
    for target in _existing(context, paths):
        if os.fstat(target).st_mode & 0o170000 != 0o040000:
            cover = _null_device()
        elif empty < 0:
            empty = cover = _configured("tmpfs", (("size", "0"),), _MASK_ATTRIBUTES)
        else:
            cover = k.open_tree(empty, "", k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH)
        k.move_mount(cover, target)
        if cover != empty:
            os.close(cover)
    if empty >= 0:
        os.close(empty)


def _read_only(context: _Context, paths: tuple[str, ...]) -> None:
    for target in _existing(context, paths):
        tree = k.open_tree(target, "", k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH | k.AT_RECURSIVE)
        k.mount_setattr(tree, attr_set=k.MOUNT_ATTR_RDONLY, recursive=True)
        k.move_mount(tree, target)
        os.close(tree)


def _read_only_root(context: _Context) -> None:
    k.mount_setattr(context.root(), attr_set=k.MOUNT_ATTR_RDONLY)


def _pivot(context: _Context) -> None:
    """Make the root file system the root: the old one is stacked below, then detached."""
    root = context.fds.pop("root")
    os.fchdir(root)
    os.close(root)
    k.pivot_root(".", ".")
    k.umount2(".", k.MNT_DETACH)
    os.chdir("/")


# --- operations on the process --------------------------------------------------------------------


def _unshare(context: _Context, flags: int) -> None:
    k.unshare(flags)


def _own_descriptors(context: _Context) -> None:
    """Give up the shared descriptor table, and tell the other side."""
    k.unshare(k.CLONE_FILES)
    os.close(context.go[1])
    os.close(context.back[0])
    os.write(context.back[1], _OWN)


def _stdio(context: _Context) -> None:
    """Put the named descriptors on 0, 1 and 2, and mark all others to close on exec."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(context.fds[name], number, inheritable=True)
    k.close_range(3, 0xFFFFFFFF, k.CLOSE_RANGE_CLOEXEC)


def _signals(context: _Context) -> None:
    """Default dispositions and an empty mask: Python ignores two, and exec would keep that."""
    for number in (
        _signal.SIGPIPE,
        _signal.SIGXFSZ,
        _signal.SIGHUP,
        _signal.SIGINT,
        _signal.SIGTERM,
    ):
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def _session(context: _Context) -> None:
    os.setsid()


def _die_with_parent(context: _Context) -> None:
    k.prctl(k.PR_SET_PDEATHSIG, _SIGKILL)
    # A parent that died before this call cannot be told by getppid(2): it is in another pid
    # namespace. But nobody holds the other end of the pipe any more.
    poll = select.poll()
    poll.register(context.back[1], 0)
    if poll.poll(0):
        os._exit(125)


def _become(context: _Context, uid: int, gid: int, groups: tuple[int, ...] | None) -> None:
    if groups is not None:
        os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _limit_bounding(context: _Context, bounding: int) -> None:
    capabilities.limit_bounding(bounding)


def _capabilities(
    context: _Context,
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
    _become(context, uid, gid, groups)
    held = k.capget()[1]
    k.capset(effective & held, permitted & held, inheritable & held)
    capabilities.set_ambient(ambient & permitted & inheritable & held)
    k.prctl(k.PR_SET_KEEPCAPS, 0)


def _no_new_privileges(context: _Context) -> None:
    k.prctl(k.PR_SET_NO_NEW_PRIVS, 1)


def _seccomp(context: _Context, program: bytes) -> None:
    k.seccomp_filter(program)


def _hostname(context: _Context, name: str) -> None:
    k.sethostname(name)


def _loopback_up(context: _Context) -> None:
    k.loopback_up()


def _chdir(context: _Context, path: str) -> None:
    os.chdir(path)


def _trace(context: _Context) -> None:
    k.ptrace(k.PTRACE_TRACEME)


def _exec(context: _Context, arguments: tuple[str, ...], environment: tuple[str, ...]) -> None:
    """Become the program; a name without a slash is searched in PATH of `environment`."""
    variables = dict(entry.split("=", 1) for entry in environment if "=" in entry)
    os.umask(0o022)
    name = arguments[0]
    candidates = [name]
    if "/" not in name:
        search = (
            variables.get("PATH") or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        )
        candidates = [f"{directory or '.'}/{name}" for directory in search.split(":")]
    denied: OSError | None = None
    failed: OSError = FileNotFoundError(_ENOENT, os.strerror(_ENOENT), name)
    for path in candidates:
        try:
            os.execve(path, arguments, variables)
        except OSError as error:
            error.filename = path
            if error.errno not in (_ENOENT, _ENOTDIR):
                denied = denied or error
            elif "/" in name:
                failed = error
    raise denied or failed


def _remove_tree(context: _Context, path: str, removal: Wire | None = None) -> None:
    """Remove a directory and all below it.

    Files of subordinate ids are not the user's to remove: then `removal`, a plan that does it
    in a user namespace where they are. A container may also have made directories in each other
    until no path reaches the last: rm(1) goes down by descriptors.
    """
    try:
        _remove_below(path)
    except FileNotFoundError:
        raise
    except (OSError, RecursionError):
        if removal is None:
            rm = os.posix_spawn("/bin/rm", ["rm", "-rf", "--", path], {})
            if os.waitpid(rm, 0)[1] != 0:
                raise OSError(_EBUSY, "rm(1) could not remove it all", path) from None
            return
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            started = execute(removal, {"stdin": null, "stdout": null, "stderr": null})
        except StartError as error:
            raise OSError(error.errno, error.words, path) from None
        finally:
            os.close(null)
        os.waitpid(started.pid, 0)
        os.close(started.pidfd)
        _remove_below(path)


def _remove_below(path: str) -> None:
    with os.scandir(path) as scan:
        entries = list(scan)
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.path)
            continue
        try:
            os.rmdir(entry.path)
        except OSError:
            os.chmod(entry.path, 0o700)
            _remove_below(entry.path)
    os.rmdir(path)


_OPERATIONS: dict[str, Callable[..., None]] = {
    "attach": _attach,
    "attach_root": _attach_root,
    "become": _become,
    "bind": _bind,
    "capabilities": _capabilities,
    "chdir": _chdir,
    "chown": _chown,
    "deny_setgroups": _deny_setgroups,
    "die_with_parent": _die_with_parent,
    "exec": _exec,
    "file_system": _file_system,
    "hostname": _hostname,
    "limit_bounding": _limit_bounding,
    "loopback_up": _loopback_up,
    "map_ids": _map_ids,
    "make_below": _make_below,
    "make_directory": _make_directory,
    "mask": _mask,
    "mkdir": _mkdir,
    "no_new_privileges": _no_new_privileges,
    "open_directory": _open_directory,
    "overlay": _overlay,
    "own_descriptors": _own_descriptors,
    "pivot": _pivot,
    "propagation": _propagation,
    "read_only": _read_only,
    "read_only_root": _read_only_root,
    "remove_cgroup": _remove_cgroup,
    "remove_tree": _remove_tree,
    "seccomp": _seccomp,
    "session": _session,
    "signals": _signals,
    "stdio": _stdio,
    "symlinks": _symlinks,
    "trace": _trace,
    "unshare": _unshare,
    "write": _write,
    "write_below": _write_below,
}
