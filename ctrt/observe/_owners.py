"""Whose container a process is in, without asking any engine's daemon.

Engines leave their names where everybody can read them: in the paths of cgroups, in the command
line of the small process that waits for a container (conmon, containerd-shim), and in their
state directories. Sources: the engines' own naming of cgroups, as cited at each pattern.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from ctrt.linux.birth import start_time
from ctrt.observe._values import Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ctrt.observe._system import Process, System

_ID = r"[0-9a-f]{64}"
_UID = r"[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32}"
_LONGEST = 16 << 20


class Pod(NamedTuple):
    """A Kubernetes pod; name and namespace are None where no state directory tells them."""

    uid: str
    namespace: str | None
    name: str | None


class Owner(NamedTuple):
    """The engine that a container belongs to.

    `engine` is "docker", "podman", "containerd", "cri-o", "kubernetes", "lxc", "incus", "lxd",
    "systemd-nspawn" or "ctrt". `id` is the engine's name for the container, `name` the one that
    a person gave it (None when it is not written where one can read). `monitor` is True for the
    process that waits for a container instead of being in it. `evidence` is what told so.
    """

    engine: str
    id: str
    name: str | None
    pod: Pod | None
    monitor: bool
    evidence: str


def owners(system: System, *, root: str = "", stores: tuple[str, ...] = ()) -> dict[int, Owner]:
    """Whose container each process of a scan is in; a process of nobody's has no entry.

    By the cgroup first, then by the nearest ancestor that is an engine's monitor, and for ctrt
    by its state directories: rootless containers may have no cgroup. `root` is where the state
    directories are looked up, `stores` are root directories of ctrt besides the usual ones.
    """
    names = _Names(root, system)
    answers: dict[int, Owner] = {}
    asked: dict[object, Owner | None] = {}
    for pid, process in system.processes.items():
        groups = process.cgroups
        if groups is None or isinstance(groups, Unknown):
            continue
        if groups not in asked:
            asked[groups] = next(
                filter(None, (of_cgroup(group.path, names.find) for group in groups)), None
            )
        found = asked[groups]
        if found is not None:
            answers[pid] = found
    monitors = {pid: owner for pid, owner in _monitors(system, names) if pid not in answers}
    answers.update(monitors)
    ours = {pid: owner for pid, owner in _by_state(root, stores) if pid in system.processes}
    for pid, owner in ours.items():
        answers.setdefault(pid, owner)
    for pid in system.processes:
        if pid not in answers:
            above = _inherited(system, pid, answers, monitors)
            if above is not None:
                answers[pid] = above
    # What joined such a container later descends from somebody else.
    inside = {system.processes[pid].namespace("mnt"): owner for pid, owner in ours.items()}
    inside.pop(system.processes[system.me].namespace("mnt"), None)
    for pid, process in system.processes.items() if inside else ():
        joined = inside.get(process.namespace("mnt"))
        if joined is not None:
            answers.setdefault(pid, joined)
    return answers


def owner_of(pid: int, *, root: str = "", stores: tuple[str, ...] = ()) -> Owner | None:
    """Whose container one process is in, by what is known of it and of its ancestors alone.

    What has joined a container of ctrt that has no cgroup is not found; `owners` finds it.
    """
    from ctrt.observe._scan import ancestry

    seen = ancestry(pid)
    return owners(seen, root=root, stores=stores).get(pid) if seen.me in seen.processes else None


_PATTERNS: tuple[tuple[str, bool, re.Pattern[str]], ...] = tuple(
    (engine, monitor, re.compile(pattern))
    for engine, monitor, pattern in (
        # CRI-O: pinns and conmon, then the container; systemd and cgroupfs drivers.
        ("cri-o", True, rf"crio-conmon-(?P<id>{_ID})"),
        ("cri-o", False, rf"crio-(?P<id>{_ID})"),
        # libpod: libpod-ID.scope below machine.slice or user.slice, or libpod_parent/libpod-ID.
        ("podman", True, rf"libpod-conmon-(?P<id>{_ID})"),
        ("podman", False, rf"libpod-(?P<id>{_ID})"),
        # moby: docker-ID.scope below system.slice (systemd), /docker/ID (cgroupfs).
        ("docker", False, rf"docker[-/](?P<id>{_ID})"),
        ("containerd", False, rf"cri-containerd[-:](?P<id>{_ID})"),
        # lxc.payload.NAME and lxc.monitor.NAME (LXC 4), /lxc/NAME before.
        ("lxc", True, r"/lxc\.monitor[./](?P<id>[^/]+)"),
        ("lxc", False, r"/lxc\.payload[./](?P<id>[^/]+)"),
        ("lxc", False, r"/lxc/(?P<id>[^/]+)"),
        # systemd-nspawn@NAME.service/payload, or machine-NAME.scope (systemd-machined).
        ("systemd-nspawn", False, r"systemd-nspawn@(?P<id>[^/]+)\.service"),
        ("systemd-nspawn", False, r"machine\.slice/machine-(?P<id>[^/]+)\.scope"),
        ("ctrt", False, r"/ctrt/(?P<id>[^/]+)-[0-9a-f]{8}(?=/|$)"),
    )
)
# kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/..., or
# kubepods/burstable/podUID/ID: the kubelet's two cgroup drivers.
_POD = re.compile(rf"/kubepods(?:\.slice|-|/).*?pod(?P<uid>{_UID})(?P<rest>[^/]*(?:/.*)?)$")
_LAST_ID = re.compile(rf"(?:^|[/:-])(?P<id>{_ID})(?:\.scope)?(?:/|$)")


def of_cgroup(
    path: str, name_of: Callable[[str, str], str | None] = lambda _engine, _id: None
) -> Owner | None:
    """Whose container a cgroup is, by its path; None for nobody's.

    `name_of(engine, id)` finds the name that a person gave to a container.
    """
    pod = _POD.search(path)
    for engine, monitor, pattern in _PATTERNS:
        match = pattern.search(path)
        if match is not None:
            number = match["id"]
            if engine == "systemd-nspawn":
                number = _unescaped(number)
            if engine == "lxc":
                engine = name_of("which lxc", number) or "lxc"  # noqa: PLW2901
            named = name_of(engine, number) or (name_of("of a pod", number) if pod else None)
            return Owner(
                engine,
                number,
                named,
                _pod(pod["uid"], name_of) if pod else None,
                monitor,
                f"cgroup {path}",
            )
    if pod:
        last = _LAST_ID.search(pod["rest"])
        number = last["id"] if last else ""
        named = name_of("of a pod", number) if number else None
        return Owner(
            "kubernetes", number, named, _pod(pod["uid"], name_of), False, f"cgroup {path}"
        )
    return None


def _pod(uid: str, name_of: Callable[[str, str], str | None]) -> Pod:
    uid = uid.replace("_", "-")
    full = name_of("pod", uid)
    namespace, _, name = (full or "").partition("_")
    return Pod(uid, namespace or None, name or None)


def _unescaped(unit: str) -> str:
    r"""A systemd unit's instance name: \\x2d stands for a dash (systemd.unit(5))."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), unit)


def _option(words: Iterable[str], *names: str) -> str | None:
    waiting = False
    for word in words:
        if waiting:
            return word
        waiting = word in names
    return None


def _monitors(system: System, names: _Names) -> Iterable[tuple[int, Owner]]:
    """The processes that wait for a container, by their command lines."""
    for pid, process in system.processes.items():
        words = process.command
        if not words or isinstance(words, Unknown):
            continue
        program = os.path.basename(words[0])
        evidence = f"command of process {pid}: {program}"
        if program == "conmon":
            number = _option(words, "-c", "--cid")
            runs = " ".join(words)
            engine = "cri-o" if "/crio" in runs else "podman"
            if number:
                name = _option(words, "-n", "--name") or names.find(engine, number)
                yield pid, Owner(engine, number, name, None, True, evidence)
        elif program.startswith("containerd-shim"):
            number = _option(words, "-id", "--id")
            space = _option(words, "-namespace", "--namespace")
            engine = "docker" if space == "moby" else "containerd"
            if number:
                name = names.find(engine, number)
                yield pid, Owner(engine, number, name, None, True, evidence)
        elif program == "systemd-nspawn":
            machine = next((w[10:] for w in words if w.startswith("--machine=")), None)
            machine = machine or _option(words, "-M", "--machine") or ""
            yield pid, Owner("systemd-nspawn", machine, machine or None, None, True, evidence)


def _inherited(
    system: System, pid: int, answers: dict[int, Owner], monitors: dict[int, Owner]
) -> Owner | None:
    """The owner by the nearest ancestor that has one, if that is a monitor or its container."""
    at = pid
    for _ in range(64):
        process: Process | None = system.processes.get(at)
        if process is None or process.status is None or isinstance(process.status, Unknown):
            return None
        at = process.status.parent
        if at in monitors:
            evidence = f"descends from process {at}"
            return monitors[at]._replace(monitor=False, evidence=evidence)
        if at in answers and not answers[at].evidence.startswith("cgroup"):
            return answers[at]
    return None


def _by_state(root: str, stores: tuple[str, ...]) -> Iterable[tuple[int, Owner]]:
    """The first processes of ctrt's containers, by what ctrt and ctrt-runtime write down.

    The journal of a container begins with the pid, and is locked while somebody looks after it.
    """
    usual = (f"{root}/var/lib/ctrt", f"{root}{_data_home()}/ctrt")
    for store in dict.fromkeys((*stores, *usual)):
        place = f"{store}/containers"
        for name in _entries(place):
            pid = _of_journal(f"{place}/{name}/journal")
            if pid:
                yield pid, Owner("ctrt", name, name, None, False, f"journal of {name}")
    for place in ("/run/ctrt-runtime", f"{os.environ.get('XDG_RUNTIME_DIR', '')}/ctrt-runtime"):
        for name in _entries(root + place):
            try:
                with open(f"{root}{place}/{name}/state.json", "rb") as file:
                    state = json.loads(file.read(_LONGEST))
                pid, begun = int(state["pid"]), int(state["start_time"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            # A pid may be somebody else's by now; with its start time it is not.
            if start_time(pid) == begun:
                yield pid, Owner("ctrt", name, name, None, False, f"state of {name}")


def _data_home() -> str:
    return os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")


def _entries(place: str) -> list[str]:
    try:
        return sorted(os.listdir(place))
    except OSError:
        return []


def _of_journal(path: str) -> int:
    """The pid in a journal that is locked; 0 when there is none, or nobody holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        number = os.read(descriptor, 16).strip()
        return int(number) if number.isdigit() else 0
    finally:
        os.close(descriptor)
    return 0


class _Names:
    """The names that people gave to containers, from the state directories of engines."""

    def __init__(self, root: str, system: System) -> None:
        self.root = root
        self.system = system
        self.known: dict[tuple[str, str], str | None] = {}
        self.podman: dict[str, str] | None = None
        self.pods: dict[str, str] | None = None
        self.in_pods: dict[str, str] | None = None
        self.commands: dict[str, str] | None = None

    def find(self, engine: str, number: str) -> str | None:
        if (engine, number) not in self.known:
            self.known[engine, number] = self._look(engine, number)
        return self.known[engine, number]

    def _look(self, engine: str, number: str) -> str | None:
        if engine == "docker":
            for place in ("/var/lib", _data_home()):  # root's, and that of this user's own daemon
                found = self._json(f"{place}/docker/containers/{number}/config.v2.json")
                name = found.get("Name") if isinstance(found, dict) else None
                if name:
                    return str(name).lstrip("/")
            return None
        if engine in ("podman", "cri-o"):
            if self.podman is None:
                self.podman = self._containers_storage()
            return self.podman.get(number) or self._of_conmon(number)
        if engine == "pod":
            if self.pods is None:
                self.pods = self._pod_names()
            return self.pods.get(number)
        if engine == "of a pod":
            if self.in_pods is None:
                self.in_pods = self._pod_containers()
            return self.in_pods.get(number)
        if engine == "which lxc":
            name = number.partition("_")[2] or number
            for candidate, directory in (
                ("incus", "/var/lib/incus/containers"),
                ("lxd", "/var/snap/lxd/common/lxd/containers"),
                ("lxd", "/var/lib/lxd/containers"),
            ):
                if any(os.path.lexists(f"{self.root}{directory}/{n}") for n in (number, name)):
                    return candidate
            return None
        if engine in ("lxc", "incus", "lxd", "systemd-nspawn", "ctrt"):
            return number
        return None

    def _of_conmon(self, number: str) -> str | None:
        """The name in the command line of the container's conmon: its -n option."""
        if self.commands is None:
            self.commands = {}
            for process in self.system.processes.values():
                words = process.command
                if not words or isinstance(words, Unknown):
                    continue
                cid, name = _option(words, "-c", "--cid"), _option(words, "-n", "--name")
                if os.path.basename(words[0]) == "conmon" and cid and name:
                    self.commands[cid] = name
        return self.commands.get(number)

    def _containers_storage(self) -> dict[str, str]:
        """containers/storage: */overlay-containers/containers.json, of root and of this user."""
        names = {}
        places = [f"{self.root}/var/lib/containers/storage"]
        places.append(f"{self.root}{_data_home()}/containers/storage")
        for place in places:
            for driver in ("overlay", "vfs", "btrfs"):
                for file in ("containers.json", "volatile-containers.json"):
                    listed = self._json(f"{place}/{driver}-containers/{file}", prefixed=True)
                    for entry in listed if isinstance(listed, list) else ():
                        if isinstance(entry, dict) and entry.get("names"):
                            names[str(entry.get("id"))] = str(entry["names"][0])
        return names

    def _pod_names(self) -> dict[str, str]:
        """The kubelet's log directories: /var/log/pods/NAMESPACE_NAME_UID."""
        try:
            entries = os.listdir(f"{self.root}/var/log/pods")
        except OSError:
            return {}
        split = [entry.rsplit("_", 1) for entry in entries if entry.count("_") >= 2]
        return {uid: full for full, uid in split}

    def _pod_containers(self) -> dict[str, str]:
        """The kubelet's links to logs: /var/log/containers/POD_NAMESPACE_CONTAINER-ID.log."""
        found = {}
        for entry in _entries(f"{self.root}/var/log/containers"):
            name, _, number = entry.removesuffix(".log").rpartition("-")
            if name.count("_") == 2:
                found[number] = name.rpartition("_")[2]
        return found

    def _json(self, path: str, *, prefixed: bool = False) -> object:
        try:
            with open(path if prefixed else self.root + path, "rb") as file:
                return json.loads(file.read(_LONGEST))
        except (OSError, ValueError):
            return None
