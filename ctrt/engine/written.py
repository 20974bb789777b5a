"""What running containers wrote: commit, diff and export."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ctrt.engine.building import Builder, State, upper_of
from ctrt.errors import CtrtError
from ctrt.images import compose, containerfile, contents, difference
from ctrt.images.store import Image, Layer
from ctrt.oci.digest import chain_ids
from ctrt.oci.reference import parse_new

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ctrt.engine import Engine


CHANGES = (
    "CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "SHELL",
    "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
)  # fmt: skip


def commit(
    engine: Engine,
    container: str,
    name: str,
    *,
    changes: Sequence[str] = (),
    author: str = "",
    message: str = "",
) -> Image:
    """Make an image of a running container: its image, and what it wrote as one more layer.

    `changes` are instructions of a Containerfile that change the configuration, such as `USER 5`.
    """
    parse_new(name)
    with engine.store.hold():
        image, blob = _layers(engine, container)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        document = {**configured(engine, image.config, changes), "created": now}
        entry = {"created": now, "created_by": f"ctrt commit {container}"}
        if message:
            entry["comment"] = message
        if author:
            document["author"] = author
        document["history"] = [*(image.config.get("history") or ()), entry]
        return compose.add_image(engine.store, name, document, [*compose.blobs(image), blob])


def changed(engine: Engine, image: Image, changes: Sequence[str], message: str = "") -> Image:
    """Change the configuration of an image as `commit` does, under the same name."""
    document = configured(engine, image.config, changes)
    if message and document.get("history"):
        document["history"] = [*document["history"][:-1],
                               {**document["history"][-1], "comment": message}]  # fmt: skip
    return compose.add_image(engine.store, image.reference, document, compose.blobs(image))


def configured(engine: Engine, config: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A configuration as instructions of a Containerfile change it; CtrtError for others."""
    start = {**config, "config": {**(config.get("config") or {})}, "history": []}
    state = State(start, [], "")
    state.has_command = True  # that of the image stays where only the entry point is changed
    state.config.pop("rootfs", None)
    builder = Builder(
        engine, containerfile.Containerfile([], [], "\\"), None, "--change", {}, False, "never",
        None, None, None,
    )  # fmt: skip
    for number, text in enumerate(changes, 1):
        # podman also takes NAME=VALUE there, as in CMD=/bin/sh.
        word, equals, rest = text.partition("=")
        if equals and word.isalpha():
            text = f"{word} {rest}"  # noqa: PLW2901
        step = containerfile.one(text, number, "--change")
        if step.name not in CHANGES:
            raise CtrtError(f"--change takes {', '.join(CHANGES)}, not {step.name}")
        if step.name == "WORKDIR":
            path = step.text if step.text.startswith("/") else f"/{step.text}"
            state.process["WorkingDir"] = path
            continue
        builder.do(step, state, 0)
    state.config["history"] = list(config.get("history") or ())
    return state.config


def changes(engine: Engine, container: str) -> list[contents.Change]:
    """What a running container added, changed and deleted."""
    with engine.store.hold():
        image, blob = _layers(engine, container)
        return contents.Tree.of(engine.store, _stack(image, blob)).changes[-1]


def compared(engine: Engine, first: Image, second: Image) -> list[contents.Change]:
    """What the second image has more, other and less than the first."""
    store = engine.store
    with store.hold():
        before = contents.Tree.of(store, first.layers).nodes
        after = contents.Tree.of(store, second.layers).nodes
    found = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if not path:
            continue
        if new is None and old is not None:
            found.append(contents.Change(path, "deleted", 0, old.item.size, old.item.kind))
        elif old is None and new is not None:
            found.append(contents.Change(path, "added", new.item.size, 0, new.item.kind))
        elif old and new and old.item.looks() != new.item.looks():
            size, hidden = new.item.size, old.item.size
            found.append(contents.Change(path, "changed", size, hidden, new.item.kind))
    return found


def export(engine: Engine, target: str) -> Iterator[bytes]:
    """Yield the file system of a running container, or of an image, as a tar archive."""
    store = engine.store
    with store.hold():
        if any(state["name"] == target for state in engine.states()):
            layers = _stack(*_layers(engine, target))
        else:
            found = store.find(target)
            if found is None:
                raise CtrtError(f"there is no running container and no image {target}")
            layers = found.layers
        yield from contents.flatten(store, layers, contents.Tree.of(store, layers))
        yield compose.END


def _stack(image: Image, blob: compose.Blob) -> list[Layer]:
    chain = chain_ids([*(layer.diff_id for layer in image.layers), blob.diff_id])[-1]
    return [*image.layers, Layer(blob.digest, blob.diff_id, chain, blob.size, blob.media_type)]


def _layers(engine: Engine, container: str) -> tuple[Image, compose.Blob]:
    """The image of a running container, and what it wrote as a layer."""
    state = next((s for s in engine.states() if s["name"] == container), None)
    if state is None:
        engine.pid_of(container if not container.isdecimal() else f"{container}-")
        raise AssertionError
    if not state["image"]:
        raise CtrtError(f"{container} is of no image: it has the files of this machine")
    image = engine.store.find(state["image"])
    if image is None or [part.chain_id for part in image.layers] != state["layers"]:
        raise CtrtError(
            f"the image {state['image']} of {container} is not in the store any more as it was"
        )
    config = {"mounts": [{"destination": place} for place in _PLACES]}
    path = f"{engine.containers}/{container}/upper"
    return image, difference.layer(engine.store, upper_of(engine, config, path, image))


# Where every container has mounts: what is empty there is only a place to mount on.
_PLACES = ("/proc", "/dev", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
