"""The options of run that limit a container or give it something of the machine's.

They become `linux.resources`, `process.rlimits` and their neighbours of the OCI runtime
specification. Words and units are podman's: podman-run(1).
"""

from __future__ import annotations

import os

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.engine.options import Values
    from ctrt.runtime.host import Host

    Config = dict[str, Any]

_UNITS = "bkmgtp"
_PERIOD_MICROSECONDS = 100_000
_LEAST_MEMORY = 512 << 10
_LEAST_QUOTA = 1000
_INFINITY = (1 << 64) - 1
_S_IFMT, _S_IFCHR, _S_IFBLK = 0o170000, 0o020000, 0o060000


def size(text: str, option: str, *, any_allowed: bool = False) -> int:
    """A size such as 64m or 1.5g in bytes; -1 for any, where that is allowed."""
    if any_allowed and text == "-1":
        return -1
    number = text.lower().removesuffix("ib") if text[-3:-2].isalpha() else text.lower()
    if len(number) > 1 and number[-1] == "b" and number[-2] in _UNITS:
        number = number[:-1]
    unit = number[-1:] if number[-1:] in _UNITS else ""
    try:
        value = float(number.removesuffix(unit))
    except ValueError:
        value = -1.0
    if not 0 <= value < 1 << 53:
        more = ", or -1" if any_allowed else ""
        raise CtrtError(f"{option} {text!r} is not a size such as 512k, 64m or 1.5g{more}")
    return int(value * (1 << 10 * _UNITS.index(unit or "b")))


def number(text: str, option: str, least: int, most: int) -> int:
    """A whole number between two others."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise CtrtError(f"{option} {text!r} is not a number from {least} to {most}")
    return value


def apply(config: Config, options: Values, host: Host) -> None:
    """Put what the options ask for into a configuration. Raises CtrtError."""
    process, linux = config["process"], config["linux"]
    resources = _resources(options)
    if options.ulimit:
        process["rlimits"] = [_ulimit(text) for text in options.ulimit]
    if options.oom_score_adj is not None:
        process["oomScoreAdj"] = number(options.oom_score_adj, "--oom-score-adj", -1000, 1000)
    if options.sysctl:
        kinds = {entry["type"] for entry in linux["namespaces"]}
        linux["sysctl"] = {**linux["sysctl"], **dict(_sysctl(t, kinds) for t in options.sysctl)}
    if options.device:
        devices = [_device(text) for text in options.device]
        config["mounts"] += [mount for mount, _ in devices]
        if host.privileged:
            nothing = {"allow": False, "access": "rwm"}
            resources["devices"] = [nothing, *(rule for _, rule in devices)]
    if resources:
        linux["resources"] = resources


def _resources(options: Values) -> Config:
    resources: Config = {}
    memory = _memory(options)
    if memory:
        resources["memory"] = memory
    cpu: Config = {}
    if options.cpus is not None:
        cpu["quota"], cpu["period"] = _quota(options.cpus), _PERIOD_MICROSECONDS
    if options.cpu_shares is not None:
        cpu["shares"] = number(options.cpu_shares, "--cpu-shares", 2, 262144)
    if options.cpuset_cpus is not None:
        cpu["cpus"] = _processors(options.cpuset_cpus)
    if cpu:
        resources["cpu"] = cpu
    if options.pids_limit is not None:
        most = number(options.pids_limit, "--pids-limit", -1, 1 << 22)
        resources["pids"] = {"limit": most or -1}  # podman's 0 is any number, too
    block: Config = {}
    if options.blkio_weight is not None:
        block["weight"] = number(options.blkio_weight, "--blkio-weight", 10, 1000)
    for key, name in (
        ("device_read_bps", "throttleReadBpsDevice"),
        ("device_write_bps", "throttleWriteBpsDevice"),
    ):
        texts = getattr(options, key)
        if texts:
            block[name] = [_rate(text, f"--{key.replace('_', '-')}") for text in texts]
    if block:
        resources["blockIO"] = block
    return resources


def _memory(options: Values) -> Config:
    memory: Config = {}
    if options.memory is not None:
        memory["limit"] = size(options.memory, "--memory", any_allowed=True)
        if 0 <= memory["limit"] < _LEAST_MEMORY:
            raise CtrtError(
                f"--memory {options.memory!r} is less than 512k, with which nothing starts"
            )
    if options.memory_swap is not None:
        if options.memory is None:
            raise CtrtError(
                "--memory-swap is the limit of memory and swap together: give --memory too"
            )
        memory["swap"] = size(options.memory_swap, "--memory-swap", any_allowed=True)
        if 0 <= memory["swap"] < memory["limit"]:
            raise CtrtError(
                f"--memory-swap {options.memory_swap!r} is less than --memory {options.memory!r}: "
                "it is the limit of both together"
            )
    elif memory.get("limit", 0) > 0 and _counts_swap():
        memory["swap"] = 2 * memory["limit"]
    if options.memory_reservation is not None:
        memory["reservation"] = size(options.memory_reservation, "--memory-reservation")
    return memory


def _counts_swap() -> bool:
    """Whether this kernel can limit swap: v1 says so by a file, v2 always where there is swap."""
    from ctrt.linux import cgroups

    directory = cgroups.layout().v1.get("memory")
    if directory:
        return os.path.exists(f"{directory}/memory.memsw.limit_in_bytes")
    return os.path.exists("/proc/swaps")


def _quota(text: str) -> int:
    try:
        quota = int(float(text) * _PERIOD_MICROSECONDS)
    except (ValueError, OverflowError):
        quota = 0
    if not _LEAST_QUOTA <= quota < 1 << 40:
        raise CtrtError(f"--cpus {text!r} is not a number of processors such as 0.5 or 2")
    return quota


def _processors(text: str) -> str:
    from ctrt.runtime.planner.process import cpus

    cpus(text, "--cpuset-cpus")
    return text


def _rate(text: str, option: str) -> Config:
    path, colon, rate = text.rpartition(":")
    if not colon or not path:
        raise CtrtError(f"{option} {text!r} is not PATH:RATE, as in /dev/sda:1m")
    found = _node(path, option)
    if found.st_mode & _S_IFMT != _S_IFBLK:
        raise CtrtError(f"{option}: {path} is not a block device")
    return {
        "major": os.major(found.st_rdev),
        "minor": os.minor(found.st_rdev),
        "rate": size(rate, option),
    }


def _node(path: str, option: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise CtrtError(f"{option}: {path}: {(error.strerror or str(error)).lower()}") from None


def _ulimit(text: str) -> Config:
    from ctrt.linux import tasks

    name, _, values = text.partition("=")
    known = {key.removeprefix("RLIMIT_").lower(): key for key in tasks.RLIMITS}
    if name.lower() not in known:
        import difflib

        near = difflib.get_close_matches(name.lower(), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise CtrtError(f"--ulimit {text!r}: there is no limit {name!r}; {hint}")
    soft, colon, hard = values.partition(":")

    def value(word: str) -> int:
        if word in ("-1", "unlimited"):
            return _INFINITY
        if not word.isdecimal():
            raise CtrtError(f"--ulimit {text!r} is not NAME=SOFT[:HARD], as in nofile=64:128")
        return int(word)

    lower = value(soft)
    upper = value(hard) if colon else lower
    if lower > upper:
        raise CtrtError(f"--ulimit {text!r}: the soft limit is above the hard one")
    return {"type": known[name.lower()], "soft": lower, "hard": upper}


def _sysctl(text: str, kinds: set[str]) -> tuple[str, str]:
    from ctrt.oci.rules import sysctl_namespace

    name, equals, value = text.partition("=")
    if not equals:
        raise CtrtError(f"--sysctl {text!r} is not NAME=VALUE")
    try:
        need = sysctl_namespace(name)
    except ValueError as error:
        raise CtrtError(f"--sysctl: {name} {error}") from None
    if need not in kinds:
        raise CtrtError(f"--sysctl: {name} belongs to the {need} namespace, which is the host's")
    return name, value


def _device(text: str) -> tuple[Config, Config]:
    """A device as a bind mount, with the rule that lets the container use it."""
    source, *rest = text.split(":")
    access = "rwm"
    if rest and not rest[-1].startswith("/"):
        access = rest.pop()
    if len(rest) > 1 or not access or set(access) - set("rwm"):
        raise CtrtError(f"--device {text!r} is not HOST[:DIR][:rwm], as in /dev/fuse:/dev/fuse:rw")
    found = _node(source, "--device")
    kind = {_S_IFCHR: "c", _S_IFBLK: "b"}.get(found.st_mode & _S_IFMT)
    if kind is None:
        raise CtrtError(f"--device: {source} is not a device")
    source = os.path.abspath(source)
    mount = {
        "destination": rest[0] if rest else source,
        "type": "bind",
        "source": source,
        "options": ["bind", "nosuid", "noexec"],
    }
    numbers = {"major": os.major(found.st_rdev), "minor": os.minor(found.st_rdev)}
    return mount, {"allow": True, "type": kind, **numbers, "access": access}


def host_line(text: str) -> str:
    """A line of hosts(5) for NAME:IP; podman takes several names, NAME;NAME:IP."""
    names, _, address = text.partition(":")
    import ipaddress

    try:
        address = str(ipaddress.ip_address(address.strip("[]")))
    except ValueError:
        address = ""
    words = [name for name in names.split(";") if name]
    bad = any(not name.isascii() or not name.isprintable() or " " in name for name in words)
    if not address or not words or bad:
        raise CtrtError(f"--add-host {text!r} is not NAME:IP, as in db:10.0.0.7")
    return f"{address}\t{' '.join(words)}\n"


def known_hosts() -> str:
    """The names that this machine knows by itself, for a container that shares its network."""
    try:
        with open("/etc/hosts", encoding="utf-8", errors="replace") as file:
            lines = [line.partition("#")[0].strip() for line in file]
    except OSError:
        return ""
    return "".join(f"{line}\n" for line in lines if line)
