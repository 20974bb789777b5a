"""Layers: from the blobs of an image to the directories that overlayfs stacks.

Each layer becomes ROOT/layers/CHAIN-ID/diff, once for all images that share it and the layers
below it. Everything is unpacked aside and renamed into place, the lowest first, so a layer
that is there is whole, and so is all under it.

Who owns the files depends on the world (`Unpacker`); an ordinary user's directories are kept
apart by a suffix, because the same layer looks different there.
"""

from __future__ import annotations

import os
import sys

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ctrt.images.progress import Progress
    from ctrt.images.store import Image, Layer, Spawn, Store

_SUFFIX = {"root": "", "subordinate": ".user", "single": ".single"}
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    " from ctrt.images._unpack import main; sys.exit(main(sys.argv[2:]))"
)


class Unpacker:
    """In which world layers are unpacked, and how to run a program there.

    `world`:
      "root"         ids on disk as in the image; devices; `trusted.overlay.*` (for a mount in
                     the initial user namespace)
      "subordinate"  in a user namespace with many ids; `user.overlay.*`, placeholders for
                     devices (for a mount in a user namespace, option `userxattr`)
      "single"       in a user namespace with one id, to which every owner is squashed

    `spawn` runs an argument list where the world's ids are mapped and returns the exit status;
    None runs it right here.
    """

    __slots__ = ("spawn", "world")

    def __init__(self, world: str = "root", spawn: Spawn | None = None) -> None:
        if world not in _SUFFIX:
            raise ValueError(world)
        self.world = world
        self.spawn = spawn


def unpack(
    store: Store,
    image: Image,
    how: Unpacker,
    *,
    progress: Callable[[Progress], object] | None = None,
) -> list[str]:
    """Return the image's lower directories, the topmost first, making what is missing.

    An image without layers gives one empty directory, because overlayfs needs one. Failure
    is a CtrtError, "cannot unpack NAME: why", and leaves nothing behind. Hold the store
    (`Store.hold()`) until the directories are mounted.
    """
    paths = _paths(store, image, how)
    if all(map(os.path.isdir, paths)):
        return paths[::-1]
    try:
        with store.hold(), store.unpacking():
            store.clean(how.spawn)
            if not image.layers:
                os.makedirs(paths[0], exist_ok=True)
            else:
                _unpack(store, image, how, paths, progress)
    except CtrtError as error:
        raise CtrtError(f"cannot unpack {image.reference}: {error}") from None
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise CtrtError(
            f"cannot unpack {image.reference}: the store at {store.root} cannot be written:"
            f" {error.strerror}{place}"
        ) from None
    return paths[::-1]


def notes(store: Store, image: Image, how: Unpacker) -> list[str]:
    """Return what could not be unpacked as it is in the image, a sentence each."""
    found = []
    for path in _paths(store, image, how):
        try:
            with open(os.path.join(os.path.dirname(path), "notes"), encoding="utf-8") as file:
                found += file.read().splitlines()
        except FileNotFoundError:
            pass
    return found


def program(*arguments: str) -> list[str]:
    """Return the argument list that runs the unpack program.

    The interpreter is isolated and imports only its own library; importing rather than
    running the file lets it use its compiled form.
    """
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return [sys.executable, "-I", "-S", "-c", _BOOT, here, *arguments]


def run_here(argv: list[str]) -> int:
    """Run a program as it is, without forking this (perhaps large, threaded) process.

    Who interrupts us interrupts it: it has a process group of its own, which is killed whole.
    """
    child = os.posix_spawn(argv[0], argv, os.environ, setpgroup=0)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:
        os.killpg(child, 9)
        os.waitpid(child, 0)
        raise


def _paths(store: Store, image: Image, how: Unpacker) -> list[str]:
    suffix = _SUFFIX[how.world]
    chains = [layer.chain_id[7:] for layer in image.layers] or ["0" * 64]
    return [store.path("layers", chain + suffix, "diff") for chain in chains]


def _unpack(
    store: Store,
    image: Image,
    how: Unpacker,
    paths: list[str],
    progress: Callable[[Progress], object] | None,
) -> None:
    from ctrt.oci import fastjson

    with store.temporary(how.spawn) as work:
        places: list[str] = []
        orders = []
        made = []
        for layer, path in zip(image.layers, paths, strict=True):
            place = path
            if not os.path.isdir(path):
                directory = os.path.join(work.path, os.path.basename(os.path.dirname(path)))
                place = os.path.join(directory, "diff")
                os.makedirs(place, 0o755)
                os.chmod(place, 0o755)
                made.append((layer, directory, os.path.dirname(path)))
                orders.append(
                    {
                        "name": layer.digest[7:19],
                        "blob": store.blob_path(layer.digest),
                        "size": layer.size,
                        "diff_id": layer.diff_id,
                        "into": place,
                        "lowers": places[::-1],
                    }
                )
            places.append(place)
        if not orders:
            return  # another process has made them while we waited
        if progress:
            _tell(progress, [layer for layer, _, _ in made], "unpacking")
        ask = os.path.join(work.path, "orders")
        order = {
            "layers": orders,
            "world": how.world,
            "workers": min(4, len(os.sched_getaffinity(0))),
            "path": _zstd_path(orders),
        }
        with open(ask, "x", encoding="ascii") as file:
            file.write(fastjson.dumps(order))
        status = (how.spawn or run_here)(program("unpack", ask))
        try:
            with open(os.path.join(work.path, "result"), encoding="ascii") as file:
                result = fastjson.loads(file.read())
        except (FileNotFoundError, ValueError):
            raise CtrtError(
                f"the program that unpacks layers ended with status {status} and no answer"
            ) from None
        if "error" in result:
            raise CtrtError(result["error"])
        for at, (_, directory, final) in enumerate(made):
            said = [note for number, note in result["notes"] if number == at]
            if said:
                with open(os.path.join(directory, "notes"), "x", encoding="utf-8") as file:
                    file.write("".join(f"{note}\n" for note in said))
            os.rename(directory, final)
        if progress:
            _tell(progress, [layer for layer, _, _ in made], "unpacked")


def _zstd_path(orders: list[dict[str, Any]]) -> str:
    """Return where the unpack program, which sees no site-packages, finds zstd; "" mostly."""
    from ctrt.images._tar import ZSTD_MARK

    for order in orders:
        with open(order["blob"], "rb", buffering=0) as file:
            if file.read(4) != ZSTD_MARK:
                continue
        if sys.version_info >= (3, 14):
            return ""
        from importlib.util import find_spec

        found = find_spec("backports")
        places = list(found.submodule_search_locations or ()) if found else []
        for place in places:
            if os.path.isdir(os.path.join(place, "zstd")):
                return os.path.dirname(place)
        return ""
    return ""


def _tell(progress: Callable[[Progress], object], layers: list[Layer], status: str) -> None:
    from ctrt.images.progress import Progress

    for layer in layers:
        done = layer.size if status == "unpacked" else 0
        progress(Progress(layer.digest[7:19], done, layer.size, status))
