"""Where a container's root file system comes from, and how it becomes the root."""

from __future__ import annotations

from ctrt.linux import calls as k
from ctrt.runtime.plan import INSIDE, OUTSIDE, Step
from ctrt.runtime.planner.namespaces import maps_many

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.runtime.host import Host

    Call = tuple[Any, ...]
    Extents = tuple[tuple[int, int, int], ...]

ADMIN = "CAP_SYS_ADMIN in the user namespace that owns the mount namespace"

PROPAGATION = {
    "private": k.MS_PRIVATE,
    "rprivate": k.MS_REC | k.MS_PRIVATE,
    "slave": k.MS_SLAVE,
    "rslave": k.MS_REC | k.MS_SLAVE,
    "shared": k.MS_SHARED,
    "rshared": k.MS_REC | k.MS_SHARED,
    "unbindable": k.MS_UNBINDABLE,
    "runbindable": k.MS_REC | k.MS_UNBINDABLE,
}
"""Propagation types as mount(8) and the OCI specification name them, as flags of mount(2)."""


class Layers:
    """A root file system made of image layers by overlayfs.

    `lowers` are directories, topmost first; `directory` holds (or will hold) the container's
    own "upper" and "work" directories, and the root file system is mounted over it. `hosts` are
    further lines of its /etc/hosts. With `writable`, a directory that is there already, "upper" and
    "work" are in that, and stay when the container is gone.
    """

    __slots__ = ("directory", "hosts", "lowers", "writable")

    def __init__(
        self, lowers: tuple[str, ...], directory: str, hosts: str = "", writable: str = ""
    ) -> None:
        self.lowers = lowers
        self.directory = directory
        self.hosts = hosts
        self.writable = writable or directory


class Directory:
    """A root file system that is a directory: `root.path` of a bundle, as an absolute path.

    `mounts` is how many are mounted there: what a container without a mount namespace of its own
    mounts on them has to be taken away again.
    """

    __slots__ = ("directory", "mounts")

    def __init__(self, directory: str, mounts: int = 0) -> None:
        self.directory = directory
        self.mounts = mounts


Root = Layers | Directory


def container_directory(
    layers: Layers,
    hostname: str,
    owner: tuple[int, int] | None,
    uid_map: Extents,
    gid_map: Extents,
    host: Host,
) -> Step:
    """The step that makes the directories of an overlay, and the file that will be /etc/hosts."""
    base = layers.directory
    calls: list[Call] = [
        ("mkdir", f"{layers.writable}/upper", 0o755),
        ("mkdir", f"{layers.writable}/work", 0o700),
    ]
    hosts = f"127.0.0.1\tlocalhost {hostname}".rstrip() + "\n::1\tlocalhost ip6-localhost\n"
    calls.append(("write", f"{base}/hosts", hosts + layers.hosts))
    if owner:
        # The root directory that the container sees is the upper one.
        calls.append(("chown", f"{layers.writable}/upper", *owner))
    removal = None
    if not host.privileged and maps_many(uid_map):
        from ctrt.runtime.planner.programs import removal_plan

        removal = removal_plan(base, uid_map, gid_map, host).wire()
    return Step(
        "container directory",
        OUTSIDE,
        calls,
        why="what the container writes has a place of its own above the image's layers",
        source="Documentation/filesystems/overlayfs.rst of the kernel",
        undo=(("remove_tree", base, removal),),
    )


def overlay(layers: Layers, where: str, host: Host, in_userns: bool, *, idmapped: bool) -> Step:
    """The step that mounts layers as one tree."""
    # trusted.* attributes are for the initial user namespace only; others use user.*.
    own_attributes = (in_userns or not host.initial) and not idmapped
    options = (("userxattr", ""),) if own_attributes else ()
    if idmapped:
        why = "the layers are one tree, seen through the container's id maps: no file is copied"
    else:
        why = "the layers are one tree; what the container writes goes to its own upper layer"
    return Step(
        "layers",
        where,
        [("overlay", layers.lowers, layers.writable, options, idmapped, "layers")],
        why=why,
        source="Documentation/filesystems/overlayfs.rst of the kernel"
        + (", mount_setattr(2)" if idmapped else ""),
        needs="Linux 5.11" if in_userns and not host.privileged else "CAP_SYS_ADMIN",
    )


def propagation(word: str | None, root: Root) -> Step:
    """The step that says what mounts here and on the host have to do with each other."""
    if word is None:
        # A bundle is treated as runc treats it: what the host mounts later may be seen.
        word = "rprivate" if isinstance(root, Layers) else "rslave"
    flags = PROPAGATION[word]
    if flags & k.MS_UNBINDABLE:
        # Nothing could be bind-mounted from the host any more; the root becomes so at the end.
        flags = flags & k.MS_REC | k.MS_PRIVATE
    calls: list[Call] = [("propagation", "/", flags)]
    if isinstance(root, Directory) or word not in ("private", "rprivate"):
        calls.append(("private_parent", root.directory))
    if word.endswith("private"):
        why = "no mount made here reaches the host, and none of the host comes in"
    elif word.endswith("slave"):
        why = "no mount made here reaches the host, but mounts of the host come in"
    elif word.endswith("shared"):
        why = "mounts reach the host and come from there, where it shares them"
    else:
        why = "no mount made here reaches the host, and none may be bind-mounted"
    return Step(
        "propagation",
        INSIDE,
        calls,
        why=why,
        source="mount_namespaces(7)",
        needs=ADMIN,
    )


def attach(root: Root, *, own: bool = True) -> Step:
    """The step from which on all paths are resolved below the root file system.

    Where the mount namespace is not the container's `own`, the mount has to be taken back.
    """
    if isinstance(root, Layers):
        return Step(
            "root",
            INSIDE,
            [("attach_root", "layers", root.directory)],
            why="the image becomes a mount of the container; all paths are resolved below it",
            source="move_mount(2), openat2(2)",
        )
    return Step(
        "root",
        INSIDE,
        [("bind", root.directory, True, "layers"), ("attach_root", "layers", root.directory)],
        why="the directory becomes a mount, as pivot_root(2) wants it; all paths are resolved "
        "below it",
        source="open_tree(2), openat2(2)",
        needs=ADMIN,
        undo=() if own else (("unmount_above", root.directory, root.mounts),),
    )


def pivot(
    cwd: str, word: str | None, *, pivot_root: bool, readonly: bool, own: bool = True
) -> list[Step]:
    """The steps that make it the root; then, with a terminal, it becomes read-only.

    In a mount namespace that is not the container's `own` it is the root of its processes alone.
    """
    made: Call = ("make_below", cwd)
    calls: list[Call] = [("pivot",) if pivot_root else ("move_root",)]
    why, source = (
        "the image becomes the root, and the host's file systems are let go",
        "pivot_root(2)",
    )
    if not own:
        calls = [("change_root",)]
        why, source = "the image becomes the root of these processes, not of others", "chroot(2)"
    elif not pivot_root:
        why = "the image is moved onto the root, whose file systems stay below it"
        source = "mount(2), MS_MOVE; chroot(2)"
    if not readonly:
        calls.insert(0, made)
    if word is not None and not word.endswith("private"):
        # Not before: it would be the host's mount that takes the type.
        calls.append(("propagation", "/", PROPAGATION[word]))
    calls.append(("chdir", cwd))
    step = Step(
        "pivot root",
        INSIDE,
        calls,
        why=why,
        source=source,
        needs=ADMIN,
    )
    return [read_only(made), step] if readonly else [step]


def read_only(*before: Call) -> Step:
    """The step after which the root file system cannot be written to."""
    return Step(
        "read-only root",
        INSIDE,
        [*before, ("read_only_root",)],
        why="the image cannot be written to",
        source="mount_setattr(2)",
    )
