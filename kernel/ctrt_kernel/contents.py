"""What an image holds, as far as completion wants to know: its commands and its paths.

It looks into layers that are unpacked already and unpacks none: a key press must not take long.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from ctrt.engine.config import DEFAULT_PATH
from ctrt.errors import CtrtError
from ctrt.linux import calls

if TYPE_CHECKING:
    from ctrt.engine import Engine
    from ctrt.images.store import Image

_WORLDS = ("", ".user", ".single")
_MOST_LINKS = 40
"""As many as the kernel follows: path_resolution(7)."""


class Contents:
    """The files of an image, read from its layers."""

    def __init__(self, engine: Engine, image: Image) -> None:
        self._lowers = []
        self._commands: dict[str, str] | None = None
        self.complete = True
        """Whether all layers are unpacked."""
        for layer in reversed(image.layers):
            path = f"{engine.root}/layers/{layer.chain_id[7:]}"
            found = next((w for w in _WORLDS if os.path.isdir(f"{path}{w}/diff")), None)
            if found is None:
                self.complete = False
            else:
                self._lowers.append(f"{path}{found}/diff")
        settings = image.config.get("config") or {}
        variables = dict(entry.partition("=")[::2] for entry in settings.get("Env") or [])
        self._path = variables.get("PATH") or DEFAULT_PATH
        self.directory = settings.get("WorkingDir") or "/"

    def entries(self, directory: str) -> dict[str, int]:
        """Names in a directory and their modes; empty if there is no such directory."""
        found: dict[str, int] = {}
        hidden: set[str] = set()
        directory = self._real(directory)
        for lower in self._lowers:
            for name, status in _listed(lower, directory):
                if name in hidden or name in found:
                    continue
                if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                    hidden.add(name)  # overlayfs: what is below is deleted
                else:
                    found[name] = status.st_mode
        return found

    def _real(self, path: str) -> str:
        """A path without symbolic links: one of a layer may lead to what another one changes."""
        done, left, links = "", path.split("/")[::-1], 0
        while left and links < _MOST_LINKS:
            name = left.pop()
            if name == "..":
                done = done.rpartition("/")[0]
            elif name not in ("", "."):
                target = next(
                    (
                        t
                        for lower in self._lowers
                        if (t := _link(lower, f"{done}/{name}")) is not None
                    ),
                    "",
                )
                if not target:
                    done = f"{done}/{name}"
                    continue
                links += 1
                left += target.split("/")[::-1]
                if target.startswith("/"):
                    done = ""
        return done or "/"

    def commands(self) -> dict[str, str]:
        """The programs in the image's PATH, and where each is."""
        if self._commands is not None:
            return self._commands
        found: dict[str, str] = {}
        for directory in self._path.split(":"):
            for name, mode in self.entries(directory).items():
                if mode & 0o111 and not stat.S_ISDIR(mode):
                    found.setdefault(name, f"{directory}/{name}")
        self._commands = found
        return found

    def paths(self, beginning: str) -> list[str]:
        """Paths that begin like this; a directory ends with a slash."""
        head, _, tail = beginning.rpartition("/")
        place = os.path.join(self.directory, head or ("/" if beginning.startswith("/") else "."))
        start = beginning[: len(beginning) - len(tail)]
        return [
            f"{start}{name}" + ("/" if stat.S_ISDIR(mode) else "")
            for name, mode in sorted(self.entries(place).items())
            if name.startswith(tail) and (tail or not name.startswith("."))
        ]


def of(reference: str) -> Contents | None:
    """The contents of an image of the default store; None if it is not there."""
    from ctrt.engine import default_engine

    engine = default_engine()
    try:
        image = engine.store.find(reference)
    except (CtrtError, OSError):
        return None
    if image is None:
        return None
    return _remembered(engine, image)


_memory: dict[tuple[str, str], Contents] = {}


def _remembered(engine: Engine, image: Image) -> Contents:
    key = (engine.root, image.id)
    found = _memory.get(key)
    if found is None or not found.complete:
        found = _memory[key] = Contents(engine, image)
    return found


def _link(lower: str, path: str) -> str | None:
    """Where a link of a layer points to; "" for what is none, None where there is nothing."""
    try:
        descriptor = _opened(lower, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        is_link = stat.S_ISLNK(os.fstat(descriptor).st_mode)
        return os.readlink("", dir_fd=descriptor) if is_link else ""
    finally:
        os.close(descriptor)


def _opened(lower: str, path: str, flags: int) -> int:
    root = os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return calls.openat2(root, path, flags, calls.RESOLVE_IN_ROOT)
    finally:
        os.close(root)


def _listed(lower: str, directory: str) -> list[tuple[str, os.stat_result]]:
    """A directory of one layer; links are followed inside the layer only."""
    try:
        descriptor = _opened(lower, directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        return [
            (name, os.stat(name, dir_fd=descriptor, follow_symlinks=False))
            for name in os.listdir(descriptor)
        ]
    except OSError:
        return []
    finally:
        os.close(descriptor)
