"""The operations of plans that make, limit, join and remove cgroups.

A cgroup that ctrt made carries the mark of its container in an extended attribute. Only such a one
is emptied by force: the undo of a start that failed because another's processes are in the cgroup
must not end those.
"""

from __future__ import annotations

import posix as os  # `os` itself takes long to import: linux/ospath.py

from ctrt.linux import cgroups, ospath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ctrt.linux.bpf import Rule
    from ctrt.runtime.operations.context import Context

_ENOENT, _EBUSY = 2, 16
_MARK = "user.ctrt"
DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")


def _make(
    context: Context, directory: str, top: str, mark: str, controllers: tuple[str, ...] = ()
) -> None:
    """Make a container's cgroup below a hierarchy's `top`; one that is in use is refused."""
    if not cgroups.make(directory, top, controllers=frozenset(controllers)):
        if cgroups.is_frozen(directory):
            raise OSError(_EBUSY, "container's cgroup unexpectedly frozen", directory)
        found = cgroups.processes(directory)
        if found:
            words = f"container's cgroup is not empty: {len(found)} process(es) found"
            raise OSError(_EBUSY, words, directory)
    _set_mark(directory, mark)


def _set_mark(directory: str, mark: str) -> None:
    try:
        os.setxattr(directory, _MARK, mark.encode())
    except OSError:
        pass  # before Linux 5.7: then it is removed only when it is empty


def _is_own(directory: str, mark: str) -> bool:
    try:
        return os.getxattr(directory, _MARK) == mark.encode()
    except OSError:
        return False


def _remove(context: Context, directory: str, mark: str) -> None:
    """Remove a container's cgroup with all that is in it.

    One that is empty but frozen is another's, which the start was refused for: processes that end
    are thawed before.
    """
    if cgroups.is_frozen(directory) and not (
        cgroups.processes(directory) or _is_own(directory, mark)
    ):
        return
    try:
        os.rmdir(directory)  # at a container's usual end it is empty
        return
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != _EBUSY:
            raise
    if _is_own(directory, mark):
        for path in cgroups.below(directory):
            if cgroups.is_frozen(path):
                cgroups.freeze(path, False)
        if cgroups.processes(directory):
            cgroups.kill(directory)
        cgroups.remove(directory)
    elif not cgroups.processes(directory):
        os.rmdir(directory)


def _write(context: Context, path: str, text: str) -> None:
    """Set a limit."""
    try:
        cgroups.write(path, text)
    except FileNotFoundError:
        directory, _, name = path.rpartition("/")
        raise OSError(_ENOENT, explain_missing(name, directory), path) from None
    except OSError as error:
        if error.errno == _EBUSY and "memory" in path:
            error.strerror = "more memory than that is in use"
        raise


def explain_missing(name: str, directory: str) -> str:
    """Why a cgroup has no file of this name, as far as that can be known."""
    controller = name.partition(".")[0]
    if ospath.exists(f"{directory}/cgroup.controllers") and controller not in (
        "cgroup",
        *cgroups.read(f"{directory}/cgroup.controllers").split(),
    ):
        return f"the {controller} controller is not enabled for this cgroup"
    if "memsw" in name or "swap" in name:
        return "the kernel does not account swap here (swapaccount=1 on its command line)"
    if "leaf_weight" in name:
        return "kernels have no leaf weights since Linux 5.0"
    if "weight" in name:
        return "no disk here has an I/O scheduler that knows weights (bfq)"
    if name.startswith("cpu.rt_"):
        return "the kernel was built without CONFIG_RT_GROUP_SCHED"
    return "the kernel does not have this setting"


def _write_first(
    context: Context, directory: str, settings: tuple[tuple[str, str], ...], needed: bool
) -> None:
    """Set the first of some settings that the cgroup has, which depends on the kernel."""
    for name, text in settings:
        if ospath.exists(f"{directory}/{name}"):
            _write(context, f"{directory}/{name}", text)
            return
    if needed:
        name = settings[0][0]
        raise OSError(_ENOENT, explain_missing(name, directory), f"{directory}/{name}")


def _devices(context: Context, directory: str, rules: tuple[Rule, ...]) -> None:
    """Let rules decide on the devices of a cgroup v2."""
    from ctrt.linux import bpf

    bpf.set_device_rules(directory, rules)


def _attach(context: Context, directories: tuple[str, ...]) -> None:
    """Put the container's first process into cgroups."""
    for directory in directories:
        cgroups.write(f"{directory}/cgroup.procs", str(context.pid))


def _delegate(context: Context, directory: str, uid: int) -> None:
    """Give a cgroup v2 to the container's user, with the files that the kernel names for that."""
    listed = cgroups.read("/sys/kernel/cgroup/delegate").split() or DELEGATED
    os.chown(directory, uid, -1)
    for name in listed:
        try:
            os.chown(f"{directory}/{name}", uid, -1)
        except FileNotFoundError:
            pass


def _scope(
    context: Context,
    unit: str,
    properties: tuple[tuple[str, str, object], ...],
    user: bool,
) -> None:
    """Have systemd make a scope of the container's first process, and wait until it has."""
    from ctrt.linux import systemd

    systemd.start_scope(unit, context.pid, properties, user=user)


def _stop_scope(context: Context, unit: str, user: bool) -> None:
    """Stop a scope. Where there is no way to systemd, it ends with its last process, if it is."""
    from ctrt.linux import systemd

    try:
        systemd.stop(unit, user=user)
    except systemd.NoSystemdError:
        pass


def _take(context: Context, directory: str, top: str, mark: str) -> None:
    """Mark a cgroup that systemd made as the container's, or make it where systemd did not."""
    cgroups.make(directory, top)
    _set_mark(directory, mark)


OPERATIONS: dict[str, Callable[..., None]] = {
    "cgroup_attach": _attach,
    "cgroup_delegate": _delegate,
    "cgroup_devices": _devices,
    "cgroup_make": _make,
    "cgroup_remove": _remove,
    "cgroup_scope": _scope,
    "cgroup_stop_scope": _stop_scope,
    "cgroup_take": _take,
    "cgroup_write": _write,
    "cgroup_write_first": _write_first,
}
