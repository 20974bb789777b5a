"""The scan: one pass over /proc, then a question to the kernel for each namespace found.

A pass over thousands of processes is a matter of microseconds for each call, so the calls are
chosen: readlink(2) below a descriptor of /proc/PID/ns is the cheapest way to a namespace's number,
processes with the same eight numbers share what follows from them, and whatever repeats (the
text of /proc/PID/cgroup) is parsed once. Everything else is asked once for each namespace.

Source: namespaces(7), ioctl_nsfs(2), proc(5); measured in tests/benchmarks/seeing.py.
"""

from __future__ import annotations

import errno
import gc
import os
import time
from typing import TYPE_CHECKING

from ctrt.linux import mountinfo, mounttree, namespaces, processes
from ctrt.linux.namespaces import INITIAL, KINDS, Key
from ctrt.observe import _status
from ctrt.observe._system import Holder, MountTable, Process, Space, System, Unseen
from ctrt.observe._values import ENDED, NOT_ALLOWED, ZOMBIE, Unknown, without

if TYPE_CHECKING:
    from ctrt.linux.processes import Cgroup, IdRange, Status

_OUTSIDE = Unknown("it lies outside what may be seen from here")
_NOBODY = Unknown("no process of it could be asked")
_LARGEST = 8192
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_KINDS = frozenset(kind.encode() for kind in KINDS)
_INVISIBLE = frozenset(("hidepid=2", "hidepid=invisible", "hidepid=4", "hidepid=ptraceable"))
_CHILDREN = {kind: f"{kind}_for_children".encode() for kind in ("pid", "time")}

Keys = tuple["Key | Unknown", ...]


def scan(*, details: bool = True) -> System:
    """Look at every namespace, process and mount of the system.

    With `details` each process is asked for its status, command, cgroups, threads and
    descriptors too; without, for its namespaces only, which takes a third of the time. Then
    namespaces that only a thread, a descriptor or a socket keeps alive are not found.

    Nothing raises because of what may not be read or has ended meanwhile: it is `Unknown` in
    its place, or named in `System.unseen`.
    """
    collecting = gc.isenabled()
    # A hundred thousand small tuples that all stay: looking for garbage among them is wasted.
    gc.disable()
    try:
        return _Scan(details).run()
    finally:
        if collecting:
            gc.enable()


def ancestry(pid: int) -> System:
    """A process and those that it descends from, in detail, with the one that looks; nothing else.

    Namespaces are not described: `System.spaces` is empty.
    """
    look = _Scan(True)
    try:
        for first in (os.getpid(), pid):
            at = first
            while at > 0 and at not in look.processes:
                look.examine(at)
                found = look.processes.get(at)
                known = found is not None and not isinstance(found.status, Unknown)
                at = found.status.parent if known and found and found.status else 0  # type: ignore[union-attr]
    finally:
        os.close(look.proc)
    return System(os.getpid(), time.time(), {}, look.processes, {}, tuple(look.gone), ())


class _Scan:
    """What is known so far in one scan."""

    def __init__(self, details: bool) -> None:
        self.details = details
        self.device = namespaces.device()
        self.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.keys: dict[bytes, Key] = {}  # by the text of a link, as in "mnt:[4026531832]"
        self.kinds: dict[Key, str] = {}
        self.memberships: dict[tuple[bytes, ...], tuple[Keys, list[int]]] = {}
        self.processes: dict[int, Process] = {}
        self.cgroups: dict[bytes, tuple[Cgroup, ...]] = {}
        self.commands: dict[bytes, tuple[str, ...]] = {}
        self.doors: dict[Key, str] = {}  # a path by which a namespace can be opened
        self.members: dict[Key, list[int]] = {}
        self.holders: dict[Key, list[Holder]] = {}
        self.described: dict[Key, Space] = {}
        self.counts: dict[Key, mounttree.MountNamespaceInfo] = {}
        self.tables: dict[Key, MountTable | Unknown] = {}
        self.sockets: dict[bytes, tuple[int, int]] = {}
        self.gone: list[int] = []
        self.refused: dict[tuple[str, str], list[int]] = {}

    def run(self) -> System:
        moment = time.time()
        try:
            names = [name for name in os.listdir("/proc") if name.isdigit()]
            look = self._in_detail if self.details else self._namespaces_only
            for name in names:
                look(name)
            self._fill_members()
            if self.details:
                self._ask_sockets()
            self._describe_all()
            self._read_tables()
            self._without_process()
            self._bind_mounts()
            self._keep_alive()
            self._hidden_processes()
        finally:
            os.close(self.proc)
        spaces = {}
        for key, space in self.described.items():
            members = self.members.get(key, ())
            spaces[key] = space._replace(
                processes=tuple(members), holders=tuple(self.holders.get(key, ()))
            )
        return System(
            os.getpid(),
            moment,
            spaces,
            self.processes,
            self.tables,
            tuple(self.gone),
            tuple(
                Unseen(what, tuple(sorted(pids)), reason)
                for (what, reason), pids in self.refused.items()
            ),
        )

    # --- processes --------------------------------------------------------------------------

    def _namespaces_only(self, name: str) -> None:
        keys = self._namespaces_of(name)
        if keys is not None:
            pid = int(name)
            self.processes[pid] = Process(pid, keys, None, None, None, (), None, None)

    def _namespaces_of(self, base: str) -> Keys | None:
        """The eight namespaces of a process (or "PID/task/TID"); None when it has ended."""
        try:
            place = os.open(base + "/ns", _PLACE, dir_fd=self.proc)
        except PermissionError:
            return self._closed(base)
        except OSError:
            return self._one_by_one(base)
        try:
            return self._linked(base, place)
        finally:
            os.close(place)

    def _closed(self, base: str) -> Keys:
        """The namespaces of a process that may not be looked into."""
        self._refuse("namespaces", base, NOT_ALLOWED.reason)
        return (NOT_ALLOWED,) * len(KINDS)

    def _linked(self, base: str, place: int) -> Keys | None:
        """The same by a descriptor of its ns directory: one walk to it instead of eight."""
        link = os.readlink
        try:
            links = (
                link(b"user", dir_fd=place),
                link(b"pid", dir_fd=place),
                link(b"mnt", dir_fd=place),
                link(b"net", dir_fd=place),
                link(b"uts", dir_fd=place),
                link(b"ipc", dir_fd=place),
                link(b"cgroup", dir_fd=place),
                link(b"time", dir_fd=place),
            )
        except PermissionError:
            return self._closed(base)
        except OSError:
            return self._one_by_one(base)
        known = self.memberships.get(links)
        if known is None:
            known = tuple(self._key(link) for link in links), []
            self.memberships[links] = known
        if base.isdigit():
            known[1].append(int(base))
        return known[0]

    def _one_by_one(self, base: str) -> Keys | None:
        """What is left of a process that is ending, or all that an old kernel has."""
        state = b""
        try:
            state = self._read(f"{base}/stat").rpartition(b") ")[2][:1]
        except OSError:
            pass
        if not state:
            if base.isdigit():
                self.gone.append(int(base))
            return None
        ended = state in (b"Z", b"X")
        found: list[Key | Unknown] = []
        for kind in KINDS:
            try:
                link = os.readlink(f"{base}/ns/{kind}".encode(), dir_fd=self.proc)
                # A zombie keeps no namespace of the other kinds alive, and nobody in these.
                found.append(ZOMBIE if ended else self._key(link))
            except PermissionError:
                found.append(ZOMBIE if ended else NOT_ALLOWED)
            except OSError:
                found.append(ZOMBIE if ended else without(kind))
        if ended:
            self._refuse("namespaces", base, ZOMBIE.reason)
        elif base.isdigit():
            for key in found:
                if not isinstance(key, Unknown):
                    self.members.setdefault(key, []).append(int(base))
                    self.doors.setdefault(key, f"/proc/{base}/ns/{self.kinds[key]}")
        return tuple(found)

    def _key(self, link: bytes) -> Key:
        key = self.keys.get(link)
        if key is None:
            kind, _, rest = link.partition(b":[")
            key = self.keys[link] = Key(self.device, int(rest[:-1]))
            self.kinds[key] = kind.decode()
        return key

    def examine(self, pid: int) -> None:
        """Ask one process for everything; one that there is not is in `gone` afterwards."""
        self._in_detail(str(pid))

    def _in_detail(self, name: str) -> None:
        try:
            place = os.open(name + "/ns", _PLACE, dir_fd=self.proc)
        except PermissionError:  # proc(5): hidepid
            self._examine(name, self._closed(name), -1)
            return
        except OSError:
            self.gone.append(int(name))
            return
        try:
            keys = self._linked(name, place)
            if keys is not None:
                self._examine(name, keys, place)
        finally:
            os.close(place)

    def _examine(self, name: str, keys: Keys, place: int) -> None:
        """All the rest about a process; `place` is its ns directory."""
        pid = int(name)
        status: Status | Unknown
        try:
            status = _status.parse(self._read(name + "/status"))
        except PermissionError:
            status = NOT_ALLOWED
        except (OSError, ValueError):
            status = ENDED
        command: tuple[str, ...] | Unknown
        try:
            data = self._read(name + "/cmdline", whole=False)
            command = self.commands.get(data) or self._command(data)
        except PermissionError:
            command = NOT_ALLOWED
        except OSError:
            command = ENDED
        cgroups: tuple[Cgroup, ...] | Unknown
        try:
            data = self._read(name + "/cgroup")
            known = self.cgroups.get(data)
            if known is None:
                known = self.cgroups[data] = processes.parse_cgroups(os.fsdecode(data))
            cgroups = known
        except PermissionError:
            cgroups = NOT_ALLOWED
        except OSError:
            cgroups = ENDED
        threads: tuple[tuple[int, Keys], ...] = ()
        pid_next: Key | Unknown | None = None
        time_next: Key | Unknown | None = None
        if not isinstance(keys[0], Unknown):
            if not isinstance(status, Unknown) and status.threads > 1:
                threads = self._threads(name, keys)
            pid_next = self._for_children(name, pid, "pid", keys[1], place)
            time_next = self._for_children(name, pid, "time", keys[7], place)
            self._descriptors(name, pid)
        self.processes[pid] = Process._make(
            (pid, keys, status, command, cgroups, threads, pid_next, time_next)
        )

    def _command(self, data: bytes) -> tuple[str, ...]:
        """The words of a command line; many processes have the same one."""
        words = tuple(os.fsdecode(data.removesuffix(b"\0")).split("\0")) if data else ()
        self.commands[data] = words
        return words

    def _read(self, path: str, *, whole: bool = True) -> bytes:
        """A file below /proc; its beginning only unless `whole`."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc)
        try:
            data = os.read(descriptor, _LARGEST)
            if len(data) == _LARGEST and whole:
                while more := os.read(descriptor, 1 << 18):
                    data += more
                    if len(data) > processes.LARGEST:
                        raise OSError(errno.EFBIG, "too long", path)
            return data
        finally:
            os.close(descriptor)

    def _threads(self, name: str, keys: Keys) -> tuple[tuple[int, Keys], ...]:
        """The threads of a process that are not in all of its namespaces."""
        try:
            tids = os.listdir(f"/proc/{name}/task")
        except OSError:
            return ()
        loose = []
        for tid in tids:
            if tid == name:
                continue
            found = self._namespaces_of(f"{name}/task/{tid}")
            if found is None or found == keys or isinstance(found[0], Unknown):
                continue
            loose.append((int(tid), found))
            for kind, own, key in zip(KINDS, keys, found, strict=True):
                if key != own and not isinstance(key, Unknown):
                    self.doors.setdefault(key, f"/proc/{name}/task/{tid}/ns/{kind}")
                    self._hold(key, Holder("thread", int(name), int(tid)))
        return tuple(loose)

    def _for_children(
        self, name: str, pid: int, kind: str, own: Key | Unknown, place: int
    ) -> Key | Unknown | None:
        """The namespace that the next child will be in, where that is another one."""
        try:
            key = self._key(os.readlink(_CHILDREN[kind], dir_fd=place))
        except FileNotFoundError:
            if kind == "pid" and not isinstance(own, Unknown):
                waiting = Unknown("its first process is yet to come, and shows it")
                if os.path.lexists(f"/proc/{name}/ns/pid_for_children"):
                    self._refuse("pid namespace for children", name, waiting.reason)
                    return waiting
            return None
        except OSError:
            return None
        if key == own:
            return None
        self.doors.setdefault(key, f"/proc/{name}/ns/{kind}_for_children")
        self._hold(key, Holder("for children", pid))
        return key

    def _descriptors(self, name: str, pid: int) -> None:
        """The descriptors of a process that are of namespaces; sockets are asked later."""
        proc = self.proc
        at = name.encode() + b"/fd/"
        try:
            for number in os.listdir(b"/proc/" + at):
                try:
                    link = os.readlink(at + number, dir_fd=proc)
                except FileNotFoundError:
                    continue
                if link[:1] == b"/":
                    continue
                kind = link.partition(b":[")[0]
                if kind == b"socket":
                    self.sockets.setdefault(link, (pid, int(number)))
                elif kind in _KINDS:
                    key = self._key(link)
                    self.doors.setdefault(key, f"/proc/{name}/fd/{int(number)}")
                    self._hold(key, Holder("descriptor", pid, int(number)))
        except PermissionError:
            self._refuse("descriptors", name, NOT_ALLOWED.reason)
        except OSError:
            return

    def _fill_members(self) -> None:
        """Who is in which namespace, and one of them as the door to it."""
        for keys, pids in self.memberships.values():
            if not pids:
                continue
            for kind, key in zip(KINDS, keys, strict=True):
                if not isinstance(key, Unknown):
                    self.members.setdefault(key, []).extend(pids)
                    self.doors[key] = f"/proc/{pids[0]}/ns/{kind}"
        for pids in self.members.values():
            pids.sort()

    # --- sockets ----------------------------------------------------------------------------

    def _ask_sockets(self) -> None:
        """The network namespaces of sockets, where they are not their process's own."""
        by_process: dict[int, list[int]] = {}
        for pid, number in self.sockets.values():
            by_process.setdefault(pid, []).append(number)
        for pid, numbers in by_process.items():
            try:
                own = self.processes[pid].namespaces[3]
                pidfd = os.pidfd_open(pid)
            except (KeyError, OSError):
                continue
            try:
                for number in numbers:
                    key = self._ask_socket(pidfd, pid, number)
                    if key is not None and key != own:
                        self._hold(key, Holder("socket", pid, number))
            finally:
                os.close(pidfd)

    def _ask_socket(self, pidfd: int, pid: int, number: int) -> Key | None:
        space = -1
        try:
            copy = mounttree.borrow(pidfd, number)
            try:
                space = namespaces.of_socket(copy)
            finally:
                os.close(copy)
            return self._take(space, "net")
        except PermissionError:
            self._refuse("network namespaces of sockets", str(pid), NOT_ALLOWED.reason)
        except OSError:
            pass  # it was closed meanwhile, or the kernel is older than 5.6
        finally:
            if space >= 0:
                os.close(space)
        return None

    # --- namespaces -------------------------------------------------------------------------

    def _describe_all(self) -> None:
        for key in list(self.kinds):
            if key in self.described:
                continue
            try:
                door = self.doors[key]
                # What is in a process's ns directory is a namespace; its descriptors may change.
                if "/fd/" in door:
                    descriptor = namespaces.open_file(door)
                else:
                    descriptor = os.open(door, os.O_RDONLY | os.O_CLOEXEC)
            except (OSError, KeyError):
                # Its last process ended since; another may still be there.
                self._describe_by_others(key)
                continue
            try:
                taken = self._take(descriptor, namespaces.kind_of(descriptor))
            finally:
                os.close(descriptor)
            if taken != key:  # who held it is elsewhere by now
                self._describe_by_others(key)

    def _describe_by_others(self, key: Key) -> None:
        kind = self.kinds[key]
        for pid in self.members.get(key, ())[:20]:
            try:
                descriptor = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                if self._take(descriptor, kind) == key:
                    return
            finally:
                os.close(descriptor)
        initial = key.inode == INITIAL[kind]
        self.described[key] = _blank(kind, key, initial, ENDED)

    def _take(self, descriptor: int, kind: str) -> Key:
        """Describe the namespace of a descriptor, and those above it and its owners."""
        found = os.fstat(descriptor)
        key = Key(found.st_dev, found.st_ino)
        if key in self.described:
            return key
        self.kinds[key] = kind
        initial = key.inode == INITIAL[kind]
        owner: Key | Unknown | None = None
        parent: Key | Unknown | None = None
        owner_uid: int | Unknown | None = None
        uid_map: tuple[IdRange, ...] | Unknown | None = None
        gid_map: tuple[IdRange, ...] | Unknown | None = None
        if kind in ("user", "pid") and not initial:
            parent = self._above(namespaces.parent_of(descriptor), kind)
        if kind == "user":
            owner = parent
            uid = namespaces.owner_uid_of(descriptor)
            owner_uid = _OUTSIDE if uid is None else uid
            uid_map, gid_map = self._maps(key)
        else:
            owner = self._above(namespaces.owner_of(descriptor), "user")
        if kind == "mnt":
            try:
                self.counts[key] = mounttree.info(descriptor)
            except OSError:
                pass  # before Linux 6.12: whether a table is complete cannot be told
        self.described[key] = Space(
            kind,
            key,
            namespaces.id_of(descriptor),
            initial,
            owner,
            parent,
            owner_uid,
            uid_map,
            gid_map,
            (),
            (),
        )
        return key

    def _above(self, descriptor: int, kind: str) -> Key | Unknown:
        if descriptor < 0:
            return _OUTSIDE
        try:
            return self._take(descriptor, kind)
        finally:
            os.close(descriptor)

    def _maps(self, key: Key) -> tuple[tuple[IdRange, ...] | Unknown, ...]:
        """The id maps of a user namespace, by one of the processes in it."""
        for pid in self.members.get(key, ())[:5]:
            try:
                maps = tuple(
                    processes.parse_id_map(os.fsdecode(self._read(f"{pid}/{kind}_map")))
                    for kind in ("uid", "gid")
                )
                # The process may have moved on or ended, and its number be somebody else's.
                if namespaces.identify(pid, "user") == key:
                    return maps
            except (OSError, ValueError):
                continue
        return (_NOBODY, _NOBODY)

    # --- mounts -----------------------------------------------------------------------------

    def _read_tables(self) -> None:
        for key in [key for key, space in self.described.items() if space.kind == "mnt"]:
            self.tables[key] = self._table(key)

    def _table(self, key: Key) -> MountTable | Unknown:
        """The mounts of a namespace: of a process in it with its whole root, or by number."""
        size = self.counts.get(key)
        best: MountTable | None = None
        for pid in self.members.get(key, ())[:8]:
            try:
                mounts = mountinfo.read(pid)
            except (OSError, ValueError):
                continue
            complete = size is None or len(mounts) >= size.mounts
            if best is None or len(mounts) > len(best.mounts):
                best = MountTable(key, size.id if size else 0, mounts, "mountinfo", pid, complete)
            if complete:
                return best
            numbered = self._by_number(key)
            if numbered is not None:
                return numbered
        if best is None:
            best = self._by_number(key)
        return best or _NOBODY

    def _by_number(self, key: Key) -> MountTable | None:
        size = self.counts.get(key)
        if size is None:
            return None
        try:
            mounts = tuple(found.mount for found in mounttree.read(size.id))
        except OSError:
            return None
        return MountTable(key, size.id, mounts, "statmount", 0, True)

    def _without_process(self) -> None:
        """Mount namespaces that only a descriptor or a mount somewhere keeps alive."""
        try:
            own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            for descriptor in mounttree.namespaces_from(own):
                found = os.fstat(descriptor)
                key = Key(found.st_dev, found.st_ino)
                if key not in self.described:
                    self._take(descriptor, "mnt")
                    self.tables[key] = self._by_number(key) or _NOBODY
        except PermissionError:
            reason = "that takes CAP_SYS_ADMIN in the user namespaces that own them"
            self._refuse("mount namespaces without a process", "", reason)
        except OSError as error:
            reason = "this kernel cannot list them (Linux 6.12 can)"
            if error.errno not in (errno.ENOTTY, errno.EINVAL):
                reason = error.strerror or str(error)
            self._refuse("mount namespaces without a process", "", reason)
        finally:
            os.close(own)

    def _bind_mounts(self) -> None:
        """Namespaces whose files are mounted somewhere, in whichever mount namespace."""
        seen: set[Key] = set()
        waiting = list(self.tables)
        known = len(self.described)
        while waiting:
            within = waiting.pop()
            seen.add(within)
            table = self.tables[within]
            if isinstance(table, Unknown):
                continue
            for mount in table.mounts:
                if mount.fstype != "nsfs":
                    continue
                kind, _, number = mount.root.partition(":[")
                if kind not in INITIAL or not number[:-1].isdigit():
                    continue
                key = Key(self.device, int(number[:-1]))
                if key not in self.described:
                    self._open_mounted(key, kind, within, mount.target)
                self._hold(key, Holder("mount", 0, 0, mount.target, within))
            if len(self.described) == known:
                continue
            # A mount namespace may be among those that have just been found.
            known = len(self.described)
            for key in [k for k, s in self.described.items() if s.kind == "mnt"]:
                if key not in self.tables:
                    self.tables[key] = self._table(key)
                    waiting.append(key)

    def _open_mounted(self, key: Key, kind: str, within: Key, target: str) -> None:
        """Describe a namespace by the place it is mounted at, as a process there sees it."""
        for pid in self.members.get(within, ())[:5]:
            try:
                descriptor = namespaces.open_file(f"/proc/{pid}/root{target}")
            except OSError:
                continue
            try:
                found = os.fstat(descriptor)
                if (found.st_dev, found.st_ino) == key:
                    self._take(descriptor, kind)
                    return
            finally:
                os.close(descriptor)
        covered = Unknown("the mount that keeps it cannot be reached from here")
        self.described[key] = _blank(kind, key, key.inode == INITIAL[kind], covered)

    def _hidden_processes(self) -> None:
        """Whether /proc leaves out other users' processes: proc(5), hidepid."""
        me = self.processes.get(os.getpid())
        table = self.tables.get(me.namespaces[2]) if me else None  # type: ignore[arg-type]
        if os.geteuid() == 0 or not isinstance(table, MountTable):
            return
        options = [m.super_options for m in table.mounts if m.target == "/proc"][-1:]
        if any(word in _INVISIBLE for found in options for word in found):
            reason = "/proc is mounted with hidepid, and does not show them"
            self._refuse("processes of other users", "", reason)

    # --- what keeps what ---------------------------------------------------------------------

    def _keep_alive(self) -> None:
        for key, space in self.described.items():
            if isinstance(space.parent, Key):
                self._hold(space.parent, Holder("child", within=key))
            if space.kind != "user" and isinstance(space.owner, Key):
                self._hold(space.owner, Holder("owned", within=key))

    def _hold(self, key: Key, holder: Holder) -> None:
        self.holders.setdefault(key, []).append(holder)

    def _refuse(self, what: str, base: str, reason: str) -> None:
        pids = self.refused.setdefault((what, reason), [])
        if base.isdigit():
            pids.append(int(base))


def _blank(kind: str, key: Key, initial: bool, why: Unknown) -> Space:
    """A namespace of which nothing is known but that it is there."""
    user = kind == "user"
    return Space(
        kind,
        key,
        0,
        initial,
        None if user and initial else why,
        why if kind in ("user", "pid") and not initial else None,
        why if user else None,
        why if user else None,
        why if user else None,
        (),
        (),
    )
