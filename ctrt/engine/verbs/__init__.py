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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctrt.engine.options import Table

__all__ = ["VERBS", "Flow", "Listing", "Text", "Verb", "overview"]

_SUBJECTS = {
    "containers": "run exec unshare ps top logs wait stop rm cp commit export",
    "images": "pull push images build image import save load tag rmi history layers copy df prune",
    "registries": "login logout tags catalog referrers reference registry",
    "seeing": "graph diff caps watch",
    "this machine": "doctor kernel version",
}

_ROOMS = (images, building, inspecting, registries, containers, running, files, kernels, seeing)
VERBS = {verb.table.verb: verb for room in _ROOMS for verb in room.VERBS}
"""The verbs by name; run, exec and unshare, which stream, are the caller's own."""


def overview(tables: Mapping[str, Table]) -> list[str]:
    """The verbs by subject with what each does, as lines of a help text."""
    import textwrap

    groups = {subject: words.split() for subject, words in _SUBJECTS.items()}
    known = {verb for verbs in groups.values() for verb in verbs}
    groups["more"] = [verb for verb in tables if verb not in known]
    lines = []
    for subject, verbs in groups.items():
        here = [verb for verb in verbs if verb in tables]
        if here:
            lines += ["", f"{subject}:"]
        for verb in here:
            lines += textwrap.wrap(
                tables[verb].summary.replace("\n", " "),
                88,
                initial_indent=f"  {verb:<10}",
                subsequent_indent=" " * 12,
                break_on_hyphens=False,
            )
    return lines
