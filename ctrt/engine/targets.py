"""What a person names: a process, one of our containers, another engine's, or a namespace."""

from __future__ import annotations

import os

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from ctrt.engine import Engine
    from ctrt.observe import Space, System
else:
    from ctrt.linux.values import NamedTuple


_ENGINES = (
    "ctrt", "podman", "docker", "pod", "containerd", "cri-o", "kubernetes", "incus", "lxc", "lxd",
    "systemd-nspawn",
)  # fmt: skip
_ALSO = {"crio": "cri-o", "nspawn": "systemd-nspawn", "k8s": "kubernetes"}


class Target(NamedTuple):
    """What a person means: a process, and what it is called in a title.

    `system` is the scan that found it, where one was needed for that.
    """

    pid: int
    title: str | None
    command: str | None = None
    system: System | None = None


def target_of(engine: Engine, word: str | None) -> Target:
    """The process that a word names; without a word that of the newest container.

    A word is a pid, "host" for this process, the name of one of our containers, ENGINE:NAME for
    another engine's (podman:web, docker:web, pod:NAMESPACE/NAME, ...), or a namespace's path.
    """
    if word is None:
        states = engine.states()
        if not states:
            raise CtrtError("graph: no container is running; name a pid, as in: ctrt graph 1")
        word = max(states, key=lambda state: int(state["pid"]))["name"]
    if word == "host":
        return Target(os.getpid(), "the host")
    if word.startswith("/"):
        return _namespace(word)
    kind, colon, name = word.partition(":")
    if colon:
        return _of_engine(engine, kind, name)
    try:
        pid = engine.pid_of(word)
    except CtrtError as error:
        raise _or_of_others(engine, word, error) from None
    if word.isdecimal():
        return Target(pid, _owned(engine, pid))
    state = next((s for s in engine.states() if s["name"] == word), None)
    if state is not None and not state["image"]:
        return Target(pid, f"Sandbox {word}")
    command = state["command"][0] if state else ""
    return Target(pid, f"Container {word}", os.path.basename(command) or None)


def _owned(engine: Engine, pid: int) -> str | None:
    """What a process is called as one of somebody's container; None as one of nobody's."""
    from ctrt import observe

    owner = observe.owner_of(pid, stores=(engine.root,))
    if owner is None or owner.monitor:
        return None
    name = owner.name or owner.id[:12]
    return f"Container {name}" if owner.engine == "ctrt" else f"{owner.engine} {name}"


def _or_of_others(engine: Engine, word: str, error: CtrtError) -> CtrtError:
    """The error, which names what other engines have by that name."""
    from ctrt.engine import others

    if not word or word.isdecimal():
        return error
    found = [name for name in others.names(engine) if name.partition(":")[2] == word]
    return CtrtError(f"{error}; do you mean {' or '.join(found)}?") if found else error


def _of_engine(engine: Engine, kind: str, name: str) -> Target:
    from ctrt import observe

    kind = _ALSO.get(kind, kind)
    if kind not in _ENGINES:
        raise CtrtError(f"{kind}:{name}: {kind!r} is no engine; known are {', '.join(_ENGINES)}")
    system = observe.scan()
    found: dict[str, int] = {}
    sandbox: Target | None = None
    for pid, owner in sorted(observe.owners(system, stores=(engine.root,)).items()):
        if owner.monitor:
            continue
        names = {owner.id, owner.id[:12], owner.name}
        if owner.engine == kind:
            found.setdefault(owner.name or owner.id[:12], pid)
        elif kind == "pod" and owner.pod is not None:
            names = {owner.pod.uid, owner.pod.name, f"{owner.pod.namespace}/{owner.pod.name}"}
            found.setdefault(owner.pod.name or owner.pod.uid, pid)
        else:
            continue
        if name in names:
            target = Target(pid, f"{kind} {name}", None, system)
            if kind != "pod" or not _holds_a_pod(system, pid):
                return target
            sandbox = sandbox or target
    if sandbox is not None:
        return sandbox
    there = f"there are {', '.join(found)}" if found else "none of its kind is running"
    raise CtrtError(f"there is no running container {kind}:{name}; {there}")


def _holds_a_pod(system: System, pid: int) -> bool:
    """Whether a process only holds the namespaces of its pod: the "pause" of Kubernetes."""
    command = system.processes[pid].command
    return isinstance(command, tuple) and os.path.basename("".join(command[:1])) == "pause"


def _namespace(path: str) -> Target:
    return inhabited(path, *space_at(path))


def inhabited(path: str, space: Space, system: System) -> Target:
    """The first process in a namespace."""
    if not space.processes:
        hint = "; only graph mounts can show it" if space.kind == "mnt" else ""
        raise CtrtError(f"no process is in the {space.kind} namespace at {path}{hint}")
    title = f"The {space.kind} namespace at {path}"
    return Target(space.processes[0], title, None, system)


def space_at(path: str) -> tuple[Space, System]:
    """The namespace whose file a path leads to, and the scan that it was found in."""
    from ctrt import observe

    try:
        there = os.stat(path)
    except OSError as error:
        raise CtrtError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    system = observe.scan()
    for key, space in system.spaces.items():
        if (there.st_dev, there.st_ino) == key:
            return space, system
    raise CtrtError(f"{path} is no namespace; name a file such as /proc/1/ns/net")
