"""What this machine allows: one row for each ability, with what follows from it."""

from __future__ import annotations

import os

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctrt.engine import Engine


def examine(engine: Engine) -> list[tuple[str, str, str]]:
    """Rows of (what, what was found, what it means); everything is tried, nothing guessed."""
    host = engine.host
    rows = [("user", "root" if host.privileged else f"uid {host.uid}", "")]
    works, why = _user_namespace(engine)
    rows.append(
        (
            "user namespaces",
            "yes" if works else "no",
            "containers can start" if works else why,
        )
    )
    uid_map, _ = host.id_maps()
    count = sum(extent[2] for extent in uid_map)
    rows.append(
        (
            "ids of a container",
            f"{count}",
            host.reasons.get("ids", "root inside is an ordinary id outside"),
        )
    )
    if host.privileged:
        rows.append(
            (
                "id-mapped layers",
                "yes" if host.idmapped_overlay else "no",
                "containers get a user namespace without copying files"
                if host.idmapped_overlay
                else "containers share root's user namespace; Linux 6.13 would change that",
            )
        )
    rows.append(
        (
            "cgroup",
            host.cgroup or "none",
            host.reasons.get("cgroup", "each container gets a cgroup of its own"),
        )
    )
    rows.append(("seccomp", *_seccomp()))
    rows.append(
        (
            "security modules",
            _read("/sys/kernel/security/lsm") or "unknown",
            "" if os.path.exists("/sys/kernel/security/lsm") else "securityfs is not mounted",
        )
    )
    rows.append(("store", engine.root, ""))
    return rows


def _user_namespace(engine: Engine) -> tuple[bool, str]:
    try:
        status = engine.run_mapped(["/bin/true"])
    except CtrtError as error:
        return False, str(error)
    return status == 0, ""


def _seccomp() -> tuple[str, str]:
    from ctrt.linux import filters, seccomp

    try:
        seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW"})
    except filters.SeccompError as error:
        return "no", str(error)
    return "yes", "the default profile is applied"


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
