"""What the operations of one start share, and how paths of a container are found."""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py

from ctrt.linux import calls as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

O_PATH = os.O_PATH | os.O_CLOEXEC
IN_ROOT = k.RESOLVE_IN_ROOT | k.RESOLVE_NO_MAGICLINKS
EPERM, ENOENT, EACCES, EBUSY, ENOTDIR, EINVAL, ELOOP = 1, 2, 13, 16, 20, 22, 40

OWN = b"o"
"""What the child says on its pipe when its descriptors are its own."""
BECOMING, REFUSED = b"x", b"e"
"""What it says before it is executed by way of `stand_in`: but REFUSED, nothing is believed then.

It can be looked into from there on, and its pipe be written to by others of the container.
"""


class Context:
    """What the operations of one start share: named descriptors, the child, the pipes."""

    __slots__ = (
        "about",
        "back",
        "fds",
        "go",
        "home",
        "last",
        "maker",
        "pid",
        "pidfd",
        "preserved",
        "stand_in",
    )

    def __init__(self, fds: dict[str, int]) -> None:
        self.fds = fds
        self.pid = 0
        self.pidfd = -1
        self.go: tuple[int, int] = (-1, -1)  # from outside to inside
        self.back: tuple[int, int] = (-1, -1)  # from inside to outside
        self.maker = -1  # a pidfd of the process outside
        # What hooks are told: the state of the OCI specification, without pid and status.
        self.about: dict[str, Any] = {}
        self.last = (-1, -1)  # the index of the step of the exec, and of its call
        self.stand_in = ""  # the machine, if it is executed by way of `stand_in.become`
        self.home = ""  # the user's home directory, for a program that is told of none
        self.preserved: tuple[int, ...] = ()  # descriptors that the program gets beside the three

    def root(self) -> int:
        """The directory that paths inside are resolved below."""
        if "root" not in self.fds:
            self.fds["root"] = os.open("/", O_PATH)
        return self.fds["root"]


def resolve(context: Context, path: str, rules: int = IN_ROOT) -> int:
    """Open a path below the root, which no link in it can leave: openat2(2)."""
    return k.openat2(context.root(), path, O_PATH, rules)


def place(context: Context, path: str, kind: str, rules: int = IN_ROOT) -> int:
    """Open a path below the root, and make it ("directory" or "file") where it is missing."""
    try:
        return resolve(context, path, rules)
    except OSError as error:
        if error.errno != ENOENT:
            raise
    parent_path, _, name = path.rstrip("/").rpartition("/")
    if name == "..":
        raise OSError(ENOENT, os.strerror(ENOENT), path)
    parent = place(context, parent_path or ".", "directory", rules)
    try:
        try:
            if kind == "file":
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(name, flags, 0o755, dir_fd=parent))
            else:
                os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            # By descriptor, for it may be another thing at the next look.
            found = os.open(name, O_PATH | os.O_NOFOLLOW, dir_fd=parent)
            if os.fstat(found).st_mode & 0o170000 != 0o120000:
                return found
            return _through_link(context, found, parent_path, name, kind, rules)
        return os.open(name, O_PATH | os.O_NOFOLLOW, dir_fd=parent)
    finally:
        os.close(parent)


def _through_link(
    context: Context, link: int, parent_path: str, name: str, kind: str, rules: int
) -> int:
    """Make what an open link that leads nowhere names, and open it, below the root."""
    try:
        target = os.readlink("", dir_fd=link)
    finally:
        os.close(link)
    path = target if target.startswith("/") else f"{parent_path}/{target}"
    if path.count("/") > 255 or f"{parent_path}/{name}".endswith(path):
        raise OSError(ELOOP, os.strerror(ELOOP), path)
    return place(context, path, kind, rules)


def existing(context: Context, paths: tuple[str, ...]) -> Iterator[int]:
    """Those of the paths below the root that are there, each open until the next."""
    for path in paths:
        try:
            target = resolve(context, path)
        except OSError as error:
            if error.errno in (ENOENT, ENOTDIR):
                continue
            raise
        try:
            yield target
        finally:
            os.close(target)
