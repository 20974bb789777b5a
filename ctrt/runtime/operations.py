"""The operations that a plan's calls name: what each does, with the kernel's words.

An operation is a function of the start's `Context` and the call's members. It runs where its step
runs; the operations inside must import nothing, since the child may have lost the right to read
Python's files. Paths of a container are resolved below its root by openat2(2), or by descriptor.
"""

from __future__ import annotations

import _signal
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
_ENOENT, _ENOTDIR, _EINVAL, _EBUSY = 2, 20, 22, 16
_SIGKILL = 9

OWN = b"o"
"""What the child says on its pipe when its descriptors are its own."""


class Context:
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


def undo(calls: tuple[Call, ...]) -> None:
    """Take back what a plan did; what is not there any more is no error.

    Raises the first OSError of another kind, after all the calls were tried.
    """
    context = Context({})
    failed: OSError | None = None
    for call in calls:
        try:
            OPERATIONS[call[0]](context, *call[1:])
        except FileNotFoundError:
            pass
        except OSError as error:
            failed = failed or error
    if failed is not None:
        raise failed


# --- paths below the container's root --------------------------------------------------------


def _resolve(context: Context, path: str) -> int:
    """Open a path below the root, which no link in it can leave: openat2(2)."""
    return k.openat2(context.root(), path, _O_PATH, _IN_ROOT)


def _place(context: Context, path: str, kind: str) -> int:
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


def _mkdir(context: Context, path: str, mode: int) -> None:
    os.mkdir(path, mode)


def _chown(context: Context, path: str, uid: int, gid: int) -> None:
    os.chown(path, uid, gid)


def _make_directory(context: Context, path: str) -> None:
    os.makedirs(path, mode=0o755, exist_ok=True)


def _remove_cgroup(context: Context, path: str) -> None:
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


def _write(context: Context, path: str, text: str) -> None:
    # Plain calls: io's text files cost more than the write itself.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _open_directory(context: Context, path: str, name: str) -> None:
    context.fds[name] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _map_ids(
    context: Context, kind: str, extents: tuple[tuple[int, int, int], ...], helper: str | None
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


def _deny_setgroups(context: Context) -> None:
    _write(context, f"/proc/{context.pid}/setgroups", "deny")


# --- operations on mounts ------------------------------------------------------------------------


def _propagation(context: Context, path: str, flag: int) -> None:
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
    context: Context,
    fstype: str,
    options: tuple[tuple[str, str], ...],
    attributes: int,
    name: str,
) -> None:
    context.fds[name] = _configured(fstype, options, attributes)


def _overlay(
    context: Context,
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
    context: Context, source: str, recursive: bool, attr_set: int, attr_clr: int, name: str
) -> None:
    tree = k.open_tree(k.AT_FDCWD, source, k.OPEN_TREE_CLONE | (k.AT_RECURSIVE if recursive else 0))
    context.fds[name] = tree
    if attr_set or attr_clr:
        k.mount_setattr(tree, attr_set=attr_set, attr_clr=attr_clr, recursive=recursive)


def _attach(context: Context, name: str, path: str) -> None:
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


def _attach_root(context: Context, name: str, directory: str) -> None:
    """Attach the root file system at a directory, and resolve paths below it from here on."""
    root = context.fds.pop(name)
    context.fds["root"] = root
    target = os.open(directory, _O_PATH | os.O_DIRECTORY)
    try:
        k.move_mount(root, target)
    finally:
        os.close(target)


def _make_below(context: Context, path: str) -> None:
    os.close(_place(context, path, "directory"))


def _write_below(context: Context, path: str, text: str) -> None:
    """Write to a file below the root that is there already."""
    descriptor = k.openat2(context.root(), path, os.O_WRONLY, _IN_ROOT)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _symlinks(context: Context, directory: str, links: tuple[tuple[str, str], ...]) -> None:
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


def _existing(context: Context, paths: tuple[str, ...]) -> Iterator[int]:
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


def _mask(context: Context, paths: tuple[str, ...]) -> None:
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


def _read_only(context: Context, paths: tuple[str, ...]) -> None:
    for target in _existing(context, paths):
        tree = k.open_tree(target, "", k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH | k.AT_RECURSIVE)
        k.mount_setattr(tree, attr_set=k.MOUNT_ATTR_RDONLY, recursive=True)
        k.move_mount(tree, target)
        os.close(tree)


def _read_only_root(context: Context) -> None:
    k.mount_setattr(context.root(), attr_set=k.MOUNT_ATTR_RDONLY)


def _pivot(context: Context) -> None:
    """Make the root file system the root: the old one is stacked below, then detached."""
    root = context.fds.pop("root")
    os.fchdir(root)
    os.close(root)
    k.pivot_root(".", ".")
    k.umount2(".", k.MNT_DETACH)
    os.chdir("/")


# --- operations on the process --------------------------------------------------------------------


def _unshare(context: Context, flags: int) -> None:
    k.unshare(flags)


def _own_descriptors(context: Context) -> None:
    """Give up the shared descriptor table, and tell the other side."""
    k.unshare(k.CLONE_FILES)
    os.close(context.go[1])
    os.close(context.back[0])
    os.write(context.back[1], OWN)


def _stdio(context: Context) -> None:
    """Put the named descriptors on 0, 1 and 2, and mark all others to close on exec."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(context.fds[name], number, inheritable=True)
    k.close_range(3, 0xFFFFFFFF, k.CLOSE_RANGE_CLOEXEC)


def _signals(context: Context) -> None:
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


def _session(context: Context) -> None:
    os.setsid()


def _die_with_parent(context: Context) -> None:
    k.prctl(k.PR_SET_PDEATHSIG, _SIGKILL)
    # A parent that died before this call cannot be told by getppid(2): it is in another pid
    # namespace. But nobody holds the other end of the pipe any more.
    poll = select.poll()
    poll.register(context.back[1], 0)
    if poll.poll(0):
        os._exit(125)


def _become(context: Context, uid: int, gid: int, groups: tuple[int, ...] | None) -> None:
    if groups is not None:
        os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _limit_bounding(context: Context, bounding: int) -> None:
    capabilities.limit_bounding(bounding)


def _capabilities(
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
    _become(context, uid, gid, groups)
    held = k.capget()[1]
    k.capset(effective & held, permitted & held, inheritable & held)
    capabilities.set_ambient(ambient & permitted & inheritable & held)
    k.prctl(k.PR_SET_KEEPCAPS, 0)


def _no_new_privileges(context: Context) -> None:
    k.prctl(k.PR_SET_NO_NEW_PRIVS, 1)


def _seccomp(context: Context, program: bytes) -> None:
    k.seccomp_filter(program)


def _hostname(context: Context, name: str) -> None:
    k.sethostname(name)


def _loopback_up(context: Context) -> None:
    k.loopback_up()


def _chdir(context: Context, path: str) -> None:
    os.chdir(path)


def _trace(context: Context) -> None:
    k.ptrace(k.PTRACE_TRACEME)


def _exec(context: Context, arguments: tuple[str, ...], environment: tuple[str, ...]) -> None:
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


def _remove_tree(context: Context, path: str, removal: Wire | None = None) -> None:
    """Remove a directory and all below it.

    Files of subordinate ids are not the user's to remove: then `removal`, a plan that does it
    in a user namespace where they are. A container may also have made directories in each other
    until no path reaches the last: rm(1) goes down by descriptors.
    """
    try:
        remove_below(path)
    except FileNotFoundError:
        raise
    except (OSError, RecursionError):
        if removal is None:
            rm = os.posix_spawn("/bin/rm", ["rm", "-rf", "--", path], {})
            if os.waitpid(rm, 0)[1] != 0:
                raise OSError(_EBUSY, "rm(1) could not remove it all", path) from None
            return
        # The executor carries out plans with these operations, and one of them is a plan itself.
        from ctrt.runtime.executor import StartError, execute

        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            started = execute(removal, {"stdin": null, "stdout": null, "stderr": null})
        except StartError as error:
            raise OSError(error.errno, error.words, path) from None
        finally:
            os.close(null)
        os.waitpid(started.pid, 0)
        os.close(started.pidfd)
        remove_below(path)


def remove_below(path: str) -> None:
    """Remove a directory and all below it that this user may remove."""
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
            remove_below(entry.path)
    os.rmdir(path)


OPERATIONS: dict[str, Callable[..., None]] = {
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
