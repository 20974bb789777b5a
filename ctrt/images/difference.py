"""What a container wrote, as a layer: for commit, diff, export and the steps of a build."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ctrt.errors import CtrtError
from ctrt.images.compose import Blob, add_layer
from ctrt.images.layers import run_here
from ctrt.oci import fastjson

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ctrt.images.locks import Spawn
    from ctrt.images.store import Store

    Extents = tuple[tuple[int, int, int], ...]

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    " from ctrt.images._pack import main; sys.exit(main(sys.argv[2:]))"
)


class Upper:
    """An overlay's upper directory, and how to read it.

    `spawn` runs a program where the ids are mapped (an ordinary user's container); without it
    `uids` and `gids` say what the container calls the ids on disk (root's). `mounts` are the
    places that were mounted upon: an empty directory or file there is not the container's.
    """

    __slots__ = ("gids", "lowers", "mounts", "path", "spawn", "uids")

    def __init__(
        self,
        path: str,
        lowers: Sequence[str],
        *,
        mounts: Sequence[str] = (),
        uids: Extents = (),
        gids: Extents = (),
        spawn: Spawn | None = None,
    ) -> None:
        self.path = path
        self.lowers = list(lowers)
        self.mounts = [place.strip("/") for place in mounts]
        self.uids = uids
        self.gids = gids
        self.spawn = spawn


def layer(store: Store, upper: Upper, *, time_ns: int | None = None) -> Blob:
    """Pack it into a layer of the store; `time_ns` becomes the time of every entry.

    Hold the store until an image names the layer.
    """
    with store.temporary(upper.spawn) as work:
        orders = os.path.join(work.path, "orders")
        with open(orders, "x", encoding="ascii") as file:
            file.write(
                fastjson.dumps(
                    {
                        "upper": upper.path,
                        "lowers": upper.lowers,
                        "mounts": upper.mounts,
                        "uids": [list(extent) for extent in upper.uids],
                        "gids": [list(extent) for extent in upper.gids],
                        "time": time_ns,
                    }
                )
            )
        here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        argv = [sys.executable, "-I", "-S", "-c", _BOOT, here, orders]
        status = (upper.spawn or run_here)(argv)
        if status:
            why = f"status {status}"
            try:
                with open(os.path.join(work.path, "error"), encoding="utf-8") as said:
                    why = said.read()
            except FileNotFoundError:
                pass
            raise CtrtError(f"what the container wrote cannot be read: {why}")
        return add_layer(store, _pieces(os.path.join(work.path, "layer")))


def _pieces(path: str) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            yield piece
