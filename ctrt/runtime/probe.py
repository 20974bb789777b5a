"""What only trying can tell: small plans that are carried out to see whether they work."""

from __future__ import annotations

import os

from ctrt.errors import CtrtError
from ctrt.linux import calls as k
from ctrt.runtime.plan import INSIDE, OUTSIDE, Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def idmapped_overlay(start: Callable[[Plan], None], directory: str) -> bool:
    """Whether overlayfs takes id-mapped layers by descriptor on this file system.

    `start` carries out a plan and raises CtrtError if a step fails; `directory` is where the
    layers would be.
    """
    place = f"{directory}/probe-{os.getpid()}"
    layers = tuple(f"{place}/{name}" for name in ("lower", "upper", "work"))
    for path in layers:
        os.makedirs(path, exist_ok=True)
    extents = ((0, 524288, 1),)
    why = "to see whether the kernel allows it"
    source = "mount_setattr(2)"
    plan = Plan(
        [
            Step(
                "overlay of id-mapped layers",
                OUTSIDE,
                [
                    ("clone", k.CLONE_NEWUSER | k.CLONE_NEWNS, None),
                    ("map_ids", "uid", extents, None),
                    ("map_ids", "gid", extents, None),
                    ("overlay", (layers[0],), place, (), True, "layers"),
                ],
                why=why,
                source=source,
            ),
            Step(
                "attach and end",
                INSIDE,
                [
                    ("attach_root", "layers", layers[0]),
                    ("own_descriptors",),
                    ("stdio",),
                    ("exec", ("/proc/self/exe", "--version"), ()),
                ],
                why=why,
                source=source,
            ),
        ]
    )
    try:
        start(plan)
    except CtrtError:
        return False
    finally:
        # overlayfs leaves a directory of its own in "work"
        for path in (f"{layers[2]}/work", *layers, place):
            try:
                os.rmdir(path)
            except OSError:
                pass
    return True
