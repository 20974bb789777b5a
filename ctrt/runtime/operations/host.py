"""Operations outside on files and cgroups, and what undoes a start."""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py

from ctrt.linux import calls as k
from ctrt.runtime.operations.context import EBUSY, Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Call = tuple[Any, ...]
    Wire = tuple[tuple[str, str, tuple[Call, ...]], ...]


def mkdir(context: Context, path: str, mode: int) -> None:
    """Make a directory that is not there yet."""
    os.mkdir(path, mode)


def chown(context: Context, path: str, uid: int, gid: int) -> None:
    """Give a file away."""
    os.chown(path, uid, gid)


def write(context: Context, path: str, text: str) -> None:
    """Write a file anew."""
    # Plain calls: io's text files cost more than the write itself.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def open_directory(context: Context, path: str, name: str) -> None:
    """Open a directory under a name."""
    context.fds[name] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def unmount_above(context: Context, directory: str, mounts: int) -> None:
    """Let go of what is mounted at a directory on top of so many `mounts`, with all below it."""
    from ctrt.linux import mountinfo

    found = sum(mount.target == directory for mount in mountinfo.read())
    for _ in range(mounts, found):
        k.umount2(directory, k.MNT_DETACH | k.UMOUNT_NOFOLLOW)


def remove_tree(context: Context, path: str, removal: Wire | None = None) -> None:
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
                raise OSError(EBUSY, "rm(1) could not remove it all", path) from None
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
