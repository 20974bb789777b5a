"""Every verb but run, exec and unshare as a function: for the command line and for `%ctrt`.

A verb takes an engine, its parsed words and a `report` for progress, and returns a value whose
`str()` is what a terminal shows; in a notebook the same value shows itself richly. A module here
holds the verbs about one subject.
"""

from __future__ import annotations

from ctrt.engine.verbs import (
    building,
    containers,
    files,
    images,
    inspecting,
    kernels,
    registries,
    running,
    seeing,
)
from ctrt.engine.verbs.base import Flow, Listing, Text, Verb

__all__ = ["VERBS", "Flow", "Listing", "Text", "Verb"]

_ROOMS = (images, building, inspecting, registries, containers, running, files, kernels, seeing)
VERBS = {verb.table.verb: verb for room in _ROOMS for verb in room.VERBS}
"""The verbs by name; run, exec and unshare, which stream, are the caller's own."""
