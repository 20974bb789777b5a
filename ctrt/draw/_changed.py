"""Changes of one process in a few words, without what differs from one run to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrt.draw._labels import all_four
from ctrt.words import plural, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctrt.observe import Change

_MOST_PATHS = 6
_MOST_NAMES = 3
_SIGNS = {"+": "more", "-": "gone"}


def changed(changes: Sequence[Change]) -> list[str]:
    """A sentence, or half of one, for each sort of change."""
    words = [*_namespaces(changes)]
    for change in changes:
        if change.kind == "id map":
            words.append(f"{change.what}s {change.after}")
        elif change.kind == "cgroup":
            words.append("in a cgroup of its own")
        elif change.kind == "credential":
            before, after = (all_four(value) or "none" for value in (change.before, change.after))
            words.append(f"{change.what}: {before} → {after}")
    for sign, told in (("+", "mounted"), ("-", "unmounted")):
        paths = [c.what for c in changes if (c.kind, c.sign) == ("mount", sign)]
        if sign == "-" and "/" in paths and len(paths) > 1:
            # The root has gone with all below it: paths of the host, which are another's elsewhere.
            paths = [f"/ and {plural(len(paths) - 1, 'mount')} below it"]
        if paths:
            words.append(f"{told}: {_listed(paths)}")
    words += _other_mounts([c for c in changes if (c.kind, c.sign) == ("mount", "~")])
    words += _capabilities(changes)
    return [visible(word) for word in dict.fromkeys(words)]


def _namespaces(changes: Sequence[Change]) -> list[str]:
    found = [c for c in changes if c.kind == "namespace"]
    new = [c.what for c in found if c.key is not None and not c.after.endswith("of the host")]
    words = [f"new {' '.join(new)}"] if new else []
    hidden = [c for c in found if c.key is None]
    if hidden:
        kinds = " ".join(c.what for c in hidden)
        words.append(f"can be looked into no more: {kinds}: {hidden[0].after}")
    return words


def _listed(paths: list[str]) -> str:
    more = len(paths) - _MOST_PATHS
    return ", ".join(paths[:_MOST_PATHS]) + (f" and {more} more" if more > 0 else "")


def _other_mounts(changes: Sequence[Change]) -> list[str]:
    moved = [c.what for c in changes if f" at {c.what}" in c.after]
    words = [f"now elsewhere: {plural(len(moved), 'mount')}, as {_listed(moved)}"] if moved else []
    for change in changes:
        if change.what in moved:
            continue
        before, after = change.before.split(" "), change.after.split(" ")
        differing = [b for a, b in zip(before, after, strict=False) if a != b]
        words.append(f"{change.what}: {' '.join(differing) or change.after}")
    # Alike changes of many mounts (all become private, say) are one.
    alike: dict[str, list[str]] = {}
    for word in words:
        what, _, how = word.rpartition(": ")
        alike.setdefault(how, []).append(what)
    return [
        f"{places[0]}: {how}" if len(places) == 1 else f"{plural(len(places), 'mount')}: {how}"
        for how, places in alike.items()
    ]


def _capabilities(changes: Sequence[Change]) -> list[str]:
    """Sets that change in the same way are told together."""
    alike: dict[tuple[str, str], list[str]] = {}
    for change in changes:
        if change.kind == "capability":
            alike.setdefault((change.sign, change.before or change.after), []).append(change.what)
    words = []
    for (sign, listed), sets in alike.items():
        names = listed.split(", ")
        told = listed if len(names) <= _MOST_NAMES else f"{len(names)} capabilities"
        words.append(f"{_SIGNS[sign]} in {', '.join(sets)}: {told}")
    return words
