"""How far a pull or an unpacking is, one layer at a time."""

from __future__ import annotations

from ctrt.words import plural


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


class Tally:
    """All layers of a pull together; `str()` is a line about them."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, int]] = {}

    def take(self, news: Progress) -> None:
        """Take news of one layer."""
        self._layers[news.layer] = (news.done, news.total)

    @property
    def done(self) -> int:
        """The bytes that are there."""
        return sum(done for done, _ in self._layers.values())

    @property
    def total(self) -> int:
        """The bytes that there will be, as far as it is known."""
        return sum(total for _, total in self._layers.values())

    def __str__(self) -> str:
        megabytes = f"{self.done / 1e6:.1f} of {self.total / 1e6:.1f} MB"
        return f"{plural(len(self._layers), 'layer')}, {megabytes}"
