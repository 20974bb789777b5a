"""The cgroup of a container: the steps that make it, and what can be done with it afterwards.

`plan()` says before anything runs where the cgroup will be and what is written there. Where there
is a cgroup v2 the first process is born in it (CLONE_INTO_CGROUP), which costs nothing, also on a
machine whose controllers are with v1: there v2 still counts, freezes and kills. The hierarchies
of v1 are joined after the clone, and only if a limit needs one of them: the first write to a
cgroup.procs after a pause costs 5 to 15 ms, those right after it next to nothing, so it is all
of them or none.
"""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py

from ctrt.errors import CtrtError
from ctrt.linux import cgroups, ospath
from ctrt.runtime.group import words
from ctrt.runtime.plan import OUTSIDE, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ctrt.linux.cgroups import Layout
    from ctrt.runtime import limits
    from ctrt.runtime.group import Group
    from ctrt.runtime.host import Host

    Config = dict[str, Any]
    Call = tuple[Any, ...]

_SPEC = "OCI runtime specification, config-linux.md, Control groups"
_EINVAL, _EBUSY = 22, 16
_WANTED = ("cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma")
"""What a cgroup v2 gets if it can be had: engines read their statistics."""
_V2_NAMES = {"blkio": "io"}
_LONGEST_PATH = 4096 - 256


class Cgroup:
    """What a plan needs of a cgroup.

    `before` and `after` are steps for before and after the clone. `descriptor` is the name under
    which `before` opens the cgroup v2 that the clone goes into, or None. `late` says that the
    process comes into (some of) its cgroups after the clone, so that a new cgroup namespace must be
    made after `after`. `state` is what `Group` takes; `notes` are what is left out, and why.
    """

    __slots__ = ("after", "before", "descriptor", "late", "notes", "state")

    def __init__(
        self,
        before: list[Step],
        after: list[Step],
        state: dict[str, Any],
        *,
        descriptor: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.before = before
        self.after = after
        self.state = state
        self.descriptor = descriptor
        self.late = any(step.where == OUTSIDE for step in after)
        self.notes = notes


def none(why: str = "") -> Cgroup:
    """No cgroup of its own: the container stays in the caller's."""
    return Cgroup([], [], {}, notes=(why,) if why else ())


def plan(
    config: Config,
    host: Host,
    *,
    systemd: bool = False,
    layout: Layout | None = None,
    name: str = "",
    mark: str = "",
) -> Cgroup:
    """Where a container's cgroup is, and the steps that make it.

    `linux.cgroupsPath` is taken from the root of the hierarchies, or with `systemd` as
    SLICE:PREFIX:NAME. `layout` is where this machine's cgroups are (read if not given), `name`
    the container's, for a configuration without a path, `mark` what tells the cgroup from another
    of its path (random if not given). Raises CtrtError for a limit that cannot be had here,
    naming its place; an ordinary user's limits are left out with a note instead.
    """
    linux = config.get("linux") or {}
    layout = layout or cgroups.layout()
    resources = linux.get("resources") or {}
    if systemd:
        return _systemd_plan(config, resources, host, layout, name, mark)
    path = _path(linux.get("cgroupsPath") or "", name, layout)
    notes: list[str] = []
    v2, v1 = _places(path, host, layout, notes, limited=bool(resources))
    where = _where(resources, v2, v1, layout, host, notes) if resources else {}
    if v2 and 1 not in where.values():
        v1 = {}
    if not v2 and not v1:
        return none("; ".join(notes))
    mark = mark or os.urandom(8).hex()
    state: dict[str, Any] = {"path": path, "mark": mark, "v2": v2, "v1": v1}
    before = [_make(mark, v2, v1, where, layout)]
    before += _equip(config, resources, where, v2, v1, notes)
    after = [_attach(tuple(dict.fromkeys(v1.values())))] if v1 else []
    return Cgroup(before, after, state, descriptor="cgroup" if v2 else None, notes=tuple(notes))


# --- where --------------------------------------------------------------------------------


def _path(text: str, name: str, layout: Layout) -> str:
    """The path of a container's cgroup, from the root of each hierarchy."""
    if not text:
        text = f"/ctrt/{name}" if name else ""
    if layout.v2 and text.startswith(f"{layout.v2}/"):
        text = text[len(layout.v2) :]
    # As if below the root, whatever ".." it has.
    path = ospath.normal(f"/{text}").replace("//", "/")
    if path == "/":
        raise CtrtError(
            f"linux.cgroupsPath is {text!r}, which is the root; "
            "a container needs a cgroup of its own"
        )
    # PATH_MAX, with room for the hierarchy before it and its files' names behind; NAME_MAX.
    names = ospath.encoded(path).split(b"/")
    if sum(map(len, names)) + len(names) > _LONGEST_PATH or max(map(len, names)) > 255:
        raise CtrtError("linux.cgroupsPath: file name too long: no cgroup can have it", status=1)
    return path


def _places(
    path: str, host: Host, layout: Layout, notes: list[str], *, limited: bool
) -> tuple[str | None, dict[str, str]]:
    """The directories of a cgroup, where they can be made: v2's, and v1's by controller.

    Without limits v1's are only looked for where there is no v2.
    """
    v2 = f"{layout.v2}{path}" if layout.v2 else None
    if v2 and not layout.writable(v2):
        v2 = None
        if not host.privileged and host.cgroup:
            # A user's containers are below the cgroup that is delegated to the user.
            v2 = f"{host.cgroup}{path}"
    if v2 and not limited:
        return v2, {}
    v1 = {
        controller: f"{top}{path}"
        for controller, top in layout.v1.items()
        if layout.writable(f"{top}{path}")
    }
    if not v2 and not v1 and "cgroup" not in host.reasons:
        reason = "no cgroup is delegated to you" if not host.privileged else "cgroups are read-only"
        notes.append(f"{reason}, so the container stays in the caller's cgroup")
    return v2, v1


def _where(
    resources: Config,
    v2: str | None,
    v1: dict[str, str],
    layout: Layout,
    host: Host,
    notes: list[str],
) -> dict[str, int]:
    """The controllers that limits ask for, with the version (1 or 2) that has each here."""
    from ctrt.runtime import limits

    offered = layout.offers(v2) if v2 else frozenset()
    found: dict[str, int] = {}
    missing: dict[str, str] = {}
    for controller, place in limits.asked(resources).items():
        if controller == "devices" and not host.privileged:
            continue  # an ordinary user's container can make no device, and opens what its user may
        # Devices of v2 are no controller: where v1 does not have them, a program decides.
        program = controller == "devices" and v2 and controller not in layout.v1
        if controller in v1:
            found[controller] = 1
        elif program or _V2_NAMES.get(controller, controller) in offered:
            found[controller] = 2
        else:
            missing[controller] = place
    for key in resources.get("unified") or {}:
        controller = key.partition(".")[0]
        if controller != "cgroup" and controller not in offered:
            missing[controller] = f'{limits.PLACE}.unified["{key}"]'
    if not host.privileged:
        if missing:
            notes.append(
                f"limits are ignored for what is not delegated to you: {', '.join(sorted(missing))}"
            )
    elif missing:
        controller, place = next(iter(missing.items()))
        raise CtrtError(f"{place} cannot be set: {_why_missing(controller, v2, layout)}")
    return found


def _why_missing(controller: str, v2: str | None, layout: Layout) -> str:
    if controller in layout.v1:
        return f"the {controller} controller is with cgroup v1 here ({layout.v1[controller]}), " + (
            "and read-only"
            if v2 is None
            else "and unified settings are cgroup v2's: invalid configuration"
        )
    if layout.v2 is None and not layout.v1:
        return "no cgroup file system is mounted"
    known = cgroups.read("/proc/cgroups").split()
    if controller in known or (controller == "blkio" and "io" in known):
        return (
            f"the {controller} controller is not passed on to this cgroup, or not mounted; "
            "see cgroup.subtree_control of those above it"
        )
    return f"this kernel has no {controller} controller; see /proc/cgroups"


# --- steps --------------------------------------------------------------------------------


def _make(
    mark: str,
    v2: str | None,
    v1: dict[str, str],
    where: dict[str, int],
    layout: Layout,
) -> Step:
    calls: list[Call] = []
    undo: list[Call] = []
    tops = {directory: layout.v1[controller] for controller, directory in v1.items()}
    for directory, top in tops.items():
        calls.append(("cgroup_make", directory, top, mark))
        undo.append(("cgroup_remove", directory, mark))
    if v2:
        needed = {_V2_NAMES.get(name, name) for name, version in where.items() if version == 2}
        # Where v1 has most controllers, v2 is for counting; elsewhere engines read all of it.
        wanted = needed if layout.v1 else needed.union(_WANTED)
        top = layout.v2 or ""
        calls.append(("cgroup_make", v2, top, mark, tuple(sorted(wanted - {"devices"}))))
        calls.append(("open_directory", v2, "cgroup"))
        # v2's goes first: killing there is at once, and ends what is in the others.
        undo.insert(0, ("cgroup_remove", v2, mark))
    return Step(
        "cgroup",
        OUTSIDE,
        calls,
        why="all processes of the container can be counted, limited and killed as one",
        source=f"cgroups(7); {_SPEC}",
        needs="write access to the parent cgroup",
        undo=tuple(undo),
    )


def _equip(
    config: Config,
    resources: Config,
    where: dict[str, int],
    v2: str | None,
    v1: dict[str, str],
    notes: list[str],
) -> list[Step]:
    """The limits of a cgroup that is there, and its being given to the container's user."""
    settings = _settings(resources, where, v2, v1, notes) if resources else []
    delegated = _delegate(config, v2)
    return [*([_limits(settings)] if settings else []), *([delegated] if delegated else [])]


def _settings(
    resources: Config,
    where: dict[str, int],
    v2: str | None,
    v1: dict[str, str],
    notes: list[str],
) -> list[Call]:
    """The calls that set the limits."""
    from ctrt.runtime import limits

    calls: list[Call] = []
    for controller, version in where.items():
        directory = v1[controller] if version == 1 else v2
        if controller == "devices" and version == 2:
            calls.append(("cgroup_devices", directory, limits.device_rules(resources)))
            continue
        for setting in limits.settings(resources, controller, v2=version == 2):
            if len(setting.files) == 1 and setting.needed:
                name, text = setting.files[0]
                calls.append(("cgroup_write", f"{directory}/{name}", text))
            else:
                calls.append(("cgroup_write_first", directory, setting.files, setting.needed))
    if v2:
        for name, text in (resources.get("unified") or {}).items():
            calls.append(("cgroup_write", f"{v2}/{name}", text))
    memory = resources.get("memory") or {}
    for name in ("kernel", "kernelTCP") if where.get("memory") != 1 else ("kernel",):
        if memory.get(name):
            notes.append(
                f"{limits.PLACE}.memory.{name} is ignored: kernels count this memory with the rest"
            )
    return calls


def _limits(calls: list[Call]) -> Step:
    return Step(
        "limits",
        OUTSIDE,
        calls,
        why="what the container may use at most is set before its first process is there",
        source=_SPEC,
        needs="the controllers that are named",
    )


def _attach(directories: tuple[str, ...]) -> Step:
    return Step(
        "cgroup v1",
        OUTSIDE,
        [("cgroup_attach", directories)],
        why="the controllers of cgroup v1 have hierarchies of their own; "
        "a process can be moved there, not born",
        source="cgroups(7)",
        needs="write access to cgroup.procs",
    )


def _delegate(config: Config, v2: str | None) -> Step | None:
    """The container's user gets its cgroup if it sees it writable, in namespaces of its own."""
    linux = config.get("linux") or {}
    new = {n["type"] for n in linux.get("namespaces") or () if not n.get("path")}
    writable = any(
        (mount.get("destination") or "").rstrip("/") == "/sys/fs/cgroup"
        and mount.get("type") in ("cgroup", "cgroup2")
        and "ro" not in (mount.get("options") or ())
        for mount in config.get("mounts") or ()
    )
    if v2 is None or not writable or not {"user", "cgroup"} <= new:
        return None
    uid = ((config.get("process") or {}).get("user") or {}).get("uid", 0)
    for entry in linux.get("uidMappings") or ():
        if 0 <= uid - entry["containerID"] < entry["size"]:
            owner = entry["hostID"] + uid - entry["containerID"]
            return Step(
                "cgroup delegation",
                OUTSIDE,
                [("cgroup_delegate", v2, owner)],
                why="the container may divide its own cgroup, but not change its limits",
                source=f"{_SPEC}, Cgroup ownership; cgroups(7)",
            )
    return None


# --- systemd --------------------------------------------------------------------------------


def _systemd_plan(
    config: Config, resources: Config, host: Host, layout: Layout, name: str, mark: str
) -> Cgroup:
    """A scope of systemd's: made around the process after the clone."""
    from ctrt.linux import systemd
    from ctrt.runtime import limits

    text = (config.get("linux") or {}).get("cgroupsPath") or f":ctrt:{name}"
    parts = text.split(":")
    if len(parts) != 3 or not parts[2]:
        raise CtrtError(
            f'linux.cgroupsPath is "{text}", not of the form "SLICE:PREFIX:NAME" that '
            "--systemd-cgroup takes"
        )
    user = not host.privileged
    slice_name = parts[0] or ("user.slice" if user else "system.slice")
    try:
        path = systemd.slice_path(slice_name)
    except ValueError as error:
        raise CtrtError(f"linux.cgroupsPath: {error}") from None
    unit = parts[2] if parts[2].endswith(".slice") else f"{parts[1]}-{parts[2]}.scope"
    if not parts[1] and not unit.endswith(".slice"):
        unit = f"{parts[2]}.scope"
    if "/" in unit:
        raise CtrtError(f'linux.cgroupsPath is "{text}", but a unit has no "/" in its name')
    path = f"{systemd.user_root() if user else ''}{path}/{unit}"
    notes: list[str] = []
    v2 = f"{layout.v2}{path}" if layout.v2 else None
    v1 = {c: f"{top}{path}" for c, top in layout.v1.items() if host.privileged}
    offered = frozenset(_WANTED) if user else frozenset()
    where: dict[str, int] = {}
    for controller, place in limits.asked(resources).items():
        v2_name = _V2_NAMES.get(controller, controller)
        if controller in v1:
            where[controller] = 1
        elif v2 and controller == "devices":
            if host.privileged:
                where[controller] = 2
        elif v2 and v2_name in (cgroups.read(f"{layout.v2}/cgroup.controllers").split() or offered):
            where[controller] = 2
        elif host.privileged:
            raise CtrtError(f"{place} cannot be set: {_why_missing(controller, v2, layout)}")
        else:
            notes.append(f"{place} is ignored: the {controller} controller is not delegated to you")
    mark = mark or os.urandom(8).hex()
    state: dict[str, Any] = {
        "path": path,
        "mark": mark,
        "v2": v2,
        "v1": v1,
        "systemd": {"unit": unit, "user": user},
    }
    properties = (
        ("Description", "s", f"container {parts[2]}"),
        ("Slice", "s", slice_name),
        ("DefaultDependencies", "b", False),
        ("Delegate", "b", True),
        *((f"{kind}Accounting", "b", True) for kind in ("CPU", "Memory", "Tasks", "IO")),
        *unit_properties(resources, v2=not layout.v1),
        *annotated_properties(config.get("annotations") or {}),
    )
    calls: list[Call] = [("cgroup_scope", unit, properties, user)]
    for controller, directory in v1.items():
        calls.append(("cgroup_take", directory, layout.v1[controller], mark))
    if v2:
        calls.append(("cgroup_take", v2, layout.v2, mark))
    directories = tuple(dict.fromkeys(v1.values()))
    if directories:
        calls.append(("cgroup_attach", directories))
    # Who is still there after a crash is killed first: systemd would wait for them to end.
    undo: list[Call] = [("cgroup_remove", v2, mark)] if v2 else []
    undo += [("cgroup_remove", directory, mark) for directory in directories]
    undo.append(("cgroup_stop_scope", unit, user))
    after = [
        Step(
            "systemd scope",
            OUTSIDE,
            calls,
            why="systemd makes the cgroup and leaves what is below it to us (Delegate=yes)",
            source="systemd.resource-control(5), org.freedesktop.systemd1(5)",
            needs="systemd, and D-Bus to reach it",
            undo=tuple(undo),
        )
    ]
    after += _equip(config, resources, where, v2, v1, notes)
    return Cgroup([], after, state, notes=tuple(notes))


def unit_properties(resources: Config, *, v2: bool) -> tuple[tuple[str, str, Any], ...]:
    """Resources as properties of a unit, so that systemd does not take the limits back.

    Source: systemd.resource-control(5).
    """
    from ctrt.runtime import limits

    found: list[tuple[str, str, Any]] = []
    most = 2**64 - 1
    memory = resources.get("memory") or {}
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if limit:
        name = "MemoryMax" if v2 else "MemoryLimit"
        found.append((name, "t", most if limit < 0 else limit))
    if v2 and memory.get("reservation"):
        low = memory["reservation"]
        found.append(("MemoryLow", "t", most if low < 0 else low))
    if v2 and swap:
        found.append(("MemorySwapMax", "t", most if swap < 0 else max(swap - limit, 0)))
    cpu = resources.get("cpu") or {}
    if cpu.get("shares"):
        shares = cpu["shares"]
        weight = limits.weight_of_shares(shares)
        found.append(("CPUWeight", "t", weight) if v2 else ("CPUShares", "t", shares))
    if cpu.get("quota"):
        period = cpu.get("period") or 100000
        if v2:
            found.append(("CPUQuotaPeriodUSec", "t", period))
        share = most
        if cpu["quota"] > 0:
            # In hundredths of a CPU, upwards: systemd knows no less.
            share = -(-cpu["quota"] * 1_000_000 // period // 10000) * 10000
        found.append(("CPUQuotaPerSecUSec", "t", share))
    pids = limits.pids_limit(resources)
    if pids is not None:
        found.append(("TasksMax", "t", most if pids < 0 else pids))
    block = resources.get("blockIO") or {}
    if v2 and block.get("weight"):
        found.append(("IOWeight", "t", limits.io_weight(block["weight"])))
    return tuple(found)


_ANNOTATED = "org.systemd.property."


def annotated_properties(annotations: dict[str, str]) -> tuple[tuple[str, str, Any], ...]:
    """Properties of the unit that annotations give, as runc and crun take them.

    `org.systemd.property.NAME` is NAME, in the text format of GVariant. A NAME that ends in Sec is
    given in seconds, for the property of microseconds. Raises CtrtError.
    """
    found: list[tuple[str, str, Any]] = []
    for key, text in annotations.items():
        name = key.removeprefix(_ANNOTATED)
        if name == key:
            continue
        from ctrt.linux import gvariant

        place = f'annotations["{key}"]'
        if not (name.isalpha() and name.isascii()):
            raise CtrtError(f"{place}: {name!r} is not the name of a unit's property")
        try:
            signature, value = gvariant.parse(text)
        except ValueError as error:
            raise CtrtError(
                f"{place} is {text!r}, which is no value such as true, 5, uint64 5 or 'text': "
                f"{error}"
            ) from None
        if name.endswith("Sec") and not name.endswith("USec"):
            if type(value) not in (int, float) or value < 0:
                raise CtrtError(f"{place} is {text!r}, not a number of seconds")
            name, signature, value = f"{name[:-3]}USec", "t", int(value * 1_000_000)
        found.append((name, signature, value))
    return tuple(found)


# --- other limits -----------------------------------------------------------------------------


def _home(group: Group, controller: str) -> tuple[str, bool] | None:
    """The directory of a controller, and whether it is v2's."""
    if controller in group.v1:
        return group.v1[controller], False
    if group.v2:
        name = _V2_NAMES.get(controller, controller)
        if name in cgroups.read(f"{group.v2}/cgroup.controllers").split():
            return group.v2, True
    return None


def update(group: Group, resources: Config) -> None:
    """Set other limits of a cgroup. What resources do not name stays as it is."""
    from ctrt.runtime import limits

    writes: list[tuple[str, limits.Setting]] = []
    for controller, place in limits.asked(resources).items():
        if controller == "devices" and group.v2 and "devices" not in group.v1:
            from ctrt.linux import bpf

            try:
                bpf.set_device_rules(group.v2, limits.device_rules(resources))
            except OSError as error:
                raise CtrtError(f"{place}: {words(error)}", status=1) from None
            continue
        home = _home(group, controller)
        if home is None:
            raise CtrtError(
                f"{place} cannot be set: the container is in no cgroup of the {controller} "
                "controller; give it a limit when it is created",
                status=1,
            )
        directory, v2 = home
        if controller == "memory" and v2:
            _check_memory(resources, directory)
        if controller == "cpu" and v2:
            resources = _with_old_cpu(resources, directory)
        writes += [(directory, s) for s in limits.settings(resources, controller, v2=v2)]
    for name, text in (resources.get("unified") or {}).items():
        place = f'unified["{name}"]'
        if not group.v2:
            raise CtrtError(f"{limits.PLACE}.{place}: the container is in no cgroup v2", status=1)
        writes.append((group.v2, limits.Setting(place, "", ((name, text),))))
    _write_all(writes)
    if group.systemd:
        from ctrt.linux import systemd

        properties = unit_properties(resources, v2=not group.v1)
        if properties:
            try:
                systemd.set_properties(
                    group.systemd["unit"], properties, user=group.systemd["user"]
                )
            except OSError as error:
                raise CtrtError(words(error), status=1) from None


def _check_memory(resources: Config, directory: str) -> None:
    from ctrt.runtime import limits

    memory = resources.get("memory") or {}
    limit = memory.get("limit") or 0
    used = cgroups.number(f"{directory}/memory.current") or 0
    if memory.get("checkBeforeUpdate") and 0 < limit < used:
        raise CtrtError(
            f"{limits.PLACE}.memory.limit is {limit}, but {used} bytes are in use; "
            "the kernel would kill processes",
            status=1,
        )


def _with_old_cpu(resources: Config, directory: str) -> Config:
    """Quota and period are one file in v2: the one that is not given stays."""
    cpu = resources.get("cpu") or {}
    if bool(cpu.get("quota")) == bool(cpu.get("period")):
        return resources
    old = cgroups.read(f"{directory}/cpu.max").split()
    if len(old) != 2:
        return resources
    quota = -1 if old[0] == "max" else int(old[0])
    return {**resources, "cpu": {"quota": quota, "period": int(old[1]), **cpu}}


def _write_all(writes: list[tuple[str, limits.Setting]]) -> None:
    """Write settings; those that the kernel refuses are tried again after the others.

    A limit of memory that is above the old limit of memory and swap, say, can only be set
    after that one.
    """
    from ctrt.runtime import limits
    from ctrt.runtime.cgroup_operations import explain_missing

    later: Iterable[tuple[str, limits.Setting]] = writes
    for last in (False, True):
        refused = []
        for directory, setting in later:
            present = [f for f in setting.files if ospath.exists(f"{directory}/{f[0]}")]
            if not present:
                if setting.needed:
                    raise CtrtError(
                        f"{limits.PLACE}.{setting.place} cannot be set: "
                        f"{explain_missing(setting.files[0][0], directory)}",
                        status=1,
                    )
                continue
            name, text = present[0]
            try:
                cgroups.write(f"{directory}/{name}", text)
            except OSError as error:
                if last or error.errno not in (_EINVAL, _EBUSY):
                    raise CtrtError(
                        f"{limits.PLACE}.{setting.place} cannot be set to {text}: {words(error)}",
                        status=1,
                    ) from None
                refused.append((directory, setting))
        later = refused
