"""What is in an image: the entries of each layer, and the tree that they make together.

The list of a layer is read from its tar once and kept in ROOT/cache/contents by the digest of
the unpacked layer, so that looking at an image a second time costs nothing, and needs neither
root nor unpacked layers. `Tree` puts the lists of an image's layers together as overlayfs
would (image-spec, layer.md), and says what each layer added, changed, deleted and hid.
"""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from ctrt.errors import CtrtError
from ctrt.images import _tar
from ctrt.images.compose import header, padded
from ctrt.oci import fastjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ctrt.images.store import Layer, Store

_VERSION = 1
_LIMIT = 1 << 50  # the disk is not written to; what unpacks an image has the tighter bound
_MAX_LINKS = 40
_KINDS = {b"\0": b"0", b"7": b"0"}


class Item(NamedTuple):
    """An entry of a layer.

    `kind` is tar's letter (0 file, 1 hard link, 2 symbolic link, 3 and 4 devices, 5 directory,
    6 FIFO), or "w" for a whiteout and "o" for an opaque directory. `at` is its place in the
    archive, `digest` that of its content, `xattrs` hold their values in hexadecimal.
    """

    name: str
    kind: str
    at: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: str
    device: tuple[int, int]
    digest: str
    xattrs: dict[str, str]

    def looks(self) -> tuple[Any, ...]:
        """What makes two entries of one path the same thing, times left out."""
        return self[1:2] + self[3:7] + self[8:]


class Node(NamedTuple):
    """A path of a tree: its entry and the layer (from 0) that it comes from.

    `content` is where a file's bytes are, (layer, place in the archive): that of the target
    for a hard link, so that files that are one have it in common.
    """

    item: Item
    layer: int
    content: tuple[int, int]


class Change(NamedTuple):
    """What a layer does to a path: "added", "changed" or "deleted"; sizes in bytes.

    `hidden` is the size of what lay below and can no longer be reached.
    """

    path: str
    what: str
    size: int
    hidden: int
    kind: str


class Files:
    """The entries of one archive, as they come, for who wants to read their data as well."""

    def __init__(self, path: str, limit: int = _LIMIT) -> None:
        self._path = path
        self.source = _tar.Source(path, limit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.source.stop()

    def __iter__(self) -> Iterator[_tar.Entry]:
        """Yield entries; the data that was not taken by then is skipped."""
        for entry in _tar.entries(self.source):
            entry.kind = _KINDS.get(entry.kind, entry.kind)
            self._left = entry.size
            yield entry
            self.source.skip(self._left)
            self.source.pad(entry.size)

    def data(self, entry: _tar.Entry) -> Iterator[bytes]:
        """Yield the file's bytes, its holes as zeros."""
        self._left = 0
        if entry.segments is None:
            yield from map(bytes, self.source.chunks(entry.size))
            return
        at = 0
        for offset, length in [*entry.segments, (entry.length, 0)]:
            while at < offset:
                hole = min(offset - at, _tar.CHUNK_BYTES)
                at += hole
                yield bytes(hole)
            yield from map(bytes, self.source.chunks(length))
            at += length


def items(store: Store, layer: Layer) -> list[Item]:
    """Return the entries of a layer; CtrtError if it cannot be read."""
    kept = store.path("cache", "contents", f"{layer.diff_id[7:]}.{_VERSION}.json")
    try:
        with open(kept, "rb") as file:
            return [_item(words) for words in fastjson.loads(file.read())]
    except FileNotFoundError:
        pass
    except (ValueError, TypeError):
        pass  # written by another hand than ours; it is made again
    try:
        found = _read(store.blob_path(layer.digest), layer.diff_id)
    except _tar.BrokenLayerError as error:
        raise CtrtError(f"layer {layer.digest[7:19]}: {error}") from None
    except OSError as error:
        raise CtrtError(f"layer {layer.digest[7:19]} cannot be read: {error.strerror}") from None
    os.makedirs(os.path.dirname(kept), mode=0o711, exist_ok=True)
    with store.temporary() as work:
        aside = os.path.join(work.path, "contents")
        with open(aside, "x", encoding="ascii") as file:
            file.write(fastjson.dumps(found))
        os.rename(aside, kept)
    return found


def _item(words: Any) -> Item:
    item = Item(*words)
    return item._replace(device=(item.device[0], item.device[1]))


def _read(path: str, diff_id: str) -> list[Item]:
    found = []
    with Files(path) as files:
        for at, entry in enumerate(files):
            found.append(_described(files, entry, at))
        if files.source.digest() != diff_id:
            raise _tar.BrokenLayerError("its content has another digest than the image says")
    return found


def _described(files: Files, entry: _tar.Entry, at: int) -> Item:
    name = _tar.clean(entry.name)
    above, _, last = name.rpartition(b"/")
    kind, link = entry.kind.decode("latin-1"), entry.link
    if last == b".wh..wh..opq":
        name, kind = above, "o"
    elif last.startswith(b".wh..wh."):
        kind = "o"  # aufs's own bookkeeping, of no path
        name = b"\0"
    elif last.startswith(b".wh."):
        name, kind = (above + b"/" if above else b"") + last[4:], "w"
    elif kind == "1":
        link = _tar.clean(link)
    digest = ""
    if kind == "0":
        hashed = sha256()
        for chunk in files.data(entry):
            hashed.update(chunk)
        digest = hashed.hexdigest()
    return Item(
        os.fsdecode(name), kind, at, entry.mode, entry.uid, entry.gid, entry.length,
        entry.mtime, os.fsdecode(link), entry.device, digest,
        {key: value.hex() for key, value in entry.xattrs.items()},
    )  # fmt: skip


class Tree:
    """The files that layers show together, and what each layer did to those below.

    Paths have no slash at their beginning; the root is "".
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.changes: list[list[Change]] = []
        self._below: dict[str, set[str]] = {}

    @classmethod
    def of(cls, store: Store, layers: Sequence[Layer]) -> Tree:
        """Read (or remember) the layers of an image."""
        tree = cls()
        for layer in layers:
            tree.add(items(store, layer))
        return tree

    # -- looking --

    def resolve(self, path: str, *, last: bool = True) -> str:
        """Return the path with its symbolic links followed, as chroot(2) would.

        What is missing stays as it is. With `last` false the last part is not followed.
        """
        todo = [part for part in path.split("/") if part not in ("", ".")][::-1]
        real = ""
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                real = real.rpartition("/")[0]
                continue
            step = f"{real}/{part}" if real else part
            node = self.nodes.get(step)
            if node is not None and node.item.kind == "2" and (todo or last):
                links += 1
                if links > _MAX_LINKS:
                    raise CtrtError(f"/{path} is behind too many symbolic links")
                target = node.item.link
                if target.startswith("/"):
                    real = ""
                todo += [part for part in target.split("/") if part not in ("", ".")][::-1]
                continue
            real = step
        return real

    def get(self, path: str) -> Node | None:
        """Return what a path leads to, or None."""
        return self.nodes.get(self.resolve(path))

    def is_directory(self, path: str) -> bool:
        """Say whether a path leads to a directory."""
        real = self.resolve(path)
        node = self.nodes.get(real)
        return not real or real in self._below or (node is not None and node.item.kind == "5")

    def below(self, path: str) -> list[str]:
        """Return the paths right below a directory, sorted."""
        return sorted(self._below.get(path, ()))

    def walk(self, path: str) -> Iterator[str]:
        """Yield a path and all below it, directories first."""
        yield path
        for name in self.below(path):
            yield from self.walk(name)

    # -- putting together --

    def add(self, layer: list[Item]) -> None:
        """Put a further layer on top."""
        number = len(self.changes)
        before: dict[str, Node] = {}
        self.changes.append([])
        for item in layer:
            if item.name == "\0":
                continue
            if item.kind == "w":
                path = self._place(item.name)
                before.update(self._take(path, keep=number))
            elif item.kind == "o":
                path = self.resolve(item.name)
                for name in self.below(path):
                    before.update(self._take(name, keep=number))
        for entry in layer:
            item = entry
            if item.kind in "wo":
                continue
            path = self._place(item.name)
            old = self.nodes.get(path)
            content = (number, item.at)
            if item.kind == "1":
                target = self.nodes.get(self._place(item.link))
                if target is None:
                    continue  # unpacking says what is wrong with it
                content = target.content
                item = target.item._replace(name=item.name, at=item.at)
            if old is not None and old.layer != number:
                before.setdefault(path, old)
            if path and item.kind != "5":
                before.update(self._take(path, keep=-1, other_than=number))
            self._put(path, Node(item._replace(name=path), number, content))
        self._note(number, before)

    def _place(self, name: str) -> str:
        return self.resolve(name, last=False)

    def _put(self, path: str, node: Node) -> None:
        self.nodes[path] = node
        while path:
            above = path.rpartition("/")[0]
            names = self._below.setdefault(above, set())
            if path in names:
                break
            names.add(path)
            path = above

    def _take(self, path: str, *, keep: int, other_than: int = -1) -> dict[str, Node]:
        """Remove a path and what is below; what was removed of layers before this one.

        Entries of the layer `keep` stay. Those of `other_than` are removed without a word.
        """
        taken: dict[str, Node] = {}
        for name in list(self.walk(path))[::-1]:
            node = self.nodes.get(name)
            if (node is not None and node.layer == keep) or self._below.get(name):
                continue
            self._below.pop(name, None)
            if node is not None:
                del self.nodes[name]
                if node.layer != other_than:
                    taken[name] = node
            self._below.get(name.rpartition("/")[0], set()).discard(name)
        return taken

    def _note(self, number: int, before: dict[str, Node]) -> None:
        changes = self.changes[number]
        for path, old in before.items():
            if path not in self.nodes:
                changes.append(Change(path, "deleted", 0, old.item.size, old.item.kind))
        for path, node in self.nodes.items():
            if node.layer != number or not path:
                continue
            was = before.get(path)
            size = node.item.size if node.content == (number, node.item.at) else 0
            if was is None:
                changes.append(Change(path, "added", size, 0, node.item.kind))
            elif node.item.kind != "5" or was.item.looks() != node.item.looks():
                hidden = was.item.size if was.item.kind == "0" else 0
                changes.append(Change(path, "changed", size, hidden, node.item.kind))
        changes.sort()


def read(store: Store, layers: Sequence[Layer], node: Node, limit: int = 1 << 20) -> bytes:
    """Return the content of a small file of an image; CtrtError if it is larger than `limit`."""
    if node.item.size > limit:
        raise CtrtError(f"/{node.item.name} has more than {limit} bytes")
    for _, data in extract(store, layers, {node.content}):
        return b"".join(data)
    raise CtrtError(f"/{node.item.name} is not in its layer")


def extract(
    store: Store, layers: Sequence[Layer], wanted: set[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], Iterator[bytes]]]:
    """Yield the data of files, in the order in which they are in the layers."""
    for number, layer in enumerate(layers):
        places = {at for where, at in wanted if where == number}
        if not places:
            continue
        try:
            with Files(store.blob_path(layer.digest)) as files:
                for at, entry in enumerate(files):
                    if at in places:
                        yield (number, at), files.data(entry)
                        places.discard(at)
                        if not places:
                            break
        except _tar.BrokenLayerError as error:
            raise CtrtError(f"layer {layer.digest[7:19]}: {error}") from None


def entry_header(node: Node, name: str, **changes: Any) -> bytes:
    """Return the tar header of a node under a name; keywords replace what it says."""
    item = node.item
    looks: dict[str, Any] = {
        "mode": item.mode,
        "uid": item.uid,
        "gid": item.gid,
        "size": item.size if item.kind == "0" else 0,
        "mtime_ns": item.mtime_ns,
        "link": os.fsencode(item.link),
        "device": item.device,
        "xattrs": {key: bytes.fromhex(value) for key, value in item.xattrs.items()},
        **changes,
    }
    return header(os.fsencode(name), item.kind.encode(), **looks)


def flatten(
    store: Store,
    layers: Sequence[Layer],
    tree: Tree,
    names: Callable[[str], str] = lambda path: path,
    only: Sequence[str] | None = None,
    **changes: Any,
) -> Iterator[bytes]:
    """Yield a tree (or the paths `only`) as tar entries, without the archive's end.

    Directories and what has no content come first, then the files in the order of the layers,
    each once; its other names are hard links to it. `names` gives an entry its name there.
    """
    paths = sorted(tree.nodes) if only is None else only
    groups: dict[tuple[int, int], list[str]] = {}
    for path in paths:
        node = tree.nodes.get(path)
        if node is None:
            continue
        if node.item.kind == "0":
            groups.setdefault(node.content, []).append(path)
        else:
            yield entry_header(node, names(path) or ".", **changes)
    for content, data in extract(store, layers, set(groups)):
        first, *others = groups[content]
        node = tree.nodes[first]
        yield entry_header(node, names(first), **changes)
        yield from data
        yield padded(node.item.size)
        for path in others:
            link = {**changes, "link": os.fsencode(names(first)), "size": 0, "xattrs": {}}
            linked = node._replace(item=node.item._replace(kind="1"))
            yield entry_header(linked, names(path), **link)
