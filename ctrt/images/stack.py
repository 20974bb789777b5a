"""An image as a stack of layers: what made each, what it does to the files, what it wastes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ctrt.images.contents import Change, Tree

if TYPE_CHECKING:
    from ctrt.images.store import Image, Store


class Slab(NamedTuple):
    """One layer of a stack; sizes in bytes.

    `number` counts from 1, the lowest. `size` is that of the blob, `files` of what is in it,
    `hidden` of what lay below and can no longer be reached because of it: bytes that are
    carried along for nothing.
    """

    number: int
    digest: str
    diff_id: str
    chain_id: str
    media_type: str
    size: int
    files: int
    hidden: int
    made_by: str
    changes: list[Change]

    def count(self, what: str) -> int:
        """How many paths it "added", "changed" or "deleted"."""
        return sum(change.what == what for change in self.changes)


def stack(store: Store, image: Image) -> list[Slab]:
    """The layers of an image, the lowest first."""
    tree = Tree.of(store, image.layers)
    lines = [
        " ".join((entry.get("created_by") or "").split())
        for entry in image.config.get("history") or ()
        if not entry.get("empty_layer")
    ]
    lines += [""] * (len(image.layers) - len(lines))
    return [
        Slab(
            number, layer.digest, layer.diff_id, layer.chain_id, layer.media_type, layer.size,
            sum(change.size for change in changes), sum(change.hidden for change in changes),
            line, changes,
        )
        for number, (layer, changes, line) in enumerate(
            zip(image.layers, tree.changes, lines, strict=False), 1
        )
    ]  # fmt: skip
