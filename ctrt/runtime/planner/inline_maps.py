"""Id maps that are written in the option idmap of a mount, as podman and crun have it.

`idmap=uids=0-1000-10#10-2000-5;gids=0-1000-10` shows the ids 0 to 9 of the files as 1000 to 1009
of the host. With @ before it, an extent's second number is one of the container's user namespace.
Source: podman-run(1), --mount.
"""

from __future__ import annotations

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctrt.runtime.planner.namespaces import Extents

_FORM = "uids=FILE-HOST-COUNT[#...];gids=FILE-HOST-COUNT[#...]"


def parse(text: str, place: str, own: dict[str, Extents]) -> tuple[Extents, Extents]:
    """The maps of users and of groups as tuples of (on disk, on the host, count).

    `own` are the maps of the container's user namespace, named "uids" and "gids"; `place` is told
    of in errors. Raises CtrtError.
    """
    found: dict[str, Extents] = {"uids": (), "gids": ()}
    for part in filter(None, text.split(";")):
        name, _, extents = part.partition("=")
        if name not in found or not extents:
            raise CtrtError(f"{place}: {text!r} is not of the form {_FORM}")
        found[name] = tuple(
            _extent(extent, place, own.get(name, ())) for extent in extents.split("#")
        )
    if not (found["uids"] and found["gids"]):
        raise CtrtError(f"{place}: {text!r} needs both uids and gids: {_FORM}")
    return found["uids"], found["gids"]


def _extent(text: str, place: str, own: Extents) -> tuple[int, int, int]:
    numbers = text.removeprefix("@").split("-")
    if len(numbers) != 3 or not all(number.isascii() and number.isdecimal() for number in numbers):
        raise CtrtError(f"{place}: {text!r} is not of the form FILE-HOST-COUNT")
    on_disk, host, count = map(int, numbers)
    if text.startswith("@"):
        for inside, outside, size in own:
            if inside <= host < inside + size:
                return on_disk, host - inside + outside, count
        raise CtrtError(f"{place}: {text!r}: the container's user namespace has no id {host}")
    return on_disk, host, count
