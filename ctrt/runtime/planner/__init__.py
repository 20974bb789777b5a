"""From a configuration and a host to a plan: pure functions.

`container()` takes the OCI runtime specification's config.json as a dict, `enter()` its process
alone and a running container, `unshare()` what the options of unshare(1) say. All give a `Plan` for
the same executor. Nothing here changes the system: what the host allows comes in as a `Host`.

A subject has a module: `namespaces`, `roots`, `mounts` (with devices), `process`; `containers`,
`entering` and `programs` put their steps in order.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.runtime.planner.containers import container
    from ctrt.runtime.planner.entering import Target, enter
    from ctrt.runtime.planner.programs import (
        in_user_namespace,
        noted,
        proc_mounted,
        propagated,
        removal_plan,
        unshare,
        with_rights,
    )
    from ctrt.runtime.planner.roots import Directory, Layers

__all__ = [
    "Directory",
    "Layers",
    "Target",
    "container",
    "enter",
    "in_user_namespace",
    "noted",
    "proc_mounted",
    "propagated",
    "removal_plan",
    "unshare",
    "with_rights",
]


_PLACES = {
    "Directory": "roots",
    "Layers": "roots",
    "Target": "entering",
    "container": "containers",
    "enter": "entering",
    "in_user_namespace": "programs",
    "noted": "programs",
    "proc_mounted": "programs",
    "propagated": "programs",
    "removal_plan": "programs",
    "unshare": "programs",
    "with_rights": "programs",
}


def __getattr__(name: str) -> Any:
    # What starts one kind of process does without the planning of the others.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = f"{__name__}.{_PLACES[name]}"
    __import__(place)
    return getattr(sys.modules[place], name)
