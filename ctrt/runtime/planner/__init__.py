"""From a configuration and a host to a plan: pure functions.

`container()` takes the OCI runtime specification's config.json as a dict, `enter()` its process
alone and a running container, `unshare()` what the options of unshare(1) say. All give a `Plan` for
the same executor. Nothing here changes the system: what the host allows comes in as a `Host`.

A subject has a module: `namespaces`, `roots`, `mounts` (with devices), `process`; `containers`,
`entering` and `programs` put their steps in order.
"""

from __future__ import annotations

from ctrt.runtime.planner.containers import container
from ctrt.runtime.planner.roots import Directory, Layers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.runtime.planner.entering import Target, enter
    from ctrt.runtime.planner.programs import in_user_namespace, removal_plan, unshare, with_rights

__all__ = [
    "Directory",
    "Layers",
    "Target",
    "container",
    "enter",
    "in_user_namespace",
    "removal_plan",
    "unshare",
    "with_rights",
]


def __getattr__(name: str) -> Any:
    # A container's start is what counts: the others are imported when they are asked for.
    if name in ("Target", "enter"):
        from ctrt.runtime.planner import entering

        return getattr(entering, name)
    if name in ("in_user_namespace", "removal_plan", "unshare", "with_rights"):
        from ctrt.runtime.planner import programs

        return getattr(programs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
