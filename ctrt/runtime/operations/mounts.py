"""Operations on mounts: made by descriptor, and attached below the container's root."""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py

from ctrt.linux import calls as k
from ctrt.linux import ospath
from ctrt.runtime.operations.context import (
    EBUSY,
    EINVAL,
    ELOOP,
    ENOENT,
    ENOTDIR,
    EPERM,
    IN_ROOT,
    O_PATH,
    Context,
    existing,
    place,
    resolve,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MOUNT_KIND, _DIRECTORY = 0o170000, 0o040000


def propagation(context: Context, path: str, flags: int) -> None:
    """Set the propagation type of the mount at a path, or with MS_REC of all below it too."""
    k.mount("", path, "", flags)


def private_parent(context: Context, path: str) -> None:
    """Make the mount that a directory lies on private.

    The kernel wants it for pivot_root(2), and a mount on a shared one would reach the host.
    """
    while True:
        try:
            k.mount("", path, "", k.MS_PRIVATE)
            return
        except OSError as error:
            # It is no mount point: the mount lies above.
            if error.errno != EINVAL or path == "/":
                raise
        path = path.rpartition("/")[0] or "/"


def configured(
    fstype: str, options: tuple[tuple[str, str | int], ...], attributes: int, source: str = ""
) -> int:
    """A detached mount of a new file system; a refusal carries the kernel's own words."""
    descriptor = k.fsopen(fstype)
    try:
        k.fsconfig(descriptor, k.FSCONFIG_SET_STRING, "source", source or fstype)
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


def file_system(
    context: Context,
    fstype: str,
    options: tuple[tuple[str, str], ...],
    attributes: int,
    name: str,
    source: str = "",
    instead: str = "",
    like: str = "",
) -> None:
    """A detached mount of a file system under a name.

    Where the kernel refuses it for want of rights, a copy of the mounts at `instead` (a path of
    the host) takes its place, if there is one. It has the mode of the directory at `like`, a path
    below the root, if that is there.
    """
    if like:
        try:
            hidden = resolve(context, like)
        except OSError as error:
            if error.errno != ENOENT:
                raise
        else:
            options = (*options, ("mode", f"{os.fstat(hidden).st_mode & 0o7777:o}"))
            os.close(hidden)
    try:
        context.fds[name] = configured(fstype, options, attributes, source)
    except OSError as error:
        if error.errno not in (EPERM, EBUSY) or not instead or not ospath.is_directory(instead):
            raise
        tree = k.open_tree(k.AT_FDCWD, instead, k.OPEN_TREE_CLONE | k.AT_RECURSIVE)
        context.fds[name] = tree
        k.mount_setattr(tree, attr_set=attributes & ~k.MOUNT_ATTR__ATIME, recursive=True)


def overlay(
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
            context.fds[name] = configured("overlay", (*layers, *writable, *options), 0)
        except k.KernelError as error:
            if error.errno != EINVAL:
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
            opened.append(os.open(f"{upper}/{directory}", O_PATH))
            parameters.append((key, opened[-1]))
        context.fds[name] = configured("overlay", (*parameters, *options), 0)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def bind(context: Context, source: str, recursive: bool, name: str, follow: bool = True) -> None:
    """A detached copy of the mount at a path of the host, or with `recursive` of all below it.

    Without `follow` a path that ends in a symbolic link is the link itself.
    """
    flags = k.OPEN_TREE_CLONE | (k.AT_RECURSIVE if recursive else 0)
    flags |= 0 if follow else k.AT_SYMLINK_NOFOLLOW
    try:
        context.fds[name] = k.open_tree(k.AT_FDCWD, source, flags)
    except k.KernelError as error:
        error.call += f" of {source}"
        raise


def open_source(context: Context, source: str, name: str, follow: bool = True) -> None:
    """Open a path of the host, of which `copy_tree` makes a mount; `follow` as with `bind`."""
    flags = 0 if follow else k.AT_SYMLINK_NOFOLLOW
    try:
        context.fds[name] = k.open_tree(k.AT_FDCWD, source, flags)
    except k.KernelError as error:
        error.call += f" of {source}"
        raise


def copy_tree(context: Context, name: str, recursive: bool) -> None:
    """Let a name stand for a detached copy of the mount at what it names: `bind` by descriptor.

    Made as late as this, mounts are listed in the order of the configuration: the kernel lists
    them in the order in which they were made.
    """
    source = context.fds[name]
    flags = k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH | (k.AT_RECURSIVE if recursive else 0)
    context.fds[name] = k.open_tree(source, "", flags)
    os.close(source)


def sources_as_caller(context: Context, sources: tuple[tuple[Any, ...], ...]) -> None:
    """Open sources of mounts (as `open_source` does) in the child's mount namespace."""

    def open_all() -> None:
        for source in sources:
            open_source(context, *source)

    with_mounts_of_child(context, open_all)


def with_mounts_of_child(context: Context, do: Callable[[], None]) -> None:
    """Do something outside, but in the child's mount namespace.

    The mounts are the child's, with what is locked or made private there; but the way to them is
    walked with the caller's rights, which the child in its user namespace has not.
    """
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    old_root, old_directory = (os.open(path, O_PATH | os.O_DIRECTORY) for path in ("/", "."))
    root = os.open(f"/proc/{context.pid}/root", O_PATH | os.O_DIRECTORY)
    try:
        k.setns(context.pidfd, k.CLONE_NEWNS)
        try:
            os.fchdir(root)
            os.chroot(".")
            do()
        finally:
            k.setns(own, k.CLONE_NEWNS)
            os.fchdir(old_root)
            os.chroot(".")
            os.fchdir(old_directory)
    finally:
        for descriptor in (own, old_root, old_directory, root):
            os.close(descriptor)


def attributes(context: Context, name: str, attr_set: int, attr_clr: int, recursive: bool) -> None:
    """Set and clear attributes of a named mount, or with `recursive` of all below it too."""
    k.mount_setattr(context.fds[name], attr_set=attr_set, attr_clr=attr_clr, recursive=recursive)


def attach(
    context: Context,
    name: str,
    path: str,
    types: tuple[tuple[int, bool], ...] = (),
    ordinary: bool = False,
    follow: bool = True,
) -> None:
    """Attach a named mount at a path below the root, made where it is missing.

    Then its propagation types are set, (type, recursive) one after the other. With `ordinary`
    the path may have no symbolic link: that is for /proc and /sys, which the runtime trusts.
    Without `follow` a link at its end is covered itself.
    """
    mount = context.fds.pop(name)
    try:
        kind = "directory" if os.fstat(mount).st_mode & _MOUNT_KIND == _DIRECTORY else "file"
        rules = IN_ROOT | k.RESOLVE_NO_SYMLINKS if ordinary else IN_ROOT
        try:
            target = place(context, path, kind, rules) if follow else _end(context, path, kind)
        except OSError as error:
            if ordinary and error.errno == ELOOP:
                words = "it must be mounted on ordinary directory, and there is a symbolic link"
                raise OSError(ELOOP, words, path) from None
            raise
        try:
            _keep_proc(target, path)
            if (os.fstat(target).st_mode & _MOUNT_KIND == _DIRECTORY) != (kind == "directory"):
                raise OSError(ENOTDIR, f"what is mounted is a {kind}, and its place is not", path)
            k.move_mount(mount, target)
        finally:
            os.close(target)
        for flag, recursive in types:
            k.mount_setattr(mount, propagation=flag, recursive=recursive)
    finally:
        os.close(mount)


def _end(context: Context, path: str, kind: str) -> int:
    """Open what a path ends in, be it a symbolic link, and make it where it is missing."""
    parent_path, _, name = ospath.normal(path).rpartition("/")
    parent = place(context, parent_path or "/", "directory")
    try:
        return os.open(name, O_PATH | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        return place(context, path, kind)
    finally:
        os.close(parent)


def _keep_proc(target: int, path: str) -> None:
    """Refuse a place in procfs that a path leads to by a link: the planner judges by the words."""
    named = f"{ospath.normal(path)}/".startswith("/proc/")
    if not named and k.file_system_of(target) == k.PROC_SUPER_MAGIC:
        raise OSError(EINVAL, "cannot be mounted because a symbolic link leads inside /proc", path)


def attributes_below(
    context: Context, path: str, attr_set: int, attr_clr: int, recursive: bool
) -> None:
    """Set and clear attributes of the mount at a path below the root."""
    target = resolve(context, path)
    try:
        k.mount_setattr(target, attr_set=attr_set, attr_clr=attr_clr, recursive=recursive)
    finally:
        os.close(target)


def attach_root(context: Context, name: str, directory: str) -> None:
    """Attach the root file system at a directory, and resolve paths below it from here on."""
    root = context.fds.pop(name)
    context.fds["root"] = root
    target = os.open(directory, O_PATH | os.O_DIRECTORY)
    try:
        k.move_mount(root, target)
    finally:
        os.close(target)


def make_below(context: Context, path: str, kind: str = "directory") -> None:
    """Make a directory or "file" below the root, and those above it, where they are missing."""
    os.close(place(context, path, kind))


def symlinks(context: Context, directory: str, links: tuple[tuple[str, str], ...]) -> None:
    """Make symbolic links in a directory: (name, target)."""
    parent = place(context, directory, "directory")
    try:
        for name, target in links:
            try:
                os.symlink(target, name, dir_fd=parent)
            except FileExistsError:
                pass
    finally:
        os.close(parent)


def node(
    context: Context, path: str, mode: int, device: tuple[int, int], owner: tuple[int, int]
) -> None:
    """Make a device or a FIFO below the root; the same device may be there already."""
    directory, _, name = path.rstrip("/").rpartition("/")
    parent = place(context, directory or ".", "directory")
    number = os.makedev(*device)
    try:
        try:
            os.mknod(name, mode, number, dir_fd=parent)
        except FileExistsError:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            same = found.st_mode & _MOUNT_KIND == mode & _MOUNT_KIND and (
                found.st_rdev == number or mode & _MOUNT_KIND == 0o010000
            )
            if not same:
                raise
        else:
            os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(parent)


def _null_device() -> int:
    """A detached copy of the host's /dev/null, which must be that device and nothing else."""
    tree = k.open_tree(k.AT_FDCWD, "/dev/null", k.OPEN_TREE_CLONE)
    if os.fstat(tree).st_rdev != os.makedev(1, 3):
        os.close(tree)
        raise OSError(EINVAL, "/dev/null of the host is not the null device", "")
    return tree


_MASK_ATTRIBUTES = (
    k.MOUNT_ATTR_RDONLY | k.MOUNT_ATTR_NOSUID | k.MOUNT_ATTR_NODEV | k.MOUNT_ATTR_NOEXEC
)


def mask(context: Context, paths: tuple[str, ...]) -> None:
    """Hide paths: a file behind /dev/null, a directory behind an empty one."""
    empty = -1
    for target in existing(context, paths):
        if os.fstat(target).st_mode & _MOUNT_KIND != _DIRECTORY:
            cover = _null_device()
        elif empty < 0:
            empty = cover = configured("tmpfs", (("size", "0"),), _MASK_ATTRIBUTES)
        else:
            cover = k.open_tree(empty, "", k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH)
        k.move_mount(cover, target)
        if cover != empty:
            os.close(cover)
    if empty >= 0:
        os.close(empty)


def read_only(context: Context, paths: tuple[str, ...]) -> None:
    """Make paths read-only by mounting them over themselves."""
    for target in existing(context, paths):
        tree = k.open_tree(target, "", k.OPEN_TREE_CLONE | k.AT_EMPTY_PATH | k.AT_RECURSIVE)
        k.mount_setattr(tree, attr_set=k.MOUNT_ATTR_RDONLY, recursive=True)
        k.move_mount(tree, target)
        os.close(tree)


def read_only_root(context: Context) -> None:
    """Make the root file system read-only."""
    k.mount_setattr(context.root(), attr_set=k.MOUNT_ATTR_RDONLY)


def pivot(context: Context) -> None:
    """Make the root file system the root: the old one is stacked below, then detached."""
    root = context.fds.pop("root")
    old = os.open("/", O_PATH | os.O_DIRECTORY)
    os.fchdir(root)
    os.close(root)
    k.pivot_root(".", ".")
    os.fchdir(old)
    os.close(old)
    # Letting the old root go must not reach the mounts that it is a peer of.
    k.mount("", ".", "", k.MS_SLAVE | k.MS_REC)
    k.umount2(".", k.MNT_DETACH)
    os.chdir("/")


def change_root(context: Context) -> None:
    """Take the root that was opened as one's own: chroot(2)."""
    os.fchdir(context.fds["root"])
    os.chroot(".")


def chdir(context: Context, path: str) -> None:
    """Go to a directory below the root, by no link of /proc that leads out of it."""
    descriptor = k.openat2(context.root(), path, os.O_PATH | os.O_DIRECTORY, IN_ROOT)
    try:
        os.fchdir(descriptor)
    finally:
        os.close(descriptor)
    os.getcwd()  # ENOENT if it is not below the root after all
