"""Operations that few containers need: mapped owners, copies, cgroup v1, devices that move."""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py

from ctrt.linux import calls as k
from ctrt.runtime.operations import mounts
from ctrt.runtime.operations.context import (
    EINVAL,
    ENOENT,
    EPERM,
    IN_ROOT,
    O_PATH,
    Context,
    place,
)
from ctrt.runtime.operations.namespaces import write_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MOUNT_KIND, _DIRECTORY, _LINK, _FILE = 0o170000, 0o040000, 0o120000, 0o100000
_SIGKILL = 9


def bind_link(
    context: Context,
    source: str,
    recursive: bool,
    name: str,
    attributes: tuple[tuple[Any, ...], ...],
) -> None:
    """Open a symbolic link of the host itself; what is none is opened for a bind mount.

    `attributes` are the calls for the latter.
    """
    link = os.open(source, O_PATH | os.O_NOFOLLOW)
    if os.fstat(link).st_mode & _MOUNT_KIND == _LINK:
        context.fds[name] = link
        return
    os.close(link)
    mounts.bind(context, source, recursive, name)
    for call in attributes:
        mounts.attributes(context, *call[1:])


def attach_link(
    context: Context, name: str, path: str, types: tuple[tuple[int, bool], ...] = ()
) -> None:
    """Make a link that names what an open link names, or attach an open mount."""
    link = context.fds[name]
    if os.fstat(link).st_mode & _MOUNT_KIND != _LINK:
        mounts.attach(context, name, path, types)
        return
    target = os.readlink("", dir_fd=link)
    os.close(context.fds.pop(name))
    directory, _, last = path.rstrip("/").rpartition("/")
    parent = place(context, directory or ".", "directory")
    try:
        os.symlink(target, last, dir_fd=parent)
    except FileExistsError:
        if os.readlink(last, dir_fd=parent) != target:
            raise
    finally:
        os.close(parent)


def bind_cgroup(
    context: Context,
    fstype: str,
    options: tuple[tuple[str, str], ...],
    attributes: int,
    name: str,
) -> None:
    """A copy of the host's mount of a cgroup hierarchy, beginning at the cgroup we are in."""
    wanted = [f"name={value}" if key == "name" else key for key, value in options if key != "none"]
    path = _own_cgroup(wanted[0] if wanted else "")
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            fields, found = before.split(" "), after.split(" ")
            there = found[0] == fstype and (not wanted or wanted[0] in found[2].strip().split(","))
            if there and (path + "/").startswith(fields[3].rstrip("/") + "/"):
                source = fields[4] + "/" + path[len(fields[3].rstrip("/")) :].lstrip("/")
                break
        else:
            raise OSError(ENOENT, f"no {fstype} is mounted on the host", ",".join(wanted))
    tree = k.open_tree(k.AT_FDCWD, source.rstrip("/"), k.OPEN_TREE_CLONE)
    context.fds[name] = tree
    k.mount_setattr(tree, attr_set=attributes & ~k.MOUNT_ATTR__ATIME)


def _own_cgroup(hierarchy: str) -> str:
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, names, path = line.rstrip("\n").split(":", 2)
            if hierarchy in names.split(","):
                return path
    return "/"


def idmap(context: Context, name: str, maps: str, recursive: bool) -> None:
    """Show a named mount's files with the owners that id maps make of them: mount_setattr(2)."""
    k.mount_setattr(
        context.fds[name],
        attr_set=k.MOUNT_ATTR_IDMAP,
        userns=context.fds[maps],
        recursive=recursive,
    )


def keep_namespace(context: Context, kind: str, path: str) -> None:
    """Bind the file of a namespace of the child to a path, which keeps it: namespaces(7)."""
    # Of these two a process has its own, and the one that its children will be in: unshare(1).
    name = {
        "mount": "mnt",
        "network": "net",
        "pid": "pid_for_children",
        "time": "time_for_children",
    }
    k.mount(f"/proc/{context.pid}/ns/{name.get(kind, kind)}", path, "", k.MS_BIND)


def open_inside(context: Context, path: str, name: str, follow: bool = True) -> None:
    """Open a path below the root, with the mounts that are there by now, as `open_source` does."""
    flags = O_PATH if follow else O_PATH | os.O_NOFOLLOW
    context.fds[name] = k.openat2(context.root(), path, flags, IN_ROOT)


def bind_inside(
    context: Context, root: str, path: str, recursive: bool, name: str, follow: bool = True
) -> None:
    """From outside a copy of the mount at a path below the root, with the mounts that are there."""
    flags = O_PATH if follow else O_PATH | os.O_NOFOLLOW

    def open_and_copy() -> None:
        top = os.open(root, O_PATH | os.O_DIRECTORY)
        try:
            context.fds[name] = k.openat2(top, path, flags, IN_ROOT)
        finally:
            os.close(top)
        mounts.copy_tree(context, name, recursive)

    mounts.with_mounts_of_child(context, open_and_copy)


def slave(context: Context, name: str) -> None:
    """Let mounts of the host come into an open tree, and none of it go back."""
    k.mount_setattr(context.fds[name], propagation=k.MS_SLAVE, recursive=True)


def like_target(context: Context, name: str, path: str) -> None:
    """Give a new tmpfs a copy of what is in the directory that it will hide, if there is one."""
    try:
        source = k.openat2(context.root(), path, os.O_RDONLY | os.O_DIRECTORY, IN_ROOT)
    except OSError as error:
        if error.errno != ENOENT:
            raise
        return
    mount = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=context.fds[name])
    try:
        os.fchmod(mount, os.fstat(source).st_mode & 0o7777)
        _copy_directory(source, mount)
    finally:
        os.close(mount)
        os.close(source)


def label_top(context: Context, name: str, label: str) -> None:
    """Give the top directory of a named mount an SELinux label of its own: xattr(7)."""
    top = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=context.fds[name])
    try:
        os.setxattr(top, "security.selinux", label.encode())
    finally:
        os.close(top)


def _copy_directory(source: int, target: int) -> None:
    """Copy the entries of one open directory into another, with owners, modes and links."""
    nofollow = os.O_NOFOLLOW | os.O_CLOEXEC
    for name in os.listdir(source):
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind, mode = found.st_mode & _MOUNT_KIND, found.st_mode & 0o7777
        if kind == _LINK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif kind == _DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=target)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | nofollow, dir_fd=source)
            copy = os.open(name, os.O_RDONLY | os.O_DIRECTORY | nofollow, dir_fd=target)
            try:
                _copy_directory(below, copy)
            finally:
                os.close(below)
                os.close(copy)
        elif kind == _FILE:
            _copy_file(source, target, name)
        else:
            os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
        if kind != _LINK:
            os.chmod(name, mode, dir_fd=target)


def _copy_file(source: int, target: int, name: str) -> None:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    original = os.open(name, os.O_RDONLY | flags, dir_fd=source)
    try:
        copy = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o600, dir_fd=target)
        try:
            while os.sendfile(copy, original, None, 1 << 30):
                pass
        finally:
            os.close(copy)
    finally:
        os.close(original)


def move_root(context: Context) -> None:
    """Make the root file system the root where pivot_root(2) is not possible: MS_MOVE, chroot(2).

    The old root stays below, so what of proc and sysfs is mounted there goes first: a process
    that can see a whole /proc may mount another.
    """
    root = context.fds.pop("root")
    own = os.readlink(f"/proc/self/fd/{root}")
    covered = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields = line.split(" ")
            path = fields[4].encode().decode("unicode_escape")
            fstype = line.partition(" - ")[2].split(" ")[0]
            if fstype in ("proc", "sysfs") and not (path + "/").startswith(own + "/"):
                covered.append(path)
    for path in reversed(covered):
        try:
            k.mount("", path, "", k.MS_SLAVE | k.MS_REC)
            k.umount2(path, k.MNT_DETACH)
        except OSError as error:
            if error.errno not in (EINVAL, EPERM):
                raise
            # It is locked, as what came from a more privileged namespace is: hide it.
            k.mount("tmpfs", path, "tmpfs", k.MS_RDONLY)
    os.fchdir(root)
    os.close(root)
    k.mount(".", "/", "", k.MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def node_outside(
    context: Context,
    path: str,
    mode: int,
    device: tuple[int, int],
    owner: tuple[int, int],
    name: str,
) -> None:
    """Make a device on a file system of its own, and open it to be attached in the container.

    Kernels before 6.15 copy no mount that has no place: there it is the host's node of that path.
    """
    directory = mounts.configured("tmpfs", (), 0)
    try:
        top = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.mknod("node", mode, os.makedev(*device), dir_fd=top)
            os.chown("node", *owner, dir_fd=top)
            os.chmod("node", mode & 0o7777, dir_fd=top)
            context.fds[name] = k.open_tree(top, "node", k.OPEN_TREE_CLONE)
        finally:
            os.close(top)
    except OSError as error:
        if error.errno != EINVAL:
            raise
        mounts.bind(context, path, False, name)
    finally:
        os.close(directory)


def open_id_maps(
    context: Context,
    uid_map: tuple[tuple[int, int, int], ...],
    gid_map: tuple[tuple[int, int, int], ...],
    name: str,
) -> None:
    """Open a user namespace with these id maps, or the child's own where there are none.

    An id-mapped mount takes its maps from a user namespace, and a process is what brings one
    into being: mount_setattr(2).
    """
    if not uid_map and not gid_map:
        link = f"/proc/{context.pid}/ns/user"
        context.fds[name] = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
        return
    pid, pidfd = k.clone3(k.CLONE_NEWUSER)
    if pid == 0:
        while True:
            os.read(os.pipe()[0], 1)
    try:
        write_map(context, pid, "uid", uid_map)
        write_map(context, pid, "gid", gid_map)
        context.fds[name] = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        k.pidfd_send_signal(pidfd, _SIGKILL)
        os.waitpid(pid, 0)
        os.close(pidfd)


def move_device(context: Context, device: str, name: str) -> None:
    """Move a network device with its addresses into the child's network namespace."""
    from ctrt.linux import rtnetlink

    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    theirs = os.open(f"/proc/{context.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = rtnetlink.Link(device)
        found.move(theirs, name)
        k.setns(theirs, k.CLONE_NEWNET)
        try:
            found.restore(name)
        finally:
            k.setns(own, k.CLONE_NEWNET)
    finally:
        os.close(own)
        os.close(theirs)


OPERATIONS: dict[str, Callable[..., None]] = {
    "attach_link": attach_link,
    "bind_cgroup": bind_cgroup,
    "bind_link": bind_link,
    "idmap": idmap,
    "keep_namespace": keep_namespace,
    "label_top": label_top,
    "like_target": like_target,
    "move_device": move_device,
    "move_root": move_root,
    "node_outside": node_outside,
    "open_id_maps": open_id_maps,
    "bind_inside": bind_inside,
    "open_inside": open_inside,
    "slave": slave,
}
