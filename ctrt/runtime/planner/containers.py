"""The plan of a container's start, from an OCI runtime configuration."""

from __future__ import annotations

from ctrt.errors import CtrtError
from ctrt.runtime.plan import INSIDE, OUTSIDE, Plan, Step
from ctrt.runtime.planner import mounts, namespaces, process, roots
from ctrt.runtime.planner.roots import Directory, Layers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from ctrt.runtime.host import Host
    from ctrt.runtime.planner.namespaces import Extents

    Call = tuple[Any, ...]
    Config = dict[str, Any]

    class Cgroup(Protocol):
        """What is to be done for a container's cgroup, around the clone."""

        before: list[Step]
        after: list[Step]
        notes: tuple[str, ...]


def container(
    config: Config,
    host: Host,
    root: Layers | Directory,
    *,
    subject: str,
    seccomp: bytes | None = None,
    trace: bool = False,
    wait: bool = False,
    bundle: str = "",
    cgroup: Cgroup | None = None,
    terminal: bool = False,
    plain_lines: bool = False,
    pivot: bool = True,
    keyring: str | None = "",
) -> Plan:
    """The plan of a container's start.

    `config` is a valid OCI runtime configuration (`ctrt.oci.spec` checks one), `root` its root
    file system, `bundle` the directory that relative paths in it are meant from, `seccomp` the
    compiled filter of its profile, `subject` what the root file system is called in errors. With
    `wait` the process waits for its start (an OCI create). `cgroup` are the steps for its cgroup,
    `terminal` gives it a terminal of its own, which leaves line ends as they are with
    `plain_lines`. Without `pivot` the root is moved instead of pivoted, and where
    `keyring` is None the caller's session keyring stays; else it is the name of another.
    With `trace` the program stops at its first instruction, to be looked at. Raises CtrtError
    for what cannot be planned, naming the place in the configuration.
    """
    linux = config.get("linux") or {}
    what = config.get("process") or {}
    if linux.get("intelRdt"):
        raise CtrtError(
            "linux.intelRdt: ctrt does not set up Intel RDT (cache and memory bandwidth); "
            "remove it from the configuration"
        )
    spaces = namespaces.Spaces(linux)
    uid_map = namespaces.extents(linux.get("uidMappings"), "linux.uidMappings")
    gid_map = namespaces.extents(linux.get("gidMappings"), "linux.gidMappings")
    has_cgroup = cgroup is not None and bool(cgroup.before or cgroup.after)
    notes = [why for what, why in host.reasons.items() if what != "cgroup" or not has_cgroup]
    new_user = "user" in spaces.new
    if new_user and not (uid_map and gid_map) and not isinstance(root, Layers):
        raise CtrtError(
            "linux.uidMappings, linux.gidMappings: a new user namespace needs both, or no id is "
            "of any use in it"
        )
    late = []
    if linux.get("timeOffsets"):
        late.append("time")
    if "cgroup" in spaces.new and cgroup is not None and cgroup.after:
        late.append("cgroup")
    if "ipc" in spaces.new and spaces.user:
        late.append("ipc")
    spaces.late = tuple(late)
    opened, written = process.label_steps(what, linux, host)
    idmapped = isinstance(root, Layers) and new_user and host.idmapped_overlay
    owner = (uid_map[0][1], gid_map[0][1]) if idmapped and uid_map and gid_map else None

    steps = [*namespaces.open_joined(spaces), *opened[:1]]
    if isinstance(root, Layers):
        hostname = config.get("hostname") or ""
        steps.append(roots.container_directory(root, hostname, owner, uid_map, gid_map, host))
    into = None
    if cgroup is not None:
        notes += cgroup.notes
        steps += cgroup.before
        into = _opened_cgroup(cgroup.before)
    steps += process.agent_channel(linux, seccomp)
    made = namespaces.clone(spaces, into)
    steps.append(made[0])
    if new_user:
        steps.append(namespaces.id_maps(uid_map, gid_map, host))
    if cgroup is not None:
        steps += cgroup.after
    steps += process.oom_score(what, host, notes)
    steps += namespaces.net_devices(linux, host)
    if idmapped:
        assert isinstance(root, Layers)
        steps.append(roots.overlay(root, OUTSIDE, host, new_user, idmapped=True))
    place = "" if isinstance(root, Layers) else root.directory
    planned = mounts.Mounts(config, spaces, host, bundle, place)
    notes += planned.notes
    steps += planned.mapped_steps()
    steps += made[1:]
    if "cgroup" in late:
        steps.append(namespaces.cgroup_namespace())
    if "time" in late:
        steps.append(namespaces.time_offsets(linux))
    word = linux.get("rootfsPropagation") or None
    own = spaces.has("mount")
    if own:
        steps.append(roots.propagation(word, root))
    elif isinstance(root, Layers):
        raise CtrtError("linux.namespaces: a container needs a mount namespace of its own")
    if isinstance(root, Layers) and not idmapped:
        steps.append(roots.overlay(root, INSIDE, host, new_user, idmapped=False))
    steps += planned.open_steps()
    steps.append(roots.attach(root, own=own))
    # What podman's --group-add keep-groups asks of a runtime.
    keep = (config.get("annotations") or {}).get("run.oci.keep_original_groups") in ("1", "true")
    if spaces.user:
        steps.append(_become_root(host, keep, uid_map, gid_map))
    if "ipc" in late:
        steps.append(namespaces.ipc_namespace())
    steps += planned.attach
    steps += mounts.devices(config, spaces, host)
    steps += opened[1:]
    steps += namespaces.sysctls(linux)
    steps += _hooks_before_pivot(config)
    steps += planned.late_steps()
    steps += mounts.paths(linux)
    steps += namespaces.loopback(spaces)
    steps += namespaces.names(config)
    cwd = what.get("cwd") or "/"
    readonly = bool((config.get("root") or {}).get("readonly"))
    # The terminal is bound to /dev/console, which may have to be made first.
    steps += roots.pivot(cwd, word, pivot_root=pivot, readonly=readonly and not terminal, own=own)
    steps += process.limits(what, host, notes)
    steps += process.descriptors(what, terminal=terminal, plain_lines=plain_lines, bind=True)
    if terminal and readonly:
        steps.append(roots.read_only())
    before, last = process.identity(
        what,
        linux,
        host,
        notes,
        in_userns=spaces.user,
        seccomp=seccomp,
        keyring=keyring,
        label=written,
        keep_groups=keep,
    )
    steps += before
    if wait:
        steps += process.waiting(what)
    hooks = process.hooks(
        config,
        "startContainer",
        INSIDE,
        "programs of the container that come before its own",
        what.get("env") or (),
    )
    if hooks:
        # They have the filter, too, as with runc; the label is for the next exec alone.
        steps += [step for step in last if step not in written]
        last = [step for step in last if step in written]
    steps += hooks
    steps += last
    steps.append(process.program(what, linux, trace=trace, die=not wait))
    return Plan(steps, tuple(notes), subject)


def _opened_cgroup(steps: list[Step]) -> str | None:
    """The name of the cgroup v2 directory that the first process is born in, if one is opened."""
    for step in steps:
        for call in step.calls:
            if call[0] == "open_directory" and call[2] == "cgroup":
                return "cgroup"
    return None


def _become_root(host: Host, keep_groups: bool, uid_map: Extents, gid_map: Extents) -> Step:
    groups: tuple[int, ...] | None = ()
    if keep_groups or not namespaces.can_set_groups(host, gid_map):
        groups = None
    return Step(
        "become root inside",
        INSIDE,
        [("become", namespaces.first_id(uid_map), namespaces.first_id(gid_map), groups)],
        why="files made from here on belong to the container's root, not to the caller",
        source="user_namespaces(7)",
        needs="an id to be mapped",
    )


def _hooks_before_pivot(config: Config) -> list[Step]:
    return [
        step
        for kind, where, why in (
            ("prestart", OUTSIDE, "programs of the host that prepare the container, as of old"),
            ("createRuntime", OUTSIDE, "programs of the host that prepare the container"),
            ("createContainer", INSIDE, "programs of the host in the container's namespaces"),
        )
        for step in process.hooks(config, kind, where, why)
    ]
