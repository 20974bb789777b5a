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
    from typing import Any, Self

    from ctrt.images.locks import Spawn
    from ctrt.images.progress import Progress
    from ctrt.images.store import Image, Layer, Store

    _Made = tuple[Layer, str, str]

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
    return _layer_paths(store, image.layers, how)


def _layer_paths(store: Store, layers: list[Layer], how: Unpacker) -> list[str]:
    suffix = _SUFFIX[how.world]
    chains = [layer.chain_id[7:] for layer in layers] or ["0" * 64]
    return [store.path("layers", chain + suffix, "diff") for chain in chains]


def _unpack(
    store: Store,
    image: Image,
    how: Unpacker,
    paths: list[str],
    progress: Callable[[Progress], object] | None,
) -> None:
    with store.temporary(how.spawn) as work:
        orders, made = _orders(store, image.layers, paths, work.path)
        if not orders:
            return  # another process has made them while we waited
        if progress:
            _tell(progress, [layer for layer, _, _ in made], "unpacking")
        result = _carried_out(work.path, orders, how, _zstd_path(orders))
        if "error" in result:
            raise CtrtError(result["error"])
        _put(made, result["notes"])
        if progress:
            _tell(progress, [layer for layer, _, _ in made], "unpacked")


def _orders(
    store: Store, layers: list[Layer], paths: list[str], work: str
) -> tuple[list[dict[str, Any]], list[_Made]]:
    """What the unpack program has to do, for the layers whose `paths` are not there."""
    places: list[str] = []
    orders = []
    made = []
    for layer, path in zip(layers, paths, strict=True):
        place = path
        if not os.path.isdir(path):
            directory = os.path.join(work, os.path.basename(os.path.dirname(path)))
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
    return orders, made


def _carried_out(
    work: str, orders: list[dict[str, Any]], how: Unpacker, library: str
) -> dict[str, Any]:
    """Let the unpack program do it; return its answer."""
    from ctrt.oci import fastjson

    ask = os.path.join(work, "orders")
    order = {
        "layers": orders,
        "world": how.world,
        "workers": min(4, len(os.sched_getaffinity(0))),
        "path": library,
    }
    with open(ask, "x", encoding="ascii") as file:
        file.write(fastjson.dumps(order))
    status = (how.spawn or run_here)(program("unpack", ask))
    try:
        with open(os.path.join(work, "result"), encoding="ascii") as file:
            answer: dict[str, Any] = fastjson.loads(file.read())
    except (FileNotFoundError, ValueError):
        raise CtrtError(
            f"the program that unpacks layers ended with status {status} and no answer"
        ) from None
    return answer


def _put(made: list[_Made], notes: list[tuple[int, str]]) -> None:
    """Give what was unpacked its names, the lowest first."""
    for at, (_, directory, final) in enumerate(made):
        said = [note for number, note in notes if number == at]
        if said:
            with open(os.path.join(directory, "notes"), "x", encoding="utf-8") as file:
                file.write("".join(f"{note}\n" for note in said))
        os.rename(directory, final)


class Ahead:
    """Unpacking of layers that are still being fetched; a `with` block around the fetching.

    It is only to save time: the unpack program reads the blobs while they grow, and what it made
    gets its names in `finish`, when the blobs are there and their digests right. Whatever goes
    wrong here goes wrong again in `unpack`, which says what it was.
    """

    def __init__(self, store: Store, layers: list[Layer], how: Unpacker) -> None:
        from threading import Thread

        self._store = store
        self._work = store.temporary(how.spawn)
        self._news: dict[str, list[int]] = {}
        self._answer: dict[str, Any] = {}
        self._stop = os.path.join(self._work.path, "stop")
        paths = _layer_paths(store, layers, how)
        orders, self._made = _orders(store, layers, paths, self._work.path)
        for number, order in enumerate(orders):
            digest = self._made[number][0].digest
            news = os.path.join(self._work.path, f"news{number}")
            os.mkfifo(news, 0o600)
            order["growing"] = (
                store.path("partial", digest[7:]), order["size"], news, self._stop
            )  # fmt: skip
            if not store.has_blob(digest, order["size"]):
                # With a reader of our own, opening does not wait and writing never fails.
                end = os.open(news, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                self._news.setdefault(digest, []).append(end)
        packed = any("zstd" in layer.media_type for layer, _, _ in self._made)
        library = _zstd_library() if packed else ""

        def work() -> None:
            try:
                self._answer = _carried_out(self._work.path, orders, how, library)
            except (CtrtError, OSError):
                pass

        self._thread = Thread(target=work, name="ctrt-unpack", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            os.close(os.open(self._stop, os.O_CREAT | os.O_CLOEXEC, 0o600))
            for digest in list(self._news):
                self.done(digest)
            self._thread.join()
        finally:
            self._work.__exit__(None, None, None)

    def grown(self, digest: str) -> None:
        """More of a blob is there."""
        for news in self._news.get(digest, ()):
            try:
                os.write(news, b".")
            except BlockingIOError:
                pass  # there is news enough

    def done(self, digest: str) -> None:
        """A blob is there as a whole, or nothing more of it will come."""
        for news in self._news.pop(digest, ()):
            os.close(news)

    def finish(self) -> None:
        """All blobs are there: wait until all is unpacked, and give it its names."""
        for digest in list(self._news):
            self.done(digest)
        self._thread.join()
        if "notes" not in self._answer:
            return
        with self._store.unpacking():
            if not any(os.path.isdir(final) for _, _, final in self._made):
                _put(self._made, self._answer["notes"])


def _zstd_path(orders: list[dict[str, Any]]) -> str:
    """Return where the unpack program, which sees no site-packages, finds zstd; "" mostly."""
    from ctrt.images._tar import ZSTD_MARK

    for order in orders:
        with open(order["blob"], "rb", buffering=0) as file:
            if file.read(4) != ZSTD_MARK:
                continue
        return _zstd_library()
    return ""


def _zstd_library() -> str:
    if sys.version_info >= (3, 14):
        return ""
    from importlib.util import find_spec

    found = find_spec("backports")
    for place in (found.submodule_search_locations or ()) if found else ():
        if os.path.isdir(os.path.join(place, "zstd")):
            return os.path.dirname(place)
    return ""


def _tell(progress: Callable[[Progress], object], layers: list[Layer], status: str) -> None:
    from ctrt.images.progress import Progress

    for layer in layers:
        done = layer.size if status == "unpacked" else 0
        progress(Progress(layer.digest[7:19], done, layer.size, status))
