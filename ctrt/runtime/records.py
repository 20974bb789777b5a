"""What the runtime knows of its containers: a directory each below its root.

    ROOT/ID/journal       what to undo, written before anything is made
    ROOT/ID/start         the pipe that a created container waits on; it has a reader just as long
    ROOT/ID/started       the pipe that tells whether the program could be started
    ROOT/ID/state.json    who the container is; it exists from this file's appearance on
    ROOT/ID/config.json   the configuration that it was made of
    ROOT/ID/notify/       the socket that tells that it is ready, where a manager wants to know

The directory is locked (flock(2)) by whoever changes the container. One without state.json whose
lock can be taken is what a crash has left, and the next command for it undoes it. One without a
journal is none of ours.
"""

from __future__ import annotations

import fcntl
import marshal
import posix as os  # `os` itself takes long to import: linux/ospath.py
import time

from ctrt.errors import CtrtError
from ctrt.linux import ospath
from ctrt.linux.birth import start_time
from ctrt.oci import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Call = tuple[Any, ...]

VERSION = "1.3.0"
"""The version of the OCI runtime specification whose words the state speaks."""

_ENXIO = 6
_ENOTEMPTY = 39
_ESRCH = 3
_EINVAL = 22
_PATIENCE_SECONDS = 30
_KEYS = frozenset(
    "annotations bundle cgroup created id owner own_pids pid rootfs start_time version".split()
)
"""What state.json has."""
_ALLOWED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-."


def default_root() -> str:
    """Where containers are known: /run/ctrt-runtime, or a place of the user's own.

    That is for one who is root only in a user namespace, too: the machine's /run is not theirs.
    """
    from ctrt.linux import ids

    if os.geteuid() == 0 and ids.all_mapped():
        return "/run/ctrt-runtime"
    base = ospath.variable("XDG_RUNTIME_DIR")
    return f"{base}/ctrt-runtime" if base else f"/tmp/ctrt-runtime-{os.geteuid()}"


def check_id(identifier: str) -> str:
    """The id, if it can be one; it is a directory's name, too."""
    if not identifier:
        raise CtrtError("container ID cannot be empty")
    for letter in identifier:
        if letter not in _ALLOWED:
            raise CtrtError(
                f"invalid container ID format: invalid character `{letter}` in the ID "
                f"{identifier!r}; it has letters, digits, '_', '+', '-' and '.'"
            )
    if identifier.startswith(".") or len(identifier) > 1024:
        raise CtrtError(
            f"invalid container ID format: {identifier[:80]!r} begins with '.', or is longer than "
            "1024 letters"
        )
    return identifier


class MissingError(CtrtError):
    """There is no container of that id."""


class BrokenError(CtrtError):
    """A container's state.json cannot be read: only its journal tells what was made."""


class Record:
    """A container's directory, locked as long as this object has its `lock`."""

    __slots__ = ("directory", "id", "lock", "state")

    def __init__(self, root: str, identifier: str) -> None:
        self.id = identifier
        self.directory = f"{root}/{identifier}"
        self.lock = -1
        self.state: dict[str, Any] = {}

    # -- finding and making ---------------------------------------------------------------------

    @classmethod
    def make(cls, root: str, identifier: str) -> Record:
        """A new, locked directory. What a crashed command left of that name is undone first.

        Raises CtrtError where there is such a container.
        """
        record = cls(root, check_id(identifier))
        if not ospath.exists(root):
            from os import makedirs

            makedirs(root, mode=0o711, exist_ok=True)
        for _ in range(100):
            try:
                os.mkdir(record.directory, 0o711)
            except FileExistsError:
                if record._take() and not record._load():
                    record.end()
                    continue
                break
            # Between the two calls another command may have taken the directory for a leftover.
            if record._take() and not ospath.exists(record.path("journal")):
                return record
        record.release()
        raise CtrtError(f"container with given ID already exists: {identifier}")

    @classmethod
    def find(cls, root: str, identifier: str, *, lock: bool = False) -> Record:
        """The container of that id; with `lock` nobody else changes it meanwhile.

        Raises CtrtError where there is none. A link is none: what is done to a container would
        be done to another directory.
        """
        record = cls(root, check_id(identifier))
        if ospath.is_link(record.directory):
            raise CtrtError(
                f"{record.directory} is a symbolic link, not the directory of a container", status=1
            )
        if lock and not record._take() and record._exists():
            record._wait()
        if not record._load():
            if record.lock >= 0 or record._take():
                record.end()
            raise MissingError(f"container does not exist: {identifier}", status=1)
        return record

    @classmethod
    def remains(cls, root: str, identifier: str) -> Record:
        """The locked directory of a container whose state.json cannot be read."""
        record = cls(root, check_id(identifier))
        if not record._take():
            record._wait()
        return record

    @classmethod
    def all(cls, root: str, broken: Callable[[str], object] | None = None) -> list[Record]:
        """The containers below a root, by id; what a crash left is undone.

        `broken` is told the sentence about each whose state.json cannot be read, and about what
        cannot be undone.
        """
        found = []
        try:
            names = sorted(os.listdir(root))
        except FileNotFoundError:
            names = []
        for name in names:
            try:
                found.append(cls.find(root, name))
            except BrokenError as error:
                if broken:
                    broken(str(error))
            except (CtrtError, NotADirectoryError):
                pass
            except OSError as error:
                if broken:
                    words = f"{error.strerror}: {error.filename}" if error.filename else error
                    broken(f"what is left of container {name} cannot be taken back: {words}")
        return found

    def _exists(self) -> bool:
        return ospath.is_directory(self.directory)

    def _wait(self) -> None:
        """Wait for the command that has the lock; a create that a hook holds up can take long."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._take() and self._exists():
            if time.monotonic() > deadline:
                raise CtrtError(
                    f"another command is at work on container {self.id}, and does not end", status=1
                )
            time.sleep(0.005)

    def _take(self) -> bool:
        """Lock the directory; False if somebody else has it, or it is gone."""
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            lock = os.open(self.directory, flags)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.stat(self.directory).st_ino == os.fstat(lock).st_ino
        except (BlockingIOError, FileNotFoundError):
            same = False
        if not same:
            os.close(lock)
            return False
        self.lock = lock
        return True

    def _load(self) -> bool:
        try:
            state = fastjson.loads(self.read("state.json"))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (ValueError, IsADirectoryError):
            state = None
        if not isinstance(state, dict) or not state.keys() >= _KEYS:
            if not ospath.exists(self.path("journal")):
                return False  # another runtime's
            self.release()
            raise BrokenError(
                f"the state.json of container {self.id} is broken; `delete --force` takes back "
                "what was made for it",
                status=1,
            )
        self.state = state
        return True

    def release(self) -> None:
        """Let others change the container."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    # -- files ------------------------------------------------------------------------------------

    def path(self, name: str) -> str:
        """A file of the directory."""
        return f"{self.directory}/{name}"

    def read(self, name: str) -> bytes:
        """A whole file of the directory."""
        descriptor = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = b""
            while piece := os.read(descriptor, 1 << 16):
                data += piece
            return data
        finally:
            os.close(descriptor)

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the directory, which is there whole or not at all."""
        write_whole(self.path(name), data, 0o600)

    def save(self) -> None:
        """Write down `state`."""
        self.write("state.json", fastjson.dumps(self.state).encode())

    def begin(self, calls: tuple[Call, ...]) -> None:
        """Write down what is to be undone, before it is done."""
        self.write("journal", marshal.dumps(calls, 2))

    def config(self) -> dict[str, Any]:
        """The configuration that the container was made of."""
        loaded: dict[str, Any] = fastjson.loads(self.read("config.json"))
        return loaded

    def undo(self) -> None:
        """Take back what was made for the container, except this directory."""
        try:
            calls = marshal.loads(self.read("journal"))
        except (FileNotFoundError, EOFError, ValueError, TypeError):
            return
        from ctrt.runtime import cgroup_operations
        from ctrt.runtime.undoing import take_back

        # Most have a cgroup only; the other operations are many, and take their time to import.
        known: dict[str, Callable[..., Any]] = cgroup_operations.OPERATIONS
        if any(call[0] not in known for call in calls):
            from ctrt.runtime.operations import OPERATIONS

            known = {**OPERATIONS, **known}
        take_back(calls, known)

    def end(self) -> None:
        """Take back all, last the directory; one that is not ours is left as it is."""
        try:
            names = set(os.listdir(self.directory))
            # A command that was killed while it wrote its journal leaves that under another name.
            if "journal" in names or all(name.startswith(".journal.") for name in names):
                self.undo()
                # The order matters: without state.json it is a leftover, which anybody removes,
                # and without the journal it is anybody's.
                names -= {"state.json", "journal"}
                for name in ("state.json", *names, "journal"):
                    try:
                        os.unlink(self.path(name))
                    except FileNotFoundError:
                        pass
                    except IsADirectoryError:
                        self._remove_directory(name)
            os.rmdir(self.directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != _ENOTEMPTY:
                raise
        finally:
            self.release()

    def _remove_directory(self, name: str) -> None:
        """Remove a directory of files: the one that has the socket of `readiness.py`."""
        for file in os.listdir(self.path(name)):
            os.unlink(f"{self.path(name)}/{file}")
        os.rmdir(self.path(name))

    # -- the process ------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The first process, or 0 when it has ended."""
        pid: int = self.state["pid"]
        return pid if start_time(pid) == self.state["start_time"] else 0

    def waits(self) -> bool:
        """Whether the first process waits for its start: the pipe then has a reader."""
        try:
            os.close(os.open(self.path("start"), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in (_ENXIO, 2):
                return False
            raise
        return True

    def pidfd(self) -> int:
        """A descriptor of the first process, and no other that got its number; -1 if it ended."""
        pid: int = self.state["pid"]
        try:
            descriptor = os.pidfd_open(pid)
        except OSError as error:
            # EINVAL: only a process group or session has the number any more.
            if error.errno in (_ESRCH, _EINVAL):
                return -1
            raise
        if start_time(pid) != self.state["start_time"]:
            os.close(descriptor)
            return -1
        return descriptor


def timestamp(nanoseconds: int | None = None) -> str:
    """A moment (now) in RFC 3339, in UTC."""
    moment = time.time_ns() if nanoseconds is None else nanoseconds
    seconds, rest = divmod(moment, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


def write_whole(path: str, data: bytes, mode: int) -> None:
    """Write a file that is there whole or not at all."""
    directory, _, name = path.rpartition("/")
    aside = f"{directory}/.{name}.{os.getpid()}"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
    os.rename(aside, path)
