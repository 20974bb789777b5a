"""Docker's and podman's form of seccomp profiles, resolved to the OCI form.

Their files (/usr/share/containers/seccomp.json) hold for all machines and containers: rules
have conditions, `includes` and `excludes`, on the container's capabilities, the machine and the
kernel, and `archMap` says which architectures go along with which. What is left for one
container is an OCI profile. Source: containers-common's and moby's seccomp packages.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Profile = dict[str, Any]

_MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "mips64": ("mips64", "SCMP_ARCH_MIPS64"),
    "loongarch64": ("loong64", "SCMP_ARCH_LOONGARCH64"),
}
"""uname(2)'s machine, with Go's name and libseccomp's."""


def is_conditional(profile: Profile) -> bool:
    """Whether a profile is of Docker's form: the OCI form has none of this. Raises ValueError."""
    return "archMap" in profile or any(
        rule.get("includes") or rule.get("excludes") or "name" in rule
        for rule in _objects(profile, "syscalls")
    )


def resolve(
    profile: Profile, capabilities: list[str] | tuple[str, ...], machine: str, release: str
) -> Profile:
    """The OCI profile for one container.

    `capabilities` are those of its bounding set, `machine` and `release` uname(2)'s. Raises
    ValueError for a condition that is not understood, with its place.
    """
    go_name, architecture = _MACHINES.get(machine, (machine, ""))
    kernel = _version(release, "the kernel's release")
    rules = []
    for index, rule in enumerate(_objects(profile, "syscalls")):
        place = f"syscalls[{index}]"
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if not _holds(includes, capabilities, go_name, kernel, f"{place}.includes", default=True):
            continue
        if _holds(excludes, capabilities, go_name, kernel, f"{place}.excludes", default=False):
            continue
        names = list(rule.get("names") or ())
        if rule.get("name"):
            names.append(rule["name"])
        kept = {"names": names, "action": rule.get("action")}
        if rule.get("errnoRet") is not None:
            kept["errnoRet"] = rule["errnoRet"]
        if rule.get("args"):
            kept["args"] = rule["args"]
        rules.append(kept)
    resolved = {
        key: profile[key]
        for key in ("defaultAction", "defaultErrnoRet", "flags", "listenerPath", "listenerMetadata")
        if profile.get(key) is not None
    }
    resolved["architectures"] = list(profile.get("architectures") or ())
    for entry in _objects(profile, "archMap"):
        if entry.get("architecture") == architecture:
            resolved["architectures"] = [architecture, *(entry.get("subArchitectures") or ())]
    resolved["syscalls"] = rules
    return resolved


def _objects(profile: Profile, name: str) -> list[dict[str, Any]]:
    """A list of objects of a profile, if it is one."""
    found = profile.get(name) or []
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f"{name} is not a list of objects")
    return found


def _holds(
    condition: Any,
    capabilities: list[str] | tuple[str, ...],
    machine: str,
    kernel: tuple[int, int],
    place: str,
    *,
    default: bool,
) -> bool:
    """Whether a condition holds: all of `includes` must, for `excludes` one is enough."""
    answers = []
    if not isinstance(condition, dict):
        raise ValueError(f"{place} is not an object")
    for key, value in condition.items():
        if not value:
            continue
        wanted = "string" if key == "minKernel" else "list"
        if type(value) is not (str if wanted == "string" else list):
            raise ValueError(f"{place}.{key} is not a {wanted}")
        if key == "caps":
            held = [capability in capabilities for capability in value]
            answers.append(all(held) if default else any(held))
        elif key == "arches":
            answers.append(machine in value)
        elif key == "minKernel":
            answers.append(kernel >= _version(str(value), f"{place}.minKernel"))
        else:
            raise ValueError(f"{place}.{key} is not a condition: they are caps, arches, minKernel")
    if not answers:
        return default
    return all(answers) if default else any(answers)


def _version(text: str, place: str) -> tuple[int, int]:
    """A kernel's major and minor version."""
    major, _, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    if not major.isdecimal() or not digits:
        raise ValueError(f'{place} is "{text}", not a version such as "4.8"')
    return int(major), int(rest[:digits])
