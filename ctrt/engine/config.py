"""From an image and the options of run to an OCI runtime configuration.

The result is what config.json of a bundle holds (OCI runtime specification, config.md and
config-linux.md), as a dict. The image's own configuration is the starting point, the options
come on top, as podman-run(1) has it.
"""

from __future__ import annotations

import os

from ctrt.errors import CtrtError
from ctrt.linux import capabilities
from ctrt.oci.digest import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.engine.options import Values
    from ctrt.runtime.host import Host

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
"""What root of a container keeps: podman's default, a part of Docker's."""

NAMESPACES = ("user", "mount", "pid", "network", "uts", "ipc", "cgroup")
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
)
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_RESOLVER = "/etc/resolv.conf"
_SMALL_FILE = 1 << 20
_OF_RESOURCES = (
    "memory memory_swap memory_reservation cpus cpu_shares cpuset_cpus pids_limit blkio_weight "
    "device_read_bps device_write_bps ulimit oom_score_adj sysctl device"
).split()
"""The options that `resources` knows, which most containers do without."""
_ENOENT = 2


def container(
    image: dict[str, Any],
    lowers: list[str],
    options: Values,
    command: list[str],
    host: Host,
    *,
    name: str,
    hostname: str,
    directory: str,
    default_arguments: list[str] | None = None,
) -> dict[str, Any]:
    """The configuration of a container.

    `image` is the OCI image configuration, `lowers` its layers (topmost first), `name` and
    `directory` the container's own. `default_arguments` take the place of the image's command where
    `command` is empty. Raises CtrtError for options that cannot be met.
    """
    defaults = image.get("config") or {}
    user = user_of(options.user or defaults.get("User") or "", ImageFiles(lowers))
    if options.group_add:
        user["additionalGids"] = _groups(user, options.group_add, ImageFiles(lowers))
    sets, bounding = _capabilities(options, root=user["uid"] == 0)
    no_new_privileges, seccomp = _security(options)
    mounts = _mounts(directory, options.shm_size)
    shared = options.network == "host"
    if shared and os.path.exists(_RESOLVER):
        mounts.append(_volume(f"{_RESOLVER}:{_RESOLVER}:ro", "--network=host"))
    for index, text in enumerate(options.volume):
        mounts.append(_volume(text, f"--volume {index + 1}"))
    for text in options.tmpfs:
        mounts.append(_tmpfs(text))
    uid_map, gid_map = host.id_maps()
    _check_mapped(user, uid_map, gid_map, host)
    config: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "process": {
            "args": _arguments(defaults, options, command, default_arguments),
            "env": _environment(defaults, options, user.pop("home"), hostname),
            "cwd": options.workdir or defaults.get("WorkingDir") or "/",
            "user": user,
            "capabilities": sets,
            "noNewPrivileges": no_new_privileges,
        },
        "root": {"path": directory, "readonly": bool(options.read_only)},
        "hostname": hostname,
        "mounts": mounts,
        "linux": {
            "namespaces": [
                {"type": kind}
                for kind in NAMESPACES
                if (kind != "user" or _has_userns(host)) and not (shared and kind == "network")
            ],
            # ping(8) may open ICMP sockets without CAP_NET_RAW, as podman lets it.
            "sysctl": {} if shared else {"net.ipv4.ping_group_range": "0 0"},
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READ_ONLY_PATHS),
        },
    }
    if not config["process"]["cwd"].startswith("/"):
        raise CtrtError(
            f"the working directory {config['process']['cwd']!r} is not an absolute path"
        )
    linux = config["linux"]
    if _has_userns(host):
        linux["uidMappings"] = _mappings(uid_map)
        linux["gidMappings"] = _mappings(gid_map)
    parent = options.cgroup_parent or host.cgroup
    if parent:
        group = cgroup_name(name, directory, shown=bool(options.plan))
        linux["cgroupsPath"] = f"{parent}/{group}"
    if any(getattr(options, key) not in (None, []) for key in _OF_RESOURCES):
        from ctrt.engine import resources

        resources.apply(config, options, host)
    if seccomp == "default":
        linux["seccomp"] = _default_profile(tuple(bounding), host.machine)
    elif seccomp:
        linux["seccomp"] = _resolved(seccomp, bounding, host.machine)
    return config


def kept(config: dict[str, Any], machine: str) -> dict[str, Any]:
    """What one must know of a container's configuration to run another program in it."""
    linux = config["linux"]
    seccomp = linux.get("seccomp")
    if seccomp and seccomp is _default_profile(_bounding(config), machine):
        seccomp = "default"
    return {
        "process": config["process"],
        "linux": {"namespaces": linux["namespaces"], "seccomp": seccomp},
    }


def restored(part: dict[str, Any], machine: str) -> dict[str, Any]:
    """The configuration, as far as it was kept."""
    linux = part["linux"]
    if linux["seccomp"] != "default":
        return part
    return {**part, "linux": {**linux, "seccomp": _default_profile(_bounding(part), machine)}}


def _bounding(config: dict[str, Any]) -> tuple[str, ...]:
    return tuple(config["process"]["capabilities"]["bounding"])


def entering(
    config: dict[str, Any], command: list[str], options: Values | None, pid: int
) -> dict[str, Any]:
    """The process of another command in a running container, as podman-exec(1) has it.

    Of the options `env`, `workdir` and `user` count. Raises CtrtError for a user whom the container
    does not know.
    """
    process = {**config["process"], "args": command}
    process.pop("terminal", None)
    if options is None:
        return process
    if options.user:
        user = user_of(options.user, RunningFiles(pid))
        home = user.pop("home")
        process["user"] = user
        process["env"] = [*(e for e in process["env"] if not e.startswith("HOME=")), f"HOME={home}"]
        bounding = process["capabilities"]["bounding"]
        held = bounding if user["uid"] == 0 else []
        process["capabilities"] = {"bounding": bounding, "effective": held, "permitted": held}
    if options.env:
        variables = dict(entry.split("=", 1) for entry in process["env"])
        _add_variables(variables, options.env)
        process["env"] = [f"{key}={value}" for key, value in variables.items()]
    process["cwd"] = options.workdir or process["cwd"]
    if not process["cwd"].startswith("/"):
        raise CtrtError(f"the working directory {process['cwd']!r} is not an absolute path")
    return process


def cgroup_name(name: str, directory: str, *, shown: bool = False) -> str:
    """The name of a container's cgroup: two stores may each have a container of one name.

    That of a plan that is only `shown` is the same in each store.
    """
    if shown:
        return f"{name}-HASH"
    return f"{name}-{sha256(os.fsencode(directory))[7:15]}"


_profiles: dict[tuple[tuple[str, ...], str], dict[str, Any]] = {}


def _resolved(profile: Any, bounding: list[str], machine: str) -> Any:
    """A profile of Docker's form as it is for this container; others are what they are."""
    from ctrt.linux import profiles

    try:
        if profiles.is_conditional(profile):
            return profiles.resolve(profile, bounding, machine, os.uname().release)
    except ValueError as error:
        raise CtrtError(f"the seccomp profile: {error}") from None
    return profile


def _default_profile(bounding: tuple[str, ...], machine: str) -> dict[str, Any]:
    """The default seccomp profile: one value for one bounding set, not to be changed."""
    key = (bounding, machine)
    if key not in _profiles:
        from ctrt.runtime import seccomp_default

        _profiles[key] = seccomp_default.profile(list(bounding), machine)
    return _profiles[key]


def _has_userns(host: Host) -> bool:
    """Root needs id-mapped layers for a user namespace; without them it does as podman does."""
    return not host.privileged or host.idmapped_overlay


def _mappings(extents: tuple[tuple[int, int, int], ...]) -> list[dict[str, int]]:
    return [
        {"containerID": inside, "hostID": outside, "size": count}
        for inside, outside, count in extents
    ]


def _arguments(
    defaults: dict[str, Any],
    options: Values,
    command: list[str],
    default_arguments: list[str] | None,
) -> list[str]:
    entry = list(defaults.get("Entrypoint") or [])
    if options.entrypoint is not None:
        entry = [options.entrypoint] if options.entrypoint else []
    if default_arguments is not None and not command:
        return default_arguments
    if not command and options.entrypoint is None:
        command = list(defaults.get("Cmd") or [])
    arguments = entry + command
    if not arguments:
        raise CtrtError("the image names no command to run; give one after the image")
    return arguments


def _environment(defaults: dict[str, Any], options: Values, home: str, hostname: str) -> list[str]:
    variables = {"PATH": DEFAULT_PATH, "HOME": home, "HOSTNAME": hostname, "container": "ctrt"}
    for entry in defaults.get("Env") or []:
        key, _, value = entry.partition("=")
        variables[key] = value
    _add_variables(variables, options.env)
    return [f"{key}={value}" for key, value in variables.items()]


def _add_variables(variables: dict[str, str], entries: list[str]) -> None:
    """The values of --env; a name alone takes the caller's value, if it has one."""
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not key:
            raise CtrtError(f"--env {entry!r} has no name before the =")
        if equals:
            variables[key] = value
        elif key in os.environ:
            variables[key] = os.environ[key]


def capability_names(words: list[str], option: str) -> list[str]:
    """Capabilities as an option names them: `ALL`, with and without CAP_, divided by commas."""
    everything = list(capabilities.NAMES[: capabilities.last() + 1])
    result = []
    for word in (part for text in words for part in text.split(",")):
        if word.upper() == "ALL":
            result += everything
            continue
        try:
            result += capabilities.names(capabilities.mask([word]))
        except ValueError as error:
            import difflib

            near = difflib.get_close_matches(
                "CAP_" + word.upper().removeprefix("CAP_"), capabilities.NAMES, 1
            )
            hint = f"; did you mean {near[0]}?" if near else ""
            raise CtrtError(f"{option}: {error}{hint}") from None
    return result


def _capabilities(options: Values, *, root: bool) -> tuple[dict[str, list[str]], list[str]]:
    everything = list(capabilities.NAMES[: capabilities.last() + 1])
    added = capability_names(options.cap_add, "--cap-add")
    dropped = capability_names(options.cap_drop, "--cap-drop")
    start: list[str] = [] if len(dropped) >= len(everything) else list(DEFAULT_CAPABILITIES)
    if len(added) >= len(everything):
        kept = [cap for cap in everything if cap not in dropped]
    else:
        kept = [cap for cap in everything if cap in added or (cap in start and cap not in dropped)]
    if root:
        return {"bounding": kept, "effective": kept, "permitted": kept}, kept
    # Another user holds what was asked for by name, as podman does it: by the ambient set.
    asked = [cap for cap in kept if cap in added]
    held = dict.fromkeys(("effective", "permitted", "inheritable", "ambient"), asked)
    return {"bounding": kept, **held}, kept


def _security(options: Values) -> tuple[bool, Any]:
    no_new_privileges: bool = True
    seccomp: Any = "default"
    for text in options.security_opt:
        key, _, value = text.partition("=")
        if not value and ":" in key:
            key, _, value = key.partition(":")
        if key == "no-new-privileges" and value in ("", "true", "false"):
            no_new_privileges = value != "false"
        elif key == "seccomp" and value == "unconfined":
            seccomp = None
        elif key == "seccomp" and value:
            seccomp = _profile(value)
        else:
            raise CtrtError(
                f"--security-opt {text!r} is not known; there are seccomp=unconfined, "
                "seccomp=FILE and no-new-privileges[=false]"
            )
    return no_new_privileges, seccomp


def _profile(path: str) -> Any:
    from ctrt.oci import fastjson

    try:
        with open(path, encoding="utf-8") as file:
            profile = fastjson.loads(file.read())
    except OSError as error:
        raise CtrtError(f"the seccomp profile {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CtrtError(f"the seccomp profile {path} is not JSON: {error}") from None
    if not isinstance(profile, dict) or "defaultAction" not in profile:
        raise CtrtError(f"the seccomp profile {path} is not an object with a defaultAction")
    return profile


def _mounts(directory: str, shm_size: str | None) -> list[dict[str, Any]]:
    plain = ["nosuid", "noexec", "nodev"]
    shm = "65536k"
    if shm_size is not None:
        from ctrt.engine.resources import size

        shm = str(size(shm_size, "--shm-size"))

    def entry(destination: str, kind: str, options: list[str]) -> dict[str, Any]:
        return {"destination": destination, "type": kind, "source": kind, "options": options}

    return [
        entry("/proc", "proc", plain),
        entry("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        entry(
            "/dev/pts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        ),
        entry("/dev/shm", "tmpfs", [*plain, "mode=1777", f"size={shm}"]),
        entry("/dev/mqueue", "mqueue", plain),
        entry("/sys", "sysfs", [*plain, "ro"]),
        entry("/sys/fs/cgroup", "cgroup2", [*plain, "ro"]),
        {
            "destination": "/etc/hosts",
            "type": "bind",
            "source": f"{directory}/hosts",
            "options": ["bind", "nosuid", "nodev", "noexec"],
        },
    ]


def _volume(text: str, place: str) -> dict[str, Any]:
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[0] or not parts[1].startswith("/"):
        raise CtrtError(f"{place}: {text!r} is not SOURCE:/DIR or SOURCE:/DIR:OPTIONS")
    source = os.path.abspath(os.path.expanduser(parts[0]))
    if not os.path.exists(source):
        raise CtrtError(f"{place}: {source} does not exist on the host")
    options = [option for option in (parts[2:] or [""])[0].split(",") if option]
    known = ("ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "bind", "rbind")
    for option in options:
        if option not in (*known, "private", "rprivate"):
            raise CtrtError(f"{place}: there is no option {option!r}; there are {', '.join(known)}")
    if not {"bind", "rbind"} & set(options):
        options.append("rbind")
    if "ro" in options and "rbind" in options:
        options.append("rro")  # the mounts below it, too
    return {
        "destination": parts[1],
        "type": "bind",
        "source": source,
        "options": ["nosuid", "nodev", *options],
    }


def _tmpfs(text: str) -> dict[str, Any]:
    destination, _, options = text.partition(":")
    if not destination.startswith("/"):
        raise CtrtError(f"--tmpfs {text!r} does not begin with an absolute path")
    return {
        "destination": destination,
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "nodev", "noexec", *(o for o in options.split(",") if o)],
    }


class ImageFiles:
    """Small files of an image that no container runs yet, by their layers, topmost first."""

    def __init__(self, lowers: list[str]) -> None:
        self._lowers = lowers

    def read(self, path: str) -> str:
        """A small file, from the topmost layer that has it; "" if none does.

        No link is followed: what the image says must not lead to a file of the host.
        """
        for lower in self._lowers:
            directory = os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return _small_file(directory, path, links=False)
            except OSError as error:
                if error.errno != _ENOENT:
                    return ""  # a whiteout or a link: this layer hides the file of those below
            finally:
                os.close(directory)
        return ""


class RunningFiles:
    """Small files of a running container, as it sees them itself."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def read(self, path: str) -> str:
        """A small file; "" if there is none. Links lead below the container's root only."""
        try:
            directory = os.open(f"/proc/{self._pid}/root", os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return ""
        try:
            return _small_file(directory, path, links=True)
        except OSError:
            return ""
        finally:
            os.close(directory)


def _small_file(directory: int, path: str, *, links: bool) -> str:
    from ctrt.linux import calls

    descriptor = calls.openat2(
        directory,
        path,
        os.O_RDONLY | os.O_NONBLOCK,
        calls.RESOLVE_IN_ROOT | calls.RESOLVE_NO_MAGICLINKS
        if links
        else calls.RESOLVE_BENEATH | calls.RESOLVE_NO_SYMLINKS,
    )
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_mode & 0o170000 != 0o100000:
            return ""
        return file.read(_SMALL_FILE).decode(errors="replace")


def user_of(text: str, files: ImageFiles | RunningFiles) -> dict[str, Any]:
    """A user as process.user of the specification, with its home directory as "home".

    Names are looked up in the /etc/passwd and /etc/group of the files, as podman does it.
    """
    name, _, group = text.partition(":")
    name = name or "0"
    if name in ("0", "root") and not group:
        return {"uid": 0, "gid": 0, "home": "/root"}
    passwd = _table(files.read("etc/passwd"), 7)
    groups = _table(files.read("etc/group"), 4)
    row = next((r for r in passwd if name in (r[0], r[2])), None)
    if row is not None:
        uid, gid, home = int(row[2]), int(row[3]), row[5] or "/"
    elif name.isdecimal():
        uid, gid, home = int(name), 0, "/"
    else:
        raise CtrtError(f"the image has no user {name!r} in its /etc/passwd")
    additional = []
    if group:
        gid = _group(group, groups)
    elif row is not None:
        additional = [int(g[2]) for g in groups if row[0] in g[3].split(",") and int(g[2]) != gid]
    return {"uid": uid, "gid": gid, "additionalGids": additional, "home": home}


def _group(name: str, groups: list[list[str]]) -> int:
    entry = next((g for g in groups if name in (g[0], g[2])), None)
    if entry is not None:
        return int(entry[2])
    if not name.isdecimal():
        raise CtrtError(f"the image has no group {name!r} in its /etc/group")
    return int(name)


def _groups(user: dict[str, Any], names: list[str], files: ImageFiles) -> list[int]:
    """The supplementary groups of a user, with those that are added."""
    groups = _table(files.read("etc/group"), 4)
    found = [*(user.get("additionalGids") or ()), *(_group(name, groups) for name in names)]
    return list(dict.fromkeys(found))


def _table(text: str, width: int) -> list[list[str]]:
    """The well-formed rows of a passwd(5) or group(5) file."""
    rows = [line.split(":") for line in text.splitlines()]
    return [
        row
        for row in rows
        if len(row) >= width and row[2].isdecimal() and (width < 7 or row[3].isdecimal())
    ]


def _check_mapped(
    user: dict[str, Any],
    uid_map: tuple[tuple[int, int, int], ...],
    gid_map: tuple[tuple[int, int, int], ...],
    host: Host,
) -> None:
    if not _has_userns(host):
        return
    for kind, number, extents in (("user", user["uid"], uid_map), ("group", user["gid"], gid_map)):
        if not any(inside <= number < inside + count for inside, _, count in extents):
            why = host.reasons.get("ids", "the container's id map does not reach it")
            raise CtrtError(
                f"{kind} {number} cannot be used in the container: {why}; "
                "add a range to /etc/subuid and /etc/subgid, or use --user 0"
            )
