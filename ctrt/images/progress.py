"""How far a pull or an unpacking is, one layer at a time."""

from __future__ import annotations


class Progress:
    """How far one layer is: `done` of `total` bytes of its blob.

    `status` is, from pull(), "exists", "downloading" or "done", and from layers.unpack(),
    "unpacking" or "unpacked". `layer` is the layer's short digest (12 digits).
    """

    __slots__ = ("done", "layer", "status", "total")

    def __init__(self, layer: str, done: int, total: int, status: str) -> None:
        self.layer = layer
        self.done = done
        self.total = total
        self.status = status

    def __repr__(self) -> str:
        return f"Progress({self.layer!r}, {self.done}, {self.total}, {self.status!r})"
