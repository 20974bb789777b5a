"""The unpack program: tar layers in, overlay lower directories out.

It runs as its own small process, because it may have to run inside a user namespace that
somebody else made, and because a notebook should not fork, change its umask or hold 500 open
directories. `layers.py` starts it, with orders in a JSON file; it answers in another.

Layers come from strangers: `_tree.py` lets none of their names lead out. Sizes are bounded by
the free disk and by a ratio (`Source`).

Reading (`_tar.py`) runs in a thread beside the writing, so unpacking takes as long as the
slower of the two.
"""

from __future__ import annotations

import os
import sys
from errno import EINVAL, ENAMETOOLONG, ENOSPC

from ctrt.images._lower import copy_up, inherit
from ctrt.images._tar import BrokenLayerError, Entry, Growing, Source, entries, shown
from ctrt.images._tree import DIRECTORY, Tree, remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# A layer may grow to RATIO times its blob, but 1 GiB is always fine: real layers grow 2 to 5
# times, a file of zeros 1000 times.
RATIO = 200
ALWAYS_BYTES = 1 << 30
# What is left free on the disk, so that the machine can still work when a layer fills it.
RESERVE_BYTES = 64 << 20


def _extract(order: dict[str, Any], world: str) -> dict[str, Any]:
    """Unpack one layer without looking at any other; return what is left to do."""
    into = order["into"]
    free = os.statvfs(into)
    room = max(0, free.f_bavail * free.f_frsize - RESERVE_BYTES)
    limit = max(ALWAYS_BYTES, RATIO * order["size"])
    why = ""
    if room < limit:
        limit, why = room, "there is no space left on the disk for it"
    opened = Growing(order["blob"], *order["growing"]) if "growing" in order else None
    source = Source(order["blob"], limit, why, opened)
    tree = Tree(into, world)
    entry: Entry | None = None
    try:
        for entry in entries(source):
            tree.add(entry, source)
        entry = None
        digest = source.digest()
        if digest != order["diff_id"]:
            raise BrokenLayerError(
                f"its content has the digest {digest}, but the image's configuration says"
                f" {order['diff_id']}"
            )
        tree.finish()
    except OSError as error:
        raise BrokenLayerError(_reason(error, entry, world)) from None
    except (ValueError, OverflowError) as error:
        name = shown(entry.name) if entry else "it"
        raise BrokenLayerError(f"{name} cannot be made: {error}") from None
    finally:
        source.stop()
        tree.close()
    return {
        "links": [(os.fsdecode(target), os.fsdecode(path)) for target, path in tree.links],
        "implied": [os.fsdecode(path) for path in tree.implied],
        "notes": tree.notes,
    }


def _join(order: dict[str, Any], rest: dict[str, Any], world: str) -> list[str]:
    """Do what needs the layers below: links to their files, looks of implied directories."""
    lowers: list[str] = order["lowers"]
    tree = Tree(order["into"], world)
    tree.implied = {}
    place = b""
    try:
        times: dict[bytes, int] = {}
        for target_text, path_text in rest["links"]:
            target, place = os.fsencode(target_text), os.fsencode(path_text)
            for path in (target, place):
                above = path.rpartition(b"/")[0]
                try:
                    fd, real = tree.directory(above, make=False)
                except FileNotFoundError:
                    continue
                times.setdefault(real, os.fstat(fd).st_mtime_ns)
            tree.trim()
            if tree.has(place):
                continue
            if not tree.link(target, place) and not (
                copy_up(tree, lowers, target) and tree.link(target, place)
            ):
                raise BrokenLayerError(
                    f"{shown(place)} is a hard link to {shown(target)}, which is missing"
                )
        for path, stamp in times.items():
            fd, _ = tree.directory(path, make=False)
            os.utime(fd, ns=(stamp, stamp))
        for path in sorted({*tree.implied, *map(os.fsencode, rest["implied"])}, reverse=True):
            place = path
            tree.trim()
            inherit(tree, lowers, path)
    except OSError as error:
        raise BrokenLayerError(f"{shown(place)} cannot be made: {error.strerror}") from None
    finally:
        tree.close()
    return tree.notes


def _reason(error: OSError, entry: Entry | None, world: str) -> str:
    if error.errno == ENOSPC:
        return "there is no space left on the disk"
    if entry is None:
        return f"it cannot be read: {error.strerror}"
    name = shown(entry.name)
    if error.errno == ENAMETOOLONG:
        return f"the name {name} is too long for a file name"
    if error.errno == EINVAL and world == "subordinate":
        return (
            f"{name} belongs to user {entry.uid}, group {entry.gid}, which your subordinate ids"
            " do not reach; ask for more in /etc/subuid and /etc/subgid"
        )
    return f"{name} cannot be made: {error.strerror}"


def unpack(orders: dict[str, Any]) -> list[tuple[int, str]]:
    """Unpack all layers; return notes, each with the number of its layer."""
    os.umask(0)
    layers: list[dict[str, Any]] = orders["layers"]
    world: str = orders["world"]
    results = _extract_all(layers, world, orders["workers"])
    notes = []
    for at, (order, rest) in enumerate(zip(layers, results, strict=True)):
        try:
            notes += [(at, note) for note in rest["notes"] + _join(order, rest, world)]
        except BrokenLayerError as error:
            raise BrokenLayerError(f"layer {order['name']}: {error}") from None
    return notes


def _extract_all(layers: list[dict[str, Any]], world: str, workers: int) -> list[dict[str, Any]]:
    """Extract layers by several processes; each takes the next one from a shared pipe."""
    if min(workers, len(layers)) < 2:
        return [_named(order, world) for order in layers]
    import marshal

    take, give = os.pipe()
    # The largest first, so that they do not finish last; but as they come, where they still do.
    growing = any("growing" in layer for layer in layers)
    for at in sorted(range(len(layers)), key=lambda at: 0 if growing else -layers[at]["size"]):
        os.write(give, at.to_bytes(2, "big"))
    os.close(give)
    children: dict[int, int] = {}
    for _ in range(min(workers, len(layers))):
        answer, tell = os.pipe()
        child = os.fork()
        if not child:
            os.close(answer)
            done: list[tuple[int, Any]] = []
            try:
                while number := os.read(take, 2):
                    at = int.from_bytes(number, "big")
                    done.append((at, _named(layers[at], world)))
                said: Any = done
            except BrokenLayerError as error:
                said = str(error)
            with open(tell, "wb") as file:
                file.write(marshal.dumps(said))
            os._exit(0)
        os.close(tell)
        children[child] = answer
    os.close(take)
    results: dict[int, dict[str, Any]] = {}
    failures = []
    for child, answer in children.items():
        with open(answer, "rb") as file:
            data = file.read()
        os.waitpid(child, 0)
        said = marshal.loads(data) if data else "the program that unpacks it died"
        if isinstance(said, str):
            failures.append(said)
        else:
            results.update(said)
    if failures:
        raise BrokenLayerError(failures[0])
    return [results[at] for at in range(len(layers))]


def _named(order: dict[str, Any], world: str) -> dict[str, Any]:
    try:
        return _extract(order, world)
    except BrokenLayerError as error:
        raise BrokenLayerError(f"layer {order['name']}: {error}") from None


def main(arguments: list[str]) -> int:
    """`unpack ORDERS` or `remove PATH`; the answer to ORDERS is the file beside it, `result`."""
    verb, path = arguments
    if verb == "remove":
        try:
            remove_tree(path)
        except OSError:
            return 1
        return 0
    from fcntl import LOCK_SH, flock

    from ctrt.oci import fastjson

    # Should the process that started us be killed, nobody cleans up under our hands.
    lock = os.open(os.path.dirname(path), DIRECTORY)
    flock(lock, LOCK_SH)
    with open(path, "rb") as file:
        orders = fastjson.loads(file.read())
    if orders["path"]:
        sys.path.append(orders["path"])
    try:
        result: dict[str, Any] = {"notes": unpack(orders)}
    except BrokenLayerError as error:
        result = {"error": str(error)}
    with open(os.path.join(os.path.dirname(path), "result"), "x", encoding="ascii") as file:
        file.write(fastjson.dumps(result))
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
